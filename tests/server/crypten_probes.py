"""Questions to a process that serves an evaluation; asked in forks of one process, because CrypTen's state is global.

`python -m tests.server.crypten_probes` prints one JSON object: for each probe what it returned, or the error that it raised.
"""

import json
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from protocols.dealing import PartyMaterial
from protocols.errors import DarkroomError
from protocols.identifiers import MaterialId, Role
from protocols.layers import Conv, Gate, Relu
from protocols.network import IMAGE_WIRE, Network
from protocols.openings import OpeningLedger
from protocols.plan import plan_for
from server import crypten_runtime
from server.crypten_runtime import PeerCommunicator

NETWORK = Network((Conv("c", IMAGE_WIRE, 2, 1), Gate("g", "c"), Relu("r", "g")))
PLAN = plan_for(NETWORK, 8, 8)
SECRET = torch.arange(64).view(1, 8, 8)
OPENED: list[int] = []


def exchange(index: int, own: Sequence[Tensor]) -> list[Tensor]:
    """The peer's words are all 6."""
    OPENED.append(index)
    return [torch.full_like(tensor, 6) for tensor in own]


def start(role: Role = Role.A) -> types.ModuleType:
    ledger = OpeningLedger(MaterialId("a" * 32), [PLAN.opened_words(i) for i in range(len(PLAN.correlations))])
    return crypten_runtime.start_evaluation(role, PartyMaterial(role, PLAN, bytes(32)), ledger, exchange, bytes(32))


def error_of(action: Callable[[], object]) -> str:
    """Class and message of what the action raises; what was opened, if anything."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"no error; opened {OPENED}"


def arithmetic(crypten: types.ModuleType) -> Any:
    return crypten.mpc.primitives.ArithmeticSharedTensor.from_shares(SECRET.clone())


def binary(crypten: types.ModuleType) -> Any:
    return crypten.mpc.primitives.BinarySharedTensor.from_shares(SECRET.clone())


def providers() -> object:
    crypten = start()
    names = sorted(crypten.mpc.__dict__["__SUPPORTED_PROVIDERS"])
    found = type(crypten.mpc.get_default_provider()).__name__
    errors = {}
    for name in ("TFP", "TTP", "HE"):
        crypten.cfg.mpc.provider = name
        errors[name] = error_of(crypten.mpc.get_default_provider)
    return {"names": names, "default": found, "errors": errors}


def openings_without_mask() -> object:
    crypten = start()
    wrapped = crypten.mpc.MPCTensor.from_shares(SECRET.clone())
    primitives = crypten.mpc.primitives
    return {
        "arithmetic reveal": error_of(arithmetic(crypten).reveal),
        "arithmetic plain text": error_of(arithmetic(crypten).get_plain_text),
        "arithmetic batch": error_of(lambda: primitives.ArithmeticSharedTensor.reveal_batch([arithmetic(crypten)])),
        "arithmetic to one": error_of(lambda: arithmetic(crypten).reveal(dst=0)),
        "binary reveal": error_of(binary(crypten).reveal),
        "binary plain text": error_of(binary(crypten).get_plain_text),
        "binary batch": error_of(lambda: primitives.BinarySharedTensor.reveal_batch([binary(crypten)])),
        "wrapped reveal": error_of(wrapped.reveal),
        "wrapped plain text": error_of(wrapped.get_plain_text),
        "comparison of shares by hand": error_of(lambda: crypten.communicator.get().all_reduce(SECRET)),
    }


def a_mask_serves_once() -> object:
    crypten = start()
    provider, communicator = crypten.mpc.get_default_provider(), PeerCommunicator.get()
    a, _ = provider.weight_triple((1, 8, 8))
    opened = communicator.all_reduce(SECRET - a)
    return {
        "opened": torch.equal(opened, SECRET - a + 6),
        "again": error_of(lambda: communicator.all_reduce(SECRET - a)),
        "exchanges": OPENED,
    }


def a_mask_serves_its_own_words_only() -> object:
    crypten = start()
    crypten.mpc.get_default_provider().weight_triple((1, 8, 8))
    return [error_of(lambda: PeerCommunicator.get().all_reduce(SECRET[:, :7])), error_of(arithmetic(crypten).reveal)]


def a_mask_that_was_taken_is_opened_first() -> object:
    provider = start().mpc.get_default_provider()
    provider.weight_triple((1, 8, 8))
    return error_of(lambda: provider.product_triple((1, 8, 8), (1, 8, 8)))


def another_shape_or_kind() -> object:
    provider = start().mpc.get_default_provider()
    return {
        "kind": error_of(lambda: provider.product_triple((1, 8, 8), (1, 8, 8))),
        "bit": error_of(lambda: provider.B2A_rng((1, 8, 8))),
        "shape": error_of(lambda: provider.weight_triple((1, 8, 9))),
        "nothing was granted": error_of(lambda: PeerCommunicator.get().all_reduce(SECRET)),
    }


def xor_and_sum() -> object:
    start()
    communicator = PeerCommunicator.get()
    communicator.grant(0)
    total = communicator.all_reduce(SECRET)
    communicator.grant(1)
    halves = [SECRET, SECRET + 1]
    bits = communicator.all_reduce(halves, op=torch.distributed.ReduceOp.BXOR, batched=True)
    right = [torch.equal(opened, own ^ 6) for opened, own in zip(bits, halves, strict=True)]
    return [torch.equal(total, SECRET + 6), *right, torch.equal(SECRET, torch.arange(64).view(1, 8, 8))]


def second_start() -> object:
    start()
    return error_of(start)


def own_generators() -> object:
    """Modules of CrypTen in which its own Mersenne-Twister draws are still bound, and the generators that it holds."""
    crypten = start()
    names = ("generate_random_ring_element", "generate_kbit_random_tensor")
    own = {getattr(crypten.common.rng, name) for name in names}
    holders = [
        f"{module}.{name}"
        for module, content in sorted(sys.modules.items())
        if module.startswith("crypten") and content is not None
        for name, value in sorted(vars(content).items())
        if any(value is function for function in own)
    ]
    kinds = {key: [type(held).__name__ for held in held_by.values()] for key, held_by in crypten.generators.items()}
    pseudorandom = error_of(lambda: crypten.mpc.primitives.ArithmeticSharedTensor.PRSS((2,)))
    random_bits = error_of(lambda: crypten.mpc.primitives.BinarySharedTensor.rand(2))
    return {"holders": holders, "generators": kinds, "PRSS": pseudorandom, "rand": random_bits}


def zero_sharings(role: Role) -> object:
    crypten = start(role)
    sums = [crypten.mpc.primitives.ArithmeticSharedTensor.PRZS(torch.Size((4,))).share.tolist() for _ in range(2)]
    bits = [crypten.mpc.primitives.BinarySharedTensor.PRZS(torch.Size((4,))).share.tolist() for _ in range(2)]
    return [sums, bits]


def communication() -> object:
    crypten = start()
    held = crypten.communicator.get()
    methods = ("broadcast", "reduce", "gather", "all_gather", "scatter", "send", "recv", "broadcast_obj", "barrier", "isend")
    return {
        "kind": type(held).__name__,
        "size": held.get_world_size(),
        "others": [name for name in methods if hasattr(held, name)],
        "initialised": crypten.is_initialized(),
    }


def modes_that_open_secrets() -> object:
    """CrypTen's validation and debug modes open what they check: off, and stopped where someone turns them on."""
    crypten = start()
    off = [crypten.cfg.debug.validation_mode, crypten.cfg.debug.debug_mode, crypten.cfg.mpc.active_security]
    crypten.cfg.debug.validation_mode = True
    crypten.cfg.debug.debug_mode = True
    shown = crypten.mpc.MPCTensor.from_shares(SECRET.clone())
    return {"off": off, "division": error_of(lambda: arithmetic(crypten).div_(2)), "repr": error_of(lambda: repr(shown))}


def truncation_with_wraps() -> object:
    crypten = start()
    from crypten.mpc.primitives import beaver

    return error_of(lambda: beaver.truncate(arithmetic(crypten), 2))


def version() -> object:
    return crypten_runtime.import_crypten().__version__


PROBES: dict[str, Callable[[], object]] = {
    probe.__name__: probe
    for probe in (
        providers,
        openings_without_mask,
        a_mask_serves_once,
        a_mask_serves_its_own_words_only,
        a_mask_that_was_taken_is_opened_first,
        another_shape_or_kind,
        xor_and_sum,
        second_start,
        own_generators,
        communication,
        modes_that_open_secrets,
        truncation_with_wraps,
        version,
    )
}


def in_fork(probe: Callable[[], object]) -> object:
    """What the probe returns, from a process of its own."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            answer = probe()
        except DarkroomError as error:
            answer = f"{type(error).__name__}: {error}"
        with os.fdopen(theirs, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        text = pipe.read()
    os.wait()
    return json.loads(text) if text else "the probe ended without an answer"


def main() -> None:
    """Entry point."""
    torch.set_num_threads(1)
    crypten_runtime.import_crypten()
    answers = {name: in_fork(probe) for name, probe in PROBES.items()}
    for role in Role:
        answers[f"zero_sharings {role.value}"] = in_fork(lambda role=role: zero_sharings(role))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
