"""A board: networks and peers that are judged on the same subjects, with the table and the sentences that follow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.quality import page
from bench.quality.metrics import Merit
from bench.quality.networks import Judged
from bench.quality.peers import BM3D, Denoise
from bench.quality.trials import SIGMAS, Subject, Trial, means, run_trials, worst


@dataclass(frozen=True, eq=False)
class Board:
    """Who was judged, and every trial."""

    judged: Sequence[Judged]
    trials: Sequence[Trial] = field(repr=False)

    @property
    def levels(self) -> dict[str, dict[float, Merit]]:
        """The mean of each method at each level."""
        return means(self.trials)

    def comparisons(self) -> list[str]:
        """Each network against BM3D and the other networks, on the mean and at worst."""
        levels, lines = self.levels, []
        for one in self.judged:
            for peer in (BM3D, *(other.name for other in self.judged if other is not one)):
                if peer in levels:
                    lines.append(page.gains(levels, one.name, peer))
                    lines += [
                        page.worst_sentence(one.name, peer, found) for found in [worst(self.trials, one.name, peer)] if found
                    ]
        return lines

    def text(self) -> list[str]:
        """Tables and sentences of the report."""
        levels = self.levels
        sentences = "\n".join(f"- {line}" for line in self.comparisons())
        return [page.psnr_table(levels, SIGMAS), sentences, page.merit_table(levels, SIGMAS)]


def judge(
    judged: Sequence[Judged], peers: Mapping[str, Denoise], chosen: Sequence[Subject], tell: Callable[[str], None]
) -> Board:
    """Every network, then every peer, on every subject."""
    methods = {one.name: one.denoise for one in judged} | dict(peers)
    return Board(judged, run_trials(methods, chosen, tell))
