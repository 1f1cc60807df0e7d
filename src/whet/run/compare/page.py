"""One self-contained HTML page per comparison, and beside it what it shows as plain data and the file that repeats it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import shown
from whet.run.compare import figures
from whet.run.compare.spending import Spending, total
from whet.run.compare.verdicts import item_means, pairs, variant_estimate
from whet.run.report import environment

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult
    from whet.run.compare.carry import Arm, Comparison
    from whet.run.compare.target import Reached, TargetVerdict
    from whet.run.compare.verdicts import Verdict

PAGE, DATA, REPEAT = "compare.html", "comparison.json", "comparison.yaml"
EXAMPLES = 4
"""Flips of each kind that are shown for a pair."""
TEXT = 1200
"""Longest text of an example, in characters."""


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Writes ``compare.html``, ``comparison.json`` and ``comparison.yaml`` into the folder; returns the page's path."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    document = json.loads(json.dumps(dict(comparison.plan.document), default=str))
    repeat = yaml.safe_dump(document, sort_keys=False, width=110)
    (folder / REPEAT).write_text(repeat, encoding="utf-8")
    (folder / DATA).write_text(json.dumps(summary(comparison), indent=1, default=str), encoding="utf-8")
    unit = comparison.plan.budget.unit if comparison.plan.budget else "tokens"
    page = (
        environment()
        .get_template("compare.html")
        .render(
            comparison=comparison,
            unit=unit,
            variants=[_variant(comparison, name, arm, unit) for name, arm in comparison.arms.items()],
            tasks=[_task(comparison, task, unit) for task in comparison.results],
            curves=_curves(comparison, unit),
            targets=[_target(t) for t in comparison.targets],
            spent=[_spent(name, arm) for name, arm in comparison.arms.items()],
            kinds=sorted({kind for arm in comparison.arms.values() for s in arm.spent.values() for kind in s.kinds}),
            tuned=[(name, arm) for name, arm in comparison.arms.items() if arm.trials],
            repeat=repeat,
            shown=shown,
        )
    )
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data: what the ledger keeps."""
    return {
        "id": comparison.id,
        "variants": {name: _arm(arm) for name, arm in comparison.arms.items()},
        "scores": {
            task: {name: dict(zip(("value", "low", "high"), variant_estimate(by_seed))) for name, by_seed in by_variant.items()}
            for task, by_variant in comparison.results.items()
        },
        "by_seed": {
            task: {name: {s: r.estimates[r.metric].value for s, r in by_seed.items()} for name, by_seed in by_variant.items()}
            for task, by_variant in comparison.results.items()
        },
        "verdicts": [v.plain() for v in comparison.verdicts],
        "targets": [_target(t) for t in comparison.targets],
        "notes": list(comparison.notes),
        "seconds": comparison.seconds,
        "document": dict(comparison.plan.document),
    }


def _arm(arm: Arm) -> dict[str, Any]:
    mean = _mean_spending(arm)
    return {
        "changes": dict(arm.variant.changes),
        "values": dict(arm.values),
        "runs": {seed: done.run for seed, done in arm.done.items()},
        "spent": {**{u: mean.of(u) for u in ("tokens", "flops", "examples", "seconds")}, "kinds": dict(mean.kinds)},
        "tuning_tokens": arm.tuning.tokens,
        "failed": arm.failed,
        "stopped": arm.stopped,
    }


def _mean_spending(arm: Arm) -> Spending:
    """Per seed, on average."""
    whole, seeds = total(arm.spent.values()), max(1, len(arm.spent))
    return Spending(
        tokens=round(whole.tokens / seeds),
        flops=whole.flops / seeds,
        examples=round(whole.examples / seeds),
        seconds=whole.seconds / seeds,
        kinds={kind: round(count / seeds) for kind, count in whole.kinds.items()},
    )


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
        "spent": shown(_mean_spending(arm).of(unit)),
        "remark": f"failed: {arm.failed}" if arm.failed else arm.stopped,
    }


def _written(value: Any) -> str:
    """A value as a recipe writes it."""
    import yaml

    text = yaml.safe_dump(json.loads(json.dumps(value, default=str)), default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()


def _task(comparison: Comparison, task: str, unit: str) -> dict[str, Any]:
    by_variant = comparison.results[task]
    first = next(iter(next(iter(by_variant.values())).values()))
    verdicts = [v for v in comparison.verdicts if v.task == task]
    points = [
        figures.Point(name, _mean_spending(comparison.arms[name]).of(unit), *variant_estimate(by_seed))
        for name, by_seed in by_variant.items()
    ]
    rows = [
        figures.Effect(f"{v.second} − {v.first}", v.kind, v.effect, v.low, v.high, list(v.by_seed.values())) for v in verdicts
    ]
    metric = first.metric.replace("_", " ")
    return {
        "name": task,
        "metric": metric,
        "items": len(first.outcomes),
        "better": "Higher" if verdicts[0].better_high else "Lower",
        "headline": _headline(verdicts),
        "tests": verdicts[0].comparisons,
        "quality": figures.quality_and_cost(points, unit, metric, verdicts[0].better_high),
        "effects": figures.effects(rows, f"difference in {metric}"),
        "verdicts": [{"first": v.first, "second": v.second, "kind": v.kind, "text": v.sentence()} for v in verdicts],
        "variants": list(by_variant),
        "skills": _skills(by_variant),
        "flips": [_flips(by_variant, a, b) for a, b in pairs(list(by_variant))],
    }


def _headline(verdicts: Sequence[Verdict]) -> str:
    """The outcome in one sentence: who beats whom, or that nothing was told apart."""
    wins = [(v.second, v.first) if v.kind == "better" else (v.first, v.second) for v in verdicts if v.kind in ("better", "worse")]
    beaten: dict[str, list[str]] = {}
    for winner, loser in wins:
        beaten.setdefault(winner, []).append(loser)
    out = [f"{winner} is better than {', '.join(losers)}." for winner, losers in beaten.items()]
    unsettled = [v for v in verdicts if v.kind == "open"]
    if unsettled:
        largest = max(v.detectable for v in unsettled)
        whole = "Between the others no" if out else "No"
        out.append(f"{whole} difference was seen; one of more than {largest:.3g} would have been, with 80% power.")
    if any(v.kind == "same" for v in verdicts):
        out.append("Shown to be the same: " + ", ".join(f"{v.first} and {v.second}" for v in verdicts if v.kind == "same") + ".")
    unnamed = sorted({v.unmatched for v in verdicts if v.kind == "unmatched"})
    out += [f"A difference, but no winner is named: {why}." for why in unnamed]
    if any(v.kind in ("floor", "ceiling") for v in verdicts):
        out.append("Some pairs are at chance or perfect, and not judged.")
    return " ".join(out)


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
    """Items on which most seeds of the two variants disagree, those of the largest difference first."""
    a, b = item_means(by_variant[first]), item_means(by_variant[second])
    order = sorted(a, key=lambda item: b[item] - a[item])
    lost = [i for i in order if b[i] - a[i] < -0.5]
    gained = [i for i in reversed(order) if b[i] - a[i] > 0.5]
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
    shared = [seed for seed in first if seed in second]
    seen = {seed: (_outcome(first[seed], item), _outcome(second[seed], item)) for seed in shared}
    seed = max(shared, key=lambda s: abs(seen[s][1].score - seen[s][0].score))
    before, after = seen[seed]
    right = [sum(seen[s][side].score > 0.5 for s in shared) for side in (0, 1)]
    return {
        "kind": kind,
        "skill": before.labels.get("skill", ""),
        "prompt": before.prompt[:TEXT],
        "reference": before.reference[:TEXT],
        "before": before.completion[:TEXT],
        "after": after.completion[:TEXT],
        "seeds": f"seed {seed}; right in {right[0]} and {right[1]} of {len(shared)} seeds",
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
        found.append({"title": f"{metric.replace('_', ' ')} on validation rows", "figure": figure, "first": first})
    losses = {name: [_loss(done.curves) for done in arm.done.values()] for name, arm in comparison.arms.items() if arm.done}
    losses = {name: several for name, several in losses.items() if any(several)}
    if losses:
        figure = figures.learning_curves(losses, "training tokens", "loss")
        found.append({"title": "training loss", "figure": figure, "first": not found})
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


def _loss(curves: Mapping[str, Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(tokens so far, loss) of the last train step, thinned to at most 200 points."""
    curve: Sequence[Mapping[str, Any]] = list(curves.values())[-1]["curve"] if curves else ()
    points, tokens = [], 0
    for entry in curve:
        tokens += int(entry["tokens"])
        points.append((float(tokens), float(entry["loss"])))
    stride = max(1, len(points) // 200)
    return [
        (points[i][0], sum(v for _, v in points[i : i + stride]) / len(points[i : i + stride]))
        for i in range(0, len(points), stride)
    ]


def _target(verdict: TargetVerdict) -> dict[str, Any]:
    def costs(arm: Sequence[Reached]) -> str:
        return ", ".join(shown(r.cost) if r.cost != float("inf") else f"> {shown(r.budget)} (never)" for r in arm)

    return {
        "metric": verdict.metric,
        "target": verdict.target,
        "unit": verdict.unit,
        "first": verdict.first,
        "second": verdict.second,
        "first_costs": costs(verdict.first_reached),
        "second_costs": costs(verdict.second_reached),
        "ratio": None if verdict.ratio != verdict.ratio else verdict.ratio,
        "ratio_text": _ratio(verdict),
        "p": verdict.p,
        "test": verdict.test,
        "censored": verdict.censored,
    }


def _ratio(verdict: TargetVerdict) -> str:
    """How much more the second needs, in words."""
    if verdict.ratio != verdict.ratio:
        return "neither reaches it in most seeds"
    if verdict.ratio in (0.0, float("inf")):
        return f"only {verdict.first if verdict.ratio else verdict.second} reaches it in most seeds"
    return f"{verdict.ratio:.2f} times the {verdict.unit}"


def _spent(name: str, arm: Arm) -> dict[str, Any]:
    mean = _mean_spending(arm)
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
