"""TLS for DICOM: certificates of a CA that the hospital names, both ways.

Source: DICOM PS3.15, B.12 (non-downgrading BCP 195 profile: TLS 1.2 or later).
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from client.files import read_private
from protocols.errors import ConfigurationError


@dataclass(frozen=True)
class TlsFiles:
    """Our certificate and key, and the CA of our peers. Without a CA any sender is taken, and no destination can be checked."""

    certificate: Path
    private_key: Path
    ca: Path | None

    def listening(self) -> ssl.SSLContext:
        """For senders that connect to us; with a CA they must show a certificate of it. Raises ConfigurationError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def connecting(self) -> ssl.SSLContext:
        """For the destination, whose certificate must be of the CA and bear its host name. Raises ConfigurationError."""
        if self.ca is None:
            raise ConfigurationError("--send-tls needs --tls-ca: without a CA the destination's certificate cannot be checked")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        read_private(self.private_key, "the TLS key")  # refuses one that others can read
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the TLS certificate {self.certificate} and key {self.private_key} cannot be used: {error}"
            ) from error
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"the CA certificate {self.ca} cannot be used: {error}") from error
