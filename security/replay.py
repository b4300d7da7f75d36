"""Replay and re-use: a second opening under one mask, asked of live servers in every way there is, and what it would give.

Ours: `security.replay_attempts`, on a live dealer and live servers. The twins lack one rule each and run offline:
`security.replay_twins`.
"""

import tempfile
from pathlib import Path
from typing import Final

import torch

from client.model_file import load_model
from darkroom.simulation import shipped_models, simulation
from security.evaluation import Check, Evaluation, Outcome, Setting
from security.replay_attempts import (
    Attempt,
    LiveSite,
    after_a_crash,
    claims_by_log,
    repeated_claims,
    repeated_requests,
    repeated_steps,
)
from security.replay_twins import deal_repeatedly, rebuilt_activation, rebuilt_update, rebuilt_weights

NEVER: Final = "none: these are rules, not statistics"


def _ours(attempts: list[Attempt], extra: str = "", *, also: bool = True) -> Outcome:
    passed = [attempt for attempt in attempts if not attempt.refused]
    told = "; ".join(map(str, passed or attempts))
    return Outcome(
        not passed and also,
        f"{len(attempts) - len(passed)} of {len(attempts)} repetitions refused{extra}. {told}",
        {"attempts": len(attempts), "refused": len(attempts) - len(passed)},
    )


def evaluate(setting: Setting) -> Evaluation:
    """Item 3 of the security evaluation. Quick and full are the same: nothing here is a sample."""
    torch.set_num_threads(1)
    model = load_model(shipped_models()[0])
    with tempfile.TemporaryDirectory() as folder, simulation(Path(folder) / "site", tell=setting.tell) as cluster:
        site = LiveSite(cluster, model, setting.engine)
        setting.tell("replay: steps sent again")
        steps, most = repeated_steps(site)
        setting.tell("replay: claims and requests repeated")
        claims = repeated_claims(site)
        requests = repeated_requests(site)
        crashes = {}
        for party in ("server-b", "server-a", "dealer"):
            setting.tell(f"replay: kill -9 of {party}, restart")
            crashes[party] = after_a_crash(site, party)
        dealt = claims_by_log(site)
    setting.tell("replay: the twins")
    repeated = deal_repeatedly(model, setting.engine)
    checks = (
        Check(
            "A step sent again, with the same or another payload, is refused; no opening is sent twice",
            "server A keeps its opening ledger in the memory of the process that holds the material",
            _ours(steps, f"; of its own openings A sent none more than {most} time(s)", also=most == 1),
            "one material dealt to our workers twice, one opening of B's altered in the second run",
            rebuilt_weights(repeated),
            NEVER,
        ),
        Check(
            "A request, a session or a claim that is repeated is refused",
            "the dealer gives each half out once and to the run it was opened for; a server takes a session id once",
            _ours(
                claims + requests,
                f"; by its log the dealer gave out {len(dealt)} halves, none more than {max(dealt.values())} time(s)",
                also=max(dealt.values()) == 1,
            ),
            "one material dealt to our workers twice, for two images",
            rebuilt_activation(repeated),
            NEVER,
        ),
        Check(
            "After kill -9 of server A, server B or the dealer and a restart nothing from before can be used, and the weights are"
            " masked anew",
            "boot ids, material and its ledger live in memory only; material is bound to the boot ids of both servers",
            _ours(
                [attempt for attempts, _ in crashes.values() for attempt in attempts],
                f"; weights masked anew after the crash of {', '.join(name for name, (_, anew) in crashes.items() if anew)}",
                also=all(anew for _, anew in crashes.values()),
            ),
            "a second push that takes the weight masks of the first",
            rebuilt_update(model),
            NEVER,
        ),
    )
    return Evaluation(
        "Replay and re-use",
        "Can anybody get a second opening under one mask, and what would it give?",
        checks,
        _TEXT,
    )


_TEXT: Final = """\
What may happen once was asked for again over the RPCs of live servers, with the identities of server B and the edge (and,
at the dealer, of server A). An attempt counts as refused only where the answer is the protocol's: `FAILED_PRECONDITION`, or the
dealer's `ALREADY_EXISTS` and `NOT_FOUND` for material that was claimed or that nobody holds any more.

The twins show why: the algebra is that of a two-time pad. Two openings `x - a` and `x' - a` differ by `x - x'`; a step
repeated with an addition of B's choice makes A compute with it, and A's next opening shows the weights. Both were run on our
real worker processes with a dealer that deals one material twice, on the shipped model.

Where the argument ends: each rule is kept by whoever it binds. A dealer that deals one material twice breaks the first two, and
is outside the model. A server keeps the session ids that it has seen in memory, so a restarted B takes an old one again; it
is A that refuses, and without A's order B sends nothing. A server set back to a snapshot of its memory would rewind its
ledger (not shown here): operators must take none. A disk set back cannot, because no material is written to one.
"""
