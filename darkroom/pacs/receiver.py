"""The receiving side: C-ECHO and C-STORE. Success is answered when the object is on disk, and not before.

Nothing of an object is logged: no name, no number, no UID. AE titles and addresses, which name machines, are.
Source: DICOM PS3.4, B.2.3 (C-STORE statuses); PS3.7, annex C.
"""

import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table when it is imported
from pynetdicom.transport import ThreadedAssociationServer

from client.dicom_codecs import readable_syntaxes
from client.images import MAX_FILE_BYTES
from darkroom.pacs.addresses import Address
from darkroom.pacs.classes import IMAGE_CLASSES
from darkroom.pacs.metrics import PacsMetrics, Refusal
from darkroom.pacs.spool import Spool
from darkroom.pacs.tls import TlsFiles
from protocols.errors import ConfigurationError

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
CANNOT_UNDERSTAND: Final = 0xC000
ASSOCIATIONS: Final = 10  # at a time; each may hold one object in memory
HANDSHAKE_SECONDS: Final = 5.0  # pynetdicom shakes hands in the thread that accepts: a silent caller must not hold it

log = structlog.get_logger()


@dataclass(frozen=True)
class Listening:
    """How to receive. allow_aet: calling AE titles that are served; empty: all."""

    address: Address
    aet: str
    allow_aet: Sequence[str]
    tls: TlsFiles | None

    def require_closed(self) -> None:
        """Raises ConfigurationError: on a network, with nothing that keeps strangers out."""
        if not self.address.is_loopback and not self.allow_aet and (self.tls is None or self.tls.ca is None):
            raise ConfigurationError(
                f"--listen {self.address} would take images from anybody on the network: name the senders' AE titles with"
                " --allow-aet, or ask for their certificates with --tls-cert, --tls-key and --tls-ca"
            )


class Receiver:
    """Puts what arrives into the spool, and rings `arrived`."""

    def __init__(self, spool: Spool, arrived: Callable[[], None], metrics: PacsMetrics) -> None:
        self._spool, self._arrived, self._metrics = spool, arrived, metrics

    def store(self, event: Event) -> int:
        """Answer one C-STORE request with its status. Run by pynetdicom, in the association's thread."""
        sender = event.assoc.requestor.ae_title
        content = event.encoded_dataset()
        if len(content) > MAX_FILE_BYTES:
            log.warning("refused: an object is larger than is read", sender=sender, bytes=len(content), limit=MAX_FILE_BYTES)
            self._metrics.refused(Refusal.TOO_LARGE)
            return CANNOT_UNDERSTAND
        try:
            entry_id = self._spool.add(content)
        except ConfigurationError as error:
            log.error("refused: it cannot be kept", sender=sender, bytes=len(content), reason=str(error))
            self._metrics.refused(Refusal.NOT_KEPT)
            return OUT_OF_RESOURCES
        log.info("received", object=entry_id, sender=sender, bytes=len(content))
        self._metrics.received.inc()
        self._arrived()
        return SUCCESS


@contextmanager
def receiving(listening: Listening, receiver: Receiver) -> Generator[Address]:
    """Listen in threads of their own until the block ends; gives the address, with the port that the system chose.

    Raises ConfigurationError: the address is taken or not ours, the TLS files are unusable, or anybody could send.
    """
    listening.require_closed()
    context = None if listening.tls is None else listening.tls.listening()
    ae = AE(ae_title=listening.aet)
    ae.require_called_aet = True
    ae.require_calling_aet = list(listening.allow_aet)
    ae.maximum_associations = ASSOCIATIONS
    ae.add_supported_context(Verification)
    syntaxes = readable_syntaxes()
    for image_class in IMAGE_CLASSES:
        ae.add_supported_context(image_class, syntaxes)
    handlers: list[Any] = [(evt.EVT_C_STORE, receiver.store), (evt.EVT_REJECTED, _rejected)]
    address = (listening.address.host, listening.address.port)
    try:
        server = ae.make_server(address, ssl_context=context, evt_handlers=handlers, server_class=_Server)
    except OSError as error:
        raise ConfigurationError(f"--listen {listening.address} cannot be used: {error.strerror or error}") from error
    thread = threading.Thread(target=server.serve_forever, name="dicom-listener", daemon=True)
    thread.start()
    try:
        yield Address(listening.address.host, int(server.server_address[1]))
    finally:
        for association in server.active_associations:
            association.abort()  # what it was sending has not been acknowledged, so its sender keeps it
        server.shutdown()
        thread.join()


def quiet_libraries() -> None:
    """Keep of pynetdicom's and pydicom's log lines only that and where something failed: they quote what they handle."""
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.handlers = [_Withholding(logging.ERROR)]
        logger.setLevel(logging.ERROR)
        logger.propagate = False


class _Withholding(logging.Handler):
    """Logs a library's error without its text."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        log.error("an error of the DICOM network", where=f"{record.name}:{record.funcName}:{record.lineno}", kind=kind)


class _Server(ThreadedAssociationServer):
    """Bounds the TLS handshake in time."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one connection. Raises OSError, of which ssl.SSLError is one: socketserver then waits for the next."""
        context, self._ssl_context = self._ssl_context, None
        try:
            accepted, address = super().get_request()
        finally:
            self._ssl_context = context
        if context is None:
            return accepted, address
        accepted.settimeout(HANDSHAKE_SECONDS)
        try:
            secured = context.wrap_socket(accepted, server_side=True)
        except OSError as error:
            log.warning("refused: no TLS connection", peer=address[0], reason=_reason(error))
            accepted.close()
            raise
        secured.settimeout(None)
        return secured, address

    def shutdown(self) -> None:
        """Stop listening. pynetdicom's own looks for the server in a list that only its `start_server` fills."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error.strerror or "TLS failed")
    return str(error.strerror or error)


def _rejected(event: Event) -> None:
    """Said once for each association that is refused, with what the administrator needs."""
    requestor = event.assoc.requestor
    called = requestor.primitive.called_ae_title if requestor.primitive is not None else ""
    log.warning(
        "refused: an association (is its calling AE title one of --allow-aet, its called one that of --aet?)",
        sender=requestor.ae_title,
        called=called,
        address=requestor.address,
    )
