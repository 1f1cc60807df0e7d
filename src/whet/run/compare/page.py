"""One self-contained HTML page per comparison, and beside it what it shows as plain data and the file that repeats it."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import shown
from whet.run.compare import figures
from whet.run.compare.headline import headline
from whet.run.compare.summary import mean_spending, summary, target_row, unit_of
from whet.run.compare.verdicts import item_means, pairs, variant_estimate
from whet.run.figures import telling
from whet.run.plain import as_yaml
from whet.run.report import environment

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult
    from whet.run.compare.arms import Arm, Comparison

PAGE, DATA, REPEAT = "compare.html", "comparison.json", "comparison.yaml"
EXAMPLES = 4
"""Flips of each kind that are shown for a pair."""
TEXT = 1200
"""Longest text of an example, in characters."""


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Writes ``compare.html``, ``comparison.json`` and ``comparison.yaml`` into the folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    repeat = as_yaml(comparison.plan.document)
    (folder / REPEAT).write_text(repeat, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(summary(comparison), indent=1, default=str), encoding="utf-8")
    unit = unit_of(comparison)
    page = (
        environment()
        .get_template("compare.html")
        .render(
            comparison=comparison,
            unit=unit,
            variants=[_variant(comparison, name, arm, unit) for name, arm in comparison.arms.items()],
            tasks=[_task(comparison, task, unit) for task in comparison.results],
            curves=_curves(comparison, unit),
            targets=[target_row(t) for t in comparison.targets],
            spent=[_spent(name, arm) for name, arm in comparison.arms.items()],
            kinds=sorted({kind for arm in comparison.arms.values() for s in arm.spent.values() for kind in s.kinds}),
            tuned=[(name, arm) for name, arm in comparison.arms.items() if arm.trials],
            repeat=repeat,
            command=_command(folder / REPEAT),
            shown=shown,
        )
    )
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _command(file: Path) -> str:
    """What repeats the comparison from anywhere on this machine; paths in a recipe start from where it was run."""
    return f"cd {shlex.quote(str(Path.cwd()))} && whet compare {shlex.quote(str(file.absolute()))}"


def _variant(comparison: Comparison, name: str, arm: Arm, unit: str) -> dict[str, Any]:
    """A row of the page's first table."""
    scores = [
        "{:.3g} [{:.3g}, {:.3g}]".format(*variant_estimate(by_variant[name])) if name in by_variant else "–"
        for by_variant in comparison.results.values()
    ]
    return {
        "name": name,
        "changes": [(path, _written(value)) for path, value in (*arm.variant.changes.items(), *arm.values.items())],
        "stage": comparison.plan.stages[name],
        "scores": scores,
        "spent": shown(mean_spending(arm).of(unit)),
        "remark": f"failed: {arm.failed}" if arm.failed else arm.stopped,
    }


def _written(value: Any) -> str:
    """A value as a recipe writes it."""
    return as_yaml(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _task(comparison: Comparison, task: str, unit: str) -> dict[str, Any]:
    by_variant = comparison.results[task]
    first = next(iter(next(iter(by_variant.values())).values()))
    verdicts = [v for v in comparison.verdicts if v.task == task]
    points = [
        figures.Point(name, mean_spending(comparison.arms[name]).of(unit), *variant_estimate(by_seed))
        for name, by_seed in by_variant.items()
    ]
    rows = [
        figures.Effect(f"{v.second} − {v.first}", v.kind, v.effect, v.low, v.high, list(v.by_seed.values())) for v in verdicts
    ]
    metric = first.metric.replace("_", " ")
    if unit_of_metric := verdicts[0].unit:
        metric = f"log {metric} ({unit_of_metric})"
    return {
        "name": task,
        "metric": metric,
        "items": len(first.outcomes),
        "better": "Higher" if verdicts[0].better_high else "Lower",
        "headline": headline(verdicts),
        "tests": verdicts[0].comparisons,
        "reading": figures.reading(points, verdicts[0].better_high),
        "quality": figures.quality_and_cost(points, unit, metric, verdicts[0].better_high),
        "effects": figures.effects(rows, f"difference in {metric}"),
        "verdicts": [{"first": v.first, "second": v.second, "kind": v.kind, "text": v.sentence()} for v in verdicts],
        "variants": list(by_variant),
        "skills": _skills(by_variant),
        "flips": [_flips(by_variant, a, b) for a, b in pairs(list(by_variant))],
    }


def _skills(by_variant: Mapping[str, Mapping[int, TaskResult]]) -> list[dict[str, Any]]:
    """Rows of the per-skill table: each variant's mean over seeds, and how many items it rests on."""
    from whet.measure.estimates import is_better_high, split_key

    found: dict[str, dict[str, list[Any]]] = {}
    for name, by_seed in by_variant.items():
        for result in by_seed.values():
            for key, estimate in result.estimates.items():
                metric, label, value = split_key(key)
                if metric == result.metric and label == "skill":
                    found.setdefault(value, {}).setdefault(name, []).append(estimate)
    if len(found) < 2:
        return []
    best = max if is_better_high(next(iter(next(iter(by_variant.values())).values())).metric) else min
    rows = []
    for skill, cells in sorted(found.items()):
        means = {name: sum(e.value for e in several) / len(several) for name, several in cells.items()}
        top = best(means.values())
        n = max(e.n for several in cells.values() for e in several)
        rows.append(
            {
                "skill": skill,
                "n": n,
                "cells": [(f"{means[v]:.3f}", means[v] == top) if v in means else ("", False) for v in by_variant],
            }
        )
    return rows


def _flips(by_variant: Mapping[str, Mapping[int, TaskResult]], first: str, second: str) -> dict[str, Any]:
    """Items on which most seeds of the two variants disagree, those of the largest difference first; of seeds that both have."""
    from whet.measure.estimates import is_better_high

    shared = [seed for seed in by_variant[first] if seed in by_variant[second]]
    a, b = (item_means({seed: by_variant[name][seed] for seed in shared}) for name in (first, second))
    sign = 1.0 if is_better_high(by_variant[first][shared[0]].metric) else -1.0
    gains = {item: sign * (b[item] - a[item]) for item in a}
    order = sorted(gains, key=gains.__getitem__)
    lost = [i for i in order if gains[i] < -0.5]
    gained = [i for i in reversed(order) if gains[i] > 0.5]
    shown_ = [(i, "lost") for i in lost[:EXAMPLES]] + [(i, "gained") for i in gained[:EXAMPLES]]
    return {
        "first": first,
        "second": second,
        "gained": len(gained),
        "lost": len(lost),
        "examples": [_example(i, kind, by_variant[first], by_variant[second]) for i, kind in shown_],
    }


def _example(item: str, kind: str, first: Mapping[int, TaskResult], second: Mapping[int, TaskResult]) -> dict[str, Any]:
    """An item with what each variant says at the first seed that shows the flip."""
    from whet.measure.estimates import is_better_high

    shared = [seed for seed in first if seed in second]
    seen = {seed: (_outcome(first[seed], item), _outcome(second[seed], item)) for seed in shared}
    seed = max(shared, key=lambda s: abs(seen[s][1].score - seen[s][0].score))
    before, after = seen[seed]
    right = [sum(seen[s][side].score > 0.5 for s in shared) for side in (0, 1)]
    counted = f"; right in {right[0]} and {right[1]} of {len(shared)} seeds" if is_better_high(first[seed].metric) else ""
    return {
        "kind": kind,
        "skill": before.labels.get("skill", ""),
        "prompt": before.prompt[:TEXT],
        "reference": before.reference[:TEXT],
        "before": before.completion[:TEXT],
        "after": after.completion[:TEXT],
        "seeds": f"seed {seed}{counted}",
    }


def _outcome(result: TaskResult, item: str) -> Any:
    return next(o for o in result.outcomes if o.id == item)


def _curves(comparison: Comparison, unit: str) -> list[dict[str, Any]]:
    """Validation while training, where there is one, and the loss; what is judged comes first, the rest is folded."""
    found: list[dict[str, Any]] = []
    target = comparison.plan.target
    judged = {result.metric for by in comparison.results.values() for seeds in by.values() for result in seeds.values()}
    for metric, by_variant in _watched(comparison, unit).items():
        goal = target[1] if target and target[0] == metric else None
        figure = figures.learning_curves(by_variant, unit, metric, goal)
        first = metric in judged or goal is not None
        found.append(
            {"title": f"{metric.replace('_', ' ')} on validation rows", "figure": figure, "first": first, "validated": True}
        )
    for name, by_variant in _trained(comparison).items():
        figure = figures.learning_curves(by_variant, "training tokens", name)
        found.append({"title": f"training {name}", "figure": figure, "first": not found, "validated": False})
    return sorted(found, key=lambda curve: not curve["first"])


def _watched(comparison: Comparison, unit: str) -> dict[str, dict[str, list[list[tuple[float, float]]]]]:
    found: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
    for name, arm in comparison.arms.items():
        for done in arm.done.values():
            points: Sequence[Any] = next((c["validation"] for c in reversed(list(done.curves.values())) if c["validation"]), [])
            for metric in points[0]["estimates"] if points else ():
                curve = [(float(p[unit]), float(p["estimates"][metric][0])) for p in points]
                found.setdefault(metric, {}).setdefault(name, []).append(curve)
    return found


def _trained(comparison: Comparison) -> dict[str, dict[str, list[list[tuple[float, float]]]]]:
    """What the last train step showed of itself (loss, of rollouts the reward) -> variant -> a curve per seed."""
    found: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
    for variant, arm in comparison.arms.items():
        for done in arm.done.values():
            curve: Sequence[Mapping[str, Any]] = list(done.curves.values())[-1]["curve"] if done.curves else ()
            if curve:
                name, values = telling(curve)
                tokens = itertools.accumulate(int(entry["tokens"]) for entry in curve)
                found.setdefault(name, {v: [] for v in comparison.arms})[variant].append(
                    _thinned(list(zip(map(float, tokens), values)))
                )
    return found


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 200 points, each the mean of its neighbours."""
    stride = max(1, len(points) // 200)
    several = (points[i : i + stride] for i in range(0, len(points), stride))
    return [(few[0][0], sum(v for _, v in few) / len(few)) for few in several]


def _spent(name: str, arm: Arm) -> dict[str, Any]:
    mean = mean_spending(arm)
    return {
        "name": name,
        "seeds": len(arm.done),
        "kinds": dict(mean.kinds),
        "tokens": shown(mean.tokens),
        "flops": f"{mean.flops:.2e}",
        "examples": shown(mean.examples),
        "seconds": f"{mean.seconds:.0f}",
        "trials": len(arm.trials),
        "tuning": shown(arm.tuning.tokens) if arm.trials else "",
        "remark": arm.failed or arm.stopped,
    }
