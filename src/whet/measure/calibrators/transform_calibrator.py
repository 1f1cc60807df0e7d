"""A temperature for each item, from how its prediction moves under transforms.

The frozen classifier sees each item and V views of it (images: turned, blurred; text: other prompts, dropout). At the ``top`` = k
classes of the original prediction, the probabilities in the views, and the original's own, are the features of a small network
that gives the item's temperature:

    f(x) = [softmax(z_v(x)) at the top k classes of z(x)]_v        V k numbers, and k more with ``own``
    T(x) = softplus(w relu(W f(x) + b) + c)
    confidence(x) = max softmax(z(x) / T(x))

A prediction that keeps its probability under the transforms is more often right; the same logits can so get different confidence.
The predicted class never changes. Each prediction costs 1 + V passes.

Fitted by full-batch Adam on the correctness-aware loss. k = 4 and the network's form are the published code's, which has 5 hidden
units, clamps T to [0.1, 10], and trains on 25,000 images (batches of 1,000 at 1e-4). That overfits on hundreds of items, so here:
16 units and a softplus (a clamp has no gradient outside its range), ``own`` features, a start at the best single temperature, and
at most 800 steps at 3e-3, as many as make the loss on held-out items smallest (``folds``-fold cross-validation; 0 folds: all of
the steps). The folds are fitted side by side, so memory is ``folds`` n C numbers. Without views and ``own``, or if no step helps, it
is one temperature for all.

``head: clamp`` is the published network for comparison: T(x) = the output clamped to [0.1, 10], all weights drawn as torch's linear
layers draw them, no start at a temperature. Where the output lies outside, T is the bound and nothing that the item says changes a
weight; if all items lie outside, the fit stays where it began: on 600 digits so did 21 of 32 fits of the preset
``published-calibrator``, which is this head with 5 units, the views alone, and all of the steps.

Paper: correctness-calibration — Optimizing Calibration by Gaining Aware of Prediction Correctness
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import softplus

from whet import parts
from whet.errors import DataError
from whet.measure.calibration import CalibratorLoss, Fitted, Predictions, best_temperature, check_errors, log_probabilities
from whet.measure.statistics import stratified_folds
from whet.parts import Kind

LEAST_TEMPERATURE = 1e-3
"""Added to the softplus, so that no temperature is 0."""

CLAMP = (0.1, 10.0)
"""Range of the published head's temperatures."""

PATIENCE = 50
"""Steps without a better held-out loss after which cross-validation ends."""

PRESETS = {
    "published-calibrator": {
        "head": "clamp",
        "hidden": 5,
        "own": False,
        "folds": 0,
        "about": "The published network: 5 units, a temperature clamped to [0.1, 10], read off the views alone",
    }
}

Head = Literal["softplus", "clamp"]
Parameters = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TransformCalibrator:
    """``top`` classes of each view are read, of the original too if ``own``; ``hidden`` units; ``head``: how their output becomes a
    temperature; Adam at ``lr`` for up to ``steps`` steps, chosen by ``folds``; fewer wrong items than ``least_errors`` are refused;
    ``seed`` of the start and the folds."""

    loss: Annotated[Any, Kind("calibrator-loss")] = "correctness-aware-loss"
    top: Annotated[int, Gt(0)] = 4
    own: bool = True
    hidden: Annotated[int, Gt(0)] = 16
    head: Head = "softplus"
    lr: Annotated[float, Gt(0)] = 3e-3
    steps: Annotated[int, Gt(0)] = 800
    folds: Annotated[int, Ge(0)] = 5
    least_errors: Annotated[int, Ge(1)] = 100
    seed: int = 0

    def __call__(self, predictions: Predictions) -> Fitted:
        """Fits the network.

        Raises:
            DataError: too few predictions are wrong, or all of them.
        """
        check_errors(predictions, self.least_errors)
        loss = parts.build("calibrator-loss", self.loss, "loss")
        everyone = torch.ones(1, len(predictions.labels), dtype=torch.bool)
        steps = self._steps(loss, predictions)
        for _, (parameters, _) in zip(range(steps + 1), self._descent(loss, predictions, everyone)):
            found = parameters
        return self.fitted({name: value[0] for name, value in found.items()})

    def fitted(self, parameters: Mapping[str, Any]) -> Fitted:
        """The calibrator with weights that were found before: ``inner`` [hidden, features], ``inner_bias`` and ``outer``
        [hidden], ``outer_bias``."""
        known = {name: torch.as_tensor(value, dtype=torch.float64).detach() for name, value in parameters.items()}
        width = known["inner"].numel() // known["inner_bias"].numel()

        def temperature(predictions: Predictions) -> Tensor:
            features = self.features(predictions)
            if features.shape[1] != width:
                raise DataError(
                    f"transform-calibrator: fitted on {width} features, but {len(predictions.views)} views of "
                    f"{predictions.logits.shape[1]} classes give {features.shape[1]}; use the views it was fitted with"
                )
            return _temperature(known, features, self.head)

        return Fitted(temperature, known)

    def features(self, predictions: Predictions) -> Tensor:
        """What the network reads: float64 [n, (V + own) k]; k is ``top``, or the number of classes if that is smaller."""
        shown = torch.cat([predictions.logits[None], predictions.views]) if self.own else predictions.views
        if not len(shown):
            return predictions.logits.new_zeros(len(predictions.labels), 0)
        best = predictions.logits.topk(min(self.top, predictions.logits.shape[1]), dim=-1).indices
        probabilities = torch.stack([log_probabilities(view).exp() for view in shown], dim=1)
        return probabilities.gather(2, best[:, None].expand(-1, len(shown), -1)).flatten(1)

    def _steps(self, loss: CalibratorLoss, predictions: Predictions) -> int:
        """The number of steps after which the mean loss on held-out items is smallest; it is looked for ``PATIENCE`` steps on."""
        if self.head == "softplus" and not self.features(predictions).shape[1]:
            return 0  # The start is the best temperature, and nothing tells items apart.
        if not self.folds:
            return self.steps
        held = torch.zeros(self.folds, len(predictions.labels), dtype=torch.bool)
        for fold, items in enumerate(stratified_folds(predictions.right.numpy(), self.folds, np.random.default_rng(self.seed))):
            held[fold, items] = True
        best, chosen = math.inf, 0
        for step, (_, logps) in zip(range(self.steps + 1), self._descent(loss, predictions, ~held)):
            value = sum(float(loss(own[out], predictions.labels[out])) * int(out.sum()) for own, out in zip(logps, held))
            if value < best:
                best, chosen = value, step
            elif step - chosen >= PATIENCE:
                break
        return chosen

    def _descent(self, loss: CalibratorLoss, predictions: Predictions, inside: Tensor) -> Iterator[tuple[Parameters, Tensor]]:
        """Fits F networks side by side, each on its own items, ``inside`` [F, n].

        Yields:
            At the start and after each step the parameters, with F in front (the same tensors, changed in place), and the
            log-probabilities [F, n, C] of all items.
        """
        features, labels = self.features(predictions), predictions.labels
        starts = [best_temperature(loss, predictions.take(items)) for items in inside]
        parameters = self._start(features.shape[1], torch.stack(starts))
        optimizer = torch.optim.Adam(parameters.values(), lr=self.lr)
        while True:
            logps = log_probabilities(predictions.logits, _temperature(parameters, features, self.head))
            yield parameters, logps.detach()
            optimizer.zero_grad()
            sum((loss(own[items], labels[items]) for own, items in zip(logps, inside)), start=logps.new_zeros(())).backward()
            optimizer.step()

    def _start(self, inputs: int, temperatures: Tensor) -> Parameters:
        """Inner weights as torch's linear layers have them; outer ones that give the temperatures [F], or with a clamp such ones too."""
        generator = torch.Generator().manual_seed(self.seed)
        networks = len(temperatures)
        inner, inner_bias = _linear(self.hidden, inputs, networks, generator)
        if self.head == "clamp":
            outer, outer_bias = (drawn.squeeze(1) for drawn in _linear(1, self.hidden, networks, generator))
        else:
            above = (temperatures - LEAST_TEMPERATURE).clamp(min=LEAST_TEMPERATURE)
            # What the softplus turns into these temperatures.
            outer_bias = above + torch.log(-torch.expm1(-above))
            outer = torch.zeros(networks, self.hidden, dtype=torch.float64)
        start = {"inner": inner, "inner_bias": inner_bias, "outer": outer, "outer_bias": outer_bias}
        return {name: value.requires_grad_() for name, value in start.items()}


def _linear(outputs: int, inputs: int, networks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights [F, outputs, inputs] and biases [F, outputs], the same for all F networks, uniform within 1/sqrt(inputs)."""
    drawn = torch.rand(outputs, inputs + 1, generator=generator, dtype=torch.float64) * 2 - 1
    weights = (drawn / math.sqrt(max(1, inputs))).expand(networks, -1, -1)
    return weights[..., :-1].clone(), weights[..., -1].clone()


def _temperature(parameters: Mapping[str, Tensor], features: Tensor, head: Head) -> Tensor:
    """T(x) of each row of features, [..., n, 1], of one network or of several side by side."""
    hidden = torch.relu(features @ parameters["inner"].mT + parameters["inner_bias"][..., None, :])
    output = hidden @ parameters["outer"][..., None] + parameters["outer_bias"][..., None, None]
    return softplus(output) + LEAST_TEMPERATURE if head == "softplus" else output.clamp(*CLAMP)
