"""One self-contained HTML page per run: what was run, how good and how large every stage is, what changed, what it cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from whet.errors import RecipeError
from whet.run import figures
from whet.run.comparisons import COMPARISONS, RESULTS, Comparison, read_comparisons
from whet.run.manifest import MANIFEST
from whet.run.plain import as_yaml
from whet.run.show import number, receipt_lines
from whet.run.steps import MODEL

if TYPE_CHECKING:
    import jinja2

    from whet.measure.outcome import Estimate, TaskResult
    from whet.run.ledger import Run, StepRecord

_TEXT = 1200
"""Longest prompt or completion shown, in characters; the results hold the whole."""


def write_report(run: Run, folders: Mapping[str, Path], folder: Path) -> Path:
    """Writes ``report.html`` (and its main figures as ``stages-<n>.svg``) for a finished run and returns its path.

    Args:
        run: the run with its steps.
        folders: step name -> its artifact's folder.
        folder: where the page is written.
    """
    steps = sorted(run.steps, key=lambda s: s.position)
    sizes = {s.name: model_mib(folders[s.name]) for s in steps if s.section in ("base", "train", "edit", "quantize")}
    measured = [s for s in steps if s.section == "measure"]
    blocks = [b for s in measured for b in _blocks(folders[s.name], sizes, s.receipt.get("not_held_out", {}))]
    seconds = sum(float(s.cost.get("seconds", 0)) for s in steps)
    page = (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            about=run.document.get("about", ""),
            minutes=f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds",
            blocks=blocks,
            curves=[c for s in steps if s.section == "train" and (c := _curve(s))],
            steps=[_step(s) for s in steps],
            command=_command(run),
            document=as_yaml(run.document),
            versions=", ".join(f"{k} {v}" for k, v in run.versions.items()),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    for index, block in enumerate(blocks):
        (folder / f"stages-{index}.svg").write_text(block["figure"], encoding="utf-8")
    aside = folder / ".report.html.part"
    aside.write_text(page, encoding="utf-8")
    return aside.replace(folder / "report.html")


def check_out(out: str | Path | None) -> None:
    """Makes the folder that will get copies, if one was asked for.

    Raises:
        RecipeError: nothing can be written there.
    """
    if out is None:
        return
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RecipeError(f"--out {out}: nothing can be written there: {error}; name another folder") from error


def copy_out(page: Path, folders: Mapping[str, Path], out: Path) -> Path:
    """Copies a page with what lies beside it, and further folders under their names, into a folder; the page's path there."""
    out.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        if (out / name / MANIFEST).is_file() and (folder / MODEL).is_dir():
            # An export of before: weights of another format would stay beside the new ones.
            shutil.rmtree(out / name / MODEL, ignore_errors=True)
        shutil.copytree(folder, out / name, dirs_exist_ok=True)
    for file in filter(Path.is_file, page.parent.iterdir()):
        shutil.copy(file, out / file.name)
    return out / page.name


def environment() -> jinja2.Environment:
    """Where the pages' templates are found; what they are given is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)


def model_mib(folder: Path) -> float:
    """Weights on disk in MiB: what the stage's safetensors files take."""
    return sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 2**20


def _blocks(folder: Path, sizes: Mapping[str, float], seen: Mapping[str, str]) -> list[dict[str, Any]]:
    from whet.measure.results import read_result

    listing = json.loads((folder / RESULTS).read_text())
    comparisons = read_comparisons(folder / COMPARISONS)
    blocks = []
    for task in dict.fromkeys(entry["task"] for entry in listing):
        results = {e["stage"]: read_result(folder / e["file"]) for e in listing if e["task"] == task}
        known = {**{e["stage"]: e["mib"] for e in listing}, **sizes}
        blocks.append(_block(task, results, [c for c in comparisons if c.task == task], known, seen.get(task, "")))
    return blocks


def _block(
    task: str, results: Mapping[str, TaskResult], comparisons: Sequence[Comparison], sizes: Mapping[str, float], seen: str
) -> dict[str, Any]:
    from whet.measure.estimates import is_better_high

    first = next(iter(results.values()))
    before = {c.second: c.first for c in comparisons}
    points = [_point(stage, result.estimates[result.metric], before.get(stage, "")) for stage, result in results.items()]
    n = len(first.outcomes)
    return {
        "title": f"{task}: {first.metric.replace('_', ' ')} of every stage",
        "warning": seen,
        "caption": f"{n} {'examples' if seen else 'held-out examples'}, the same for every stage. Whiskers are 95% intervals over examples, for these "
        "checkpoints only; lines lead to the stage that each is compared with. Bars are the weights on disk. "
        f"{'Higher' if is_better_high(first.metric) else 'Lower'} is better.",
        "figure": figures.stages(points, [sizes.get(s, 0.0) for s in results], first.metric.replace("_", " ")),
        "verdicts": [{"first": c.first, "second": c.second, "kind": c.kind, "text": c.verdict} for c in comparisons],
        "stages": list(results),
        "groups": _groups(results),
        "flips": [_flips(c) for c in comparisons if c.flips],
    }


def _point(stage: str, estimate: Estimate, after: str) -> figures.Point:
    note = f"{stage}: {estimate.value:.4g}, 95% interval {estimate.low:.4g} to {estimate.high:.4g} ({estimate.method}, n={estimate.n})"
    return figures.Point(stage, estimate.value, estimate.low, estimate.high, note, after)


def _groups(results: Mapping[str, TaskResult]) -> list[dict[str, Any]]:
    """Rows of the per-skill table: the estimates named ``<metric>[skill=...]`` of every stage."""
    from whet.measure.estimates import split_key

    rows: dict[str, list[dict[str, Any]]] = {}
    metric = next(iter(results.values())).metric
    labels = {split_key(k)[2] for r in results.values() for k in r.estimates if split_key(k)[:2] == (metric, "skill")}
    for label in sorted(labels) if len(labels) > 1 else ():
        for result in results.values():
            found = [e for k, e in result.estimates.items() if split_key(k) == (metric, "skill", label)]
            cell = {"text": "", "shade": 0.0, "note": "not measured"}
            if found:
                estimate = found[0]
                shade = round(0.45 * min(max(estimate.value, 0.0), 1.0), 3)
                cell = {
                    "text": f"{estimate.value:.2f}",
                    "shade": shade,
                    "note": f"{estimate.low:.2f} to {estimate.high:.2f}, n={estimate.n}",
                }
            rows.setdefault(label, []).append(cell)
    return [{"label": label, "cells": cells} for label, cells in rows.items()]


def _flips(comparison: Comparison) -> dict[str, Any]:
    examples = [{**e, **{k: e[k][:_TEXT] for k in ("prompt", "before", "after")}} for e in comparison.examples]
    return {"first": comparison.first, "second": comparison.second, **comparison.flips, "examples": examples}


def _curve(step: StepRecord) -> dict[str, Any] | None:
    curve = step.receipt.get("curve") or []
    return {"name": step.name, "figure": figures.training(curve)} if curve else None


def _step(step: StepRecord) -> dict[str, Any]:
    cost = step.cost
    shown = {k: v for k, v in step.receipt.items() if k != "curve"}
    return {
        "name": step.name,
        "section": step.section,
        "status": step.status,
        "what": _what(step),
        "seconds": f"{float(cost.get('seconds', 0)):.1f}",
        "tokens": number(int(cost["tokens"])) if cost.get("tokens") else "",
        "flops": f"{float(cost['flops']):.2e}" if cost.get("flops") else "",
        "memory": f"{float(cost.get('peak_memory_mib', 0)):.0f}",
        "receipt": "\n".join(receipt_lines(shown, cost)),
    }


def _what(step: StepRecord) -> str:
    settings = step.settings
    names = {
        "data": lambda: _part(settings["source"]) or f"from {settings['data']}",
        "train": lambda: (
            " + ".join(_part(o) for o in settings["objective"]) + f", {_part(settings['adapter'])}, lr {settings.get('lr')}"
        ),
        "edit": lambda: f"{_part(settings['method'])} of {', '.join(settings['models'])}",
        "quantize": lambda: (
            f"{settings.get('bits')} bits, {_part(settings.get('compensate')) or 'none'}, {_part(settings.get('transform')) or 'none'}"
        ),
        "measure": lambda: ", ".join(_part(t) for t in settings["tasks"]),
        "export": lambda: f"{settings['model']} to {_part(settings['to'])}",
        "base": lambda: f"{_part(settings)} from scratch",
    }
    return names[step.section]()


def _part(value: Any) -> str:
    return str(value.get("name", "")) if isinstance(value, Mapping) else str(value or "")


def _command(run: Run) -> str:
    return f"# the same recipe, versions and seed\nwhet run {run.recipe}.yaml   # the recipe below, saved under that name\nwhet show {run.id}"
