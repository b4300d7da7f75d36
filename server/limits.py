"""How many calls a server takes at a time, and the threads that this needs."""

from collections.abc import Mapping
from typing import Final

from protocols.identifiers import Role
from server.config import ServerConfig
from server.turns import TurnQueue

# Calls of one identity at a time, so that none takes every thread; beyond them: busy. The edge's are bounded by the queue.
CALL_LIMITS: Final = {"client": 8, "model-owner": 2}
DOWNLOADS: Final = 8  # of the edge, besides the queue: results on their way hold no turn
FOLLOWER_SLACK: Final = 8  # A decides who is busy: B has places for those that A has yet to refuse
SPARE_THREADS: Final = 8  # health checks, look-ups and refusals get through while sessions wait


def queue_of(name: str, config: ServerConfig) -> TurnQueue:
    """The queue in front of a server's evaluations."""
    slack = FOLLOWER_SLACK if config.role is Role.B else 0
    return TurnQueue(name, config.waiting + slack)


def call_limits(waiting: int) -> Mapping[str, int]:
    """Calls of each identity at a time, at either server."""
    return {**CALL_LIMITS, "edge": waiting + 1 + FOLLOWER_SLACK + DOWNLOADS}


def call_threads(waiting: int) -> int:
    """Threads of a server: one for each call, and at A one more for each stream of B."""
    limits = call_limits(waiting)
    return sum(limits.values()) + limits["edge"] + limits["model-owner"] + SPARE_THREADS
