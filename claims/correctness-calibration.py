"""Does a temperature for each item, fitted on the correctness-aware loss, calibrate better than one temperature for all?

A network trained on clean digits is calibrated on noisy ones and judged on noisy ones (in distribution), on stronger noise, and on
noisy digits turned by 30 degrees. Views are the noisy image turned by 12 degrees to either side, and blurred.

The rule: the claim is borne out if one and the same calibrator of the two, with plain or with balanced weights, has a Brier score
of the top confidence that (a) in distribution is shown to be at most 0.01 worse than that of temperature scaling (95% interval), and
(b) on both shifted sets is at least 0.01 better, with a Holm-corrected p below 0.05. It is contradicted if both calibrators are at
least 0.01 worse on both shifted sets. The other arms say what the views, the balance, and the choice of steps have to do with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from _digits import Images, batches, digits, fit, mlp
from _report import gap, row, show, with_holm
from scipy.ndimage import gaussian_filter

from whet import parts
from whet.measure.calibration import Predictions, confidence
from whet.measure.statistics import auroc, expected_calibration_error

SEEDS, TRAIN, CALIBRATION = range(10, 18), 400, 600
NOISE, STRONG, TURNED, VIEW_ANGLE, VIEW_BLUR = 0.4, 0.6, 30.0, 12.0, 0.6
SETS = ("in distribution", "stronger noise", "turned")
BALANCED = {"name": "correctness-aware-loss", "balance": True}
BASELINE, PLAIN, WEIGHTED = "temperature scaling", "transform calibrator", "transform calibrator, balanced"
ARMS: Mapping[str, Any] = {
    BASELINE: "temperature-scaling",
    PLAIN: "transform-calibrator",
    WEIGHTED: {"name": "transform-calibrator", "loss": BALANCED},
    "one temperature, balanced": {"name": "temperature-scaling", "loss": BALANCED},
    "no views, balanced": {"name": "transform-calibrator", "loss": BALANCED},
    "all 800 steps": {"name": "transform-calibrator", "folds": 0},
}


def blurred(data: Images, deviation: float) -> Images:
    """The same images under a Gaussian filter."""
    pixels = gaussian_filter(data.pixels.reshape(-1, 8, 8).numpy(), (0, deviation, deviation))
    return Images(torch.from_numpy(pixels.reshape(-1, 64)), data.labels)


@torch.no_grad()
def predict(network: torch.nn.Module, data: Images, views: bool) -> Predictions:
    seen = [data.rotated(VIEW_ANGLE), data.rotated(-VIEW_ANGLE), blurred(data, VIEW_BLUR)] if views else []
    return Predictions.of(network(data.pixels), data.labels, [network(view.pixels) for view in seen])


def figures(stated: torch.Tensor, right: torch.Tensor) -> dict[str, float]:
    c, r = stated.numpy(), right.double().numpy()
    errors = {f"ECE {bins}": expected_calibration_error(c, r, bins=bins, resamples=2).value for bins in (15, 25)}
    return {"Brier": float(np.mean((c - r) ** 2)), **errors, "AUROC": auroc(c, r).value}


def one_seed(seed: int) -> dict[str, float]:
    """Every figure of one seed, by name."""
    train, calibration, test = digits(seed, TRAIN, CALIBRATION)
    network = mlp([64, 64, 10], seed)
    fit(network, train, batches("shuffle", TRAIN, 100, 32, seed), torch.optim.AdamW(network.parameters(), lr=1e-3))
    noisy = [
        test.noisy(NOISE, 10 * seed + 1),
        test.noisy(STRONG, 10 * seed + 2),
        test.rotated(TURNED).noisy(NOISE, 10 * seed + 3),
    ]
    found: dict[str, float] = {}
    for arm, spec in ARMS.items():
        views = not arm.startswith("no views")
        fitted = parts.build("calibrator", spec)(predict(network, calibration.noisy(NOISE, 10 * seed), views))
        for name, data in zip(SETS, noisy):
            predictions = predict(network, data, views)
            right = predictions.right
            found |= {f"{name}: accuracy": float(right.double().mean())}
            for what, stated in ((arm, fitted(predictions)), ("as it is", confidence(predictions.logits))):
                found |= {f"{name}: {figure}: {what}": value for figure, value in figures(stated, right).items()}
    return found


def gaps(values: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Brier score of the baseline minus that of the calibrator, AUROC the other way round: positive is better."""
    found = []
    for arm in (PLAIN, WEIGHTED):
        for name in SETS:
            brier, area = (f"{name}: {figure}: " for figure in ("Brier", "AUROC"))
            found.append(gap(f"{brier}better by, {arm}", values[brier + BASELINE], values[brier + arm]))
            found.append(gap(f"{area}better by, {arm}", values[area + arm], values[area + BASELINE]))
    for name in SETS[1:]:
        brier = f"{name}: Brier: "
        for arm in ("one temperature, balanced", "no views, balanced"):
            found.append(gap(f"{brier}{WEIGHTED} better than {arm} by", values[brier + arm], values[brier + WEIGHTED]))
    return with_holm(found)


def main() -> None:
    found = [one_seed(seed) for seed in SEEDS]
    values = {name: [f[name] for f in found] for name in sorted(found[0])}
    show([*(row(name, v) for name, v in values.items()), *gaps(values)])


if __name__ == "__main__":
    main()
