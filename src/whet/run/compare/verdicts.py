"""The judge: which differences between variants are real, how large, and what could have been seen.

With two seeds or more, seeds and items are both random (:func:`whet.measure.statistics.crossed_t`); with one, McNemar or the
paired permutation test speaks of these checkpoints only. All comparisons of a report are Holm-corrected together. Nothing is
judged where all scores are at chance or at the ceiling. No winner is named where a declared budget was not kept.

Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
Paper: muscle — MUSCLE: A Model Update Strategy for Compatible LLM Evolution
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import DataError, RecipeError
from whet.measure.compare import alone, compare, guard
from whet.measure.conditions import differences
from whet.measure.estimates import documents_of, is_better_high
from whet.measure.estimates import mean as share_or_mean
from whet.measure.statistics import crossed_t, hierarchical_bootstrap, holm
from whet.measure.statistics.crossed import by_document

if TYPE_CHECKING:
    from whet.measure.outcome import Outcome, TaskResult

Results = Mapping[int, "TaskResult"]
"""Seed -> the result of one task."""

ALL_PAIRS_UP_TO = 6
"""Variants up to which every pair is judged; with more, each is judged against the first."""


NATS = "nats per token"


@dataclass(frozen=True)
class Verdict:
    """Second variant against the first on one task. ``effect`` is second minus first, with its 95% interval.

    ``p`` is corrected over the report's ``comparisons`` (Holm), ``raw_p`` is not. ``detectable``: the smallest true difference that these seeds and
    items would have shown with 80% power at the corrected level, infinite if none. ``by_seed``: the effect of each seed. ``unmatched``: why no
    winner is named whatever the test finds. ``guard``: ``floor`` or ``ceiling``.
    """

    task: str
    metric: str
    first: str
    second: str
    first_value: float
    second_value: float
    effect: float
    low: float
    high: float
    p: float
    raw_p: float
    test: str
    note: str
    detectable: float
    equal_p: float
    margin: float
    by_seed: Mapping[int, float]
    better_high: bool
    comparisons: int = 1
    alpha: float = 0.05
    guard: str = ""
    unmatched: str = ""
    flips: Mapping[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``better``, ``worse``, ``same`` (shown equal), ``open`` (no difference seen), ``floor``, ``ceiling``, ``unmatched``."""
        if self.guard:
            return self.guard
        if self.p < self.alpha:
            return "unmatched" if self.unmatched else "better" if (self.effect > 0) == self.better_high else "worse"
        return "same" if self.equal_p < self.alpha else "open"

    def sentence(self) -> str:
        """The verdict in words."""
        change = f"{self.first_value:.4g} to {self.second_value:.4g}{self.unit and ' ' + self.unit}"
        change += f", difference {self.effect:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"
        corrected = f", corrected over {self.comparisons} tests" if self.comparisons > 1 else ""
        corrected += alone(self.low, self.high, self.kind != "open", self.comparisons)
        change += f", p = {self.p:.2g} ({self.test}, {self.note}{corrected})"
        seen = power_words(self.detectable)
        return {
            "better": f"better: {change}",
            "worse": f"worse: {change}",
            "same": f"the same within ±{self.margin:g}: {change}",
            "open": f"no difference seen, and {seen}: {change}",
            "floor": f"not judged, both are at chance: {change}",
            "ceiling": f"not judged, both are at the ceiling: {change}",
            "unmatched": f"no winner named, {self.unmatched}: {change}",
        }[self.kind]

    @property
    def unit(self) -> str:
        """What the values and the effect are in, where the metric's name would mislead: perplexity is judged by its logarithm."""
        return NATS if self.metric == "perplexity" else ""

    def plain(self) -> dict[str, Any]:
        """As plain data, the verdict's kind and sentence with it."""
        return {**asdict(self), "kind": self.kind, "sentence": self.sentence()}


def judge(
    results: Mapping[str, Mapping[str, Results]],
    *,
    alpha: float = 0.05,
    margin: float = 0.01,
    unmatched: Mapping[tuple[str, str], str] | None = None,
    corrected_with: Sequence[float] = (),
    stopped: Collection[str] = (),
    interim: float = 0.0,
) -> list[Verdict]:
    """Judges every pair of variants on every task.

    Args:
        results: task -> variant -> seed -> result; a pair is judged on the seeds that both have.
        alpha: level of the verdicts, after Holm's correction.
        margin: largest difference that does not matter, for the test of equality.
        unmatched: pairs of which no winner may be named, and why.
        corrected_with: p values of other tests of the same report that the correction counts in.
        stopped: variants without later seeds because of how they did. Their number of seeds follows from their scores, so their
            pairs are judged at the level ``interim`` of one look and by Bonferroni's correction, which holds at every look.

    Raises:
        DataError: a pair without a common seed, or items that differ.
        RecipeError: results under different conditions.
    """
    found = [
        _pair(task, first, second, by_variant[first], by_variant[second], margin)
        for task, by_variant in results.items()
        for first, second in pairs(list(by_variant))
    ]
    early = [verdict.first in stopped or verdict.second in stopped for verdict, _ in found]
    several = len(found) + len(corrected_with)
    adjusted = holm([1.0 if is_early else v.p for (v, _), is_early in zip(found, early)] + list(corrected_with))
    equal = holm([verdict.equal_p for verdict, _ in found])
    return [
        replace(
            verdict,
            p=min(1.0, verdict.p * several) if is_early else p,
            equal_p=equal_p,
            comparisons=several,
            alpha=interim if is_early else alpha,
            detectable=_possible(detectable((interim if is_early else alpha) / several), verdict),
            unmatched=(unmatched or {}).get((verdict.first, verdict.second), ""),
        )
        for (verdict, detectable), is_early, p, equal_p in zip(found, early, adjusted, equal)
    ]


def power_words(detectable: float) -> str:
    """What would have been seen."""
    if math.isinf(detectable):
        return "these seeds and items could have shown none, however large, with 80% power"
    return f"a difference of more than {detectable:.3g} would have been seen with 80% power"


def _possible(detectable: float, verdict: Verdict) -> float:
    """Infinite where shares of right answers cannot differ by as much."""
    shares = verdict.better_high and all(0 <= value <= 1 for value in (verdict.first_value, verdict.second_value))
    return math.inf if shares and detectable > 1 else detectable


def pairs(variants: Sequence[str]) -> list[tuple[str, str]]:
    """Which variants are judged against which: (first, second)."""
    if len(variants) <= ALL_PAIRS_UP_TO:
        return list(itertools.combinations(variants, 2))
    return [(variants[0], other) for other in variants[1:]]


def variant_estimate(results: Results) -> tuple[float, float, float]:
    """A variant's mean over seeds and items with its 95% interval (both random where there are several seeds); items of one document
    go together. Scores that are 0 everywhere, or 1, have the interval of a share of the items.
    """
    first = next(iter(results.values())).outcomes
    rows = np.array([_scores(_ordered(r.outcomes, [o.id for o in first])) for r in results.values()])
    documents = documents_of(first)
    if len(rows) == 1 or (rows.min() == rows.max() and rows[0, 0] in (0.0, 1.0)):
        estimate = share_or_mean(rows[0].tolist(), groups=documents)
        return estimate.value, estimate.low, estimate.high
    drawn = hierarchical_bootstrap(by_document(rows, documents), resamples=2000)
    return float(rows.mean()), float(drawn.low or 0.0), float(drawn.high or 0.0)


def item_means(results: Results) -> dict[str, float]:
    """Item -> its score averaged over seeds."""
    ids = [o.id for o in next(iter(results.values())).outcomes]
    rows = np.array([_scores(_ordered(r.outcomes, ids)) for r in results.values()])
    return dict(zip(ids, rows.mean(0).tolist()))


def _pair(task: str, first: str, second: str, a: Results, b: Results, margin: float) -> tuple[Verdict, Callable[[float], float]]:
    """The verdict before correction, and the detectable difference as a function of the level."""
    seeds = [seed for seed in a if seed in b]
    if not seeds:
        raise DataError(f"{task}: {first!r} and {second!r} have no seed in common")
    for seed in seeds:
        _refuse_other_conditions(a[seed], b[seed], f"{task}, seed {seed}: {second} against {first}")
    reference = a[seeds[0]]
    ids = [o.id for o in reference.outcomes]
    before = np.array([_scores(_ordered(a[s].outcomes, ids)) for s in seeds])
    after = np.array([_scores(_ordered(b[s].outcomes, ids)) for s in seeds])
    common: dict[str, Any] = {
        "task": task,
        "metric": reference.metric,
        "first": first,
        "second": second,
        "first_value": float(before.mean()),
        "second_value": float(after.mean()),
        "margin": margin,
        "by_seed": {s: float(d) for s, d in zip(seeds, (after - before).mean(1))},
        "better_high": is_better_high(reference.metric),
        "guard": _guarded(before.mean(0), after.mean(0), reference),
        "flips": _flips(before, after, is_better_high(reference.metric)),
    }
    if len(seeds) == 1:
        single = compare(a[seeds[0]], b[seeds[0]], margin=margin, examples=0)
        test = single.test
        note, equal = f"{test.n} items, one seed: these checkpoints only", single.equivalence.p

        def detectable(level: float) -> float:
            return compare(a[seeds[0]], b[seeds[0]], examples=0, alpha=level).detectable

    else:
        crossed = crossed_t(after, before, documents_of(reference.outcomes))
        test, note, equal = crossed.test, crossed.test.note, crossed.lies_within(margin)

        def detectable(level: float) -> float:
            return crossed.detectable(alpha=level)

    effect, low, high = (float(v or 0.0) for v in (test.effect, test.low, test.high))
    verdict = Verdict(
        **common,
        effect=effect,
        low=low,
        high=high,
        p=test.p,
        raw_p=test.p,
        test=test.name,
        note=note,
        detectable=0.0,
        equal_p=equal,
    )
    return verdict, detectable


def _refuse_other_conditions(first: TaskResult, second: TaskResult, what: str) -> None:
    found = differences(first.conditions, second.conditions)
    if found:
        listed = "; ".join(f"{name}: {a!r} against {b!r}" for name, (a, b) in found.items())
        raise RecipeError(
            f"{what}: the two scores were not taken under the same conditions ({listed}). Give all variants the same measure steps "
            "and number format; what differs cannot be told from what the variants do"
        )


def _guarded(before: np.ndarray, after: np.ndarray, result: TaskResult) -> str:
    """``floor`` or ``ceiling`` where accuracy-like scores of both arms are at chance, or perfect."""
    values = np.stack([before, after])
    if not is_better_high(result.metric) or values.min() < 0 or values.max() > 1:
        return ""
    return guard(before.tolist(), after.tolist(), float(result.receipt.get("baselines", {}).get("random", 0.0))) or ""


def _ordered(outcomes: Iterable[Outcome], ids: Sequence[str]) -> list[Outcome]:
    by_id = {o.id: o for o in outcomes}
    if len(by_id) != len(ids) or any(i not in by_id for i in ids):
        raise DataError("the variants were not measured on the same items; measure them with the same task and rows")
    return [by_id[i] for i in ids]


def _scores(outcomes: Sequence[Outcome]) -> list[float]:
    """Scores scaled by weight over mean weight, so that plain means of them are the weighted ones."""
    typical = sum(o.weight for o in outcomes) / len(outcomes)
    return [o.score * o.weight / typical for o in outcomes]


def _flips(before: np.ndarray, after: np.ndarray, better_high: bool) -> dict[str, int]:
    """Items by how most seeds saw them: won by the second, lost by it, or the same."""
    change = (after.mean(0) - before.mean(0)) * (1 if better_high else -1)
    return {"gained": int((change > 0.5).sum()), "lost": int((change < -0.5).sum()), "items": before.shape[1]}
