"""What calibrators read and give: a frozen classifier's logits, and a confidence for each of its predictions.

A calibrator divides the logits z(x) of an item by a temperature T > 0, one for all or one for each item, and states

    confidence(x) = max softmax(z(x) / T)

so that the prediction, the class with the largest logit, never changes. Where only the log-probability l <= 0 of the given answer
is known and not those of its rivals (C = 1: an answer that was written, not chosen), the confidence is exp(l / T), which can take
every value between 0 and 1.

``views`` are the logits of the same items, seen otherwise by the same classifier (a turned image, a paraphrased prompt, dropout):
how they move hints at whether the prediction is right.

Shapes: n items, C classes, V views. Calibrators compute in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from whet.errors import DataError

ABSENT = -1e4
"""Logit, relative to the item's largest, of a class that the item does not have."""
LIMIT = math.log(1000)
"""Bound of a single temperature's logarithm; where nothing is wrong, or all is, the best one is 0 or infinite."""
LEAST, MOST = -50.0, -1e-9
"""Range of the log-probability of an answer without known rivals, so that its logarithms stay finite."""

CalibratorLoss = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities [n, C] after the temperature, labels [n]) -> what a calibrator's fit makes small."""


@dataclass(frozen=True)
class Predictions:
    """A frozen classifier's predictions and the truth. Build with :meth:`of`, which checks.

    logits: float64 [n, C].  labels: int64 [n], the true class; with C = 1, 0 where the answer is right and 1 where it is wrong.
    views: float64 [V, n, C].
    """

    logits: Tensor
    labels: Tensor
    views: Tensor

    @classmethod
    def of(cls, logits: Any, labels: Any, views: Sequence[Any] = ()) -> Predictions:
        """Predictions from tensors, arrays or lists.

        Args:
            logits: [n, C]; ``-inf`` for a class that an item does not have; with C = 1 log-probabilities.
            labels: [n], see above.
            views: logits of the same items in the same order, each [n, C].

        Raises:
            DataError: shapes that differ, NaN, a label that is no class, an item without any class.
        """
        z = _logits(logits, "logits")
        y = torch.as_tensor(labels)
        if y.shape != z.shape[:1] or y.is_floating_point():
            raise DataError(
                f"labels: expected {len(z)} whole numbers, one for each row of logits, got {y.dtype} {tuple(y.shape)}"
            )
        classes = max(2, z.shape[1])
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise DataError(f"labels: expected classes 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")
        seen = [_logits(view, f"views[{i}]") for i, view in enumerate(views)]
        for i, view in enumerate(seen):
            if view.shape != z.shape:
                raise DataError(f"views[{i}]: expected the shape of logits, {tuple(z.shape)}, got {tuple(view.shape)}")
        return cls(z, y.long(), torch.stack(seen) if seen else z.new_zeros(0, *z.shape))

    @property
    def right(self) -> Tensor:
        """Whether each prediction is right: bool [n]."""
        return self.logits.argmax(-1) == self.labels

    def take(self, items: Tensor) -> Predictions:
        """The predictions of some items, by index or as a mask."""
        return Predictions(self.logits[items], self.labels[items], self.views[:, items])


def _logits(values: Any, what: str) -> Tensor:
    """Float64 [n, C], shifted to a largest value of 0 in each row where there are rivals, finite."""
    z = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if z.ndim != 2 or not z.numel():
        raise DataError(f"{what}: expected a row of at least one logit for each item, got shape {tuple(z.shape)}")
    if z.isnan().any() or (z == torch.inf).any():
        row = int((z.isnan() | (z == torch.inf)).any(-1).nonzero()[0])
        raise DataError(f"{what}: row {row} holds NaN or +inf; the classifier's predictions are broken there")
    if z.shape[1] == 1:
        if (z > 0).any():
            raise DataError(f"{what}: a single column holds log-probabilities of the answers, at most 0; got {float(z.max()):g}")
        return z.clamp(LEAST, MOST)
    best = z.amax(-1, keepdim=True)
    if (best == -torch.inf).any():
        raise DataError(f"{what}: row {int((best == -torch.inf).nonzero()[0, 0])} has no class: all its logits are -inf")
    return (z - best).clamp(min=ABSENT)


def log_probabilities(logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """Log-probabilities [n, C] at a temperature that is a number or [n, 1]; [F, n, C] for F temperatures of each item."""
    scaled = logits / temperature
    return scaled if logits.shape[-1] == 1 else scaled.log_softmax(-1)


def confidence(logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """The probability of the predicted class at a temperature: [n]."""
    return log_probabilities(logits, temperature).amax(-1).exp()


@dataclass(frozen=True)
class Fitted:
    """A fitted calibrator: called with predictions it gives their confidences [n].

    ``temperature`` gives [n, 1] or a number; ``parameters`` are what was fitted, from which the calibrator's ``fitted`` makes the
    same again.
    """

    temperature: Callable[[Predictions], Tensor]
    parameters: Mapping[str, Tensor]

    def __call__(self, predictions: Predictions) -> Tensor:
        return confidence(predictions.logits, self.temperature(predictions))


class Calibrator(Protocol):
    """Fits a temperature on held-out predictions."""

    def __call__(self, predictions: Predictions) -> Fitted: ...

    def fitted(self, parameters: Mapping[str, Any]) -> Fitted: ...


def best_temperature(loss: CalibratorLoss, predictions: Predictions) -> Tensor:
    """The one temperature for all items that makes the loss smallest, by LBFGS on its logarithm, within [1/1000, 1000]."""
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_temperature], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        temperature = log_temperature.clamp(-LIMIT, LIMIT).exp()
        value = loss(log_probabilities(predictions.logits, temperature), predictions.labels)
        value.backward()
        return value

    optimizer.step(closure)
    return log_temperature.detach().clamp(-LIMIT, LIMIT).exp()


def check_errors(predictions: Predictions, least: int) -> None:
    """Refuses calibration sets from which the confidence of wrong predictions cannot be learnt.

    Raises:
        DataError: fewer than ``least`` predictions are wrong, none is, or all are.
    """
    items, errors = len(predictions.labels), int((~predictions.right).sum())
    if errors in (0, items):
        which = "right" if not errors else "wrong"
        raise DataError(
            f"the calibration set: all {items} predictions are {which}, so there is nothing to tell right from wrong by; "
            f"take {'more or harder' if not errors else 'easier'} items"
        )
    if errors < least:
        raise DataError(
            f"the calibration set: {errors} of {items} predictions are wrong, and least_errors is {least}; take about "
            f"{-(-items * least // errors)} items like these, or a calibrator with one parameter, temperature-scaling"
        )
