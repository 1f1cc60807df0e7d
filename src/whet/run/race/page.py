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
from whet.run.race.asked import MORE_TIME
from whet.run.race.figures import profiles
from whet.run.race.standing import judge
from whet.run.report import copy_out, environment

if TYPE_CHECKING:
    from whet.run.race.carry import Race
    from whet.run.race.standing import Course

UNITS = {clock: clock for clock in ("steps", "tokens", "examples", "flops", "seconds")} | {"processor": "processor seconds"}
"""What a clock counts, in words."""
PAGE, DATA, REPEAT = "race.html", "race.json", "race.yaml"


def write_page(race: Race, folder: Path, out: Path | None = None) -> Path:
    """Writes ``race.html``, ``race.json`` and ``race.yaml`` into the folder, and into ``out``; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    repeat = as_yaml(race.plan.document)
    data = summary(race)
    page = environment().get_template("race.html").render(**shown_of(data), repeat=repeat)
    (folder / REPEAT).write_text(repeat, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(data, indent=1, default=str), encoding="utf-8")
    (folder / PAGE).write_text(page, encoding="utf-8")
    return folder / PAGE if out is None else copy_out(folder / PAGE, {}, out)


def shown_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the template of a race's page needs of a race as plain data."""
    return {
        "race": data,
        "figure": profiles(ratios(_counted(data))),
        "limit": RATIO_LIMIT,
        "more_time": MORE_TIME,
        "rules": rules(data),
        "in_unit": UNITS,
        "shown": time,
        "speed": speed,
    }


def _counted(data: Mapping[str, Any]) -> dict[str, list[float]]:
    """Algorithm -> its times on the workloads, those that it lost being infinite."""
    bases = [course for course in data["courses"] if not course["variant_of"]]
    return {
        name: [math.inf if c["workload"] in lost or c["times"][name] is None else c["times"][name] for c in bases]
        for name, lost in data["lost"].items()
    }


def rules(data: Mapping[str, Any]) -> str:
    """The ruleset of a race in words."""
    number = data["studies"]
    if data.get("ruleset") == "self-tuning":
        return f"self-tuning: {number} run{'s' if number > 1 else ''}, each of {MORE_TIME:g} times the workload's time"
    return f"external tuning: {number} stud{'ies' if number > 1 else 'y'} of {data['trials']} trials"


def summary(race: Race) -> dict[str, Any]:
    """The race as plain data; a time that was never reached is ``None``."""
    standing, asked = race.standing, race.plan.asked
    wins = {name: [w for w, best in standing.winners.items() if name in best] for name in standing.scores}
    return {
        "id": race.id,
        "name": race.plan.name,
        "about": race.plan.document.get("about") or "",
        "ruleset": asked.ruleset,
        "clock": asked.clock,
        "trials": asked.trials,
        "studies": asked.studies,
        "tune": dict(asked.tune),
        "strict_variants": asked.strict_variants,
        "reference": race.plan.reference,
        "algorithms": {name: dict(changes) for name, changes in asked.algorithms.items()},
        "courses": [_course(course) for course in race.courses],
        "scores": dict(standing.scores),
        "scores_by": {clock: dict(judge(race.plan, [c.by(clock) for c in race.courses]).scores) for clock in asked.other_clocks},
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
        **_timed(course),
        "others": {clock: _timed(course.by(clock)) for clock in course.others},
    }


def _timed(course: Course) -> dict[str, Any]:
    return {
        "times": {name: _number(value) for name, value in course.times.items()},
        "studies": {name: [_number(value) for value in several] for name, several in course.studies.items()},
        "order": course.order,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def time(value: float | None) -> str:
    """A time, or ``never``."""
    return "never" if value is None else shown(value)


def lines(data: Mapping[str, Any]) -> list[str]:
    """A race's summary as text: a table of times by every clock, that which decides first, then the scores."""
    clocks = [data["clock"], *data.get("scores_by", ())]
    tables = [line for clock in clocks for line in ("", *_table(list(_rows(data, clock))))]
    return [f"race {data['id']}, {rules(data)}", *tables, "", *_scores(data), *_remarks(data)]


def _rows(data: Mapping[str, Any], clock: str) -> Iterator[list[str]]:
    names = list(data["scores"])
    yield [f"median {UNITS[clock]} to the target", "target", *names]
    for course in data["courses"]:
        indent = "  " if course["variant_of"] else ""
        times = (course if clock == data["clock"] else course["others"][clock])["times"]
        yield [indent + course["workload"], course["target"], *(time(times[name]) for name in names)]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]


def _scores(data: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(data["scores"], key=lambda n: -data["scores"][n]):
        told = f"  {name}: score {data['scores'][name]:.3f}, fastest on {len(data['wins'][name])}"
        told += "".join(f"; score by {UNITS[clock]} {scores[name]:.3f}" for clock, scores in data.get("scores_by", {}).items())
        fast = data["speed_ups"].get(name)
        yield told + (f"; {speed(fast)} {data['reference']}" if fast else "")
    for test in data["tests"]:
        yield f"  {test['first']} is faster than {test['second']} on {test['wins']} of {test['of']}, sign test p = {test['p']:.2g}"


def speed(fast: Mapping[str, Any]) -> str:
    """A speed-up in words, to be followed by the reference's name."""
    if fast["value"] is None:
        return "no workload in common with"
    interval = f" [{fast['low']:.2f}, {fast['high']:.2f}]" if fast["low"] is not None else ""
    return f"{fast['value']:.2f}{interval} times as fast over {fast['n']} workload{'s' if fast['n'] != 1 else ''} as"


def _remarks(data: Mapping[str, Any]) -> Iterator[str]:
    for name, lost in data["lost"].items():
        if lost:
            yield f"  {name} lost {', '.join(lost)}: it missed the target of a variant"
    for name, why in data["left_out"].items():
        yield f"  LEFT OUT: {name}: {why}"
