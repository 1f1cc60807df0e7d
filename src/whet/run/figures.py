"""The report's figures as inline SVG: no script, no network, readable in print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

INK, FAINT, GRID = "#1d2733", "#66717e", "#e3e7ec"
COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#475569")

POINTS = 600
"""Points of a curve that are drawn."""


@dataclass(frozen=True)
class Point:
    """One stage's value with its interval; ``after`` is the label of the stage that it came from, to which a line leads."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""
    after: str = ""
    colour: str = COLOURS[0]


@dataclass(frozen=True)
class Axis:
    """Places of values: from ``low`` to ``high`` lie the pixels from ``first`` to ``last``."""

    low: float
    high: float
    first: float
    last: float

    @classmethod
    def around(cls, values: Sequence[float], first: float, last: float, room: float = 0.0, least: float = 0.0) -> Axis:
        """With all the values and a share ``room`` more on both sides, over a span of at least ``least``."""
        low, high = min(values), max(values)
        middle, half = (low + high) / 2, (max(high - low, least) or 1.0) * (0.5 + room)
        return cls(middle - half, middle + half, first, last)

    def __call__(self, value: float) -> float:
        return self.first + (self.last - self.first) * (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """About so many round numbers on the axis."""
        return [tick for tick in nice_ticks(self.low, self.high, count) if self.low <= tick <= self.high]


def stages(points: Sequence[Point], sizes: Sequence[float], axis: str, width: int = 860) -> str:
    """Values with whiskers over the stages, and below each stage its weights on disk (MiB) as a bar.

    ``points`` and ``sizes`` have one entry per stage; ``axis`` names the value.
    """
    top, height, bars, left = 26, 230, 74, 58
    step = (width - left - 16) / max(len(points), 1)
    y = Axis(min(0.0, *(p.low for p in points)), max(p.high for p in points) * 1.08 or 1.0, top + height, top)
    out = [text(4, 14, axis, size=12, colour=FAINT), *levels(y, left, width - 8)]
    base = top + height + 44 + bars
    largest = max(sizes) or 1.0
    ends = {point.label: (left + step * (index + 0.5), y(point.value)) for index, point in enumerate(points)}
    out += [line(*ends[p.after], *ends[p.label], "#c9d1da", 1.2) for p in points if p.after in ends]
    for index, (point, size) in enumerate(zip(points, sizes)):
        x = left + step * (index + 0.5)
        out.append(line(x, y(point.low), x, y(point.high), point.colour, 2))
        out += [line(x - 5, y(v), x + 5, y(v), point.colour, 2) for v in (point.low, point.high)]
        out.append(dot(x, y(point.value), point.colour, point.note))
        out.append(text(x + 9, y(point.value) - 7, f"{point.value:.3g}", size=12, weight="600"))
        out.append(text(x, top + height + 20, point.label, anchor="middle", size=13, weight="600"))
        tall = bars * size / largest
        out.append(bar(x - 16, base - tall, 32, tall))
        out.append(text(x, base - tall - 4, f"{size:.2f}", anchor="middle", size=11, colour=FAINT))
    out.append(text(4, base, "MiB", size=12, colour=FAINT))
    return svg(width, int(base + 8), out, f"{axis} and size of every stage")


def training(points: Sequence[Mapping[str, Any]], width: int = 420, height: int = 200) -> str:
    """What tells most of a training step's curve, over its steps; empty with fewer than two points."""
    name, values = telling(points)
    stride = -(-len(points) // POINTS) or 1
    kept = sorted({*range(0, len(points), stride), len(points) - 1}) if len(points) > 1 else []
    return curves([(name, [float(points[i]["step"]) for i in kept], [values[i] for i in kept])], "step", width, height)


def telling(points: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """``reward`` with its values, of rollouts, whose loss says nothing; else ``loss``. NaN where a point has none."""
    terms: list[Mapping[str, Any]] = [{**(p.get("terms") or {}), **p} for p in points]
    name = "reward" if any("reward" in t for t in terms) else "loss"
    return name, [float(t.get(name, float("nan"))) for t in terms]


def curves(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]], x_label: str, width: int = 420, height: int = 200
) -> str:
    """Lines of (name, x, y); NaN points are left out."""
    cleaned = [(n, [(a, b) for a, b in zip(xs, ys) if b == b]) for n, xs, ys in series]
    cleaned = [(n, p) for n, p in cleaned if p]
    if not cleaned:
        return ""
    left, top, bottom = 50, 22, 34
    xs, ys = ([point[side] for _, points in cleaned for point in points] for side in (0, 1))
    x = Axis(min(xs), max(max(xs), min(xs) + 1e-9), left, width - 12)
    y = Axis(min(ys), max(max(ys), min(ys) + 1e-9), height - bottom, top)
    out = levels(y, left, width - 12, count=4, size=11)
    for index, (name, points) in enumerate(cleaned):
        colour = COLOURS[index % len(COLOURS)]
        out.append(path([(x(a), y(b)) for a, b in points], colour, 1.6))
        out.append(text(left + 4 + 130 * index, 13, name, size=12, colour=colour, weight="600"))
    out.append(text(width - 12, height - 8, f"{x_label} {x.low:g} to {max(xs):g}", anchor="end", size=11, colour=FAINT))
    return svg(width, height, out, ", ".join(n for n, _ in cleaned))


def levels(axis: Axis, left: float, right: float, count: int = 5, size: int = 12) -> list[str]:
    """Lines across the figure at an axis's ticks, with the numbers at their left."""
    out = []
    for tick in axis.ticks(count):
        out.append(line(left, axis(tick), right, axis(tick), GRID))
        out.append(text(left - 8, axis(tick) + 4, f"{tick:g}", anchor="end", size=size, colour=FAINT))
    return out


def uprights(axis: Axis, top: float, bottom: float, count: int = 5, form: Callable[[float], str] = "{:g}".format) -> list[str]:
    """Lines down the figure at an axis's ticks, with the numbers below."""
    out = []
    for tick in axis.ticks(count):
        out.append(line(axis(tick), top, axis(tick), bottom, GRID))
        out.append(text(axis(tick), bottom + 16, form(tick), anchor="middle", colour=FAINT))
    return out


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that span the range.

    >>> nice_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    import math

    span = max(high - low, 1e-12)
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def svg(width: int, height: int, content: Sequence[str], label: str) -> str:
    """A figure of its elements; ``label`` is what a screen reader says."""
    body = "".join(content)
    return f'<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(label)}">{body}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, colour: str = INK, weight: str = "400") -> str:
    """Text at a point, escaped."""
    style = f'text-anchor="{anchor}" font-size="{size}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def dot(x: float, y: float, colour: str, note: str, fill: str | None = None) -> str:
    """A point; ``note`` is shown under the pointer."""
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill or colour}" stroke="{colour}" stroke-width="2">'
    return f"{shape}<title>{escape(note)}</title></circle>"


def bar(x: float, y: float, width: float, height: float, colour: str = "#c9d6e6", opacity: float = 1.0) -> str:
    """A filled rectangle."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="2" fill="{colour}" opacity="{opacity}"/>'


def path(points: Sequence[tuple[float, float]], colour: str, width: float, opacity: float = 1.0) -> str:
    """A line through points."""
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'
