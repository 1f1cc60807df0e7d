"""The comparison's figures as inline SVG: quality against cost, effects with intervals, learning curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.budget import shown
from whet.run.compare.spending import matched
from whet.run.figures import COLOURS, FAINT, INK, Axis, dot, levels, line, path, svg, text, uprights

WIDTH, LEFT, TOP, NAMES = 860, 64, 24, 150
"""Of a figure: its width, and what the numbers at the left, the axis's name above and the variants' names at the right take."""


@dataclass(frozen=True)
class Point:
    """A variant: its mean ``cost`` and its ``value`` with interval."""

    name: str
    cost: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """A judged pair: the difference with its interval, and each seed's own difference."""

    label: str
    kind: str
    effect: float
    low: float
    high: float
    seeds: Sequence[float]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; ``top`` is the smaller y."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


def quality_and_cost(points: Sequence[Point], unit: str, metric: str, better_high: bool) -> str:
    """Quality over cost with 95% intervals; the line joins the variants that no other beats in both. Of variants without a finite
    value nothing is shown; empty without any other."""
    points = [p for p in points if math.isfinite(p.low) and math.isfinite(p.high)]
    if not points:
        return ""
    costs = [p.cost for p in points]
    place = Axis.around(costs, LEFT, WIDTH - NAMES, room=0.08, least=0.2 * max(costs))
    y = Axis.around([v for p in points for v in (p.low, p.high)], 280, TOP)

    def x(point: Point) -> float:
        """Equal costs would hide each other's whiskers."""
        near = [p.name for p in points if abs(place(p.cost) - place(point.cost)) < 9]
        return place(point.cost) + 9.0 * (near.index(point.name) - (len(near) - 1) / 2)

    out = _frame(place, y, unit, metric)
    front = pareto(points, better_high)
    for a, b in itertools.pairwise(front):
        out.append(line(x(a), y(a.value), x(b), y(b.value), "#94a3b8", 1.5))
    for index, point in enumerate(points):
        colour = COLOURS[index % len(COLOURS)]
        out.append(line(x(point), y(point.low), x(point), y(point.high), colour, 2))
        note = f"{point.name}: {point.value:.4g} [{point.low:.4g}, {point.high:.4g}] for {shown(point.cost)} {unit}"
        out.append(dot(x(point), y(point.value), colour, note, colour if point in front else "#fff"))
    whiskers = [Box(x(p) - 6, y(p.high), x(p) + 6, y(p.low)) for p in points]
    out += _names([(x(p), y(p.value), p.name) for p in points], whiskers)
    return svg(WIDTH, 320, out, f"{metric} against {unit}")


def reading(points: Sequence[Point], better_high: bool) -> str:
    """How the figure of quality and cost is read, as far as it is drawn so."""
    points = [p for p in points if math.isfinite(p.low) and math.isfinite(p.high)]
    equal = any(matched(a.cost, b.cost) for a, b in itertools.combinations(points, 2))
    joined = len(pareto(points, better_high)) > 1
    said = "Whiskers: 95% intervals over seeds and items; where they overlap, the paired difference below can still be sure."
    beside = " Points of equal cost stand side by side." if equal else ""
    front = "filled points, joined by the line," if joined else "filled point"
    return f"{said}{beside} No other variant beats the {front} in both quality and cost."


def effects(rows: Sequence[Effect], axis: str) -> str:
    """One row per pair: the difference with its 95% interval, every seed as a small dot, and a line at no difference. Pairs without
    a finite difference are left out; empty without any other."""
    rows = [r for r in rows if all(map(math.isfinite, (r.low, r.high, *r.seeds)))]
    if not rows:
        return ""
    left, step, top = 330, 34, 10
    height = top + step * len(rows) + 34
    x = Axis.around([v for r in rows for v in (r.low, r.high, 0.0, *r.seeds)], left, WIDTH - 70)
    out = uprights(x, top, height - 30, form=lambda tick: f"{tick:+g}" if tick else "0")
    out.append(line(x(0), top, x(0), height - 30, INK, 1.2))
    tints = {"better": "#15803d", "worse": "#b91c1c"}
    for index, row in enumerate(rows):
        middle, colour = top + step * (index + 0.5), tints.get(row.kind, "#475569")
        out.append(text(left - 14, middle + 4, _short(row.label, 46), anchor="end", size=13))
        out += [f'<circle cx="{x(s):.1f}" cy="{middle + 9:.1f}" r="2.2" fill="{colour}" opacity="0.55"/>' for s in row.seeds]
        out.append(line(x(row.low), middle, x(row.high), middle, colour, 3))
        out.append(dot(x(row.effect), middle, colour, f"{row.label}: {row.effect:+.4g} [{row.low:+.4g}, {row.high:+.4g}]"))
        out.append(text(WIDTH - 60, middle + 4, f"{row.effect:+.3g}", size=13, weight="600", colour=colour))
    return svg(WIDTH, height, out, axis)


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], unit: str, metric: str, target: float | None = None
) -> str:
    """For each variant the curve of every seed, thin, and their mean, thick. A curve is (cost, value) pairs; empty without any."""
    points = [p for several in curves.values() for curve in several for p in curve if math.isfinite(p[1])]
    if not points:
        return ""
    x = Axis.around([p[0] for p in points], LEFT, WIDTH - NAMES)
    y = Axis.around([p[1] for p in points] + ([target] if target is not None else []), 240, TOP)
    out = _frame(x, y, unit, metric)
    if target is not None:
        out += [line(LEFT, y(target), WIDTH - NAMES, y(target), INK, 1), text(LEFT + 4, y(target) - 4, f"target {target:g}")]
    ends = []
    for index, (name, several) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        drawn = [[(x(a), y(b)) for a, b in curve if math.isfinite(b)] for curve in (*several, _mean(several))]
        if len(several) > 1:
            out += [path(curve, colour, 0.8, 0.35) for curve in drawn[:-1]]
        out.append(path(drawn[-1], colour, 2.4))
        if drawn[-1]:
            ends.append((drawn[-1][-1][1], name, colour))
    return svg(WIDTH, 280, out + _labels(ends), f"{metric} while training")


def pareto(points: Sequence[Point], better_high: bool) -> list[Point]:
    """The variants that no other beats in both cost and quality, by cost; costs that count as matched are the same."""
    sign = 1.0 if better_high else -1.0

    def beats(a: Point, b: Point) -> bool:
        return sign * a.value > sign * b.value and (a.cost <= b.cost or matched(a.cost, b.cost))

    return [p for p in sorted(points, key=lambda p: p.cost) if not any(beats(other, p) for other in points)]


def _frame(costs: Axis, values: Axis, unit: str, metric: str) -> list[str]:
    """What lies behind a figure of values over costs: both axes with their names and numbers."""
    bottom, right = values.first, costs.last
    names = [text(4, 14, metric, colour=FAINT), text(right, bottom + 34, unit, anchor="end", colour=FAINT)]
    numbers = [text(costs(tick), bottom + 20, shown(tick), anchor="middle", colour=FAINT) for tick in costs.ticks()]
    return [*names, *levels(values, LEFT, right), *numbers]


def _names(points: Sequence[tuple[float, float, str]], taken: Sequence[Box]) -> list[str]:
    """Each name beside its (x, y) point: right of it, or left, or moved up or down to where nothing stands yet."""
    out, boxes = [], list(taken)
    for index, (x, y, name) in enumerate(points):
        label = _short(name, 24)
        wide = 7.2 * len(label)
        shifts = sorted((step * 8 for step in range(-12, 13)), key=abs)
        places = [Box(left, y + s - 8, left + wide, y + s + 6) for s in shifts for left in (x + 10, x - 10 - wide)]
        free = [p for p in places if p.left >= 0 and p.right <= WIDTH - 4 and not any(p.meets(b) for b in boxes)]
        box = free[0] if free else places[0]
        boxes.append(box)
        out.append(text(box.left, box.bottom - 2, label, size=12, colour=COLOURS[index % len(COLOURS)], weight="600"))
    return out


def _labels(ends: Sequence[tuple[float, str, str]]) -> list[str]:
    """Names (y, name, colour) beside the figure at the height of their lines' ends, moved apart where they would overlap."""
    out, last = [], TOP - 16.0
    for y, name, colour in sorted(ends):
        last = max(y + 4, last + 16)
        out.append(text(WIDTH - NAMES + 8, last, _short(name, 24), size=12, colour=colour, weight="600"))
    return out


def _mean(several: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean curve over seeds, point by point up to the shortest."""
    columns = zip(*several)
    return [(sum(p[0] for p in column) / len(column), sum(p[1] for p in column) / len(column)) for column in columns]


def _short(label: str, limit: int) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
