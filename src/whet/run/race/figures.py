"""The race's figure: performance profiles as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from whet.measure.statistics import profile
from whet.measure.statistics.profiles import RATIO_LIMIT
from whet.run.figures import COLOURS, FAINT, GRID, line, svg, text


def profiles(ratios: Mapping[str, Sequence[float]], limit: float = RATIO_LIMIT, width: int = 860) -> str:
    """For each contender the share of workloads on which it needs at most so many times the best one's time.

    The area under a curve, as a share of the whole, is the contender's score.
    """
    height, left, right, top, bottom = 330, 56, 190, 18, 46

    def x(ratio: float) -> float:
        return left + (width - left - right) * (ratio - 1) / (limit - 1)

    def y(share: float) -> float:
        return top + (height - top - bottom) * (1 - share)

    out = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        out.append(line(left, y(share), width - right, y(share), GRID))
        out.append(text(left - 8, y(share) + 4, f"{share:.0%}", anchor="end", colour=FAINT))
    for tick in range(1, math.floor(limit) + 1):
        out.append(text(x(tick), height - bottom + 18, f"{tick}×", anchor="middle", colour=FAINT))
    out.append(text(width - right, height - 8, "time to the target, over the fastest one's", anchor="end", colour=FAINT))
    ends = []
    for number, (name, mine) in enumerate(ratios.items()):
        # Curves that coincide lie beside each other.
        shift = 2.5 * (number - (len(ratios) - 1) / 2)
        corners = _steps(mine, limit)
        path = " ".join(f"{x(a) + shift:.1f},{y(b) + shift:.1f}" for a, b in corners)
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.4"/>')
        ends.append((y(corners[-1][1]) + shift, name, colour))
    out += _labels(ends, width - right + 10, height - bottom)
    return svg(width, height, out, "performance profiles: share of workloads over the ratio to the fastest")


def _steps(mine: Sequence[float], limit: float) -> list[tuple[float, float]]:
    """The corners of a profile between 1 and ``limit``."""
    jumps = sorted({r for r in mine if 1 < r <= limit})
    share = profile(mine, [1.0])[0]
    corners = [(1.0, 0.0), (1.0, share)]
    for jump in jumps:
        corners.append((jump, share))
        share = profile(mine, [jump])[0]
        corners.append((jump, share))
    return [*corners, (limit, share)]


def _labels(ends: Sequence[tuple[float, str, str]], x: float, bottom: float) -> list[str]:
    """Names at the heights where the curves end, moved apart where they would overlap."""
    places: list[float] = []
    for y, _, _ in sorted(ends):
        places.append(max(y + 4, places[-1] + 17 if places else 0.0))
    too_low = max(0.0, places[-1] - bottom) if places else 0.0
    return [
        text(x, place - too_low, name[:26], size=13, colour=colour, weight="600")
        for place, (_, name, colour) in zip(places, sorted(ends))
    ]
