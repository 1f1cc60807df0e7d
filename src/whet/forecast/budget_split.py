"""Divides an annotation budget between demonstrations (SFT) and preference pairs (DPO), by a rule or by a fit to pilot runs.

With budget C, prices c_sft and c_pref and share s of the cost for pairs, floor(s C / c_pref) pairs are bought and
demonstrations for what is left; what buys no whole example is said, so that the costs add up to C exactly.

Without observations the rule decides: up to 1,000 examples s = 0; then s grows with the logarithm of the budget to 0.75 at
20,000. A share above 0.9 is never taken unless ``format_rate`` says that the model already writes the form of the answer:
preference training on a base that does not have the form starts cold and fails, and a tenth of the budget in demonstrations
repairs that. The probe of ``whet forecast budget-split --model M --data ROWS`` measures that rate; below 5% demonstrations
come first. How s grows in between is a choice of this part.

With pilot runs, given in examples, score(C) = a - b C^(-c) is fitted for each share (at least 3 budgets each), and the share
whose prediction is best is taken; the bootstrap over seeds tells how sure that is. Pools of both kinds have disjoint prompts
of one distribution. A pair holds two answers: at equal examples DPO reads twice the tokens; prices say whether that costs.

Defaults: equal prices, cap 0.9, relied on up to 4 times the largest pilot budget.

Paper: sft-vs-preference-budget — Balancing the Budget: Understanding Trade-offs Between Supervised and Preference-Based Finetuning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le

from whet.errors import DataError
from whet.forecast.observations import Floats, Observation, Observed, Series, series_of
from whet.forecast.power_laws import fit_trends, refuse_infeasible, replicates
from whet.forecast.predicted import CONFIDENCE, REACH, Extrapolation, Prediction, rank, too_far
from whet.forecast.splits import CAP, COLD, BudgetPlan, Choice, Split, default_share, split

LAW = "budget-split"
LEAST = 3


@dataclass(frozen=True, kw_only=True)
class BudgetSplit:
    """``price_sft``, ``price_preference``: of one example. ``cap``: largest share without the form of the answer.
    ``format_rate``: share of the model's own replies that have it, if known. ``ceiling``: the best score there can be.
    ``reach``, ``resamples``, ``seed``: of the fit."""

    grouped_by: ClassVar[str] = "preference"
    """What groups of a comparison's variants are, unless the user says otherwise."""
    optional: ClassVar[bool] = True
    """It answers without observations too."""

    price_sft: Annotated[float, Gt(0)] = 1.0
    price_preference: Annotated[float, Gt(0)] = 1.0
    cap: Annotated[float, Gt(0), Le(1)] = CAP
    format_rate: Annotated[float, Ge(0), Le(1)] | None = None
    ceiling: Annotated[float, Gt(0)] = 1.0
    reach: Annotated[float, Gt(1), Le(8)] = REACH
    resamples: Annotated[int, Gt(99)] = 1000
    seed: int = 0

    def __call__(self, observed: Observed, at: Sequence[float]) -> BudgetPlan:
        """Divides every budget in ``at``.

        Args:
            observed: pilot runs: ``size`` is the number of examples, ``group`` the share of pairs among them; or none.
            at: budgets, in cost.

        Raises:
            DataError: pilot runs that cannot be fitted.
            RecipeError: a budget that buys no example.
        """
        if not len(at) or min(at) <= 0:
            raise DataError(f"{LAW}: at: name the budgets to divide, each positive; got {list(at)}")
        if not observed.rows:
            return BudgetPlan(LAW, observed.metric, (), observed.notes, (), tuple(map(self._by_rule, at)))
        return self._fitted(observed, np.array(at, dtype=np.float64))

    @property
    def _largest(self) -> float:
        """The largest share that may be taken."""
        return 1.0 if self.format_rate is not None and self.format_rate >= COLD else self.cap

    def _by_rule(self, budget: float) -> Choice:
        share = round(default_share(budget / self.price_sft, self._largest), 4)
        why = "by rule: up to 1,000 examples demonstrations alone" if share == 0 else "by rule: the share grows with the budget"
        return Choice(self._split(budget, share), f"{why}; {self._form()}", {}, {})

    def _form(self) -> str:
        if self.format_rate is None:
            return f"whether the model has the form of the answer is not known, so a share above {self.cap:g} is not taken"
        if self.format_rate < COLD:
            return f"{100 * self.format_rate:.1f}% of its replies have the form of the answer: demonstrations first"
        return f"{100 * self.format_rate:.1f}% of its replies have the form of the answer"

    def _split(self, budget: float, share: float) -> Split:
        return split(budget, share, self.price_sft, self.price_preference)

    def _fitted(self, observed: Observed, at: Floats) -> BudgetPlan:
        if observed.lower:
            raise DataError(f"{LAW}: less of {observed.metric} is better; give a score of which more is better, such as accuracy")
        several = sorted(series_of(self._priced(observed), LAW, least=LEAST), key=lambda series: _share_of(series.group))
        for series in several:
            refuse_infeasible(series, self.ceiling, LAW)
        curves = [self._curves(series, at) for series in several]
        found = [self._extrapolation(series, drawn, at) for series, drawn in zip(several, curves)]
        choices = tuple(self._choice(several, found, curves, i, budget) for i, budget in enumerate(at.tolist()))
        return BudgetPlan(LAW, observed.metric, tuple(found), observed.notes, rank(found)[0], choices)

    def _priced(self, observed: Observed) -> Observed:
        """Pilot runs in cost: examples and their share of pairs, at the prices of each."""

        def priced(row: Observation) -> Observation:
            share = _share_of(row.group)
            pair, each = share * self.price_preference, (1 - share) * self.price_sft + share * self.price_preference
            return replace(row, size=row.size * each, group=f"{pair / each:.4g}")

        return replace(observed, rows=tuple(map(priced, observed.rows)))

    def _curves(self, series: Series, at: Floats) -> Floats:
        """Predictions: the fit's, and those of the bootstrap's draws: [1 + resamples, len(at)]."""
        fit = fit_trends(series.sizes, series.means[None])
        drawn = replicates(series, fit.at(series.sizes)[0], self.resamples, self.seed)
        refits = fit_trends(series.sizes, drawn, zoom=5)
        return np.clip(np.concatenate([fit.at(at), refits.at(at)]), 0.0, self.ceiling)

    def _extrapolation(self, series: Series, curves: Floats, at: Floats) -> Extrapolation:
        fit, largest = fit_trends(series.sizes, series.means[None]), float(series.sizes[-1])
        low, high = np.quantile(curves[1:], [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
        exact = len(series.scores) == 1 and len(series.sizes) == LEAST
        unknown = "three budgets at one seed fit any curve exactly, so the interval says nothing; add seeds" if exact else ""
        a, b, c = float(fit.c[0]), float(fit.a[0] * fit.scale ** fit.b[0]), float(fit.b[0])
        predictions = [
            Prediction(
                size=x,
                value=float(v),
                low=min(float(lo), float(v)),
                high=max(float(hi), float(v)),
                factor=x / largest,
                doubt="; ".join(filter(None, (too_far(x, largest, self.reach), unknown))),
            )
            for x, v, lo, hi in zip(at.tolist(), curves[0], low, high)
        ]
        parameters = {"a": a, "b": b, "c": c}
        return Extrapolation(
            f"share {series.group}", f"score(C) = {a:.4g} - {b:.4g} C^-{c:.4g}", parameters, tuple(predictions), series.last
        )

    def _choice(
        self, several: Sequence[Series], found: Sequence[Extrapolation], curves: Sequence[Floats], i: int, budget: float
    ) -> Choice:
        """The best share of those that may be taken, for the i-th budget."""
        shares = [_share_of(series.group) for series in several]
        open_ = [j for j, share in enumerate(shares) if share <= self._largest]
        if not open_:
            raise DataError(
                f"{LAW}: every share observed is above {self._largest:g}; observe smaller ones, or measure format_rate"
            )
        best = np.array([curves[j][:, i] for j in open_]).argmax(0)
        drawn = np.array([shares[j] for j in open_])[best]
        share, rest = float(drawn[0]), drawn[1:]
        low, high = np.quantile(rest, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], method="nearest")
        expected = {f"{shares[j]:g}": found[j].predictions[i] for j in open_}
        why = f"by fit: {expected[f'{share:g}'].value:.4g} expected, the most of {len(open_)} shares; {self._form()}"
        return Choice(
            split=self._split(budget, share),
            why=why,
            expected=expected,
            best_in={f"{s:g}": float(np.mean(rest == s)) for s in sorted({shares[j] for j in open_})},
            likely=(float(low), float(high)),
            doubt=expected[f"{share:g}"].doubt,
        )


def _share_of(group: str) -> float:
    try:
        share = float(group)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise DataError(f"{LAW}: group {group!r}: pilot runs are grouped by the share of preference pairs, a number from 0 to 1")
    return share
