"""What the pages of runs, models and claims show, as plain data for their templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.board import comparing, lineage, live
from whet.board.records import Records
from whet.errors import RecipeError
from whet.run import figures
from whet.run.claims import Claim, is_scripted, read_claim
from whet.run.claims_show import ours
from whet.run.comparisons import COMPARISONS, Comparison, read_comparisons
from whet.run.ledger import ComparisonRecord, Run, StepRecord
from whet.run.plain import as_yaml
from whet.run.show import receipt_lines

RUNS_ON_A_PAGE = 50

VERDICT_KINDS = {"reproduced": "better", "contradicted at this scale": "worse"}


@dataclass(frozen=True)
class Claims:
    """The claims of a folder: those that can be read, and what is wrong with the others."""

    found: Sequence[Claim]
    broken: Sequence[str]

    @classmethod
    def of(cls, folder: Path | None) -> Claims:
        found, broken = [], []
        for path in sorted(folder.glob("*.yaml")) if folder else ():
            try:
                found.append(read_claim(path))
            except (RecipeError, OSError, ValueError) as error:
                broken.append(str(error))
        return cls(found, broken)


def start_page(records: Records, claims: Claims) -> dict[str, Any]:
    """What runs now, and the newest of everything."""
    tally: dict[str, int] = {}
    for claim in claims.found:
        verdict = str(claim.results[-1]["verdict"]) if claim.results else "not run yet"
        tally[verdict] = tally.get(verdict, 0) + 1
    return {
        "live": live.under_way(records),
        "comparisons": [listed(records, c) for c in records.comparisons()[:5]],
        "runs": [run_row(records, r) for r in records.runs(10)],
        "number": records.number_of_runs(),
        "tally": tally,
    }


def listed(records: Records, record: ComparisonRecord) -> dict[str, Any]:
    """A comparison in a list."""
    return {
        "id": record.id,
        "name": record.name,
        "status": records.status(record),
        "started": _when(record.started),
        "variants": len(record.result.get("variants", {})),
        "progress": live.progress(records, record),
        "headlines": comparing.headlines(record),
        "error": record.result.get("error", ""),
    }


def run_row(records: Records, run: Run) -> dict[str, Any]:
    """A run in a list."""
    took = (run.finished - run.started).total_seconds() if run.finished else None
    return {
        "id": run.id,
        "recipe": run.recipe,
        "seed": run.seed,
        "status": records.status(run),
        "started": _when(run.started),
        "took": "" if took is None else f"{took:,.0f} s",
        "recovered": "recover.html" in records.pages(run.id),
    }


def runs_page(records: Records, page: int) -> dict[str, Any]:
    """One page of the list of all runs."""
    number = records.number_of_runs()
    return {
        "runs": [run_row(records, r) for r in records.runs(RUNS_ON_A_PAGE, page * RUNS_ON_A_PAGE)],
        "number": number,
        "page": page,
        "more": (page + 1) * RUNS_ON_A_PAGE < number,
    }


def run_page(records: Records, run: Run) -> dict[str, Any]:
    """Everything about a run: what moves, what each step did, what was measured, what was made from what."""
    steps = sorted(run.steps, key=lambda s: s.position)
    status = records.status(run)
    return {
        "run": run,
        "row": run_row(records, run),
        "about": run.document.get("about", ""),
        "live": live.under_way(records, run.id) if status == "running" else [],
        "owner": records.owner(run.id),
        "pages": records.pages(run.id),
        "verdicts": [
            v for s in steps if s.section == "measure" and s.status in ("done", "reused") for v in _verdicts(records, run, s)
        ],
        "measured": comparing.stages_of(run, records.result_files([run.id]).get(run.id, {})),
        "steps": [_step(s, status) for s in steps],
        "graph": lineage.draw(lineage.graph_of(records.steps([run.id]), str(run.document.get("model", "model"))))
        if steps
        else "",
        "document": as_yaml(run.document),
        "versions": ", ".join(f"{k} {v}" for k, v in run.versions.items()),
        "machine": ", ".join(f"{k}: {v}" for k, v in run.machine.items() if v),
    }


def _verdicts(records: Records, run: Run, step: StepRecord) -> list[dict[str, str]]:
    """How each measured stage stands against the one that it was made from, in a row that leads to their items."""
    folder = records.artifact(step.identity)
    found: list[Comparison] = read_comparisons(folder / COMPARISONS) if folder else []
    return [
        {
            "first": c.first,
            "second": c.second,
            "task": c.task,
            "kind": c.kind,
            "text": c.verdict,
            "link": comparing.pair_link(f"/runs/{run.id}", c.task, c.first, c.second),
        }
        for c in found
    ]


def _step(step: StepRecord, run_status: str) -> dict[str, Any]:
    receipt = {k: v for k, v in step.receipt.items() if k not in ("curve", "error", "outputs")}
    return {
        "name": step.name,
        "section": step.section,
        "status": run_status if step.status == "running" else step.status,
        "why": step.why,
        "identity": step.identity,
        "seconds": f"{float(step.cost.get('seconds', 0)):.1f}" if step.cost else "",
        "tokens": f"{int(step.cost['tokens']):,}" if step.cost.get("tokens") else "",
        "error": step.receipt.get("error", ""),
        "formula": str(step.receipt.get("formula", "")),
        "receipt": "\n".join(receipt_lines(receipt, step.cost)) if receipt else "",
        "settings": as_yaml(step.settings),
        "outputs": _outputs(step.receipt),
        "curve": figures.training(step.receipt.get("curve") or [], 520, 180),
    }


def _outputs(receipt: Mapping[str, Any]) -> list[str]:
    """What the model answered after training."""
    found = receipt.get("outputs")
    return [str(text) for text in found.get("outputs", ())] if isinstance(found, Mapping) else []


def model_page(records: Records, identity: str) -> dict[str, Any] | None:
    """An artifact: its lineage across all runs, and what made it; ``None`` if no run names it."""
    whole = lineage.graph_of(records.steps())
    node = whole.nodes.get(identity)
    if node is None or not node.runs:
        return None
    graph = lineage.around(whole, identity)
    maker = next((s for r in node.runs if (run := records.run(r)) for s in run.steps if s.identity == identity), None)
    return {
        "node": node,
        "graph": lineage.draw(graph, identity),
        "left_out": graph.left_out,
        "runs": list(dict.fromkeys(node.runs)),
        "step": _step(maker, "") if maker else None,
        "here": records.artifact(identity) is not None,
    }


def claims_page(claims: Claims) -> dict[str, Any]:
    """The ledger of claims."""
    return {"claims": [_claim(c) for c in claims.found], "broken": claims.broken}


def claim_page(records: Records, claim: Claim) -> dict[str, Any]:
    """One claim in full, with the comparisons that tested it."""
    settings = {"comparison": claim.comparison, "judge": vars(claim.judge) if claim.judge else None}
    return {
        "claim": claim,
        "row": _claim(claim),
        "results": [_result(result) for result in reversed(claim.results)],
        "comparisons": [listed(records, c) for c in records.comparisons() if c.name == f"claim-{claim.paper}"],
        "settings": as_yaml(settings) if claim.comparison else "",
    }


def _claim(claim: Claim) -> dict[str, Any]:
    last = claim.results[-1] if claim.results else {}
    verdict = str(last.get("verdict", "not run yet"))
    return {
        "paper": claim.paper,
        "title": claim.title,
        "claim": claim.claim,
        "figure": claim.paper_figure,
        "ours": _ours(last),
        "seeds": len(last["seeds"]) if isinstance(last.get("seeds"), list) else last.get("seeds", ""),
        "verdict": verdict,
        "kind": VERDICT_KINDS.get(verdict, "open"),
        "date": str(last.get("date", "")),
        "version": str(last.get("version", "")),
    }


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result: its verdict with the reason, its figure in a line, the arms, and all of it as YAML."""
    verdict = str(result["verdict"])
    if is_scripted(result):
        arms = [(row["name"], row["mean"], row["interval"]) for row in result["result"]]
    else:
        kept = {f"{task}: {name}": values for task, several in result.get("kept", {}).items() for name, values in several.items()}
        arms = [(name, value, between) for name, (value, *between) in {**result["arms"], **kept}.items()]
    return {
        "verdict": verdict,
        "kind": VERDICT_KINDS.get(verdict, "open"),
        "reason": str(result.get("reason") or result.get("note") or ""),
        "ours": _ours(result),
        "arms": [(name, "{:.4g} [{:.4g}, {:.4g}]".format(value, *between)) for name, value, between in arms if value is not None],
        "date": str(result.get("date", "")),
        "version": str(result.get("version", "")),
        "yaml": as_yaml(result),
    }


def _ours(result: Mapping[str, Any]) -> str:
    """A result's figure as the ledger of claims has it; a script may have none."""
    if not result or (is_scripted(result) and all(row["mean"] is None for row in result["result"])):
        return ""
    return ours(result)


def _when(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
