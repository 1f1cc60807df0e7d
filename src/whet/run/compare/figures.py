"""The comparison's figures as inline SVG: quality against cost, effects with intervals, learning curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from whet.budget import shown
from whet.run.compare.spending import matched
from whet.run.figures import COLOURS, FAINT, GRID, INK, line, nice_ticks, svg, text

Place = Callable[[float], float]


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


def quality_and_cost(points: Sequence[Point], unit: str, metric: str, better_high: bool, width: int = 860) -> str:
    """Quality over cost with 95% intervals; the line joins the variants that no other beats in both."""
    height, left, bottom, top = 320, 64, 40, 24
    xs, place = _axis([p.cost for p in points], left, width - 150, room=0.08, least=0.2 * max(p.cost for p in points))
    beside = {p.name: 9.0 * (i - (len(points) - 1) / 2) for i, p in enumerate(points)}

    def x(point: Point) -> float:
        """Equal costs would hide each other's whiskers."""
        return place(point.cost) + beside[point.name]

    ys, y = _axis([v for p in points for v in (p.low, p.high)], height - bottom, top)
    out = [text(4, 14, metric, colour=FAINT), text(width - 150, height - 6, unit, anchor="end", colour=FAINT)]
    for tick in ys:
        out += [
            line(left, y(tick), width - 150, y(tick), GRID),
            text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end", colour=FAINT),
        ]
    out += [text(place(tick), height - 20, shown(tick), anchor="middle", colour=FAINT) for tick in xs]
    front = pareto(points, better_high)
    for a, b in itertools.pairwise(front):
        out.append(line(x(a), y(a.value), x(b), y(b.value), "#94a3b8", 1.5))
    for index, point in enumerate(points):
        colour = COLOURS[index % len(COLOURS)]
        out.append(line(x(point), y(point.low), x(point), y(point.high), colour, 2))
        note = f"{point.name}: {point.value:.4g} [{point.low:.4g}, {point.high:.4g}] for {shown(point.cost)} {unit}"
        fill = colour if point in front else "#fff"
        out.append(
            f'<circle cx="{x(point):.1f}" cy="{y(point.value):.1f}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2">'
            f"<title>{escape(note)}</title></circle>"
        )
    out += _labels([(y(p.value), p.name) for p in points], width - 142, top, height - bottom)
    return svg(width, height, out, f"{metric} against {unit}")


def effects(rows: Sequence[Effect], axis: str, width: int = 860) -> str:
    """One row per pair: the difference with its 95% interval, every seed as a small dot, and a line at no difference."""
    left, step, top = 330, 34, 10
    height = top + step * len(rows) + 34
    ticks, x = _axis([v for r in rows for v in (r.low, r.high, 0.0, *r.seeds)], left, width - 70)
    out = [line(x(t), top, x(t), height - 30, GRID) for t in ticks]
    out += [text(x(t), height - 14, f"{t:+g}" if t else "0", anchor="middle", colour=FAINT) for t in ticks]
    out.append(line(x(0), top, x(0), height - 30, INK, 1.2))
    tints = {"better": "#15803d", "worse": "#b91c1c"}
    for index, row in enumerate(rows):
        middle, colour = top + step * (index + 0.5), tints.get(row.kind, "#475569")
        out.append(text(left - 14, middle + 4, _short(row.label, 46), anchor="end", size=13))
        out += [f'<circle cx="{x(s):.1f}" cy="{middle + 9:.1f}" r="2.2" fill="{colour}" opacity="0.55"/>' for s in row.seeds]
        out.append(line(x(row.low), middle, x(row.high), middle, colour, 3))
        note = f"{row.label}: {row.effect:+.4g} [{row.low:+.4g}, {row.high:+.4g}]"
        out.append(
            f'<circle cx="{x(row.effect):.1f}" cy="{middle:.1f}" r="5" fill="{colour}"><title>{escape(note)}</title></circle>'
        )
        out.append(text(width - 60, middle + 4, f"{row.effect:+.3g}", size=13, weight="600", colour=colour))
    return svg(width, height, out, axis)


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    unit: str,
    metric: str,
    target: float | None = None,
    width: int = 860,
) -> str:
    """For each variant the curve of every seed, thin, and their mean, thick. A curve is (cost, value) pairs; empty without any."""
    height, left, bottom, top = 280, 64, 40, 24
    points = [p for several in curves.values() for curve in several for p in curve if math.isfinite(p[1])]
    if not points:
        return ""
    xs, x = _axis([p[0] for p in points], left, width - 150)
    ys, y = _axis([p[1] for p in points] + ([target] if target is not None else []), height - bottom, top)
    out = [text(4, 14, metric, colour=FAINT), text(width - 150, height - 6, unit, anchor="end", colour=FAINT)]
    for tick in ys:
        out += [
            line(left, y(tick), width - 150, y(tick), GRID),
            text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end", colour=FAINT),
        ]
    out += [text(x(tick), height - 20, shown(tick), anchor="middle", colour=FAINT) for tick in xs]
    if target is not None:
        out += [line(left, y(target), width - 150, y(target), INK, 1), text(left + 4, y(target) - 4, f"target {target:g}")]
    ends = []
    for index, (name, several) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        if len(several) > 1:
            out += [_path(curve, x, y, colour, 0.8, 0.35) for curve in several]
        mean = _mean(several)
        out.append(_path(mean, x, y, colour, 2.4, 1.0))
        if mean:
            ends.append((y(mean[-1][1]), name))
    return svg(width, height, out + _labels(ends, width - 142, top, height - bottom), f"{metric} while training")


def pareto(points: Sequence[Point], better_high: bool) -> list[Point]:
    """The variants that no other beats in both cost and quality, by cost; costs that count as matched are the same."""
    sign = 1.0 if better_high else -1.0

    def beats(a: Point, b: Point) -> bool:
        return sign * a.value > sign * b.value and (a.cost <= b.cost or matched(a.cost, b.cost))

    return [p for p in sorted(points, key=lambda p: p.cost) if not any(beats(other, p) for other in points)]


def _axis(values: Sequence[float], first: float, last: float, room: float = 0.0, least: float = 0.0) -> tuple[list[float], Place]:
    """Round ticks and the map from values to pixels between ``first`` and ``last``, over a span of at least ``least``."""
    low, high = min(values), max(values)
    span = max(high - low, least) or 1.0
    middle, half = (low + high) / 2, span * (0.5 + room)
    low, high = middle - half, middle + half
    ticks = [t for t in nice_ticks(low, high) if low <= t <= high]

    def place(value: float) -> float:
        return first + (last - first) * (value - low) / (high - low)

    return ticks, place


def _labels(ends: Sequence[tuple[float, str]], x: float, top: float, bottom: float) -> list[str]:
    """Names beside the figure at the height of their points, moved apart where they would overlap."""
    out, last = [], top - 16.0
    numbered = sorted(enumerate(ends), key=lambda item: item[1][0])
    for index, (y, name) in numbered:
        last = max(y + 4, last + 16)
        out.append(text(x, last, _short(name, 24), size=12, colour=COLOURS[index % len(COLOURS)], weight="600"))
    return out


def _path(curve: Sequence[tuple[float, float]], x: Place, y: Place, colour: str, width: float, opacity: float) -> str:
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in curve if math.isfinite(b))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


def _mean(several: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean curve over seeds, point by point up to the shortest."""
    columns = zip(*several)
    return [(sum(p[0] for p in column) / len(column), sum(p[1] for p in column) / len(column)) for column in columns]


def _short(label: str, limit: int) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
