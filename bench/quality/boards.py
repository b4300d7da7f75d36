"""A board: networks and peers that are judged on the same subjects, with the table, sentences and pictures that follow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.quality import figures, page
from bench.quality.metrics import Merit
from bench.quality.networks import Judged
from bench.quality.peers import BM3D, Denoise
from bench.quality.trials import NOISY, SIGMAS, Subject, Trial, means, run_trials, worst


@dataclass(frozen=True, eq=False)
class Board:
    """Who was judged, on what, and every trial. methods: networks and peers."""

    judged: Sequence[Judged]
    trials: Sequence[Trial] = field(repr=False)
    subjects: Sequence[Subject] = field(repr=False)
    methods: Mapping[str, Denoise] = field(repr=False)

    @property
    def levels(self) -> dict[str, dict[float, Merit]]:
        """The mean of each method at each level."""
        return means(self.trials)

    @property
    def rival(self) -> str | None:
        """BM3D, or the best peer on the mean of all levels; None where there is no peer."""
        networks = {one.name for one in self.judged}
        peers = {name: levels for name, levels in self.levels.items() if name != NOISY and name not in networks}
        if BM3D in peers:
            return BM3D
        return max(peers, key=lambda name: sum(one.psnr_db for one in peers[name].values()), default=None)

    def worst_cases(self, folder: Path) -> list[str]:
        """For each network the slice on which it is furthest behind its rival: a sentence, and a picture in the folder.

        Nothing where there is no peer.
        """
        parts = []
        for one in self.judged:
            found = None if self.rival is None else worst(self.trials, one.name, self.rival)
            if found is None or self.rival is None:
                continue
            at = (found[0].series, found[0].number, found[0].sigma)
            subject = next(each for each in self.subjects if (each.series, each.number, each.sigma) == at)
            path = folder / f"worst-{one.name}.png"
            figures.worst_case(path, subject, *((name, self.methods[name]) for name in (one.name, self.rival)))
            parts += [page.worst_sentence(one.name, self.rival, found), f"![{one.name} at its worst]({path.name})"]
        return [page.WORST_CASES, *parts] if parts else []

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
    return Board(judged, run_trials(methods, chosen, tell), chosen, methods)
