"""The command line's contract that needs no server: usage, exit codes, where output goes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from client.config import load_config
from client.images import read_image
from client.model_file import load_model
from darkroom import commands
from darkroom.provision import Site, provision
from darkroom.settings_files import Addresses, hospital_settings
from proto.checks import CheckResult
from proto.party import Settings
from protocols import wire_ranges
from protocols.identifiers import Role
from tests.darkroom_command import Darkroom

OBJECT = "0" * 32
LITTLE_DNCNN = {0: (4, 1, 3, 3), 2: (4, 4, 3, 3), 5: (1, 4, 3, 3)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Configuration of servers that do not run: nothing listens on port 1."""
    made = provision(tmp_path_factory.mktemp("site"))
    hospital_settings(made, Addresses("127.0.0.1:1", "127.0.0.1:1"))
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.npy"
    np.save(path, np.full((16, 16), 0.5, dtype=np.float32))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["store"],
        ["store", "x.npy"],
        ["store", "x.npy", "--packing", "rot13", "--config", "c.toml"],
        ["store", "x.npy", "--sigma", "much", "--config", "c.toml"],
        ["store", "x.npy", "--sigma", "nan", "--config", "c.toml"],
        ["store", "x.npy", "--sigma", "-1", "--config", "c.toml"],
        ["denoise", OBJECT, "--config", "c.toml"],
        ["up"],
        ["plan"],
        ["plan", "--size", "512"],
        ["plan", "--size", "64x64", "--bandwidth", "fast"],
        ["plan", "--size", "64x64", "--rtt", "20"],
        ["plan", "--size", "64x64", "--engine", "steam"],
        ["denoise", ".", "-o", "out", "--profile", "--config", "c.toml"],
        ["denoise", ".", "-o", "out", "--wait", "5", "--config", "c.toml"],
        ["denoise", "x.npy", "-o", "y.npy", "--redo", "--config", "c.toml"],
        ["denoise", "x.npy", "-o", "y.npy", "--jobs", "2", "--config", "c.toml"],
        ["serve-dicom", "--listen", "nowhere", "--send-to", "PACS@127.0.0.1:1", "--config", "c.toml"],
        ["serve-dicom", "--listen", "127.0.0.1:0", "--send-to", "nobody", "--config", "c.toml"],
    ],
)
def test_usage_errors(darkroom: Darkroom, arguments: list[str]) -> None:
    done = darkroom(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "option"),
    [
        (OBJECT, ("--packing", "blind")),
        (OBJECT, ("--packing", "keyed")),  # the default: whoever says it believes that it decides
        (OBJECT, ("--packing-sigma", "0")),
        (OBJECT, ("--jobs", "1")),
        (OBJECT, ("--redo",)),
        ("x.npy", ("--jobs", "1")),
        (".", ("--wait", "0")),
        (".", ("--profile",)),
    ],
)
def test_an_option_of_denoise_that_would_be_ignored_is_refused(
    darkroom: Darkroom, site: Site, source: str, option: tuple[str, ...]
) -> None:
    done = darkroom("denoise", source, "-o", "out.npy", *option, "--config", site.root / "hospital.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for {option[0]}: is for " in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--metrics", "9464"), "Invalid value for --metrics: --metrics must be HOST:PORT, such as 127.0.0.1:9464, not '9464'"),
        (("--metrics", "0.0.0.0:9464"), "Invalid value for --metrics: --metrics = '0.0.0.0:9464' can be reached"),
        (("--metrics-allow-remote",), "Invalid value for --metrics-allow-remote: is for --metrics"),
    ],
)
def test_where_serve_dicom_may_not_show_metrics(darkroom: Darkroom, site: Site, options: tuple[str, ...], sentence: str) -> None:
    command = ("serve-dicom", "--listen", "127.0.0.1:0", "--send-to", "PACS@127.0.0.1:1")
    done = darkroom(*command, *options, "--config", site.root / "hospital.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("option", ["--listen-b", "--listen-dealer"])
def test_what_another_party_binds_is_not_for_this_role(darkroom: Darkroom, tmp_path: Path, option: str) -> None:
    command = ("provision", "--dir", tmp_path / "a", "--role", "server-a")
    done = darkroom(*command, option, "0.0.0.0:1")
    assert done.returncode == 2
    assert f"Invalid value for {option}: is for that party's own folder, not for --role server-a" in done.stderr
    assert not (tmp_path / "a").exists()
    assert darkroom(*command, "--listen-a", "0.0.0.0:1").returncode == 0


def test_the_sample_is_a_readable_image_and_overwrites_nothing(darkroom: Darkroom, tmp_path: Path) -> None:
    path = tmp_path / "scan.dcm"
    assert darkroom("sample", path).stdout == f"{path}\n"
    assert read_image(path).pixels.shape == (300, 484)
    again = darkroom("sample", path)
    assert (again.returncode, again.stdout) == (4, "")
    assert "exists" in again.stderr


def test_a_new_key_is_private_and_overwrites_nothing(darkroom: Darkroom, tmp_path: Path) -> None:
    path = tmp_path / "noise.key"
    assert darkroom("key", "new", path).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert darkroom("key", "new", path).returncode == 4


def test_an_imported_dncnn_is_a_model_file(darkroom: Darkroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_ranges, "SIDE", 16)
    state = {f"dncnn.{place}.weight": torch.full(shape, 0.01) for place, shape in LITTLE_DNCNN.items()}
    norm = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    torch.save(state | {f"dncnn.3.{name}": torch.full((4,), value) for name, value in norm.items()}, tmp_path / "net.pth")
    done = darkroom("model", "import-dncnn", tmp_path / "net.pth", "-o", tmp_path / "dncnn.safetensors")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'dncnn.safetensors'}\n"), done.stderr
    assert "3 convolutions" in done.stderr
    model = load_model(tmp_path / "dncnn.safetensors")
    assert not model.network.conditioned
    assert [name for name, _ in model.network.ranges] == ["conv1", "conv2", "exit"]


def test_no_dncnn_is_bad_input(darkroom: Darkroom, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_text("no state dict")
    for source, target in (("net.pth", "net.safetensors"), ("none.pth", "net.safetensors"), ("net.pth", "net.pth")):
        done = darkroom("model", "import-dncnn", tmp_path / source, "-o", tmp_path / target)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert not (tmp_path / "net.safetensors").exists()


def test_a_plan_needs_no_server(darkroom: Darkroom, tmp_path: Path) -> None:
    done = darkroom("plan", "--size", "64x80", "--bandwidth", "100Mbit", "--rtt", "40ms", "--json", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "total"
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["model"], plan["image"], plan["tiles"]) == ("base", {"height": 64, "width": 80}, 1)
    total, circumstances = plan["total"], plan["circumstances"]
    assert last[1] == f"{total['wires']:,}"
    assert total["sent_bytes"] == sum(layer["sent_bytes"] for layer in plan["layers"])
    waiting = total["sent_bytes"] * 8 / 1e8 + total["rounds"] * 0.02
    arithmetic = total["macs"] / circumstances["macs_per_second"] + total["sent_bytes"] / 8 * circumstances["word_seconds"]
    assert total["seconds"] == pytest.approx(waiting + arithmetic)


def test_a_plan_of_either_engine(darkroom: Darkroom) -> None:
    plans = {}
    for engine in ("masked", "crypten"):
        done = darkroom("plan", "--size", "32x32", "--engine", engine, "--json", "-")
        assert done.returncode == 0, done.stderr
        plans[engine] = json.loads(done.stdout)
        assert plans[engine]["engine"] == engine
    assert plans["masked"]["total"]["macs"] == plans["crypten"]["total"]["macs"]
    assert plans["crypten"]["total"]["flags"] == 0


def test_a_plan_of_an_unknown_model(darkroom: Darkroom) -> None:
    assert darkroom("plan", "--model", "none", "--size", "64x64").returncode == 4
    assert darkroom("plan", "--size", "4x4").returncode == 3
    assert darkroom("plan", "--size", "100000x100000").returncode == 3


def test_missing_configuration(darkroom: Darkroom, image: Path, tmp_path: Path) -> None:
    done = darkroom("store", image, "--config", tmp_path / "none.toml")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("darkroom: ")
    assert "none.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_where(darkroom: Darkroom, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("store", image, "--config", tmp_path / "none.toml")
    asked = darkroom(*command, "--debug")
    monkeypatch.setenv("DARKROOM_DEBUG", "1")
    for done in (asked, darkroom(*command)):
        assert done.returncode == 4
        assert "Traceback" in done.stderr


def test_bad_input(darkroom: Darkroom, site: Site, tmp_path: Path) -> None:
    for name in ("missing.npy", "text.npy"):
        path = tmp_path / name
        if name == "text.npy":
            path.write_text("no image")
        done = darkroom("store", path, "--config", site.root / "client.toml")
        assert (done.returncode, done.stdout) == (3, ""), done.stderr


def test_the_wrong_identity(darkroom: Darkroom, site: Site, image: Path) -> None:
    done = darkroom("store", image, "--config", site.root / "edge.toml")
    assert done.returncode == 4
    assert "[client]" in done.stderr


def test_a_source_that_is_nothing(darkroom: Darkroom, site: Site, tmp_path: Path) -> None:
    done = darkroom("denoise", "abc", "-o", tmp_path / "out.npy", "--config", site.root / "hospital.toml")
    assert done.returncode == 3
    assert not (tmp_path / "out.npy").exists()


def test_an_unknown_object(darkroom: Darkroom, site: Site, tmp_path: Path) -> None:
    done = darkroom("denoise", OBJECT, "-o", tmp_path / "out.npy", "--config", site.root / "edge.toml")
    assert done.returncode == 3
    assert OBJECT in done.stderr


def test_provision_writes_what_loads(darkroom: Darkroom, tmp_path: Path) -> None:
    done = darkroom("provision", "--dir", tmp_path / "site", "--server-a", "a.example:1", "--server-b", "b.example:2")
    assert done.returncode == 0
    assert done.stdout.strip() == str(tmp_path / "site")
    assert load_config(tmp_path / "site" / "hospital.toml").servers[Role.A].address == "a.example:1"
    leader = Settings.load(tmp_path / "site" / "server-b" / "server.toml").text("leader", "address")
    assert leader == "a.example:1"


@pytest.mark.slow
def test_provision_again_keeps_addresses_and_renews_on_request(darkroom: Darkroom, tmp_path: Path) -> None:
    command = ("provision", "--dir", tmp_path, "--json", "-")
    first = json.loads(darkroom(*command, "--server-a", "a.example:1", "--listen-a", "0.0.0.0:5").stdout)
    server_a = tmp_path / "server-a" / "server.toml"
    before = server_a.read_bytes()
    again = json.loads(darkroom(*command).stdout)
    assert again == first
    assert server_a.read_bytes() == before
    assert b'listen = "0.0.0.0:5"' in before
    assert b'advertised = "a.example:1"' in before
    renewed = json.loads(darkroom(*command, "--renew").stdout)
    assert len(renewed["fingerprints"]) == len(first["fingerprints"])
    for new, old in zip(renewed["fingerprints"], first["fingerprints"], strict=True):
        assert (new["fingerprint"] == old["fingerprint"]) is (new["name"] == "grant")


@pytest.mark.parametrize("option", ["--server-a", "--server-b", "--dealer", "--listen-a", "--listen-b", "--listen-dealer"])
def test_an_address_that_is_none_names_its_option(darkroom: Darkroom, tmp_path: Path, option: str) -> None:
    done = darkroom("provision", "--dir", tmp_path / "site", option, "foo")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for {option}: 'foo' is no address: write HOST:PORT" in done.stderr
    assert not (tmp_path / "site").exists()


def test_a_route_that_is_none_names_its_option(darkroom: Darkroom, tmp_path: Path) -> None:
    done = darkroom("provision", "--dir", tmp_path / "site", "--route", "hospital:server-a=foo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for --route: 'hospital:server-a=foo' is no route: 'foo' is no" in done.stderr
    assert not (tmp_path / "site").exists()


def test_one_operators_folder_and_the_exchange(darkroom: Darkroom, tmp_path: Path) -> None:
    done = darkroom("provision", "--dir", tmp_path / "b", "--role", "server-b", "--server-a", "a.example:1")
    assert done.returncode == 0
    assert "Still to take with `darkroom accept`: client, dealer, edge, grant, model-owner, server-a" in done.stderr
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["server-b"]
    darkroom("provision", "--dir", tmp_path / "a", "--role", "server-a")
    table = json.loads(darkroom("fingerprints", "--dir", tmp_path / "a", "--json", "-").stdout)["fingerprints"]
    (own,) = [row for row in table if row["own"]]
    arguments = ("accept", own["path"], "--dir", tmp_path / "b", "--fingerprint")
    assert darkroom(*arguments, "0" * 64).returncode == 4
    assert darkroom(*arguments, own["fingerprint"][:32]).returncode == 3
    done = darkroom(*arguments, own["fingerprint"])
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "b" / "server-b" / "certs" / "server-a.crt"))
    shown = darkroom("fingerprints", "--dir", tmp_path / "b").stdout
    assert " ".join(own["fingerprint"][start : start + 4] for start in range(0, 32, 4)) in shown


def test_a_dealer_at_a_servers_host_is_refused(darkroom: Darkroom, tmp_path: Path) -> None:
    hosts = ("--server-a", "10.1.1.1:1", "--server-b", "10.1.1.2:1", "--dealer", "10.1.1.2:9")
    done = darkroom("provision", "--dir", tmp_path / "site", *hosts)
    assert (done.returncode, done.stdout) == (4, "")
    assert "the host of server-b" in done.stderr
    assert "every image" in done.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.integration
def test_nobody_listens(darkroom: Darkroom, site: Site, image: Path) -> None:
    done = darkroom("store", image, "--sigma", "5", "--config", site.root / "client.toml")
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert "server A" in done.stderr
    assert not list(site.objects.glob("*.json"))


@pytest.mark.integration
def test_doctor_tells_what_fails(darkroom: Darkroom, site: Site) -> None:
    done = darkroom("doctor", "--json", "-", "--config", site.root / "hospital.toml")
    assert done.returncode == 5
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert all(check["fix"] for check in report["checks"] if not check["ok"])


@pytest.mark.parametrize(("kinds", "code"), [(["denied"], 6), (["unreachable"], 5), (["denied", "unreachable"], 5), ([], 4)])
def test_doctor_ends_with_the_code_of_what_failed(
    darkroom: Darkroom, site: Site, monkeypatch: pytest.MonkeyPatch, kinds: list[str], code: int
) -> None:
    rows = [CheckResult("one", ok=True)]
    rows += [CheckResult("two", ok=False, problem="why", fix="how", **{kind: True}) for kind in kinds]
    rows += [] if kinds else [CheckResult("three", ok=False, problem="why", fix="how")]
    monkeypatch.setattr(commands, "check", lambda _config: rows)
    assert darkroom("doctor", "--config", site.root / "hospital.toml").returncode == code


def test_doctor_finds_an_open_key(darkroom: Darkroom, tmp_path: Path) -> None:
    made = provision(tmp_path / "site")
    hospital_settings(made, Addresses("127.0.0.1:1", "127.0.0.1:1"))
    made.noise_key.chmod(0o644)
    done = darkroom("doctor", "--config", made.root / "client.toml")
    assert done.returncode == 4
    assert "chmod 600" in done.stdout
