"""The report's figures as inline SVG: no script, no network, readable in print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, FAINT, GRID = "#1d2733", "#66717e", "#e3e7ec"
COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#475569")


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


def stages(points: Sequence[Point], sizes: Sequence[float], axis: str, width: int = 860) -> str:
    """Values with whiskers over the stages, and below each stage its weights on disk (MiB) as a bar.

    ``points`` and ``sizes`` have one entry per stage; ``axis`` names the value.
    """
    top, height, bars, left = 26, 230, 74, 58
    step = (width - left - 16) / max(len(points), 1)
    low, high = min(0.0, *(p.low for p in points)), max(p.high for p in points) * 1.08 or 1.0
    ticks = [t for t in nice_ticks(low, high) if low <= t <= high]

    def y(value: float) -> float:
        return top + height * (high - value) / (high - low)

    out = [text(4, 14, axis, size=12, colour=FAINT)]
    for tick in ticks:
        out.append(line(left, y(tick), width - 8, y(tick), GRID))
        out.append(text(left - 8, y(tick) + 4, f"{tick:g}", anchor="end", size=12, colour=FAINT))
    base = top + height + 44 + bars
    largest = max(sizes) or 1.0
    places = {point.label: index for index, point in enumerate(points)}
    for index, (point, size) in enumerate(zip(points, sizes)):
        x = left + step * (index + 0.5)
        if point.after in places:
            before = places[point.after]
            out.append(line(left + step * (before + 0.5), y(points[before].value), x, y(point.value), "#c9d1da", 1.2))
        out.append(line(x, y(point.low), x, y(point.high), point.colour, 2))
        out += [line(x - 5, y(v), x + 5, y(v), point.colour, 2) for v in (point.low, point.high)]
        out.append(
            f'<circle cx="{x:.1f}" cy="{y(point.value):.1f}" r="5" fill="{point.colour}"><title>{escape(point.note)}</title></circle>'
        )
        out.append(text(x + 9, y(point.value) - 7, f"{point.value:.3g}", size=12, weight="600"))
        out.append(text(x, top + height + 20, point.label, anchor="middle", size=13, weight="600"))
        tall = bars * size / largest
        out.append(f'<rect x="{x - 16:.1f}" y="{base - tall:.1f}" width="32" height="{tall:.1f}" rx="2" fill="#c9d6e6"/>')
        out.append(text(x, base - tall - 4, f"{size:.2f}", anchor="middle", size=11, colour=FAINT))
    out.append(text(4, base, "MiB", size=12, colour=FAINT))
    return svg(width, int(base + 8), out, f"{axis} and size of every stage")


def curves(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]], x_label: str, width: int = 420, height: int = 200
) -> str:
    """Lines of (name, x, y); NaN points are left out."""
    cleaned = [(n, [(a, b) for a, b in zip(xs, ys) if b == b]) for n, xs, ys in series]
    cleaned = [(n, p) for n, p in cleaned if p]
    if not cleaned:
        return ""
    left, top, bottom = 50, 22, 34
    xs = [a for _, p in cleaned for a, _ in p]
    ys = [b for _, p in cleaned for _, b in p]
    x0, x1 = min(xs), max(max(xs), min(xs) + 1e-9)
    y0, y1 = min(ys), max(max(ys), min(ys) + 1e-9)

    def place(a: float, b: float) -> tuple[float, float]:
        return left + (width - left - 12) * (a - x0) / (x1 - x0), top + (height - top - bottom) * (y1 - b) / (y1 - y0)

    out = []
    for tick in nice_ticks(y0, y1, 4):
        if y0 <= tick <= y1:
            _, y = place(x0, tick)
            out += [line(left, y, width - 12, y, GRID), text(left - 6, y + 4, f"{tick:g}", anchor="end", size=11, colour=FAINT)]
    for index, (name, points) in enumerate(cleaned):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[index % 8]}" stroke-width="1.6"/>')
        out.append(text(left + 4 + 130 * index, 13, name, size=12, colour=COLOURS[index % 8], weight="600"))
    out.append(text(width - 12, height - 8, f"{x_label} {x0:g} to {x1:g}", anchor="end", size=11, colour=FAINT))
    return svg(width, height, out, ", ".join(n for n, _ in cleaned))


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
