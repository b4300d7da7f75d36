import multiprocessing
import stat

import pytest

from client import acquisition
from client.nonce_ledger import FILE, claim_nonce
from protocols.errors import ConfigurationError, MaterialReusedError
from protocols.identifiers import Role

NONCE = bytes(range(16))


def test_a_nonce_is_claimed_once(tmp_path):
    claim_nonce(tmp_path, NONCE)
    claim_nonce(tmp_path, NONCE[::-1])
    with pytest.raises(MaterialReusedError, match="snapshot"):
        claim_nonce(tmp_path, NONCE)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def _claim(folder, outcomes):
    try:
        claim_nonce(folder, NONCE)
        outcomes.put("claimed")
    except MaterialReusedError:
        outcomes.put("refused")


@pytest.mark.slow
def test_of_several_processes_one_gets_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    outcomes = context.SimpleQueue()
    processes = [context.Process(target=_claim, args=(tmp_path, outcomes)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(outcomes.get() for _ in processes) == ["claimed", "refused", "refused"]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be taken for one" * 40, None])
def test_a_damaged_ledger_is_a_sentence(tmp_path, content):
    path = tmp_path / FILE
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="ledger of nonces"):
        claim_nonce(tmp_path, NONCE)


def test_a_client_whose_randomness_repeats_sends_nothing(hospital, servers, image, monkeypatch):
    monkeypatch.setattr(acquisition, "fresh_nonce", lambda: NONCE)
    first = acquisition.store(hospital, image)
    acquisition.delete(hospital, first.object_id)
    before = dict(servers[Role.B].objects)
    with pytest.raises(MaterialReusedError):
        acquisition.store(hospital, image)
    assert servers[Role.B].objects == before
    (hospital.objects / FILE).unlink()  # the twin: without the ledger the nonce is used again
    assert acquisition.store(hospital, image).nonce == first.nonce
