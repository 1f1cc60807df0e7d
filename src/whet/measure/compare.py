"""Compares two models on the same examples: which test, which interval, what could have been seen, and what flipped.

Right-or-wrong scores: McNemar with Newcombe's interval. Real-valued scores (rewards, prefix accuracy, means over several
samples, negative log-likelihoods weighted by tokens): paired sign-flip permutation, BCa bootstrap of the differences. Examples
that come from one document are flipped and resampled together. Effects are new minus old.

Nothing is judged where both models are at chance or at the ceiling. A large p is not evidence of equality: for that there is
the equivalence test (TOST) against a margin, and the smallest difference that these examples could have shown with power 0.8.
The numbers speak of these two checkpoints; training seeds are not in them.

Paper: muscle — MUSCLE: A Model Update Strategy for Compatible LLM Evolution
Paper: model-evaluation — Model Evaluation, Model Selection, and Algorithm Selection in Machine Learning
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, sqrt
from typing import Literal

import numpy as np

from whet.errors import RecipeError
from whet.measure.conditions import refuse_different
from whet.measure.estimates import documents_of, is_better_high, is_binary, values_of
from whet.measure.metrics.flips import FlipRates, flip_rates, paired
from whet.measure.outcome import Outcome, TaskResult
from whet.measure.statistics import (
    TestResult,
    detectable_difference,
    detectable_mean_difference,
    holm,
    mcnemar,
    paired_permutation,
    tost,
)

Verdict = Literal["better", "worse", "equivalent", "no difference found", "floor", "ceiling"]
Pairs = Sequence[tuple[Outcome, Outcome]]

NEAR = 2.0
"""Standard errors from chance or ceiling within which a model counts as being there."""


@dataclass(frozen=True)
class Flip:
    """One example on which the two models differ, for reading side by side; ``negative``: the new one is worse."""

    kind: Literal["negative", "positive"]
    id: str
    prompt: str
    reference: str
    old: str
    new: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """New against old on one task.

    ``test.effect`` is new minus old of the score (for perplexity: of the nats per token) with ``test.low`` and ``test.high``;
    ``p`` is corrected if several comparisons were (:func:`corrected`), else the test's own. ``equivalence`` tests whether the
    effect lies inside ``margin``. ``detectable`` is the smallest difference that the examples could have shown (power 0.8;
    ``inf``: none). ``guard`` is set where nothing may be judged. ``baselines`` need no model.
    """

    task: str
    metric: str
    old: str
    new: str
    old_value: float
    new_value: float
    test: TestResult
    equivalence: TestResult
    margin: float
    detectable: float
    better_high: bool
    p: float
    alpha: float = 0.05
    comparisons: int = 1
    guard: Literal["floor", "ceiling"] | None = None
    flips: FlipRates | None = None
    examples: Sequence[Flip] = ()
    baselines: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> Verdict:
        """What may be said at level ``alpha``."""
        if self.guard:
            return self.guard
        if self.p < self.alpha:
            return "better" if ((self.test.effect or 0.0) > 0) == self.better_high else "worse"
        return "equivalent" if self.equivalence.p < self.alpha else "no difference found"

    def print(self) -> None:
        print(self)

    def __str__(self) -> str:
        head = f"{self.task}, {self.metric}: {self.new} against {self.old} on the same {self.test.n} items: {self.verdict}"
        lines = [head, self._effect_line(), self._power_line(), *self._flip_lines(), *(f"  {note}" for note in self.notes)]
        return "\n".join([*lines, *(_side_by_side(flip) for flip in self.examples)])

    def _effect_line(self) -> str:
        effect, low, high = self.test.effect or 0.0, self.test.low or 0.0, self.test.high or 0.0
        holm_over = f", Holm-corrected over {self.comparisons}" if self.comparisons > 1 else ""
        change = f"{self.old_value:.4g} -> {self.new_value:.4g}; difference {effect:+.4g} [{low:+.4g}, {high:+.4g}]"
        return f"  {change}, p = {self.p:.3g} ({self.test.name}, {self.test.note}{holm_over}); these checkpoints only"

    def _power_line(self) -> str:
        same = f"equivalence within ±{self.margin:g}: p = {self.equivalence.p:.3g}"
        return f"  smallest difference that could be seen: {self.detectable:.3g}; {same}"

    def _flip_lines(self) -> list[str]:
        lines = []
        if self.flips:
            shares = {"newly wrong": self.flips.negative, "newly right": self.flips.positive}
            lines.append(
                "  " + ", ".join(f"{k} {100 * e.value:.1f}% [{100 * e.low:.1f}, {100 * e.high:.1f}]" for k, e in shares.items())
            )
        if self.baselines:
            lines.append("  without a model: " + ", ".join(f"{name} {value:.3f}" for name, value in self.baselines.items()))
        return lines


def compare(
    old: TaskResult,
    new: TaskResult,
    *,
    score: str = "score",
    margin: float = 0.01,
    alpha: float = 0.05,
    examples: int = 3,
    allow: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compares two results of the same task on the same examples.

    Args:
        old: the reference; its outcomes' order is kept.
        new: what is judged.
        score: ``score`` or the name of one of the outcomes' ``scores``.
        margin: largest difference that does not matter, for the equivalence test (0.01: one point of accuracy).
        alpha: level of the verdict.
        examples: how many flips of each kind are kept to be read.
        allow: conditions that may differ (``("dtype",)``); they are noted.
        seed: of permutations and bootstrap.

    Raises:
        RecipeError: other tasks, other metrics, or other conditions (each listed with both values).
        DataError: the outcomes cannot be paired.
    """
    if (old.task, old.metric) != (new.task, new.metric):
        raise RecipeError(
            f"cannot compare {old.task} ({old.metric}) of {old.model} with {new.task} ({new.metric}) of {new.model}"
        )
    refuse_different(old.conditions, new.conditions, allow, f"{new.task}: {new.model} against {old.model}")
    pairs = paired(old.outcomes, new.outcomes)
    high = is_better_high(new.metric if score == "score" else score)
    before, after = _values(pairs, 0, score), _values(pairs, 1, score)
    documents = documents_of([a for a, _ in pairs])
    test = _test(before, after, documents, seed)
    unit_scores = high and all(0.0 <= v <= 1.0 for v in (*before, *after))
    return Comparison(
        task=new.task,
        metric=new.metric if score == "score" else score,
        old=old.model,
        new=new.model,
        old_value=float(np.mean(before)),
        new_value=float(np.mean(after)),
        test=test,
        equivalence=tost(after, before, margin, alpha),
        margin=margin,
        detectable=_detectable(before, after, alpha),
        better_high=high,
        p=test.p,
        alpha=alpha,
        guard=guard(before, after, float(new.receipt.get("baselines", {}).get("random", 0.0))) if unit_scores else None,
        flips=flip_rates(old.outcomes, new.outcomes) if unit_scores and score == "score" else None,
        examples=_examples(pairs, examples) if unit_scores and score == "score" else (),
        baselines=dict(new.receipt.get("baselines", {})),
        notes=_notes(allow, documents, test),
    )


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one report with Holm's correction of ``p``, and so of the verdicts; intervals stay single 95% ones."""
    adjusted = holm([comparison.test.p for comparison in comparisons])
    return [replace(comparison, p=p, comparisons=len(comparisons)) for comparison, p in zip(comparisons, adjusted)]


def alone(low: float | None, high: float | None, shown: bool, comparisons: int) -> str:
    """What stands beside an interval that leaves out 0 where the corrected p shows nothing; else empty."""
    taken_back = comparisons > 1 and not shown and (low or 0.0) * (high or 0.0) > 0
    return "; the interval is of this pair alone" if taken_back else ""


def _values(pairs: Pairs, side: int, score: str) -> list[float]:
    """Scores of one side, scaled by weight over mean weight, so that plain means of them are the weighted ones."""
    weights = [a.weight for a, _ in pairs]
    typical = sum(weights) / len(weights)
    return [value * weight / typical for value, weight in zip(values_of([pair[side] for pair in pairs], score), weights)]


def _test(old: Sequence[float], new: Sequence[float], documents: Sequence[str] | None, seed: int) -> TestResult:
    if documents is None and is_binary(old) and is_binary(new):
        return mcnemar(new, old)
    return paired_permutation(new, old, groups=documents, seed=seed)


def _detectable(old: Sequence[float], new: Sequence[float], alpha: float) -> float:
    gaps = np.asarray(new) - np.asarray(old)
    n = len(gaps)
    if is_binary(old) and is_binary(new):
        return _detectable_share(n, max(float(np.mean(gaps != 0)), 1 / n), alpha)
    deviation = float(gaps.std(ddof=1)) if n > 1 else 0.0
    return detectable_mean_difference(deviation, n, alpha=alpha) if n > 1 else inf


def _detectable_share(n: int, discordant_share: float, alpha: float) -> float:
    """As :func:`detectable_difference`; an effect larger than the discordant share seen here brings its own discordant items."""
    found = detectable_difference(n, discordant_share, alpha=alpha)
    if found < inf or detectable_difference(n, 1.0, alpha=alpha) == inf:
        return found
    low, high = discordant_share, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if detectable_difference(n, middle, alpha=alpha) < inf else (middle, high)
    return high


def guard(old: Sequence[float], new: Sequence[float], chance: float) -> Literal["floor", "ceiling"] | None:
    """Whether both arms' scores in [0, 1] are within two standard errors of chance, or of 1, so that nothing may be judged."""
    if all(_near(values, chance) for values in (old, new)):
        return "floor"
    return "ceiling" if all(_near(values, 1.0) for values in (old, new)) else None


def _near(values: Sequence[float], level: float) -> bool:
    """Whether the mean is within ``NEAR`` standard errors of a level; two added successes and failures keep the error above 0."""
    n, mean = len(values), float(np.mean(values))
    smooth = (mean * n + 2) / (n + 4)
    return abs(mean - level) <= NEAR * sqrt(smooth * (1 - smooth) / (n + 4)) + 1e-12


def _examples(pairs: Pairs, count: int) -> list[Flip]:
    """``count`` flips of each kind, spread over the examples; the negative ones first."""
    found = []
    for kind, sign in (("negative", -1.0), ("positive", 1.0)):
        flipped = [(a, b) for a, b in pairs if (b.score - a.score) * sign > 0]
        step = max(1, len(flipped) // count) if count else 1
        for a, b in flipped[::step][:count]:
            found.append(Flip(kind, a.id, a.prompt, a.reference, a.completion, b.completion, a.labels))  # type: ignore[arg-type]
    return found


def _notes(allow: Sequence[str], documents: Sequence[str] | None, test: TestResult) -> list[str]:
    notes = [f"conditions allowed to differ: {', '.join(allow)}"] if allow else []
    if documents is not None:
        notes.append(f"{len(documents)} examples come from {test.n} documents, which are resampled as a whole")
    return notes


def _side_by_side(flip: Flip, width: int = 58) -> str:
    """The two completions in two columns under prompt and reference."""
    left, right = _wrapped(flip.old, width), _wrapped(flip.new, width)
    rows = max(len(left), len(right))
    left, right = left + [""] * (rows - len(left)), right + [""] * (rows - len(right))
    skill = f" ({flip.labels['skill']})" if "skill" in flip.labels else ""
    head = f"\n  [{flip.kind} flip{skill}] {flip.prompt}\n  right: {flip.reference}\n  {'old':<{width}} | new"
    return "\n".join([head, *(f"  {a:<{width}} | {b}".rstrip() for a, b in zip(left, right))])


def _wrapped(text: str, width: int) -> list[str]:
    return [line[i : i + width] for line in text.splitlines() for i in range(0, max(len(line), 1), width)]
