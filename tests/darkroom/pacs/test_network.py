"""Both sides of the DICOM network in this process: the sender talks to the receiver, over plain TCP and over TLS."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from darkroom.pacs import receiver as receiver_module
from darkroom.pacs.addresses import Address, DicomPeer
from darkroom.pacs.command import tls_files
from darkroom.pacs.metrics import PacsMetrics
from darkroom.pacs.receiver import Listening, Receiver, receiving
from darkroom.pacs.sender import Destination
from darkroom.pacs.spool import Spool, Stage, open_spool
from darkroom.pacs.tls import TlsFiles
from protocols.errors import BadInputError, BusyError, ConfigurationError, PeerUnavailableError, RemoteProtocolError

pytestmark = pytest.mark.integration
HERE = Address("127.0.0.1", 0)
CT = Path(get_testdata_file("CT_small.dcm"))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with open_spool(tmp_path / "spool", 1 << 20) as opened:
        yield opened


def serving(spool: Spool, tls: TlsFiles | None = None, allow: tuple[str, ...] = ()) -> AbstractContextManager[Address]:
    return receiving(Listening(HERE, "DARKROOM", allow, tls), Receiver(spool, lambda: None, PacsMetrics(spool)))


def destination(address: Address, *, tls: TlsFiles | None = None, aet: str = "DARKROOM", ours: str = "CT1") -> Destination:
    return Destination(DicomPeer(aet, address), our_aet=ours, tls=tls)


@contextmanager
def pacs(answer: Callable[[evt.Event], int], syntax: str = ExplicitVRLittleEndian) -> Iterator[Address]:
    """A destination that answers as told."""
    ae = AE("PACS")
    ae.add_supported_context(CTImageStorage, syntax)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])
    assert server is not None
    try:
        yield Address("127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def test_what_is_sent_is_on_disk_when_sending_returns(spool: Spool) -> None:
    with serving(spool) as address:
        destination(address).send(CT)
        entry = spool.oldest(Stage.INCOMING)
    assert entry is not None
    sent, kept = dcmread(CT), dcmread(entry.path)
    assert kept.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert kept.PixelData == sent.PixelData
    assert kept == sent


def test_a_full_spool_asks_the_sender_to_wait(tmp_path: Path) -> None:
    with (
        open_spool(tmp_path / "small", 1000) as spool,
        serving(spool) as address,
        pytest.raises(BusyError, match="0xA700"),
    ):
        destination(address).send(CT)


def test_senders_that_are_not_named_are_refused(spool: Spool) -> None:
    with serving(spool, allow=("CT1", "MR1")) as address:
        destination(address, ours="MR1").send(CT)
        with pytest.raises(PeerUnavailableError, match="rejected the association.*alling AE title"):
            destination(address, ours="STRANGER").send(CT)
        with pytest.raises(PeerUnavailableError, match="rejected the association.*alled AE title"):
            destination(address, aet="ANOTHER").send(CT)
    assert spool.count(Stage.INCOMING) == 1


def test_a_class_that_is_no_image_is_refused_at_once(spool: Spool) -> None:
    with serving(spool) as address, pytest.raises(RemoteProtocolError, match="does not take .*SR"):
        destination(address).send(Path(get_testdata_file("test-SR.dcm")))


@pytest.mark.parametrize(
    ("status", "error"),
    [(0xA701, BusyError), (0x0110, PeerUnavailableError), (0xC001, RemoteProtocolError), (0xA900, RemoteProtocolError)],
)
def test_statuses_of_failure(status: int, error: type[Exception]) -> None:
    with pacs(lambda event: status) as address, pytest.raises(error, match=f"0x{status:04X}"):
        destination(address, aet="PACS").send(CT)


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006])
def test_a_warning_is_an_acceptance(status: int) -> None:
    with pacs(lambda event: status) as address:
        destination(address, aet="PACS").send(CT)


def test_a_destination_that_speaks_the_default_syntax_alone() -> None:
    received = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset.PixelData)
        return 0

    with pacs(keep, syntax="1.2.840.10008.1.2") as address:
        destination(address, aet="PACS").send(CT)
    assert received == [dcmread(CT).PixelData]


def test_a_destination_without_a_syntax_that_fits() -> None:
    with pacs(lambda event: 0, syntax=JPEG2000) as address, pytest.raises(RemoteProtocolError, match="does not take CT Image"):
        destination(address, aet="PACS").send(CT)


def test_a_destination_that_breaks_off() -> None:
    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with pacs(abort) as address, pytest.raises(PeerUnavailableError, match="before it answered"):
        destination(address, aet="PACS").send(CT)


def test_nobody_listens() -> None:
    with pytest.raises(PeerUnavailableError, match="cannot be reached"):
        destination(Address("127.0.0.1", 1)).send(CT)


def test_what_is_no_dicom_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"text")
    with pytest.raises(BadInputError, match="no DICOM object"):
        destination(Address("127.0.0.1", 1)).send(tmp_path / "x.dcm")


def test_an_address_that_is_taken(spool: Spool) -> None:
    with serving(spool) as address, pytest.raises(ConfigurationError, match="cannot be used"):
        with receiving(Listening(address, "DARKROOM", (), None), Receiver(spool, lambda: None, PacsMetrics(spool))):
            pass


# TLS


def identity(folder: Path, ca: trustme.CA, name: str) -> TlsFiles:
    folder.mkdir(exist_ok=True)
    issued = ca.issue_cert("127.0.0.1", common_name=name)
    issued.private_key_pem.write_to_path(folder / f"{name}.key")
    (folder / f"{name}.key").chmod(0o600)
    (folder / f"{name}.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    ca.cert_pem.write_to_path(folder / f"{name}-ca.crt")
    files = tls_files(folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}-ca.crt")
    assert files is not None
    return files


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


def test_tls_with_certificates_of_one_ca(spool: Spool, tmp_path: Path, ca: trustme.CA) -> None:
    with serving(spool, identity(tmp_path, ca, "darkroom")) as address:
        destination(address, tls=identity(tmp_path, ca, "ct")).send(CT)
    assert spool.count(Stage.INCOMING) == 1


@pytest.mark.parametrize("caller", ["plain", "foreign", "silent"])
def test_tls_keeps_strangers_out_and_goes_on(
    spool: Spool, tmp_path: Path, ca: trustme.CA, caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "HANDSHAKE_SECONDS", 0.5)
    foreign = identity(tmp_path / "foreign", trustme.CA(), "ct")
    foreign = TlsFiles(foreign.certificate, foreign.private_key, identity(tmp_path, ca, "known").ca)  # it trusts ours
    with serving(spool, identity(tmp_path, ca, "darkroom")) as address:
        if caller == "silent":
            import socket

            held = socket.create_connection((address.host, address.port))
        else:
            with pytest.raises(PeerUnavailableError):
                destination(address, tls=foreign if caller == "foreign" else None).send(CT)
        destination(address, tls=identity(tmp_path, ca, "ct")).send(CT)
        if caller == "silent":
            held.close()
    assert spool.count(Stage.INCOMING) == 1


def test_a_destination_of_another_ca_gets_nothing(spool: Spool, tmp_path: Path, ca: trustme.CA) -> None:
    with serving(spool, identity(tmp_path, trustme.CA(), "impostor")) as address, pytest.raises(PeerUnavailableError):
        destination(address, tls=identity(tmp_path, ca, "ct")).send(CT)
    assert spool.count(Stage.INCOMING) == 0


def test_tls_is_of_version_1_2_or_later(tmp_path: Path, ca: trustme.CA) -> None:
    files = identity(tmp_path, ca, "darkroom")
    for context in (files.listening(), files.connecting()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert files.connecting().check_hostname


def test_tls_files_that_cannot_be_used(tmp_path: Path, ca: trustme.CA) -> None:
    files = identity(tmp_path, ca, "darkroom")
    other = identity(tmp_path, ca, "other")
    with pytest.raises(ConfigurationError, match="together"):
        tls_files(files.certificate, None, None)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        TlsFiles(files.certificate, other.private_key, None).listening()
    with pytest.raises(ConfigurationError, match="CA certificate"):
        TlsFiles(files.certificate, files.private_key, tmp_path / "none").listening()
    with pytest.raises(ConfigurationError, match="--tls-ca"):
        TlsFiles(files.certificate, files.private_key, None).connecting()
    files.private_key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        files.listening()


def test_a_network_needs_something_that_keeps_strangers_out(tmp_path: Path, ca: trustme.CA) -> None:
    everywhere = Address("192.0.2.1", 104)
    files = identity(tmp_path, ca, "darkroom")
    for refused in (None, TlsFiles(files.certificate, files.private_key, None)):
        with pytest.raises(ConfigurationError, match="--allow-aet"):
            Listening(everywhere, "DARKROOM", (), refused).require_closed()
    Listening(everywhere, "DARKROOM", ("CT1",), None).require_closed()
    Listening(everywhere, "DARKROOM", (), files).require_closed()
    Listening(HERE, "DARKROOM", (), None).require_closed()
