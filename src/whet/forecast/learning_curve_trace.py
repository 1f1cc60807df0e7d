"""Predicts accuracy on all data from a portion, by the sequence of power laws fitted to a growing curve.

A(x) = c - a x^(-b), with a >= 0 and b > 0, is fitted to the first 3, 4, ... observations. Not one fit is trusted but the
sequence of fits, the trace: after the noisy start (the *working level*, where the trend gains less than ``slope`` per e-fold of
data) it is watched until trends agree or their asymptotes, the backbone, no longer rise (the *prediction level*). From the
working level on each trend is anchored: the asymptote of the one before is one more observation, at infinity, so that single
irregular points do not throw it. What the last trend still has to its asymptote, c - A(x), bounds the gain that is possible.

Gives predictions at any size, the size needed for a ``wanted`` score, the order of several learners at full size, the error
over the rest of the curve where some is left (MAPE), and the whole backbone. A prediction before the prediction level, or too far
beyond the observed sizes, says so.

Observations: at least 5 sizes, each a beginning of one random order of the data (nested), measured on one test set; the mean
over seeds is traced. Several permutations steady the level more than denser steps. The law fails after a change of phase and
for learners whose curves have steps, such as decision trees.

Defaults: agreement of 4 trends within 0.005 of the ceiling about the largest size asked for (made for curves of few points; the
original looks at the backbone); slope 0.1 of the ceiling; relied on up to 4 times the largest size.

Paper: learning-curves — Modeling of learning curves with applications to pos tagging
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.forecast.observations import Observed
from whet.forecast.predicted import Forecasted, rank
from whet.forecast.traces import Tracing, extrapolate, traced

LAW = "learning-curve-trace"


@dataclass(frozen=True, kw_only=True)
class LearningCurveTrace(Tracing):
    """``wanted``: a score, of which the size that it takes is told. The other settings: see :class:`Tracing`."""

    wanted: float | None = None

    def __call__(self, observed: Observed, at: Sequence[float]) -> Forecasted:
        """Traces every group's curve and predicts it at these sizes.

        Raises:
            DataError: observations that cannot be traced, see :func:`traced`.
        """
        found = [extrapolate(series, trace, at, self, self.wanted) for series, trace in traced(observed, at, self, LAW)]
        ranking, notes = rank(found)
        return Forecasted(LAW, observed.metric, tuple(found), (*observed.notes, *notes), ranking)
