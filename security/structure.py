"""The structure of a view: per link and direction the messages in order, with every size and count, without secret values.

What is left out besides the values of bytes and strings (their lengths count): measurements that a machine makes of itself
(seconds, peak memory), which differ from run to run of one image too, and with them a byte or two of a message's length.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from security.recording import ENDED, Entry

SECONDS: Final = frozenset({"online_seconds", "offline_seconds", "ahead_seconds", "arithmetic_seconds", "waiting_seconds"})
MEASURED: Final = SECONDS | {"peak_rss_bytes", "dealer_peak_rss_bytes"}
SHARES: Final = frozenset({"sigma_share"})  # eight bytes on the wire, whatever they are

Structure = dict[tuple[str, str, str], list[str]]


def structure(view: Mapping[str, Sequence[Entry]]) -> Structure:
    """By party, link and direction: one line for each message, in order."""
    lines: Structure = defaultdict(list)
    for party, entries in view.items():
        for entry in entries:
            text = entry.payload.decode() if entry.direction == ENDED else f"{entry.kind}{_skeleton(entry.message())}"
            lines[party, entry.link, entry.direction].append(text)
    return dict(lines)


def _skeleton(message: Any) -> dict[str, Any]:
    """Field by field: lengths of bytes and strings, values of sizes and labels."""
    out: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name in MEASURED:
            continue
        if name in SHARES:
            out[name] = "share"
        elif name == "stage":
            out[name] = value
        elif isinstance(value, bytes | str):
            out[name] = len(value)
        elif isinstance(value, int | float):
            out[name] = value
        elif hasattr(value, "ListFields"):
            out[name] = _skeleton(value)
        else:
            out[name] = [_skeleton(element) for element in value]
    return out


def difference(first: Structure, second: Structure) -> str:
    """Where two structures differ first, in words; empty where they are equal."""
    for key in sorted(first.keys() | second.keys()):
        ours, theirs = first.get(key, []), second.get(key, [])
        if ours != theirs:
            count = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
            what = [lines[count] if count < len(lines) else "nothing" for lines in (ours, theirs)]
            return f"{' '.join(key)}, message {count}: {what[0]:.120} against {what[1]:.120}"
    return ""
