"""The nonces that this hospital has packed under, so that none is used twice: two images under one nonce have one noise, and
the difference of what the servers store is the difference of the images.

Nonces come from the operating system, 128 bits each; they repeat where its randomness does (a virtual machine set back to a
snapshot, a broken generator). The ledger outlives the objects: a deleted object's nonce stays used. It ends at its folder:
machines that share a noise key but no folder of records do not know each other's nonces, and an old backup forgets the newest.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from client.files import PRIVATE_MODE
from protocols.errors import ConfigurationError, MaterialReusedError

FILE: Final = "nonces.sqlite"
WAIT_SECONDS: Final = 30.0  # for another process that is storing


def claim_nonce(folder: Path, nonce: bytes) -> None:
    """Mark a nonce as used, durably, before anything packed under it is sent. Run by the client.

    folder: of the object records. Raises MaterialReusedError: it was used before. ConfigurationError: the file cannot be written.
    """
    path = folder / FILE
    try:
        path.touch(mode=PRIVATE_MODE)
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as ledger, ledger:
            ledger.execute("PRAGMA synchronous = FULL")
            ledger.execute("CREATE TABLE IF NOT EXISTS used (nonce BLOB PRIMARY KEY) WITHOUT ROWID")
            ledger.execute("INSERT INTO used VALUES (?)", (nonce,))
    except sqlite3.IntegrityError as error:
        raise MaterialReusedError(
            f"the fresh nonce of this image is in {path} already, so nothing was sent: the operating system's randomness repeats"
            " itself. Was this machine set back to a snapshot? Restart it, and store the image again"
        ) from error
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"the ledger of nonces {path} cannot be written: {error}; nothing was sent") from error
