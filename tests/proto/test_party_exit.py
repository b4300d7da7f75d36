"""A server or dealer that cannot start says why in one sentence, and ends with the code of the contract. No traceback."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from darkroom.provision import Site, provision
from darkroom.settings_files import dealer_settings, server_settings
from dealer import __main__ as dealer
from proto.separation import SIMULATION
from protocols.errors import AccessDenied, ConfigurationError, DarkroomError, PeerUnavailableError
from protocols.identifiers import Role
from server import process

REPOSITORY = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """An entry point sets up its process; here that is the one of all tests."""
    graded, threads = torch.is_grad_enabled(), torch.get_num_threads()
    yield
    torch.set_grad_enabled(graded)
    torch.set_num_threads(threads)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return provision(tmp_path / "site")


def server_file(site: Site) -> Path:
    return server_settings(site, "server-a", ADDRESS, dealer="127.0.0.1:9", deployment=SIMULATION)


def dealer_file(site: Site) -> Path:
    return dealer_settings(site, ADDRESS, deployment=SIMULATION)


def ended(module: str, config: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", module, "--config", str(config), *more]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=100,
    )


def require_sentence(done: "subprocess.CompletedProcess[str]", name: str, *parts: str) -> None:
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{name}: ")
    for part in parts:
        assert part in last


@pytest.mark.integration
def test_a_store_that_is_a_file(site: Site) -> None:
    config = server_file(site)
    store = site.folder("server-a") / "a.store"
    store.write_bytes(b"")
    require_sentence(ended("server_a", config), "server_a", f"the store {store}/objects cannot be written", "move it away")


@pytest.mark.integration
@pytest.mark.parametrize("made", [True, False])
def test_a_ready_file_that_cannot_be_written(site: Site, made: bool) -> None:
    config = dealer_file(site)
    place = site.folder("dealer") / "dealer.ready"
    if made:
        place.mkdir()
    else:
        config.write_text(config.read_text().replace("dealer.ready", "dealer.toml/dealer.ready"))
    require_sentence(ended("dealer", config), "dealer", "the ready file ", "cannot be written", "move it away")


@pytest.mark.integration
def test_what_a_killed_run_left_does_not_say_that_the_next_one_serves(site: Site) -> None:
    place = site.folder("dealer") / "dealer.ready"
    place.write_text('{"address": "127.0.0.1:1"}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = dealer_settings(site, ADDRESS, deployment=SIMULATION, metrics=f"127.0.0.1:{taken.getsockname()[1]}")
        require_sentence(ended("dealer", config), "dealer", "cannot serve metrics")
    assert not place.exists()


@pytest.mark.integration
def test_the_check_says_it_before_the_start(site: Site) -> None:
    config = server_file(site)
    (site.folder("server-a") / "a.store").write_bytes(b"")
    done = ended("server_a", config, "--check", "--json")
    assert done.returncode == 4
    (failed,) = [row for row in json.loads(done.stdout)["checks"] if not row["ok"]]
    assert failed["name"] == "store: can be written"


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--json",), "--json is for --check"), (("--check", "--exit-on-stdin-eof"), "--exit-on-stdin-eof is not")],
)
@pytest.mark.parametrize("main", [dealer.main, partial(process.run_server, Role.A)], ids=["dealer", "server"])
def test_an_option_that_would_be_ignored_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[], None],
    options: tuple[str, ...],
    named: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["party", "--config", "none.toml", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigurationError("why"), 4), (PeerUnavailableError("why"), 5), (AccessDenied("why"), 6)]
)
def test_each_kind_has_its_code(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: DarkroomError, code: int
) -> None:
    def refused(*_arguments: object, **_more: object) -> None:
        raise error

    for module, config, name in ((dealer, dealer_file(site), "dealer"), (process, server_file(site), "server_a")):
        monkeypatch.setattr(module, "serve", refused)
        monkeypatch.setattr(sys, "argv", [name, "--config", str(config)])
        with pytest.raises(SystemExit) as stop:
            dealer.main() if module is dealer else process.run_server(Role.A)
        assert stop.value.code == code
        assert capsys.readouterr().err.splitlines()[-1] == f"{name}: why"


def test_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dealer", "--config", str(tmp_path / "none.toml")])
    with pytest.raises(SystemExit) as stop:
        dealer.main()
    assert stop.value.code == 4
    assert "cannot read the configuration" in capsys.readouterr().err
