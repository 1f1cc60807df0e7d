"""Two measured models item by item: where the difference between them lies, and the items that changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.measure.estimates import is_better_high

if TYPE_CHECKING:
    from whet.measure.outcome import Outcome, TaskResult

Results = Mapping[int, "TaskResult"]
"""Seed -> the outcomes of one task."""

MOST_GROUPS = 40
"""Values of a label up to which it makes a table."""


@dataclass(frozen=True)
class Item:
    """An item that both answered. ``seen``: seed -> both outcomes."""

    id: str
    seen: Mapping[int, tuple[Outcome, Outcome]]

    @property
    def labels(self) -> Mapping[str, str]:
        return next(iter(self.seen.values()))[0].labels

    @property
    def means(self) -> tuple[float, float]:
        """Both scores, averaged over seeds."""
        scores = [(a.score, b.score) for a, b in self.seen.values()]
        return sum(a for a, _ in scores) / len(scores), sum(b for _, b in scores) / len(scores)

    @property
    def change(self) -> float:
        return self.means[1] - self.means[0]

    @property
    def kind(self) -> str:
        """``gained`` or ``lost`` by the second at most seeds, else empty."""
        return "gained" if self.change > 0.5 else "lost" if self.change < -0.5 else ""

    @property
    def telling(self) -> int:
        """The first seed that shows the change best."""
        sign = 1 if self.change >= 0 else -1
        return max(self.seen, key=lambda seed: sign * (self.seen[seed][1].score - self.seen[seed][0].score))

    def right(self, side: int) -> int:
        """At how many seeds this side is right."""
        return sum(pair[side].score > 0.5 for pair in self.seen.values())


@dataclass(frozen=True)
class Group:
    """The items with one value of a label. ``share``: what they add to the whole difference."""

    name: str
    n: int
    before: float
    after: float
    share: float
    gained: int
    lost: int


def items(first: Results, second: Results) -> list[Item]:
    """What both measured, in the order of the first, at the seeds that both have."""
    seeds = [seed for seed in first if seed in second]
    by_id = {seed: [{o.id: o for o in side[seed].outcomes} for side in (first, second)] for seed in seeds}
    if not seeds:
        return []
    ids = [i for i in by_id[seeds[0]][0] if all(i in side for sides in by_id.values() for side in sides)]
    return [Item(i, {seed: (by_id[seed][0][i], by_id[seed][1][i]) for seed in seeds}) for i in ids]


def grouped_by(found: Sequence[Item]) -> list[str]:
    """The labels that part the items into a few groups, ``skill`` first."""
    values: dict[str, set[str]] = {}
    for item in found:
        for label, value in item.labels.items():
            values.setdefault(label, set()).add(value)
    usable = [label for label, several in values.items() if 1 < len(several) <= MOST_GROUPS]
    return sorted(usable, key=lambda label: (label != "skill", label))


def groups(found: Sequence[Item], label: str) -> list[Group]:
    """The groups of a label; those that make most of the whole difference first."""
    parted: dict[str, list[Item]] = {}
    for item in found:
        parted.setdefault(item.labels.get(label, "none"), []).append(item)
    made = [_group(name, members, len(found)) for name, members in parted.items()]
    sign = 1 if sum(group.share for group in made) >= 0 else -1
    return sorted(made, key=lambda group: -sign * group.share)


def _group(name: str, members: Sequence[Item], of: int) -> Group:
    before, after = (sum(item.means[side] for item in members) / len(members) for side in (0, 1))
    kinds = [item.kind for item in members]
    share = (after - before) * len(members) / of
    return Group(name, len(members), before, after, share, kinds.count("gained"), kinds.count("lost"))


def why(names: tuple[str, str], metric: str, parted: Sequence[Group]) -> str:
    """In a sentence: how much the second lost or won, and which group made the largest part of it."""
    if not parted or not (total := sum(group.share for group in parted)):
        return ""
    better = (total > 0) == is_better_high(metric)
    verb = "is ahead of" if better else "is behind"
    out = f"On these items {names[1]} {verb} {names[0]} by {abs(total):.3g} in {metric.replace('_', ' ')}."
    largest = parted[0]
    if len(parted) > 1:
        out += (
            f" The largest part comes from {largest.name}: {largest.before:.3g} became {largest.after:.3g} on {largest.n} items, "
            f"which is {largest.share / total:.0%} of the {'gain' if better else 'loss'}."
        )
    return out


def manners(first: Results, second: Results) -> list[dict[str, str]]:
    """How both answered, whatever was right: rows of name and two texts, those left out that neither has."""
    facts: dict[str, Callable[[TaskResult], float | None]] = {
        "answers that ended by themselves": lambda r: _as_float(r.receipt.get("ended")),
        "answers that could not be read": lambda r: _share(r, "unparsable"),
        "words per answer": _words,
    }
    rows = []
    for name, fact in facts.items():
        cells = [_mean([fact(result) for result in side.values()]) for side in (first, second)]
        if any(cell is not None for cell in cells):
            text = ("" if c is None else f"{c:.1f}" if name.startswith("words") else f"{100 * c:.1f}%" for c in cells)
            rows.append(dict(zip(("name", "first", "second"), (name, *text))))
    return rows


def _as_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _share(result: TaskResult, key: str) -> float | None:
    value = result.receipt.get(key)
    return None if value is None else float(value) / max(1, len(result.outcomes))


def _words(result: TaskResult) -> float | None:
    lengths = [len(outcome.completion.split()) for outcome in result.outcomes if outcome.completion]
    return sum(lengths) / len(lengths) if lengths else None


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
