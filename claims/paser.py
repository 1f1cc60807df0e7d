"""Does PASER choose more rows of the skills that pruning hurt more?

Reads what the comparison in ``paser.yaml`` made, and makes what is missing. For each seed: over the four skills, Spearman's rank
correlation between the rows that PASER chose of a skill and the accuracy that pruning cost it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from _report import row, show
from datasets import load_from_disk
from scipy.stats import spearmanr

from whet.measure.estimates import split_key
from whet.measure.outcome import TaskResult
from whet.run.claims import find_claim
from whet.run.claims_command import plan_of
from whet.run.compare import jobs
from whet.run.compare.plan import Plan
from whet.run.steps import ROWS
from whet.run.store import Store


def done(plan: Plan, variant: str, seed: int, store: Store) -> jobs.Done:
    """A variant's run at a seed; finished steps are reused."""
    document = next(v.document for v in plan.variants if v.name == variant)
    job = jobs.Job(variant, seed, jobs.document_for(document, plan.stages[variant], seed, "claim-paser"))
    found = jobs.carry_out(job, str(store.scratch))
    assert not found.error, found.error
    return found


def by_skill(result: TaskResult) -> dict[str, float]:
    return {split_key(name)[2]: e.value for name, e in result.estimates.items() if split_key(name)[1] == "skill"}


def correlation(plan: Plan, seed: int, store: Store) -> tuple[float, float]:
    """Spearman's correlation of the loss with the rows chosen, and the largest loss minus the smallest."""
    before, after = (
        by_skill(jobs.read_results(done(plan, v, seed, store), store)["answers"]) for v in ("undamaged", "not repaired")
    )
    chosen = next(s.identity for s in done(plan, "paser", seed, store).steps if s.name == "chosen")
    rows = Counter(load_from_disk(str(store.get(chosen) / ROWS))["skill"])
    lost = {skill: before[skill] - after[skill] for skill in before}
    return float(spearmanr(list(lost.values()), [rows[skill] for skill in lost]).statistic), max(lost.values()) - min(
        lost.values()
    )


def main() -> None:
    plan, store = plan_of(find_claim(Path(__file__).parent, "paser")), Store.open()
    found = [correlation(plan, seed, store) for seed in plan.seeds]
    names = ("rank correlation of rows chosen with accuracy lost, by skill", "largest minus smallest loss of a skill")
    show([row(name, values) for name, values in zip(names, zip(*found))])


if __name__ == "__main__":
    main()
