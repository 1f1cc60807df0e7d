"""How many right answers does a better model break, and do whet's flip rates add up?

An old network (48 wide, pre-trained on 300 digits) and a new one (128 wide, on 1,000) are fine-tuned on the same rotated digits
with strong pixel noise. Only the flip metrics are tested here; the objective that lowers the flips is tested by the comparison in
``muscle.yaml``.
"""

from __future__ import annotations

import torch
from _digits import Images, batches, digits, fit, mlp, predictions
from _report import gap, row, show
from torch import nn

from whet.measure.compare import flip_rates
from whet.measure.metrics.accuracy import accuracy
from whet.measure.outcome import Outcome
from whet.measure.statistics import mcnemar

SEEDS, ANGLE, NOISE = range(5), 35.0, 0.5
OLD, NEW, TASK_IMAGES = 300, 1000, 300
WIDTHS = {"old": (64, 48, 10), "new": (64, 128, 10)}


def model(version: str, base: Images, task: Images, seed: int) -> nn.Module:
    """Pre-trained on upright digits, then fine-tuned on the rotated and noisy ones."""
    network = mlp(WIDTHS[version], seed)
    for data, epochs, noise in ((base, 30, 0.0), (task, 20, NOISE)):
        order = batches("shuffle", len(data.labels), epochs, 64, seed)
        fit(network, data, order, torch.optim.AdamW(network.parameters(), lr=1e-3), noise=noise, seed=seed)
    return network


def outcomes(network: nn.Module, data: Images) -> list[Outcome]:
    pairs = zip(predictions(network, data).tolist(), data.labels.tolist())
    return [Outcome(str(i), float(given == true), answer=str(given)) for i, (given, true) in enumerate(pairs)]


def figures(seed: int) -> dict[str, float]:
    """Accuracies, flip rates, and how far the identities are from holding."""
    train, test = digits(seed, NEW)
    task, seen = train.first(TASK_IMAGES).rotated(ANGLE), test.rotated(ANGLE).noisy(NOISE, seed)
    old, new = (outcomes(model(version, train.first(count), task, seed), seen) for version, count in (("old", OLD), ("new", NEW)))
    rates, same = flip_rates(old, new), flip_rates(new, new)
    assert rates.negative_mc is not None and same.negative_mc is not None
    old_accuracy, new_accuracy = accuracy(old).value, accuracy(new).value
    negative, changed = rates.negative.value, rates.negative_mc.value
    return {
        "accuracy: old": old_accuracy,
        "accuracy: new": new_accuracy,
        "negative flips": negative,
        "negative flips with changed mistakes": changed,
        "positive flips": rates.positive.value,
        "McNemar's p of each seed": mcnemar([o.score for o in new], [o.score for o in old]).p,
        "deviation of (accuracy gain - positive + negative flips)": abs(
            new_accuracy - old_accuracy - rates.positive.value + negative
        ),
        "excess of (negative <= with changed mistakes <= errors of new)": max(
            negative - changed, changed - (1 - new_accuracy), 0.0
        ),
        "all flips of a model against itself": same.negative.value + same.positive.value + same.negative_mc.value,
    }


def main() -> None:
    found = [figures(seed) for seed in SEEDS]
    values = {name: [f[name] for f in found] for name in found[0]}
    better = gap("accuracy: new minus old", values["accuracy: new"], values["accuracy: old"])
    show([*(row(name, v) for name, v in values.items()), better])


if __name__ == "__main__":
    main()
