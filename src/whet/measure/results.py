"""Results on disk and on the screen: lossless JSON lines, and a plain-text table with intervals.

A result file holds one JSON object per line: first the task, model, metric, conditions, estimates and receipt, then one
line per outcome. Numbers come back bit for bit; those that JSON cannot write (``nan``, ``inf``) are written as strings.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whet.errors import DataError
from whet.measure.conditions import differences
from whet.measure.estimates import is_better_high, split_key
from whet.measure.outcome import Estimate, Outcome, TaskResult


def write_result(result: TaskResult, path: str | Path) -> Path:
    """Writes a result as JSON lines, aside first and then renamed, so that a half-written file never carries the name.

    Raises:
        DataError: conditions or receipt hold something that JSON cannot carry.
    """
    path = Path(path)
    header = {
        "task": result.task,
        "model": result.model,
        "metric": result.metric,
        "conditions": dict(result.conditions),
        "estimates": {name: _numbers(asdict(estimate)) for name, estimate in result.estimates.items()},
        "receipt": dict(result.receipt),
    }
    try:
        lines = [json.dumps(header, ensure_ascii=False, allow_nan=False)]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: conditions and receipt must be plain finite data: {error}") from error
    lines += [json.dumps(_outcome(outcome), ensure_ascii=False, allow_nan=False) for outcome in result.outcomes]
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(path)
    return path


def read_result(path: str | Path) -> TaskResult:
    """Reads what :func:`write_result` wrote.

    Raises:
        DataError: the file is missing or damaged; names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read this result: {error}") from error
    number = 0
    try:
        header = json.loads(lines[0])
        estimates = {name: _read_estimate(value) for name, value in header["estimates"].items()}
        outcomes = []
        for number in range(1, len(lines)):
            if lines[number]:
                outcomes.append(_read_outcome(json.loads(lines[number])))
        named = {name: header[name] for name in ("task", "model", "metric", "conditions", "receipt")}
        return TaskResult(outcomes=tuple(outcomes), estimates=estimates, **named)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number + 1}: this is no result that whet wrote: {error}") from error


def _numbers(value: Any) -> Any:
    """Plain data with non-finite floats as the strings that ``float`` reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, (list, tuple)) else value


def _outcome(outcome: Outcome) -> dict[str, Any]:
    plain = {
        **{name: getattr(outcome, name) for name in outcome.__dataclass_fields__},
        "scores": dict(outcome.scores),
        "labels": dict(outcome.labels),
    }
    return _numbers(plain)


def _read_outcome(line: dict[str, Any]) -> Outcome:
    return Outcome(
        **{
            **line,
            "score": float(line["score"]),
            "weight": float(line["weight"]),
            "scores": {name: float(value) for name, value in line["scores"].items()},
            "samples": tuple(float(value) for value in line["samples"]),
        }
    )


def _read_estimate(value: dict[str, Any]) -> Estimate:
    return Estimate(float(value["value"]), float(value["low"]), float(value["high"]), int(value["n"]), value["method"])


@dataclass(frozen=True)
class ResultTable:
    """Results of several models and tasks as text: one block per task, one column per model, per-skill rows below the total."""

    results: Sequence[TaskResult]

    def print(self) -> None:
        print(self)

    def __str__(self) -> str:
        tasks = list(dict.fromkeys(result.task for result in self.results))
        return "\n\n".join(_block([r for r in self.results if r.task == task]) for task in tasks)


def _block(results: Sequence[TaskResult]) -> str:
    first = results[0]
    names = list(dict.fromkeys(name for result in results for name in result.estimates))
    names.sort(key=lambda name: (split_key(name)[0] != first.metric, split_key(name)[0], split_key(name)[1:] != ("", "")))
    table = [["", *(result.model for result in results)]]
    for name in names:
        table.append([_label(name), *(_cell(name, result.estimates.get(name)) for result in results)])
    table.append(["ended by themselves", *(_share(result.receipt.get("ended")) for result in results)])
    table.append(["unparsable", *(str(result.receipt.get("unparsable", "")) for result in results)])
    shown = [row for row in table if any(row[1:])]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in shown]
    better = "higher" if is_better_high(first.metric) else "lower"
    title = f"{first.task}: {first.metric}, {len(first.outcomes)} items, 95% intervals, {better} is better"
    return "\n".join([title, *body, *_notes(results)])


def _label(name: str) -> str:
    metric, label, value = split_key(name)
    return f"  {label} {value}" if label else metric


def _cell(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}] n={estimate.n}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _share(value: Any) -> str:
    return "" if value is None else f"{100 * value:.0f}%"


def _notes(results: Sequence[TaskResult]) -> list[str]:
    notes = []
    for other in results[1:]:
        found = differences(results[0].conditions, other.conditions)
        if found:
            notes.append(
                f"not comparable: {other.model} was measured under other conditions than {results[0].model} ({', '.join(found)})"
            )
    notes += [f"{r.model}: {line}" for r in results for line in r.receipt.get("calibration", {}).get("says", ())]
    for name, value in results[0].receipt.get("baselines", {}).items():
        notes.append(f"baseline {name}: {value:.3f}")
    return notes
