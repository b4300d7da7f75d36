"""One error tree. Messages say what is wrong, which value, and what to do.

The command line maps each class to an exit code, the servers to a gRPC status (`proto.status`).
"""


class DarkroomError(Exception):
    """Base of every error that Darkroom raises on purpose."""


class ConfigurationError(DarkroomError):
    """A configuration file, key file or certificate is missing, unreadable or inconsistent."""


class CertificateError(ConfigurationError):
    """A peer shows another certificate than the pinned one, one of the two has expired, or the peer refuses ours."""


class BadInputError(DarkroomError):
    """The user's file or value cannot be processed: wrong format, size or content."""


class UnknownFormatError(BadInputError):
    """A file of no format that is read here. In a folder it is left out, and no failure."""


class EncodingRangeError(BadInputError):
    """A value is NaN, infinite or outside the range that the fixed-point encoding allows."""


class NetworkDescriptionError(BadInputError):
    """A network description is malformed, or its layers do not fit together."""


class NotFoundError(BadInputError):
    """An object or model that the servers do not hold."""


class PeerUnavailableError(DarkroomError):
    """A peer cannot be reached, did not answer in time, or is shutting down.

    retry_seconds: where the peer refused before anything was begun, in how many seconds it said to try again; else None.
    """

    def __init__(self, message: str, *, retry_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


def reworded(error: DarkroomError, message: str) -> DarkroomError:
    """The same error in other words; when to try again, where the error says so, is kept."""
    if isinstance(error, PeerUnavailableError):
        return type(error)(message, retry_seconds=error.retry_seconds)
    return type(error)(message)


class BusyError(PeerUnavailableError):
    """A peer's queue is full: try again later."""


class SessionBrokenError(PeerUnavailableError):
    """A session ended because of something elsewhere: another party knows what, and its error is the one to show."""


class AccessDenied(DarkroomError):  # noqa: N818 - the field's word for it
    """The caller's identity or grant does not allow this; or the access window is closed."""


class IntegrityError(DarkroomError):
    """A wrong key, or a result that fails its check. Found by the edge: terminal, never retried."""


class ProtocolError(DarkroomError):
    """A step of the protocol went wrong."""


class LocalProtocolError(ProtocolError):
    """This program asked for a step that the protocol forbids: our bug."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids."""


class MaterialReusedError(LocalProtocolError):
    """Correlated randomness, an opening or a nonce was to be used a second time."""
