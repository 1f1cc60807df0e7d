"""One self-contained HTML page per recovery, and the recipe that repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import shown
from whet.measure.compare import alone
from whet.run.plain import as_yaml
from whet.run.recover import figures
from whet.run.recover.plan import AFTER, DIAGNOSIS, REPAIR, REPAIRED
from whet.run.recover.proof import STAGES, Capability, Proof
from whet.run.report import environment

if TYPE_CHECKING:
    from whet.measure.compare import Comparison
    from whet.run.ledger import Run, StepRecord

PAGE, REPEAT = "recover.html", "recover.yaml"
TEXT = 1200
"""Longest text of an example, in characters."""
TRAINED = {
    "full": "all weights",
    "sparse": "the weights that are not 0",
    "scales": "the scales of the quantized weights",
    "lora": "a low-rank addition to the weights",
}
VERDICTS = {"floor": "not judged, both are at chance", "ceiling": "not judged, both are at the ceiling"}


def write_page(run: Run, proof: Proof, folder: Path, notes: Sequence[str] = ()) -> Path:
    """Writes ``recover.html`` and ``recover.yaml`` into the folder; returns the page's path."""
    steps = {step.name: step for step in run.steps}
    document = as_yaml(run.document)
    groups = pool_groups(steps)
    page = (
        environment()
        .get_template("recover.html")
        .render(
            name=run.recipe,
            run=run,
            about=run.document.get("about", ""),
            headline=headline(proof),
            repair=_repair(steps),
            tasks=[_task(proof, task, groups) for task in proof.capabilities],
            bounds=proof.bounds,
            notes=notes,
            grouped_by=_drift(steps[DIAGNOSIS])["grouped_by"],
            drift=figures.drifts(groups),
            groups=[{"name": g["name"], "examples": g["examples"]} for g in _drift(steps[DIAGNOSIS])["groups"]],
            steps=[
                {
                    "name": s.name,
                    "seconds": f"{float(s.cost.get('seconds', 0)):.1f}",
                    "tokens": shown(float(s.cost.get("tokens", 0))),
                }
                for s in sorted(run.steps, key=lambda s: s.position)
            ],
            document=document,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPEAT).write_text(document, encoding="utf-8")
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def headline(proof: Proof) -> str:
    """The outcome in one line."""
    return "; ".join(f"{broke.task}: {outcome(proof, broke.task)}" for broke in proof.broke)


def outcome(proof: Proof, task: str) -> str:
    """What became of a task's loss, in words."""
    broke, repaired = (next(c for c in side if c.task == task) for side in (proof.broke, proof.repaired))
    return won_back(proof.recovered[task], broke.verdict == "worse", repaired.verdict in ("better", "worse"))


def won_back(share: float | None, is_lost: bool = True, is_changed: bool = True) -> str:
    """What became of the loss, in words; and what of it may be chance: the loss unless ``is_lost``, the rest unless ``is_changed``.

    >>> won_back(0.47), won_back(-0.1), won_back(None)
    ('47% of the loss was won back', 'the repair made it worse, by 10% of the loss', 'nothing was lost')
    >>> won_back(0.47, is_lost=False), won_back(0.47, is_changed=False)
    ('47% of the loss was won back, but the loss itself may be chance', '47% of the loss was won back, which may be chance')
    """
    if share is None:
        return "nothing was lost"
    chance = "" if is_lost and is_changed else ", which may be chance" if is_lost else ", but the loss itself may be chance"
    if share < 0:
        return f"the repair made it worse, by {-100 * share:.0f}% of the loss{chance}"
    return f"{100 * share:.0f}% of the loss was won back{chance}"


def pool_groups(steps: Mapping[str, StepRecord]) -> list[figures.Group]:
    """The pool's groups with their drift before and after, and the rows that were chosen of each."""
    before, after = _drift(steps[DIAGNOSIS]), {g["name"]: g for g in _drift(steps[AFTER])["groups"]}
    counts: Mapping[str, int] = steps[REPAIR].receipt.get("counts", {}).get("group", {})
    return [
        figures.Group(
            g["name"],
            g["drift"],
            after[g["name"]]["drift"],
            g["rows"],
            int(counts.get(g["name"], 0)) if steps[REPAIR].settings["select"] else None,
        )
        for g in before["groups"]
    ]


def _drift(step: StepRecord) -> Mapping[str, Any]:
    receipt: Mapping[str, Any] = step.receipt["drift"]
    return receipt


def _repair(steps: Mapping[str, StepRecord]) -> dict[str, Any]:
    train, select = steps[REPAIRED], steps[REPAIR]
    chosen = ", ".join(str(s["name"]) for s in select.settings["select"])
    schedule = train.settings["schedule"]
    return {
        "objective": " + ".join(str(o["name"]) for o in train.settings["objective"]),
        "trained": TRAINED.get(train.settings["adapter"]["name"], train.settings["adapter"]["name"]),
        "rows": f"{select.receipt['rows_out']:,}",
        "pool": f"{select.receipt['rows_in']:,}",
        "select": chosen,
        "ratio": "" if chosen else f"{100 * schedule['ratio']:g}%",
        "drift_before": f"{_drift(steps[DIAGNOSIS])['drift']:.3g}",
        "drift_after": f"{_drift(steps[AFTER])['drift']:.3g}",
    }


def _task(proof: Proof, task: str, groups: Sequence[figures.Group]) -> dict[str, Any]:
    broke, repaired, left = (next(c for c in side if c.task == task) for side in (proof.broke, proof.repaired, proof.left))
    capabilities = proof.capabilities[task]
    chosen = {g.name: g.chosen for g in groups if g.chosen is not None and g.name in {c.name for c in capabilities}}
    metric = broke.metric.replace("_", " ")
    titles = [("the change", broke), ("the repair", repaired), ("after the repair, against before the change", left)]
    return {
        "name": task,
        "metric": metric,
        "unit": " in nats per token" if broke.metric == "perplexity" else "",
        "direction": "higher is better" if broke.better_high else "lower is better",
        "count": f"{capabilities[0].items:,}",
        "grouped": proof.grouped.get(task, ""),
        "summary": _summary(metric, capabilities[0], outcome(proof, task)),
        "groups": [_group(c) for c in capabilities if c.changes],
        "corrected": next((c.changes[0].comparisons for c in capabilities if c.changes), 0),
        "figure": figures.loop(capabilities, chosen, metric),
        "verdicts": [{"title": title, "kind": c.verdict, "text": _sentence(c)} for title, c in titles],
        "flips": _flip_rates(broke, left),
        "lists": [
            {"title": "Broken by the change", "now": "after the change", "flips": _negative(broke)},
            {"title": "Still broken after the repair", "now": "after the repair", "flips": _negative(left)},
        ],
    }


def _flip_rates(broke: Comparison, left: Comparison) -> str:
    """How many examples that were solved before are not any more; empty where scores are not right or wrong."""
    if broke.flips is None or left.flips is None:
        return ""
    change, rest = broke.flips.negative, left.flips.negative
    return (
        f"Solved before and no more after the change: {100 * change.value:.1f}% of the examples [{100 * change.low:.1f}, "
        f"{100 * change.high:.1f}]; after the repair: {100 * rest.value:.1f}% [{100 * rest.low:.1f}, {100 * rest.high:.1f}]."
    )


def _negative(comparison: Comparison) -> list[dict[str, str]]:
    """Examples that the first model solved and the second did not."""
    return [
        {
            "group": f.labels.get("group") or f.labels.get("skill", ""),
            "prompt": f.prompt[:TEXT],
            "reference": f.reference[:TEXT],
            "before": f.old[:TEXT],
            "after": f.new[:TEXT],
        }
        for f in comparison.examples
        if f.kind == "negative"
    ]


def _group(capability: Capability) -> dict[str, Any]:
    """One line of the table of groups: each change with its interval, and whether it is shown."""
    changes = [
        {
            "kind": c.verdict if c.verdict in ("better", "worse") else "",
            "text": f"{c.test.effect or 0:+.3g} [{c.test.low or 0:+.3g}, {c.test.high or 0:+.3g}]",
            "p": f"{c.p:.2g}",
        }
        for c in capability.changes
    ]
    return {"name": capability.name, "count": f"{capability.items:,}", "changes": changes}


def _summary(metric: str, whole: Capability, words: str) -> str:
    before, broken, mended = (whole.scores[stage][0] for stage in STAGES)
    return f"{metric} went from {before:.3f} to {broken:.3f} by the change, and to {mended:.3f} by the repair: {words}."


def _sentence(comparison: Comparison) -> str:
    test = comparison.test
    said = alone(test.low, test.high, comparison.verdict != "no difference found", comparison.comparisons)
    unit = " in nats per token" if comparison.metric == "perplexity" else ""
    return (
        f"{VERDICTS.get(comparison.verdict, comparison.verdict)}. {comparison.old_value:.4g} to {comparison.new_value:.4g}, difference{unit} {test.effect or 0:+.4g} "
        f"[{test.low or 0:+.4g}, {test.high or 0:+.4g}], p = {comparison.p:.2g} ({test.name}, Holm over {comparison.comparisons}{said}); "
        f"smallest difference that could be seen: {comparison.detectable:.3g}."
    )
