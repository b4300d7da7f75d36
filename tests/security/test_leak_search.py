import os
import subprocess
import sys
import time
import zlib

import pytest

from client.images import read_stack
from proto import darkroom_pb2 as pb
from protocols.errors import LocalProtocolError
from security.canary_study import NAMES, NIFTI_TEXTS, SERIES_TEXTS, study_name_needles, study_text_needles, write_canary_study
from security.leak_search import Canaries, found_in, pixel_needles, recorded, watched_processes, write_canary_image
from security.needles import key_needles, search, text_needles
from security.recording import RECEIVED, Recorder
from security.stage import Stage

CANARIES = Canaries(
    never=tuple(text_needles("name", "CANARY^NAME")),
    pixels=tuple(key_needles("pixels", bytes(range(40, 72)))),
    session={
        "A": tuple(key_needles("noise key of A", bytes(range(100, 132)))),
        "grant": tuple(text_needles("grant", "g.r.a.n.t")),
    },
)
KEY_A = b"..." + bytes(range(100, 132)) + b"..."


def test_each_place_has_its_own_rule():
    everywhere = {
        "wires": {"server-a": KEY_A, "server-b": KEY_A, "dealer": b"g.r.a.n.t"},
        "stores": {"a.store/x.share": b"clean"},
        "logs": {"server-a.log": b'{"event": "CANARY^NAME"}'},
        "hospital's records": {"1.json": b"CANARY^NAME " + KEY_A, "2.json": bytes(range(40, 72)).hex().encode()},
    }
    hits = found_in(everywhere, [CANARIES]).hits
    assert hits["wires"] == ["noise key of A (raw) in server-b", "grant (utf-8) in dealer"]  # A's key at A is the protocol
    assert hits["stores"] == []
    assert hits["logs"] == ["name (utf-8) in server-a.log"]
    assert hits["hospital's records"] == ["pixels (hex) in 2.json"]


def test_the_canary_image_is_readable_and_its_pixels_are_searched(tmp_path):
    path = tmp_path / "canary.dcm"
    write_canary_image(path)
    needles = pixel_needles(path)
    assert found_in({"logs": {"file": path.read_bytes()}}, [Canaries((), tuple(needles), {})]).hits["logs"]


def test_a_name_is_for_the_hospitals_own_commands_to_print():
    canaries = Canaries((), (), {}, tuple(text_needles("file name", "CANARY-FILE")))
    everywhere = {
        "wires": {"server-a": b"name: CANARY-FILE"},
        "logs": {"server-a.log": b"CANARY-FILE", "commands, a study": b"CANARY-FILE"},
        "hospital's records": {"1.json": b"CANARY-FILE"},
    }
    hits = found_in(everywhere, [canaries]).hits
    assert hits["wires"] == ["file name (utf-8) in server-a"]
    assert hits["logs"] == ["file name (utf-8) in server-a.log"]
    assert hits["hospital's records"] == []


def test_messages_and_metadata_are_both_searched(tmp_path):
    stage = Stage(tmp_path)
    messages, metadata = Recorder(tmp_path / "dealer.rec"), Recorder(tmp_path / "dealer.metadata")
    messages.message("server-a OpenPush", RECEIVED, pb.OpenPushRequest(boot_a="CANARY-IN-A-MESSAGE"))
    with pytest.raises(LocalProtocolError, match=r"dealer\.metadata is empty"):
        recorded(stage, "dealer")
    metadata.metadata("server-a OpenPush", RECEIVED, [("x-name", "CANARY-IN-METADATA")])
    needles = text_needles("message", "CANARY-IN-A-MESSAGE") + text_needles("metadata", "CANARY-IN-METADATA")
    assert {needle.secret for needle in search(recorded(stage, "dealer"), needles)} == {"message", "metadata"}


def test_the_canary_study_is_readable_and_holds_what_is_searched(tmp_path):
    write_canary_study(tmp_path, {"PatientID": "CANARY-ID"})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = b"".join(zlib.decompress(path.read_bytes(), 31) if path.suffix == ".gz" else path.read_bytes() for path in files)
    assert {needle.secret for needle in search(content, study_text_needles())} == {*NIFTI_TEXTS, *SERIES_TEXTS}
    assert b"CANARY-ID" in content
    names = "\n".join(str(path.relative_to(tmp_path)) for path in files).encode()
    assert {needle.secret for needle in search(names, study_name_needles())} == {*NAMES}
    assert read_stack(tmp_path / "series").count == 2
    assert [read_stack(path).count for path in sorted((tmp_path / "batch").rglob("*.*"))] == [1, 2]


def test_processes_under_us_are_watched():
    with watched_processes() as seen:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)", "CANARY-ARGUMENT"])
        deadline = time.monotonic() + 10
        while not any(b"CANARY-ARGUMENT" in blob for blob in seen.copy()) and time.monotonic() < deadline:
            time.sleep(0.02)
        child.kill()
        child.wait()
    assert any(b"CANARY-ARGUMENT" in blob for blob in seen)
    assert any(os.environ.get("PATH", "").encode() in blob for blob in seen)
