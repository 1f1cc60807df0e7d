"""The proof: before, after and reference on the same examples, per capability, and whether the asked-for bounds are shown.

A bound is met only if it is shown: ``within 1%`` if the lower end of the 95% interval of (repaired - reference) lies above -1 point
(one-sided non-inferiority at 2.5%); ``max-negative-flips 2%`` if the upper end of the rate's 95% interval lies below 2%. A bound that
is likely met but not shown fails, and says how near it was. On examples that the repair trained on, nothing is shown.

Each task's three changes are tested on all its examples, corrected together; those of its groups are another family.

Paper: muscle — MUSCLE: A Model Update Strategy for Compatible LLM Evolution
Paper: paser — PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from whet.measure.compare import Comparison, compare, corrected
from whet.run.recover.plan import REFERENCE, REPAIRED

if TYPE_CHECKING:
    from whet.measure.outcome import TaskResult

STAGES = (REFERENCE, "base", REPAIRED)
CHANGES = ((REFERENCE, "base"), ("base", REPAIRED), (REFERENCE, REPAIRED))
"""What is compared: the change, the repair, and what is left after it."""
NAMES = ("change", "repair", "left")
"""Of :data:`CHANGES`, in plain data."""


@dataclass(frozen=True)
class Capability:
    """One group of a task's examples: its score (mean, interval) at each of the three stages.

    ``label``: which of the examples' labels names the group; empty for all examples. ``changes``: the three of :data:`CHANGES`,
    tested; none for all examples, and for a group of one.
    """

    name: str
    items: int
    scores: Mapping[str, tuple[float, float, float]]
    label: str = ""
    changes: Sequence[Comparison] = ()

    def data(self) -> dict[str, Any]:
        """As plain data; each change with its verdict, effect, interval, and corrected p."""
        changes = [(c.verdict, c.test.effect, c.test.low, c.test.high, c.p) for c in self.changes]
        return {
            "name": self.name,
            "items": self.items,
            "scores": dict(self.scores),
            **{name: dict(zip(("verdict", "effect", "low", "high", "p"), c)) for name, c in zip(NAMES, changes)},
        }


@dataclass(frozen=True)
class Bound:
    """An asked-for bound of a task: whether it is ``met``, and the sentence that says why."""

    met: bool
    text: str
    task: str


@dataclass(frozen=True)
class Proof:
    """``broke``: changed against reference; ``repaired``: repaired against changed; ``left``: repaired against reference; one
    comparison per task each, Holm-corrected together. ``recovered``: task -> share of the loss that was won back (``None`` where
    nothing was lost).
    """

    capabilities: Mapping[str, Sequence[Capability]]
    broke: Sequence[Comparison]
    repaired: Sequence[Comparison]
    left: Sequence[Comparison]
    recovered: Mapping[str, float | None]
    bounds: Sequence[Bound] = ()
    grouped: Mapping[str, str] = field(default_factory=dict)
    """Task -> how its examples were put into groups, or why not."""

    @property
    def met(self) -> bool:
        """Whether every asked-for bound is shown."""
        return all(bound.met for bound in self.bounds)


def prove(
    results: Mapping[str, Mapping[str, TaskResult]],
    within: float | None = None,
    max_negative_flips: float | None = None,
    grouped: Mapping[str, str] | None = None,
    trained_on: Mapping[str, int] | None = None,
) -> Proof:
    """Judges the three stages.

    Args:
        results: task -> stage (``reference``, ``base``, ``repaired``) -> result.
        within: largest loss against the reference, as a share of the score's range (0.01: one point of accuracy); for perplexity in
            nats per token (0.01: 1% of perplexity).
        max_negative_flips: largest share of examples that the reference solved and the repaired model does not; of tasks whose
            scores are right or wrong.
        grouped: task -> how its examples were put into groups.
        trained_on: task -> how many of its examples the repair trained on.
    """
    judged = corrected([compare(by_stage[a], by_stage[b]) for a, b in CHANGES for by_stage in results.values()])
    count = len(results)
    broke, repaired, left = (judged[i * count : (i + 1) * count] for i in range(3))
    bounds = [_within(c, within) for c in left] if within is not None else []
    if max_negative_flips is not None:
        bounds += [_flips(c, max_negative_flips) for c in [c for c in left if c.flips is not None] or left]
    return Proof(
        capabilities=_tested({task: _capabilities(by_stage) for task, by_stage in results.items()}, results),
        broke=broke,
        repaired=repaired,
        left=left,
        recovered={b.task: _recovered(b, r) for b, r in zip(broke, repaired)},
        bounds=[_on_others(bound, (trained_on or {}).get(bound.task, 0)) for bound in bounds],
        grouped=grouped or {},
    )


def _recovered(broke: Comparison, repaired: Comparison) -> float | None:
    lost = broke.test.effect or 0.0
    if (lost < 0) != broke.better_high or lost == 0:
        return None
    # Adding 0 turns -0 into 0.
    return -(repaired.test.effect or 0.0) / lost + 0.0


def _within(left: Comparison, margin: float) -> Bound:
    if left.test.effect is None or left.test.low is None or left.test.high is None:
        return Bound(False, f"{left.task}: there is no interval of the difference, so nothing can be shown", left.task)
    sign, worst = (1.0, left.test.low) if left.better_high else (-1.0, left.test.high)
    unit = " nats per token" if left.metric == "perplexity" else ""
    head = f"{left.task}: repaired minus reference {left.test.effect:+.4f}{unit}, at worst {worst:+.4f} (95%)"
    if sign * worst > -margin:
        return Bound(True, f"{head}: within {margin:g}, shown", left.task)
    why = "not shown; more examples would settle it" if sign * left.test.effect > -margin else "not met"
    return Bound(False, f"{head}: within {margin:g} is {why}", left.task)


def _flips(left: Comparison, most: float) -> Bound:
    if left.flips is None:
        why = "scores are not right or wrong, so there are no flips to bound; name a task with answers"
        return Bound(False, f"{left.task}: {why}", left.task)
    rate = left.flips.negative
    head = f"{left.task}: negative flips {100 * rate.value:.2f}%, at most {100 * rate.high:.2f}% (95%)"
    if rate.high < most:
        return Bound(True, f"{head}: under {100 * most:g}%, shown", left.task)
    why = "not shown; more examples would settle it" if rate.value < most else "not met"
    return Bound(False, f"{head}: under {100 * most:g}% is {why}", left.task)


def _on_others(bound: Bound, trained_on: int) -> Bound:
    """The bound; met on examples that were trained on, it is not shown."""
    if not bound.met or not trained_on:
        return bound
    return replace(bound, met=False, text=f"{bound.text} only on examples of which the repair trained on {trained_on}")


def _tested(
    capabilities: Mapping[str, Sequence[Capability]], results: Mapping[str, Mapping[str, TaskResult]]
) -> dict[str, list[Capability]]:
    """The groups with their three changes, Holm-corrected over all of them."""
    chosen = [(task, c) for task, several in capabilities.items() for c in several if c.label and c.items > 1]
    groups = [_of_group(results[task], c) for task, c in chosen]
    judged = corrected([compare(group[a], group[b], examples=0) for group in groups for a, b in CHANGES])
    changes = {(task, c.label, c.name): judged[3 * i : 3 * i + 3] for i, (task, c) in enumerate(chosen)}
    return {
        task: [replace(c, changes=changes.get((task, c.label, c.name), ())) for c in several]
        for task, several in capabilities.items()
    }


def _of_group(by_stage: Mapping[str, TaskResult], group: Capability) -> dict[str, TaskResult]:
    """The three results on the examples of one group."""
    return {
        stage: replace(r, outcomes=[o for o in r.outcomes if o.labels.get(group.label) == group.name])
        for stage, r in by_stage.items()
    }


def _capabilities(by_stage: Mapping[str, TaskResult]) -> list[Capability]:
    """The task's groups by group (else by skill), those that lost most first; one line for all where there are none."""
    from whet.measure.estimates import is_better_high, split_key

    metric = by_stage[REFERENCE].metric
    found: dict[str, dict[str, dict[str, Any]]] = {"group": {}, "skill": {}}
    for stage in STAGES:
        for key, estimate in by_stage[stage].estimates.items():
            name, label, value = split_key(key)
            if name == metric and label in found:
                found[label].setdefault(value, {})[stage] = estimate
    label = "group" if found["group"] else "skill"
    values = found[label]
    whole = {stage: by_stage[stage].estimates[metric] for stage in STAGES}
    groups = {name: stages for name, stages in values.items() if len(stages) == len(STAGES)} if len(values) > 1 else {}
    sign = 1.0 if is_better_high(metric) else -1.0
    lines = [
        Capability(name, stages[REFERENCE].n, {s: (e.value, e.low, e.high) for s, e in stages.items()}, label)
        for name, stages in groups.items()
    ]
    lines.sort(key=lambda c: sign * (c.scores["base"][0] - c.scores[REFERENCE][0]))
    return [Capability("all", whole[REFERENCE].n, {s: (e.value, e.low, e.high) for s, e in whole.items()}), *lines]
