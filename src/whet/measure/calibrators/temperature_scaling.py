"""Temperature scaling: one temperature for all items, the baseline of every calibrator.

    confidence(x) = max softmax(z(x) / T),      T = argmin over held-out items of the loss

LBFGS on log T, so that T stays positive. With the default loss the objective is convex in 1 / T. T > 1 says that the classifier
is too sure of itself. One number needs few items, and no views; it hardly changes which of two predictions is the more confident.

Default: negative log-likelihood, the custom since Guo et al. 2017. T is kept between 1/1000 and 1000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge

from whet import parts
from whet.measure.calibration import Fitted, Predictions, best_temperature, check_errors
from whet.parts import Kind


@dataclass(frozen=True, kw_only=True)
class TemperatureScaling:
    """``loss`` is what the fit makes small; fewer wrong items than ``least_errors`` are refused."""

    loss: Annotated[Any, Kind("calibrator-loss")] = "nll"
    least_errors: Annotated[int, Ge(1)] = 1

    def __call__(self, predictions: Predictions) -> Fitted:
        """Fits the temperature.

        Raises:
            DataError: too few predictions are wrong, or all of them.
        """
        check_errors(predictions, self.least_errors)
        loss = parts.build("calibrator-loss", self.loss, "loss")
        return self.fitted({"temperature": best_temperature(loss, predictions)})

    def fitted(self, parameters: Mapping[str, Any]) -> Fitted:
        """The calibrator with a temperature that was found before: ``{"temperature": 1.7}``."""
        temperature = torch.as_tensor(parameters["temperature"], dtype=torch.float64)
        return Fitted(lambda _: temperature, {"temperature": temperature})
