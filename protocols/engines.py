"""The engines, and which one evaluates a network: public, so edge, servers and dealer agree on it by name."""

from typing import Final

from protocols.errors import NetworkDescriptionError
from protocols.fixed_point import FRAC_BITS
from protocols.masked_plan import MaskedPlan, masked_plan
from protocols.network import Network
from protocols.plan import Plan, plan_for

MASKED: Final = MaskedPlan.engine
CRYPTEN: Final = Plan.engine
ENGINES: Final = (MASKED, CRYPTEN)

SessionPlan = Plan | MaskedPlan


def session_plan(engine: str, network: Network, height: int, width: int) -> SessionPlan:
    """The openings of one evaluation on an engine of ENGINES; for "" on the masked one, or the general one where it does not fit.

    Raises NetworkDescriptionError: the network does not fit the size or the engine that was asked for, or that is unknown.
    """
    if engine not in ("", *ENGINES):
        raise NetworkDescriptionError(f"the engine {engine[:40]!r} is unknown; known are {', '.join(ENGINES)}")
    if engine != CRYPTEN:
        try:
            return _readable(masked_plan(network, height, width))
        except NetworkDescriptionError:
            if engine == MASKED:
                raise
    return plan_for(network, height, width)


def _readable(plan: MaskedPlan) -> MaskedPlan:
    """A plan whose result is in the format in which the edge reads it. Raises NetworkDescriptionError."""
    found = plan.formats[plan.lowered.output].frac_bits
    if found != FRAC_BITS:
        raise NetworkDescriptionError(
            f"{plan.lowered.output}: a result has {FRAC_BITS} fractional bits, not {found}; correct the ranges in the description"
        )
    return plan
