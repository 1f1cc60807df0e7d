"""Early stopping that keeps the level: a variant that has lost at one look is left out of later seeds.

After the third seed and after each further one but the last, all pairs that are still in are judged on the seeds so far. Half of
the level is divided among these looks and, by Bonferroni, among all tests of the report; the other half is for the end. Whatever
is stopped when, a difference that is not there is then called one at most with the probability of the level. Pairs with a
stopped variant are judged at the level of one look at the end too, since their number of seeds follows from their scores.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from whet.run.compare.verdicts import judge, pairs

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult

FIRST_LOOK = 3
"""Seeds before the first look: fewer say next to nothing of the variation across seeds."""


def interim_level(alpha: float, seeds: int) -> float:
    """The level of one look, where there are ``seeds`` seeds in all."""
    return alpha / 2 / max(1, seeds - FIRST_LOOK)


def lost(
    results: Mapping[str, Mapping[str, Mapping[int, TaskResult]]],
    level: float,
    unmatched: Mapping[tuple[str, str], str],
    still: Collection[str],
) -> dict[str, str]:
    """Variants that another beats on the first task -> why.

    Args:
        results: task -> variant -> seed -> result, stopped variants included: their tests count in the correction.
        level: of one look.
        unmatched: pairs of which no winner may be named.
        still: the variants that are not stopped.
    """
    task = next(iter(results))
    others = sum(len(pairs(list(by_variant))) for name, by_variant in results.items() if name != task)
    verdicts = judge(
        {task: results[task]},
        unmatched=unmatched,
        corrected_with=[1.0] * others,
        stopped=list(results[task]),
        interim=level,
    )
    found: dict[str, str] = {}
    for verdict in verdicts:
        loser, winner = (verdict.second, verdict.first) if verdict.kind == "worse" else (verdict.first, verdict.second)
        if verdict.kind in ("better", "worse") and {loser, winner} <= set(still):
            seeds = len(verdict.by_seed)
            found[loser] = (
                f"stopped early: lost to {winner} after {seeds} seeds (p = {verdict.p:.2g}, level of this look {level:.2g})"
            )
    return found
