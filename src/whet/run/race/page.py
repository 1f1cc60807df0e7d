"""A race as plain data, as text, and as one self-contained HTML page with the file that repeats it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import shown
from whet.measure.statistics import ratios
from whet.measure.statistics.profiles import RATIO_LIMIT
from whet.run.plain import as_yaml
from whet.run.race.figures import profiles
from whet.run.report import copy_out, environment

if TYPE_CHECKING:
    from whet.run.race.carry import Race
    from whet.run.race.standing import Course

PAGE, DATA, REPEAT = "race.html", "race.json", "race.yaml"


def write_page(race: Race, folder: Path, out: Path | None = None) -> Path:
    """Writes ``race.html``, ``race.json`` and ``race.yaml`` into the folder, and into ``out``; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    repeat = as_yaml(race.plan.document)
    data = summary(race)
    (folder / REPEAT).write_text(repeat, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(data, indent=1, default=str), encoding="utf-8")
    figure = profiles(ratios(race.standing.counted))
    template = environment().get_template("race.html")
    page = template.render(
        race=data, figure=figure, repeat=repeat, limit=RATIO_LIMIT, clock=race.plan.asked.clock, shown=time, speed=speed
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    return folder / PAGE if out is None else copy_out(folder / PAGE, {}, out)


def summary(race: Race) -> dict[str, Any]:
    """The race as plain data; a time that was never reached is ``None``."""
    standing, asked = race.standing, race.plan.asked
    wins = {name: [w for w, best in standing.winners.items() if name in best] for name in standing.scores}
    return {
        "id": race.id,
        "name": race.plan.name,
        "about": race.plan.document.get("about") or "",
        "clock": asked.clock,
        "trials": asked.trials,
        "studies": asked.studies,
        "tune": dict(asked.tune),
        "strict_variants": asked.strict_variants,
        "reference": race.plan.reference,
        "algorithms": {name: dict(changes) for name, changes in asked.algorithms.items()},
        "courses": [_course(course) for course in race.courses],
        "scores": dict(standing.scores),
        "wins": wins,
        "lost": {name: list(lost) for name, lost in standing.lost.items()},
        "speed_ups": {name: {k: _number(v) for k, v in vars(s).items()} for name, s in standing.speed_ups.items()},
        "tests": [
            {"first": a, "second": b, "wins": int(t.statistic), "of": t.n, "p": t.p} for (a, b), t in standing.tests.items()
        ],
        "left_out": dict(race.plan.left_out),
        "machine": dict(race.machine),
        "seconds": race.seconds,
        "document": dict(race.plan.document),
    }


def _course(course: Course) -> dict[str, Any]:
    target = course.target
    return {
        "workload": course.workload.name,
        "variant_of": course.workload.variant_of,
        "target": str(target),
        "set_by": {
            "best": {name: _number(value) for name, value in target.best.items()},
            "optimizer": target.optimizer,
            "values": dict(target.values or {}),
            "repeated": [_number(value) for value in target.repeated],
        },
        "comparison": course.comparison,
        "times": {name: _number(value) for name, value in course.times.items()},
        "studies": {name: [_number(value) for value in several] for name, several in course.studies.items()},
        "seconds": {name: [_number(value) for value in several] for name, several in course.seconds.items()},
        "order": course.order,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def time(value: float | None) -> str:
    """A time, or ``never``."""
    return "never" if value is None else shown(value)


def lines(data: Mapping[str, Any]) -> list[str]:
    """A race's summary as text: a table of times, then the scores."""
    return [f"race {data['id']}", *_table(list(_rows(data))), "", *_scores(data), *_remarks(data)]


def _rows(data: Mapping[str, Any]) -> Iterator[list[str]]:
    names = list(data["scores"])
    yield [f"median {data['clock']} to the target", "target", *names]
    for course in data["courses"]:
        indent = "  " if course["variant_of"] else ""
        yield [indent + course["workload"], course["target"], *(time(course["times"][name]) for name in names)]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]


def _scores(data: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(data["scores"], key=lambda n: -data["scores"][n]):
        told = f"  {name}: score {data['scores'][name]:.3f}, fastest on {len(data['wins'][name])}"
        fast = data["speed_ups"].get(name)
        yield told + (f"; {speed(fast)} {data['reference']}" if fast else "")
    for test in data["tests"]:
        yield f"  {test['first']} is faster than {test['second']} on {test['wins']} of {test['of']}, sign test p = {test['p']:.2g}"


def speed(fast: Mapping[str, Any]) -> str:
    """A speed-up in words, to be followed by the reference's name."""
    if fast["value"] is None:
        return "no workload in common with"
    interval = f" [{fast['low']:.2f}, {fast['high']:.2f}]" if fast["low"] is not None else ""
    return f"{fast['value']:.2f}{interval} times as fast over {fast['n']} workloads as"


def _remarks(data: Mapping[str, Any]) -> Iterator[str]:
    for name, lost in data["lost"].items():
        if lost:
            yield f"  {name} lost {', '.join(lost)}: it missed the target of a variant"
    for name, why in data["left_out"].items():
        yield f"  LEFT OUT: {name}: {why}"
