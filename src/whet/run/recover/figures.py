"""The recovery in one figure: per capability what was there, what the change left, what the repair won back, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.run.figures import FAINT, INK, Axis, bar, dot, line, svg, text, uprights
from whet.run.recover.plan import REFERENCE, REPAIRED
from whet.run.recover.proof import Capability

LABEL = 44
"""Width of the number behind the longest bar."""
BEFORE, BROKEN, MENDED = "#64748b", "#b91c1c", "#15803d"
MARKS = ((REFERENCE, BEFORE, "before the change"), ("base", BROKEN, "after the change"), (REPAIRED, MENDED, "after the repair"))


@dataclass(frozen=True)
class Group:
    """One group of the pool: its drift from the reference before and after the repair, its rows, and how many were ``chosen`` to be
    trained on (``None`` where every epoch chose anew).
    """

    name: str
    before: float
    after: float
    rows: int
    chosen: int | None


def loop(capabilities: Sequence[Capability], chosen: Mapping[str, int], metric: str, width: int = 900) -> str:
    """One row per capability: the score before the change, after it, and after the repair; and the rows spent on it.

    ``chosen``: rows that the repair trained on, by capability; empty where the pool's groups are others.
    """
    left, right, step, top = 170, width - (150 if chosen else 40), 44, 66
    height = top + step * len(capabilities) + 40
    x = Axis(*_range(capabilities), left, right)
    out = uprights(x, top - 14, height - 34)
    for index, (_, colour, words) in enumerate(MARKS):
        place = left + 190 * index
        out.append(f'<circle cx="{place}" cy="14" r="6" fill="{colour}"/>')
        out.append(text(place + 12, 18, words, size=13, weight="600", colour=colour))
    out.append(text(left - 14, 44, "kind of example", anchor="end", colour=FAINT))
    out.append(text(right, 44, metric, anchor="end", colour=FAINT))
    most = max(chosen.values(), default=1) or 1
    if chosen:
        out.append(text(right + 24, 44, "rows trained on", colour=FAINT))
    for index, capability in enumerate(capabilities):
        y = top + step * (index + 0.35)
        out.append(text(left - 14, y + 4, short(capability.name), anchor="end", size=13, weight="700" if index == 0 else "400"))
        out.append(text(left - 14, y + 18, f"{capability.items} examples", anchor="end", size=10, colour=FAINT))
        before, broken, mended = (capability.scores[stage][0] for stage, _, _ in MARKS)
        out.append(_arrow(x(before), x(broken), y - 7, BROKEN))
        out.append(_arrow(x(broken), x(mended), y + 7, MENDED))
        for (stage, colour, words), lane in zip(MARKS, (y - 7, y, y + 7)):
            value, bottom, upper = capability.scores[stage]
            out.append(line(x(max(bottom, x.low)), lane, x(min(upper, x.high)), lane, colour, 1))
            note = f"{capability.name}, {words}: {value:.3f} [{bottom:.3f}, {upper:.3f}]"
            out.append(dot(x(value), lane, colour, note))
        if capability.name in chosen:
            count = chosen[capability.name]
            out.append(bar(right + 24, y - 6, 70 * count / most, 12))
            out.append(text(right + 30 + 70 * count / most, y + 4, str(count), size=11, colour=FAINT))
    return svg(width, int(height), out, f"{metric} before the change, after it, and after the repair")


def drifts(groups: Sequence[Group], width: int = 900) -> str:
    """One row per group of the pool: how far its replies drifted from the reference, before and after the repair."""
    left, step, top = 170, 40, 34
    right, height = width - 230, top + step * len(groups) + 30
    x = Axis(0.0, max([g.before for g in groups] + [g.after for g in groups]) or 1.0, left, right - LABEL)
    out = [
        *uprights(x, top - 6, height - 28, count=4),
        text(left - 14, 14, "kind of example", anchor="end", colour=FAINT),
        text(left, 14, "after the change", colour=BROKEN, weight="600"),
        text(left + 150, 14, "after the repair", colour=MENDED, weight="600"),
    ]
    out.append(
        text(right + 20, 14, "rows trained on, of all" if any(g.chosen is not None for g in groups) else "rows", colour=FAINT)
    )
    for index, group in enumerate(groups):
        y = top + step * index
        out.append(text(left - 14, y + 17, short(group.name), anchor="end", size=13))
        for value, colour, lane in ((group.before, BROKEN, y), (group.after, MENDED, y + 14)):
            out.append(bar(left, lane, x(value) - left, 11, colour, 0.8))
            out.append(text(x(value) + 5, lane + 10, f"{value:.3g}", size=10, colour=FAINT))
        rows = f"{group.rows:,}" if group.chosen is None else f"{group.chosen:,} of {group.rows:,}"
        out.append(text(right + 20, y + 17, rows, size=12, colour=INK))
    return svg(width, height, out, "drift from the reference by group, before and after the repair")


def short(name: str, most: int = 22) -> str:
    """A group's name as long as there is room for."""
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _range(capabilities: Sequence[Capability]) -> tuple[float, float]:
    """The axis: all dots and intervals; an interval that is wide for want of examples is cut at as much again as the dots span."""
    dots = [score[0] for c in capabilities for score in c.scores.values()]
    span = (max(dots) - min(dots)) or abs(dots[0]) or 1.0
    ends = [v for c in capabilities for score in c.scores.values() for v in score[1:]]
    low, high = max(min(ends), min(dots) - span), min(max(ends), max(dots) + span)
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _arrow(start: float, end: float, y: float, colour: str) -> str:
    if abs(end - start) < 12:
        return ""
    sign = 1 if end > start else -1
    tip = end - 6 * sign
    head = f"{tip:.1f},{y:.1f} {tip - 7 * sign:.1f},{y - 4:.1f} {tip - 7 * sign:.1f},{y + 4:.1f}"
    return line(start, y, tip, y, colour, 2) + f'<polygon points="{head}" fill="{colour}"/>'
