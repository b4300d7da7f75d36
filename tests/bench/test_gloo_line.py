"""Addresses in gloo's store: found, replaced, and such that only one side dials."""

import socket
import struct

from bench.gloo_line import PORTS, free_port, shown_address, with_address

# As torch 2.13 writes it: eight bytes of a count, eight of an id, then sockaddr_storage.
VALUE = b"\x02" + bytes(7) + b"vm\x88" + bytes(5) + b"\x02\x00\xb5\xf3\x7f\x00\x00\x01" + bytes(40) + b"\xff" * 8


def test_the_address_is_found() -> None:
    assert shown_address(VALUE) == f"127.0.0.1:{0xB5F3}"
    assert shown_address(b"1") is None


def test_the_address_is_replaced_and_nothing_else() -> None:
    changed = with_address(VALUE, "127.0.0.2:1024")
    assert changed == VALUE.replace(b"\x02\x00\xb5\xf3\x7f\x00\x00\x01", b"\x02\x00\x04\x00\x7f\x00\x00\x02")
    assert with_address(b"no address", "127.0.0.2:1024") == b"no address"


def test_ports_compare_smaller_than_the_kernels_in_both_byte_orders() -> None:
    """An ephemeral port is at least 32768; read the other way round it is at least 128 where its low byte is 0."""
    swapped = [struct.unpack("<H", struct.pack(">H", port))[0] for port in PORTS]
    assert max(PORTS) < 32768
    assert max(swapped) < 128


def test_a_port_that_is_taken_is_passed_over() -> None:
    first = free_port()
    with socket.create_server(("127.0.0.1", first)):
        assert free_port() != first
