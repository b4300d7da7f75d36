"""Shares at rest: written whole or not at all, under checked names, each name once unless it is replaced."""

import errno
import os
import stat
import threading

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import BadInputError, ConfigurationError, NotFoundError, PeerUnavailableError, RemoteProtocolError
from server.share_store import MODEL_NAME, ShareStore

NAME = "a" * 32


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shares"


@pytest.fixture
def store(folder):
    return ShareStore(folder)


def write(store, *chunks, name=NAME, total=None, replace=False, header=b"header"):
    store.write(name, header, chunks, sum(map(len, chunks)) if total is None else total, replace=replace)


@given(header=st.binary(max_size=50), chunks=st.lists(st.binary(max_size=20), max_size=5))
@settings(max_examples=40, deadline=None, database=None)
def test_round_trip(tmp_path_factory, header, chunks):
    store = ShareStore(tmp_path_factory.mktemp("store"))
    write(store, *chunks, header=header)
    stored = store.read(NAME)
    assert (stored.header, stored.words) == (header, b"".join(chunks))
    assert store.names() == [NAME]


def test_a_header_is_read_without_the_words(store, folder):
    with pytest.raises(NotFoundError, match="is not stored on this server"):
        store.read_header(NAME)
    write(store, bytes(1000), header=b"public")
    os.truncate(folder / f"{NAME}.share", len(b"public") + 4)  # whatever became of the words
    assert store.read_header(NAME) == b"public"
    with pytest.raises(BadInputError, match="is not a name"):
        store.read_header("../a")


def test_it_is_there_after_a_restart(store, folder):
    write(store, b"words")
    assert ShareStore(folder).read(NAME).words == b"words"


@pytest.mark.parametrize(("chunks", "total"), [([b"1234"], 5), ([b"123456"], 5), ([], 1), ([b"1"], 0), ([b"123", b"456"], 5)])
def test_too_short_or_too_long_leaves_nothing(store, folder, chunks, total):
    with pytest.raises(RemoteProtocolError, match="shape says"):
        write(store, *chunks, total=total)
    assert store.names() == []
    assert list(folder.iterdir()) == []


def test_a_long_upload_is_cut_off_at_once(store):
    def endless():
        while True:
            yield bytes(1000)

    with pytest.raises(RemoteProtocolError, match="more than the 5000 bytes"):
        store.write(NAME, b"", endless(), 5000, replace=False)


def test_an_upload_that_breaks_leaves_what_was_there(store, folder):
    def broken():
        yield b"half"
        raise grpc.RpcError

    write(store, b"old!")
    with pytest.raises(grpc.RpcError):
        store.write(NAME, b"new header", broken(), 8, replace=True)
    assert store.read(NAME).words == b"old!"
    assert len(list(folder.iterdir())) == 1


def test_nothing_is_seen_before_the_end(store):
    def watched():
        yield b"half"
        assert store.names() == []
        with pytest.raises(NotFoundError):
            store.read(NAME)
        yield b"half"

    store.write(NAME, b"", watched(), 8, replace=False)
    assert store.names() == [NAME]


def test_what_a_crash_left_is_swept(folder):
    ShareStore(folder)
    (folder / f".{NAME}.0123abcd.part").write_bytes(b"half")
    store = ShareStore(folder)
    assert store.names() == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_or_written_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"the store \S+file cannot be written: .* move it away"):
        ShareStore(tmp_path / "file")
    with pytest.raises(ConfigurationError, match=r"the store \S+file/objects cannot be written: .* move it away"):
        ShareStore(tmp_path / "file" / "objects")
    ShareStore(tmp_path / "store")

    def refused(*_arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("listdir", "open"):  # of another owner: it cannot be looked into, or not written
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refused)
            with pytest.raises(ConfigurationError, match=r"cannot be written: Permission denied.* chown"):
                ShareStore(tmp_path / "store")


def test_a_taken_name_is_refused_and_keeps_its_share(store):
    write(store, b"first")
    with pytest.raises(BadInputError, match="stored already; identifiers are used once"):
        write(store, b"second")
    assert store.read(NAME).words == b"first"


def test_of_two_uploads_under_one_name_at_once_one_is_kept(store):
    """Both pass the first check; the slower one must not replace what the faster one was told is stored."""

    def slow():
        write(store, b"first")
        yield b"second"

    with pytest.raises(BadInputError, match="stored already"):
        store.write(NAME, b"", slow(), 6, replace=False)
    assert store.read(NAME).words == b"first"


def test_of_many_uploads_at_once_one_is_kept(store):
    start, kept = threading.Barrier(8), []

    def upload(number):
        start.wait(10)
        try:
            write(store, bytes([number]))
            kept.append(number)
        except BadInputError:
            pass

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert store.read(NAME).words == bytes(kept)


def test_replacing(store):
    write(store, b"first")
    write(store, b"longer than the first", replace=True)
    assert store.read(NAME).words == b"longer than the first"
    assert store.names() == [NAME]


def test_deleting(store):
    write(store, b"first")
    store.delete(NAME)
    for action in (store.read, store.delete):
        with pytest.raises(NotFoundError, match=f"{NAME} is not stored"):
            action(NAME)
    write(store, b"second")  # a name is free again


BAD_NAMES = ["", ".", "..", "../a", "a/b", "/etc/passwd", ".hidden", "-a", "a\0", "a\n", "a b", "ä", "a" * 65, "a\\b", "~"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_paths_or_odd_are_refused_everywhere(store, folder, name):
    (folder.parent / "a.share").write_bytes(b"\0\0\0\0outside")
    writing = [lambda n, replace=replace: write(store, b"x", name=n, replace=replace) for replace in (False, True)]
    for action in (store.read, store.delete, *writing):
        with pytest.raises(BadInputError, match="is not a name"):
            action(name)
    assert (folder.parent / "a.share").read_bytes() == b"\0\0\0\0outside"
    assert list(folder.iterdir()) == []


@given(name=st.from_regex(MODEL_NAME, fullmatch=True))
@settings(max_examples=100, deadline=None, database=None)
def test_every_accepted_name_stays_in_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("store")
    store = ShareStore(folder)
    write(store, b"words", name=name)
    assert store.names() == [name]
    assert [path.parent for path in folder.iterdir()] == [folder]


def test_only_the_owner_can_read(store, folder):
    previous = os.umask(0)
    try:
        write(store, b"words")
        assert stat.S_IMODE((folder / f"{NAME}.share").stat().st_mode) == 0o600
        fresh = ShareStore(folder.parent / "fresh")
        assert stat.S_IMODE(fresh._folder.stat().st_mode) == 0o700
    finally:
        os.umask(previous)


def test_a_full_disk_is_said_and_leaves_nothing(store, folder):
    def full():
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(PeerUnavailableError, match="cannot store the share: No space left"):
        store.write(NAME, b"", full(), 8, replace=False)
    assert list(folder.iterdir()) == []


def test_a_share_is_not_printed(store):
    write(store, b"secret words", header=b"secret seed")
    assert "secret" not in repr(store.read(NAME))
