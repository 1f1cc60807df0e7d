"""A task's outcome in a few words: the order of the variants where the verdicts give one, else who beats whom."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from whet.run.compare.verdicts import Verdict


def headline(verdicts: Sequence[Verdict]) -> str:
    """Who beats whom, or that nothing was told apart, and what would have been."""
    order = ranked(verdicts)
    wins = _wins(verdicts)
    if len(order) > 1 and len(wins) > 1:
        out = [_ranking(order)]
    else:
        losers = {winner: tuple(loser for other, loser in wins if other == winner) for winner, _ in wins}
        alike = {beaten: [winner for winner, found in losers.items() if found == beaten] for beaten in losers.values()}
        out = [_better(winners, beaten) for beaten, winners in alike.items()]
    unsettled = [v.detectable for v in verdicts if v.kind == "open"]
    if unsettled:
        whole = "Between the others no" if out else "No"
        largest = max(unsettled)
        seen = (
            f"one of more than {largest:.3g} would have been" if math.isfinite(largest) else "of some pairs none could have been"
        )
        out.append(f"{whole} difference was seen; {seen}, with 80% power.")
    if any(v.kind == "same" for v in verdicts):
        out.append("Shown to be the same: " + ", ".join(f"{v.first} and {v.second}" for v in verdicts if v.kind == "same") + ".")
    out += [
        f"A difference, but no winner is named: {why}."
        for why in sorted({v.unmatched for v in verdicts if v.kind == "unmatched"})
    ]
    if any(v.kind in ("floor", "ceiling") for v in verdicts):
        out.append("Some pairs are at chance or perfect, and not judged.")
    return " ".join(out)


def ranked(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Groups of variants, best first, if each beats all of the groups after its own and none of its own; else an empty list."""
    names = list(dict.fromkeys(name for v in verdicts for name in (v.first, v.second)))
    wins = set(_wins(verdicts))
    count = {name: sum(winner == name for winner, _ in wins) for name in names}
    by_count = sorted(names, key=lambda name: -count[name])
    groups = [list(group) for _, group in itertools.groupby(by_count, key=count.__getitem__)]
    expected = {(a, b) for above, below in itertools.combinations(groups, 2) for a in above for b in below}
    return groups if wins == expected else []


def _wins(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """(winner, loser) of every pair that was told apart."""
    return [(v.second, v.first) if v.kind == "better" else (v.first, v.second) for v in verdicts if v.kind in ("better", "worse")]


def _ranking(groups: Sequence[Sequence[str]]) -> str:
    first, *middle, last = groups
    if not middle:
        return _better(first, last)
    best = f"{_listed(first)} {'are' if len(first) > 1 else 'is'} best"
    return "; ".join([best, *(f"then {_listed(g)}" for g in middle), f"last {_listed(last)}"]) + "."


def _better(winners: Sequence[str], losers: Sequence[str]) -> str:
    return f"{_listed(winners)} {'are' if len(winners) > 1 else 'is'} better than {_listed(losers)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
