"""Interleaved rounds of two or more contenders, so that a drifting machine hits all alike; ratios of medians with their spread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
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
        print(f"  {name}: {_figure(median(values))} {unit} ({_figure(min(values))} to {_figure(max(values))})")
    peers = {name: values for name, values in figures.items() if name != ours}
    best = max(peers, key=lambda name: median(peers[name]))
    paired = [a / b for a, b in zip(figures[ours], peers[best])]
    ratio = median(figures[ours]) / median(peers[best])
    print(f"  {ours} / {best} = {ratio:.2f} (rounds {min(paired):.2f} to {max(paired):.2f})")


_MEASURED = """
import resource, subprocess, sys
failed = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(failed)
"""
"""Started between: a process counts its parent's memory at its start as its own, and this parent is small."""


def peaks(contenders: Iterable[str]) -> dict[str, float]:
    """Peak memory in GB of each contender, in a process of its own: this script again with ``--only NAME``."""
    found = {}
    for name in contenders:
        command = [sys.executable, "-c", _MEASURED, sys.executable, *sys.argv, "--only", name]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if process.returncode:
            raise RuntimeError(f"{name} failed in a process of its own")
        found[name] = int(process.stdout) * 1024 / 1e9
    return found


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
