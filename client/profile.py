"""Where the time of an evaluation went, by layer: what the servers stated of each message, named by the plan. Run by the edge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.edge import Denoised
from protocols.errors import RemoteProtocolError
from protocols.identifiers import Role
from protocols.layer_costs import LayerCost, messages, planned_costs
from protocols.network import Network


@dataclass(frozen=True)
class LayerProfile:
    """One layer, as planned and as measured. Public."""

    planned: LayerCost
    sent_bytes: Mapping[Role, float]
    arithmetic_seconds: Mapping[Role, float]
    waiting_seconds: Mapping[Role, float]  # for the other server's words, their reading included

    def seconds(self, role: Role) -> tuple[float, float]:
        """Of arithmetic, and of waiting."""
        return self.arithmetic_seconds[role], self.waiting_seconds[role]

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        planned = {name: getattr(self.planned, name) for name in ("wires", "rounds", "macs", "dealt_bytes")}
        measured = {name: getattr(self, name) for name in ("sent_bytes", "arithmetic_seconds", "waiting_seconds")}
        by_role = {name: {role.value: of[role] for role in Role} for name, of in measured.items()}
        return {"layer": self.planned.name, "op": self.planned.op, **planned, **by_role}


def layer_profile(denoised: Denoised, network: Network) -> list[LayerProfile]:
    """By layer, in order of evaluation. Layers that share a message share its time by their words.

    network: of the model, as the servers describe it. Raises RemoteProtocolError: what they stated is not of this network.
    """
    costs = planned_costs(denoised.engine, network, *denoised.pixels.shape)
    plan = messages(costs.plan)
    shares: dict[str, list[tuple[int, float]]] = {}  # of each layer: messages, and its part of them
    for index, parts in enumerate(plan):
        words = sum(part.words for part in parts)
        for part in parts:
            shares.setdefault(part.layer, []).append((index, part.words / words))
    for role, cost in denoised.costs.items():
        if len(cost.messages) != len(plan):
            raise RemoteProtocolError(
                f"server {role.value} states the times of {len(cost.messages)} messages, where the model that it holds now has"
                f" {len(plan)}: was it replaced meanwhile?"
            )

    def measured(name: str, what: str) -> dict[Role, float]:
        return {
            role: sum(getattr(denoised.costs[role].messages[index], what) * part for index, part in shares.get(name, ()))
            for role in Role
        }

    return [
        LayerProfile(
            planned=layer,
            sent_bytes={role: round(count) for role, count in measured(layer.name, "sent_bytes").items()},
            arithmetic_seconds=measured(layer.name, "arithmetic_seconds"),
            waiting_seconds=measured(layer.name, "waiting_seconds"),
        )
        for layer in costs.layers
    ]
