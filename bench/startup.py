"""What starting costs: python bench/startup.py

Processor seconds of whole processes, interpreter included, in interleaved rounds; libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from statistics import median

COMMANDS: dict[str, tuple[str | None, list[str]]] = {
    "python alone": (None, [sys.executable, "-c", "pass"]),
    "import whet": ("whet", [sys.executable, "-c", "import whet"]),
    "whet --help": ("whet", [sys.executable, "-c", "import sys; from whet.cli import main; sys.argv[1:] = ['--help']; main()"]),
    "import transformers": ("transformers", [sys.executable, "-c", "import transformers"]),
    "import torch": ("torch", [sys.executable, "-c", "import torch"]),
    "import trl": ("trl", [sys.executable, "-c", "import trl"]),
    "lm_eval --help": ("lm_eval", [sys.executable, "-m", "lm_eval", "--help"]),
}
"""By name: the module that is needed, and the command."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    given = options.parse_args()
    there = {name: command for name, (module, command) in COMMANDS.items() if module is None or find_spec(module)}
    for command in there.values():
        cpu_seconds(command)
    figures: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(given.rounds):
        for name, command in there.items():
            figures[name].append(cpu_seconds(command))
    alone = median(figures["python alone"])
    print(f"processor time of a process, median of {given.rounds} (range); in brackets above python alone")
    for name, values in figures.items():
        low, middle, high = (1000 * v for v in (min(values), median(values), max(values)))
        print(f"  {name}: {middle:,.0f} ms ({low:,.0f} to {high:,.0f}) [{middle - 1000 * alone:,.0f}]")


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one run."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bench: {' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
