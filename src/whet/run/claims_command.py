"""``whet claims``: runs the comparisons that test papers' claims, and shows the ledger that their files are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import __version__
from whet.errors import RecipeError, unknown
from whet.recipe import read
from whet.run.claims import Claim, append_result, find_claim, read_claim, read_claims, standing_commit
from whet.run.claims_show import UNCHECKED, brief, full, markdown

if TYPE_CHECKING:
    from whet.run.claims_verdict import Arms
    from whet.run.compare.arms import Comparison
    from whet.run.compare.plan import Plan

FOLDER = Path("claims")
LEAST_SEEDS = 3

Say = Callable[[str], None]


def claims_command(
    words: Sequence[str],
    *,
    folder: str | Path = FOLDER,
    table: bool = False,
    again: bool = False,
    on: str | None = None,
    quiet: bool = False,
) -> tuple[Any, str]:
    """What ``whet claims`` prints: as plain data and as text.

    Args:
        words: none for the ledger, a paper's id for one claim in full, or ``run`` and ids.
        folder: where the claims' files are.
        table: the ledger as a Markdown table.
        again: run what was run before with the same settings and version.
        on: where variants are run, see :func:`whet.run.cluster.open_pool`.
        quiet: say nothing while running.

    Raises:
        RecipeError: an unknown claim, a file that cannot be read or run.
    """
    place = Path(folder)
    if words and words[0] == "run":
        say: Say = (lambda _: None) if quiet else print
        return _run_all(place, words[1:], say, again, on)
    if len(words) > 1:
        raise RecipeError(f"whet claims shows one claim, or with the word 'run' before them runs several; got {' '.join(words)}")
    if words:
        claim = find_claim(place, words[0])
        return _data(claim), full(claim)
    claims = read_claims(place)
    return [_data(claim) for claim in claims], markdown(claims) if table else "\n\n".join(brief(claim) for claim in claims)


def run_claim(claim: Claim, *, on: str | None = None, again: bool = False, say: Say = print) -> Mapping[str, Any]:
    """Runs a claim's comparison and appends the result to its file; returns the result.

    Args:
        claim: as read from its file.
        on: where variants are run.
        again: although the same settings were run with this version.
        say: told what happens.

    Raises:
        RecipeError: the claim has no comparison, its settings are not committed as they stand, or they were run before.
    """
    from whet.run.compare.command import compare_and_show

    if claim.comparison is None or claim.judge is None:
        raise RecipeError(
            f"{claim.path}: comparison: there is none; what tested this claim is a script: {claim.results[0]['run']}"
        )
    before = [r for r in claim.results if r.get("fingerprint") == claim.fingerprint and r["version"] == __version__]
    if before and not again:
        raise RecipeError(
            f"{claim.path}: these settings were run on {before[-1]['date']} with whet {__version__}; the same seeds are no new "
            "evidence. Change compare.seeds and commit, or say --again"
        )
    commit = standing_commit(claim)
    if commit is None:
        say(f"{claim.paper}: {UNCHECKED}")
    plan_of(claim)
    compared = compare_and_show(_document(claim), on=on, say=say, margin=claim.judge.smallest)
    result = result_of(claim, compared.comparison, commit)
    append_result(claim, result)
    return result


def plan_of(claim: Claim) -> Plan:
    """The comparison that a claim asks for, checked with its judge; nothing runs.

    Raises:
        RecipeError: the comparison cannot be carried out, has too few seeds, or lacks a variant, pair or task that the judge names.
    """
    from whet.run.compare.plan import make_plan, tasks_of
    from whet.run.compare.verdicts import pairs

    assert claim.judge is not None
    try:
        plan = make_plan(_document(claim), margin=claim.judge.smallest)
    except RecipeError as error:
        raise RecipeError(f"{claim.path}: comparison: {error}") from None
    if len(plan.seeds) < LEAST_SEEDS:
        raise RecipeError(
            f"{claim.path}: comparison.compare.seeds: a claim speaks of a method, not of single checkpoints; give at least "
            f"{LEAST_SEEDS} seeds"
        )
    names = [variant.name for variant in plan.variants]
    for name in sorted(claim.judge.named):
        if name not in names:
            raise RecipeError(f"{claim.path}: judge: {unknown('variant', name, names)}")
    tasks = tasks_of([read(plan.variants[0].document)])
    for name in filter(None, (claim.judge.task, *claim.judge.also, *claim.judge.keeps)):
        if name not in tasks:
            raise RecipeError(f"{claim.path}: judge: {unknown('task', name, tasks)}")
    judged = [set(pair) for pair in pairs(names)]
    for rival in claim.judge.rivals:
        if {claim.judge.better, rival} not in judged:
            raise RecipeError(
                f"{claim.path}: judge.than: of {len(names)} variants only pairs with the first are judged, and {rival!r} against "
                f"{claim.judge.better!r} is none; list one of them first, or have fewer variants"
            )
    return plan


def result_of(claim: Claim, comparison: Comparison, commit: str | None) -> dict[str, Any]:
    """A finished comparison as an entry of ``results``. Intervals are 95%, ``p`` is Holm-corrected over ``comparisons``."""
    from whet.run.claims_verdict import decide, plain_effect

    assert claim.judge is not None
    verdicts = comparison.verdicts
    task = claim.judge.task or verdicts[0].task
    arms = _arms(comparison, task)
    missing = {name: arm.failed or "none" for name, arm in comparison.arms.items() if arm.failed or name not in arms}
    decision = decide(claim.judge, verdicts, arms, missing)
    return {
        "date": dt.datetime.now(dt.UTC).date(),
        "version": __version__,
        "fingerprint": claim.fingerprint,
        "commit": commit,
        "task": task,
        "metric": next((v.metric for v in verdicts if v.task == task), ""),
        "better": claim.judge.better,
        **(plain_effect(decision.against) if decision.against else {"than": claim.judge.rivals[0]}),
        "seeds": list(comparison.plan.seeds),
        "arms": _rounded(arms),
        **({"kept": {name: _rounded(_arms(comparison, name)) for name in claim.judge.keeps}} if claim.judge.keeps else {}),
        "cost": cost_of(comparison),
        "verdict": decision.verdict,
        "reason": decision.reason,
    }


def cost_of(comparison: Comparison) -> dict[str, int]:
    """What the comparison took, each step that several variants share counted once; seconds are those of the clock."""
    from whet.run.compare.spending import total

    steps = {s.identity: s.spent for arm in comparison.arms.values() for done in arm.done.values() for s in done.steps}
    whole = total([*steps.values(), *(arm.tuning for arm in comparison.arms.values())])
    return {"seconds": round(whole.seconds), "tokens": whole.tokens}


def _run_all(folder: Path, ids: Sequence[str], say: Say, again: bool, on: str | None) -> tuple[Any, str]:
    if not ids:
        names = [claim.paper for claim in read_claims(folder) if claim.comparison]
        raise RecipeError(f"whet claims run: which? {', '.join(names) or 'no claim has a comparison'}")
    claims = [find_claim(folder, name) for name in ids]
    results = {claim.paper: run_claim(claim, on=on, again=again, say=say) for claim in claims}
    return results, "\n\n".join(full(read_claim(claim.path)) for claim in claims)


def _document(claim: Claim) -> dict[str, Any]:
    """The comparison as a recipe with a section ``compare``."""
    return {"name": f"claim-{claim.paper}", **dict(claim.comparison or {})}


def _arms(comparison: Comparison, task: str) -> Arms:
    from whet.run.compare.verdicts import variant_estimate

    return {name: variant_estimate(by_seed) for name, by_seed in comparison.results.get(task, {}).items()}


def _rounded(arms: Arms) -> dict[str, list[float]]:
    return {name: [round(value, 4) for value in estimate] for name, estimate in arms.items()}


def _data(claim: Claim) -> dict[str, Any]:
    return {
        "paper": claim.paper,
        "title": claim.title,
        "claim": claim.claim,
        "paper_figure": claim.paper_figure,
        "test": claim.test,
        "comparison": claim.comparison,
        "judge": vars(claim.judge) if claim.judge else None,
        "results": [dict(result) for result in claim.results],
    }
