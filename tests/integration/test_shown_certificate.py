"""The doctor's look at whoever listens at an address."""

import contextlib
import socket
import threading

import pytest

from darkroom.simulation import Simulation
from proto.shown_certificate import shown_certificate
from proto.transport import fingerprint
from protocols.errors import PeerUnavailableError


def test_a_server_shows_its_own_certificate_to_anybody(cluster: Simulation) -> None:
    shown = shown_certificate("server A", cluster.addresses.server_a)
    assert fingerprint(shown) == fingerprint(cluster.site.certificate("server-a", held_by="server-a").read_bytes())


def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnavailableError, match="server A at .* cannot be reached: Connection refused"):
            shown_certificate("server A", f"127.0.0.1:{reserved.getsockname()[1]}")


def test_an_unknown_name() -> None:
    with pytest.raises(PeerUnavailableError, match="name nobody.invalid is not known here"):
        shown_certificate("server A", "nobody.invalid:7601")


def test_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            caller, _ = listener.accept()
            with caller, contextlib.suppress(ConnectionError):
                caller.recv(4096)
                caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                caller.recv(4096)  # the connection stays until the other end has read

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(PeerUnavailableError, match=r"answers, but not with TLS 1\.3"):
            shown_certificate("server A", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(20)
