"""Which certificate does whoever listens there show? For the doctor alone: it names whom it met instead of the one expected.

Nothing is sent over this connection, so nothing rests on it: calls go through `proto.transport`, which trusts the pin only.
Assumes TLS 1.3, where the listener's certificate arrives before it judges ours (RFC 8446, section 2).
"""

import socket
import ssl
from typing import Final

from proto.addresses import split_address
from protocols.errors import PeerUnavailableError

HANDSHAKE_SECONDS: Final = 10.0


def shown_certificate(name: str, address: str) -> bytes:
    """The certificate (PEM) that is shown at HOST:PORT.

    Raises PeerUnavailableError, saying which step failed: the name, the connection or the handshake. ConfigurationError: this is
    no address.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to see it, whatever it is; it is compared with the pin by the caller
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), HANDSHAKE_SECONDS) as plain, context.wrap_socket(plain) as secured:
            shown = secured.getpeercert(binary_form=True)
    except socket.gaierror as error:
        raise PeerUnavailableError(f"{name}: the name {host} is not known here ({error.strerror})") from error
    except ssl.SSLError as error:
        raise PeerUnavailableError(f"{name} at {address} answers, but not with TLS 1.3 ({error.reason})") from error
    except TimeoutError as error:
        raise PeerUnavailableError(f"{name} at {address} did not answer within {HANDSHAKE_SECONDS:.0f} s") from error
    except OSError as error:
        raise PeerUnavailableError(f"{name} at {address} cannot be reached: {error.strerror or error}") from error
    if shown is None:
        raise PeerUnavailableError(f"{name} at {address} shows no certificate")
    return ssl.DER_cert_to_PEM_cert(shown).encode()
