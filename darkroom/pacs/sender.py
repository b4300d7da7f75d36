"""The sending side: one object, one association, to the destination that `--send-to` names.

Source: DICOM PS3.4, B.2.3 and PS3.7, C.5 (statuses).
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.status import code_to_category

from darkroom.pacs.addresses import DicomPeer
from darkroom.pacs.tls import TlsFiles
from protocols.errors import BadInputError, BusyError, PeerUnavailableError, RemoteProtocolError

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 120.0  # a PACS may index an object before it answers
_PLAIN: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_PROCESSING_FAILURE: Final = 0x0110  # says nothing of the object
_OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)


class Destination:
    """Sends to one PACS."""

    def __init__(self, peer: DicomPeer, *, our_aet: str, tls: TlsFiles | None) -> None:
        """tls: send with TLS. Raises ConfigurationError: the TLS files are unusable."""
        self._peer = peer
        self._tls = None if tls is None else (tls.connecting(), peer.address.host)
        self._ae = AE(ae_title=our_aet)
        self._ae.connection_timeout = CONNECT_SECONDS
        self._ae.acse_timeout = CONNECT_SECONDS
        self._ae.dimse_timeout = ANSWER_SECONDS
        self._ae.network_timeout = ANSWER_SECONDS

    def send(self, path: Path) -> None:
        """Send one DICOM file; returns when the destination has accepted it.

        Raises PeerUnavailableError: try again later. RemoteProtocolError: the destination does not take this object.
        BadInputError: the file is no DICOM object that can be sent.
        """
        sop_class, syntaxes = _what_to_propose(path)
        association = self._associate(sop_class, syntaxes)
        try:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # pydicom's warnings quote values
                    answer = association.send_c_store(path)
            except (ValueError, AttributeError, RuntimeError, KeyError, OSError) as error:
                # The text is withheld: it may quote the object.
                raise BadInputError(f"the object cannot be sent as it is ({type(error).__name__})") from error
        finally:
            association.release() if association.is_established else association.abort()
        if "Status" not in answer:
            raise PeerUnavailableError(f"{self._peer} broke the connection off before it answered")
        self._judge(int(answer.Status))

    def _associate(self, sop_class: UID, syntaxes: Sequence[UID]) -> Association:
        """Raises PeerUnavailableError, RemoteProtocolError."""
        # A context for each: a peer chooses one syntax of a context, and might choose none that we can give.
        self._ae.requested_contexts = []
        for syntax in syntaxes:
            self._ae.add_requested_context(sop_class, syntax)
        address = self._peer.address
        association = self._ae.associate(address.host, address.port, ae_title=self._peer.aet, tls_args=self._tls)
        if association.is_established:
            return association
        refused = [context for context in association.rejected_contexts if context.abstract_syntax == sop_class]
        if refused and not association.accepted_contexts:
            names = " or ".join(syntax.name for syntax in syntaxes)
            raise RemoteProtocolError(f"{self._peer} does not take {sop_class.name} in {names}: enable it there")
        if association.is_rejected:
            raise PeerUnavailableError(f"{self._peer} rejected the association{_why(association)}")
        raise PeerUnavailableError(f"{self._peer} cannot be reached, or broke the connection off")

    def _judge(self, status: int) -> None:
        category = code_to_category(status)
        if category in ("Success", "Warning"):
            return
        if status in _OUT_OF_RESOURCES:
            raise BusyError(f"{self._peer} is out of resources (status 0x{status:04X})")
        if status == _PROCESSING_FAILURE:
            raise PeerUnavailableError(f"{self._peer} failed while it stored the object (status 0x{status:04X})")
        raise RemoteProtocolError(f"{self._peer} refused the object (status 0x{status:04X}): its log says why")


def _what_to_propose(path: Path) -> tuple[UID, Sequence[UID]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        sop_class, syntax = UID(header.SOPClassUID), UID(header.file_meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, ValueError, TypeError, OSError, EOFError) as error:
        raise BadInputError(f"{path} is no DICOM object that can be sent ({type(error).__name__})") from error
    return sop_class, _PLAIN if syntax in _PLAIN else (syntax,)


def _why(association: Association) -> str:
    answer = association.acceptor.primitive
    if answer is None or answer.result is None:
        return ""
    return f": {answer.reason_str} (does it know our AE title and address?)"
