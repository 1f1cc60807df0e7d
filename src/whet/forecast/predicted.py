"""What a law answers: predictions with intervals, how far they reach beyond what was observed, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

CONFIDENCE = 0.95
REACH = 4.0
"""How many times the largest observed size a law is relied on, unless a setting says otherwise."""


@dataclass(frozen=True)
class Prediction:
    """The score expected at a size, with its 95% interval. ``factor``: how many times the largest observed size it is.
    ``doubt``: why it is not to be relied on, empty if nothing speaks against it.
    """

    size: float
    value: float
    low: float
    high: float
    factor: float
    doubt: str = ""


@dataclass(frozen=True)
class Extrapolation:
    """One group's law. ``formula`` shows it with its numbers, ``parameters`` are these numbers, ``last`` is the largest observed
    size and the mean score there, ``figures`` is what else the law tells (as plain data), ``notes`` are sentences.
    """

    group: str
    formula: str
    parameters: Mapping[str, float]
    predictions: tuple[Prediction, ...]
    last: tuple[float, float]
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecasted:
    """A forecast: what each group's law says. ``ranking``: groups by what is expected of them at the largest size, best first."""

    law: str
    metric: str
    extrapolations: tuple[Extrapolation, ...]
    notes: tuple[str, ...] = ()
    ranking: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether what was asked for holds; a plain forecast asks for nothing."""
        return True

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """The predictions of all groups, in their order."""
        return tuple(p for e in self.extrapolations for p in e.predictions)

    def data(self) -> dict[str, Any]:
        """The forecast as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The forecast as text, line by line."""
        out = [f"{self.law}: {self.metric}"]
        for one in self.extrapolations:
            out += _lines(one)
        if len(self.ranking) > 1:
            out.append(f"expected order, best first: {', '.join(self.ranking)}")
        return [*out, *self.notes]

    def text(self) -> str:
        """The forecast as it is printed."""
        return "\n".join(self.lines())

    def print(self) -> None:
        """Prints the forecast."""
        print(self.text())


def _lines(one: Extrapolation) -> list[str]:
    size, score = one.last
    indent = "  " if one.group else ""
    out = [one.group] if one.group else []
    out.append(f"{indent}{one.formula}; observed last: {score:.4g} at {size:g}")
    for p in one.predictions:
        doubt = f"  NOT TO BE RELIED ON: {p.doubt}" if p.doubt else ""
        out.append(f"{indent}at {p.size:g} ({p.factor:.3g} times as far): {p.value:.4g} [{p.low:.4g}, {p.high:.4g}]{doubt}")
    out += [
        f"{indent}{name}: {_figure(value)}" for name, value in one.figures.items() if not isinstance(value, (list, tuple, dict))
    ]
    return out + [f"{indent}{note}" for note in one.notes]


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "not reached" if value is None else str(value)


def too_far(size: float, largest: float, reach: float) -> str:
    """The doubt about a prediction beyond ``reach`` times the largest observed size; empty within.

    >>> too_far(3200, 800, 4.0), too_far(8000, 800, 4.0)
    ('', 'extrapolates 10 times beyond the largest observed size, 800; the law is relied on up to 4 times (3200)')
    """
    if size <= reach * largest * (1 + 1e-9):
        return ""
    return (
        f"extrapolates {size / largest:.3g} times beyond the largest observed size, {largest:g}; the law is relied on up to "
        f"{reach:g} times ({reach * largest:g})"
    )


def rank(extrapolations: Sequence[Extrapolation], *, lower: bool = False) -> tuple[tuple[str, ...], list[str]]:
    """Groups by the prediction at the largest size, best first, and a note on those that lie below the best with intervals apart."""
    expected = {one.group: one.predictions[-1] for one in extrapolations}
    ordered = sorted(expected, key=lambda group: expected[group].value * (1 if lower else -1))
    best = expected[ordered[0]]

    def lost(p: Prediction) -> bool:
        return not p.doubt and not best.doubt and (p.low > best.high if lower else p.high < best.low)

    behind = [group for group in ordered[1:] if lost(expected[group])]
    notes = [f"expected behind {ordered[0]} with intervals apart, need not be observed further: {', '.join(behind)}"]
    return tuple(ordered), notes if behind else []
