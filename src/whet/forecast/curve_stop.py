"""Says whether more data, or more training, can still gain as much as is asked for: stop, or go on.

The rule of proximity on the trace of a learning curve: once the trends agree (the prediction level), A(x) = c - a x^(-b) can gain
at most eps = c - A(x) beyond the last observation, however far it is continued. With eps <= ``within`` it is time to stop;
before the prediction level nothing is known and it goes on. Where a largest size is given, only the gain up to there counts.

For annotation budgets, and for a training that is watched (its curve over the examples seen). A learning rate that falls to zero
bends a training curve by itself; watch such a run with a constant one.

Defaults: ``within`` 0.01 (one point of accuracy); the rest as in ``learning-curve-trace``.

Paper: learning-curves — Modeling of learning curves with applications to pos tagging
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from whet.forecast.observations import Observed, Series
from whet.forecast.predicted import Forecasted
from whet.forecast.traces import Trace, Tracing, extrapolate, traced

LAW = "curve-stop"


@dataclass(frozen=True)
class Stop(Forecasted):
    """A forecast and what follows: whether to ``stop``, and the largest ``gain`` that is still possible (``inf`` if unknown)."""

    stop: bool = False
    gain: float = float("inf")
    reason: str = ""

    @property
    def met(self) -> bool:
        """Whether it is time to stop."""
        return self.stop

    def lines(self) -> list[str]:
        """The forecast as text, the decision last."""
        return [*super().lines(), f"{'stop' if self.stop else 'go on'}: {self.reason}"]


@dataclass(frozen=True, kw_only=True)
class CurveStop(Tracing):
    """``within``: the gain that is not worth going on for. The other settings: see :class:`Tracing`."""

    within: Annotated[float, Gt(0)] = 0.01

    def __call__(self, observed: Observed, at: Sequence[float] = ()) -> Stop:
        """Decides for all groups together: stop when none can gain more than ``within``.

        Args:
            observed: at least 5 sizes.
            at: the largest size that there could be; default: without end.

        Raises:
            DataError: observations that cannot be traced, see :func:`traced`.
        """
        largest = [max(at)] if len(at) else [max((row.size for row in observed.rows), default=1.0) * self.reach]
        pairs = traced(observed, largest, self, LAW)
        gains = [self._gain(series, trace, bool(len(at)), largest[0]) for series, trace in pairs]
        gain = max(gains)
        stop = gain <= self.within
        if gain == float("inf"):
            reason = "the trends do not agree yet, so nothing is known of what is to come"
        else:
            far = f"up to {largest[0]:g}" if len(at) else "however far it goes"
            compared = "within" if stop else "more than"
            reason = f"at most {gain:.3g} can still be gained {far}, which is {compared} {self.within:g}"
        found = tuple(extrapolate(series, trace, largest, self) for series, trace in pairs)
        return Stop(LAW, observed.metric, found, observed.notes, (), stop, gain, reason)

    def _gain(self, series: Series, trace: Trace, bounded: bool, largest: float) -> float:
        if trace.level is None:
            return float("inf")
        at_last = float(trace.at(-1, series.sizes[-1:])[0])
        return float(trace.targets[-1] if bounded else trace.c[-1]) - at_last
