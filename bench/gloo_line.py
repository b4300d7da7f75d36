"""How stock CrypTen's connection is led through the shaping proxy: gloo picks its ports, and has no setting for a way around.

But parties find each other through a store, and torch.distributed takes a store of ours by a rendezvous scheme of ours. The
addresses in it are sockaddr_in structures, and the party whose own compares greater dials. So party 0 is shown the proxy in place
of party 1, at a port that compares smaller than any that the kernel gives; and party 1 is shown a greater address, which it never
dials.
"""

import json
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlparse

from torch._C._distributed_c10d import FileStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler

SCHEME: Final = "line"
# Multiples of 256 below the kernel's own ports compare smaller than those in both byte orders (gloo compares raw words).
PORTS: Final = range(1024, 16384, 256)
GREATER: Final = "127.0.0.2"
_SOCKADDR = re.compile(rb"\x02\x00(?P<port>..)(?P<host>\x7f\x00\x00\x01)", re.DOTALL)  # AF_INET on loopback


def shown_address(value: bytes) -> str | None:
    """HOST:PORT in a value of the store; None where there is none."""
    found = _SOCKADDR.search(value)
    return f"{socket.inet_ntoa(found['host'])}:{struct.unpack('>H', found['port'])[0]}" if found else None


def with_address(value: bytes, address: str) -> bytes:
    """The value with its address replaced."""
    found = _SOCKADDR.search(value)
    if found is None:
        return value
    host, _, port = address.rpartition(":")
    return value[: found.start("port")] + struct.pack(">H", int(port)) + socket.inet_aton(host) + value[found.end() :]


def free_port() -> int:
    """One of PORTS. Raises SystemExit: all are taken."""
    for port in PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit("no port below 16384 is free for the line to stock CrypTen")


class LineStore(Store):
    """A store in which the other party's address leads through the line. Asks whoever started this process, over its pipes."""

    def __init__(self, inner: Any, rank: int) -> None:
        super().__init__()
        self._inner = inner
        self._rank = rank
        self._own: set[bytes] = set()
        self._ways: dict[str, str] = {}

    def set(self, key: str, value: Any) -> None:
        self._own.add(bytes(value, "utf-8") if isinstance(value, str) else bytes(value))
        self._inner.set(key, value)

    def get(self, key: str) -> bytes:
        value = bytes(self._inner.get(key))
        target = shown_address(value)
        if target is None or value in self._own:
            return value
        return with_address(value, self._way(target) if self._rank == 0 else f"{GREATER}:{target.rpartition(':')[2]}")

    def _way(self, target: str) -> str:
        if target not in self._ways:
            print(json.dumps({"target": target, "port": free_port()}), flush=True)
            self._ways[target] = json.loads(sys.stdin.readline())["address"]
        return self._ways[target]

    # What torch.distributed calls besides.
    def add(self, key: str, amount: int) -> int:
        return int(self._inner.add(key, amount))

    def wait(self, *arguments: Any) -> None:
        self._inner.wait(*arguments)

    def check(self, keys: list[str]) -> bool:
        return bool(self._inner.check(keys))

    def delete_key(self, key: str) -> bool:
        return bool(self._inner.delete_key(key))

    def num_keys(self) -> int:
        return int(self._inner.num_keys())

    def set_timeout(self, timeout: timedelta) -> None:
        self._inner.set_timeout(timeout)

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def has_extended_api(self) -> bool:
        return False


_kept: list[LineStore] = []  # torch holds the C++ half alone, which calls a Python half that must still be there


def register() -> None:
    """Make the scheme known. Run by each party, before crypten.init()."""

    def rendezvous(url: str, timeout: timedelta | None = None, **_: Any) -> Iterator[tuple[Any, int, int]]:
        rank = int(os.environ["RANK"])
        store = LineStore(FileStore(urlparse(url).path, 2), rank)
        _kept.append(store)
        yield store, rank, 2

    register_rendezvous_handler(SCHEME, rendezvous)  # type: ignore[no-untyped-call]
