"""One self-contained HTML page per recovery, and the recipe that repeats it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.budget import shown
from whet.run.recover import figures
from whet.run.recover.plan import AFTER, DIAGNOSIS, REPAIR, REPAIRED
from whet.run.recover.proof import Proof
from whet.run.report import environment

if TYPE_CHECKING:
    from whet.measure.compare import Comparison
    from whet.run.ledger import Run, StepRecord

PAGE, REPEAT = "recover.html", "recover.yaml"
TEXT = 1200
"""Longest text of an example, in characters."""


def write_page(run: Run, proof: Proof, folder: Path) -> Path:
    """Writes ``recover.html`` and ``recover.yaml`` into the folder; returns the page's path."""
    import yaml

    steps = {step.name: step for step in run.steps}
    document = yaml.safe_dump(json.loads(json.dumps(dict(run.document), default=str)), sort_keys=False, width=110)
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
    words = []
    for task, share in proof.recovered.items():
        words.append(f"{task}: nothing was lost" if share is None else f"{task}: {100 * share:.0f}% of the loss was won back")
    return "; ".join(words)


def pool_groups(steps: Mapping[str, StepRecord]) -> list[figures.Group]:
    """The pool's groups with their drift before and after, and the rows that were chosen of each."""
    before, after = _drift(steps[DIAGNOSIS]), {g["name"]: g for g in _drift(steps[AFTER])["groups"]}
    counts: Mapping[str, int] = steps[REPAIR].receipt.get("counts", {}).get("group", {})
    return [
        figures.Group(g["name"], g["drift"], after[g["name"]]["drift"], g["rows"], int(counts.get(g["name"], 0)))
        for g in before["groups"]
    ]


def _drift(step: StepRecord) -> Mapping[str, Any]:
    receipt: Mapping[str, Any] = step.receipt["drift"]
    return receipt


def _repair(steps: Mapping[str, StepRecord]) -> dict[str, Any]:
    train, select = steps[REPAIRED], steps[REPAIR]
    return {
        "objective": " + ".join(str(o["name"]) for o in train.settings["objective"]),
        "adapter": train.settings["adapter"]["name"],
        "rows": f"{select.receipt['rows_out']:,}",
        "pool": f"{select.receipt['rows_in']:,}",
        "select": ", ".join(str(s["name"]) for s in select.settings["select"]),
    }


def _task(proof: Proof, task: str, groups: Sequence[figures.Group]) -> dict[str, Any]:
    broke, repaired, left = (next(c for c in side if c.task == task) for side in (proof.broke, proof.repaired, proof.left))
    capabilities = proof.capabilities[task]
    chosen = {g.name: g.chosen for g in groups if g.name in {c.name for c in capabilities}}
    metric = broke.metric.replace("_", " ")
    titles = [("the change", broke), ("the repair", repaired), ("after the repair, against before the change", left)]
    return {
        "name": task,
        "metric": metric,
        "summary": _summary(broke, repaired, proof.recovered[task]),
        "figure": figures.loop(capabilities, chosen, metric),
        "verdicts": [{"title": title, "kind": c.verdict, "text": _sentence(c)} for title, c in titles],
        "flips": [
            {
                "skill": f.labels.get("skill", ""),
                "prompt": f.prompt[:TEXT],
                "reference": f.reference[:TEXT],
                "before": f.old[:TEXT],
                "after": f.new[:TEXT],
            }
            for f in left.examples
            if f.kind == "negative"
        ],
    }


def _summary(broke: Comparison, repaired: Comparison, share: float | None) -> str:
    lost = f"{broke.metric} went from {broke.old_value:.3f} to {broke.new_value:.3f} by the change, and to {repaired.new_value:.3f} by the repair"
    return f"{lost}: {100 * share:.0f}% of the loss was won back." if share is not None else f"{lost}: nothing was lost."


def _sentence(comparison: Comparison) -> str:
    test = comparison.test
    return (
        f"{comparison.verdict}. {comparison.old_value:.4g} to {comparison.new_value:.4g}, difference {test.effect or 0:+.4g} "
        f"[{test.low or 0:+.4g}, {test.high or 0:+.4g}], p = {comparison.p:.2g} ({test.name}, Holm over {comparison.comparisons}); "
        f"smallest difference that could be seen: {comparison.detectable:.3g}."
    )
