"""The engines, and which one evaluates a network: public, so edge, servers and dealer agree on it by name."""

from typing import Final

from protocols.errors import NetworkDescriptionError
from protocols.masked_plan import MaskedPlan, masked_plan, uncovered
from protocols.network import Network
from protocols.plan import Plan, plan_for

MASKED: Final = MaskedPlan.engine
CRYPTEN: Final = Plan.engine
ENGINES: Final = (MASKED, CRYPTEN)

SessionPlan = Plan | MaskedPlan


def choose_engine(wanted: str, network: Network) -> str:
    """The engine that was asked for; without a wish ("") the masked one where it has every layer, else the general one.

    Raises NetworkDescriptionError: the engine is unknown, or lacks a layer of this network.
    """
    if wanted not in ("", *ENGINES):
        raise NetworkDescriptionError(f"the engine {wanted[:40]!r} is unknown; known are {', '.join(ENGINES)}")
    missing = uncovered(network)
    if wanted == MASKED and missing:
        raise NetworkDescriptionError(f"the masked engine has no layer like {missing[0]!r}; ask for the engine {CRYPTEN}")
    return wanted or (CRYPTEN if missing else MASKED)


def session_plan(engine: str, network: Network, height: int, width: int) -> SessionPlan:
    """The openings of one evaluation on an engine of ENGINES. Raises NetworkDescriptionError."""
    if choose_engine(engine, network) == MASKED:
        return masked_plan(network, height, width)
    return plan_for(network, height, width)
