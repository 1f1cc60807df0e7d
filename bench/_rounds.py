"""Interleaved rounds of two or more contenders, so that a drifting machine hits all alike; ratios of medians with their spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median


def rounds(contenders: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Calls every contender ``count`` times in turn, after one uncounted call each; returns their figures (higher is better)."""
    for run in contenders.values():
        run()
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, run in contenders.items():
            figures[name].append(run())
    return figures


def report(title: str, unit: str, ours: str, figures: Mapping[str, list[float]]) -> None:
    """Prints each contender's median and range, and our ratio to the best peer with the spread over rounds."""
    print(title)
    for name, values in figures.items():
        print(f"  {name}: {median(values):,.0f} {unit} ({min(values):,.0f} to {max(values):,.0f})")
    peers = {name: values for name, values in figures.items() if name != ours}
    best = max(peers, key=lambda name: median(peers[name]))
    paired = [a / b for a, b in zip(figures[ours], peers[best])]
    ratio = median(figures[ours]) / median(peers[best])
    print(f"  {ours} / {best} = {ratio:.2f} (rounds {min(paired):.2f} to {max(paired):.2f})")
