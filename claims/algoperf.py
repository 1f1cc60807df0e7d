"""Do different training algorithms win on different workloads, and does a changed network change their order?

Carries out whet's own race, recipes/training-algorithm-race.yaml, and prints its times, scores and speed-ups. The workload on
WikiText-2 needs its file; without it the race has one workload less, which is said.

The claim counts as reproduced if all three hold: at least two different algorithms are the clear winner of a workload (a median
at least 10% below all others'); on the variant two algorithms stand the other way round than on its workload; and on a workload
with a clear winner the slowest algorithm needs at least 10% more steps than the fastest. With four workloads a sign test cannot
reach p = 0.05 (its smallest is 0.125), so this describes one race.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from _report import Row

import whet

RECIPE = Path(__file__).parents[1] / "recipes" / "training-algorithm-race.yaml"
FINGERPRINT = "5e41d8feefc6292aad8097861b8927e506e93697bd1b81317de1d33194749867"
"""SHA-256 of the recipe: its settings were fixed before it ran."""
PATHS = ("data.0.source.path", "train.0.validate.data.path", "measure.0.tasks.0.data.path")
CLEAR = 0.1
"""Share of its time by which the fastest must be ahead for its win to count."""


def times(course: dict[str, Any]) -> Iterator[Row]:
    """The steps that each algorithm needed, with the range over studies; without a figure where it never got there."""
    for name, studies in course["studies"].items():
        median = course["times"][name]
        found: Row = {"name": f"steps to the target, {course['workload']}, {name}", "values": studies, "mean": median}
        finite = [s for s in studies if s is not None]
        yield {**found, "interval": [min(finite), max(finite) if len(finite) == len(studies) else math.inf] if finite else None}


def clear_winner(course: dict[str, Any]) -> str:
    """The algorithm whose median is at least a tenth below all others'; empty if there is none."""
    order = sorted(course["times"].items(), key=lambda item: math.inf if item[1] is None else item[1])
    (name, first), (_, second) = order[:2]
    return name if first is not None and (second is None or first <= (1 - CLEAR) * second) else ""


def changed(course: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether two algorithms stand the other way round than on the base workload."""
    a, b = course["order"], base["order"]
    return any((a[x] - a[y]) * (b[x] - b[y]) < 0 for x in a for y in a)


def pairs(data: dict[str, Any]) -> Iterator[Row]:
    """Speed-ups against the reference with the sign test's p."""
    for name, fast in data["speed_ups"].items():
        test = next(t for t in data["tests"] if {t["first"], t["second"]} == {name, data["reference"]})
        yield {
            "name": f"speed of {name} over {data['reference']}, geometric mean over {fast['n']} workloads",
            "values": [],
            "mean": fast["value"],
            "interval": [fast["low"], fast["high"]],
            "p": test["p"],
        }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--wikitext", help="the file valid.txt of WikiText-2 (raw)")
    arguments.add_argument("--on", help="where runs are carried out, see whet race")
    given = arguments.parse_args()
    if hashlib.sha256(RECIPE.read_bytes()).hexdigest() != FINGERPRINT:
        sys.exit(f"{RECIPE} is not the one whose settings were fixed for this claim")
    overrides = [f"race.workloads.wikitext.recipe.{path}={given.wikitext}" for path in PATHS] if given.wikitext else []
    raced = whet.race(RECIPE, overrides, on=given.on)
    data, courses = raced.data(), {c["workload"]: c for c in raced.data()["courses"]}
    told = {
        "result": [*pairs(data), *(row for course in courses.values() for row in times(course))],
        "scores": data["scores"],
        "targets": {name: course["target"] for name, course in courses.items()},
        "clear winners": {name: clear_winner(c) for name, c in courses.items() if not c["variant_of"]},
        "order changed": {name: changed(c, courses[c["variant_of"]]) for name, c in courses.items() if c["variant_of"]},
        "left out": data["left_out"],
    }
    yaml.safe_dump(told, sys.stdout, sort_keys=False, default_flow_style=None, width=120)


if __name__ == "__main__":
    main()
