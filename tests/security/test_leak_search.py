import os
import subprocess
import sys
import time

from security.leak_search import Canaries, found_in, pixel_needles, watched_processes, write_canary_image
from security.needles import key_needles, text_needles

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
