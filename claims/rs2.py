"""Does a new random 5% of the data per epoch beat a fixed 5% at the same number of steps?

A 64-128-128-10 network on digits, 200 SGD steps in every arm. The index streams are whet's schedules ``rs2``,
``static-subset`` and ``shuffle``; the hardest 5% by EL2N is the selection method that random subsets are to beat.
"""

from __future__ import annotations

import torch
from _digits import Images, accuracy, batches, digits, fit, mlp
from _report import gap, row, show, with_holm
from torch import Tensor, nn

SEEDS, RATIO, BATCH, TEST = range(5), 0.05, 32, 540
EPOCHS = 100  # of 62 of 1,257 images each: two batches, 200 steps
WIDTHS = (64, 128, 128, 10)


def trained(data: Images, order: list[Tensor], seed: int) -> nn.Module:
    network = mlp(WIDTHS, seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    return fit(network, data, order, optimizer)


@torch.no_grad()
def error_norms(network: nn.Module, data: Images) -> Tensor:
    """||softmax - onehot||_2 of each image: [n]."""
    wanted = nn.functional.one_hot(data.labels, 10)
    return (network(data.pixels).softmax(1) - wanted).norm(dim=1)


def hardest(data: Images, seed: int) -> Images:
    """The share ``RATIO`` with the largest EL2N score, the mean over 3 runs of 5 epochs on all data."""
    size = len(data.labels)
    runs = [trained(data, batches("shuffle", size, 5, BATCH, 100 * seed + i), 100 * seed + i + 1) for i in range(3)]
    scores = torch.stack([error_norms(run, data) for run in runs]).mean(0)
    kept = scores.argsort(descending=True)[: int(RATIO * size)]
    return Images(data.pixels[kept], data.labels[kept])


def arms(seed: int) -> dict[str, float]:
    """Test accuracy of each arm after the same number of steps."""
    test, train = digits(seed, TEST)
    size = len(train.labels)
    schedules = {
        "rs2": {"name": "rs2", "ratio": RATIO},
        "rs2 without replacement": {"name": "rs2", "ratio": RATIO, "replacement": False},
        "static-subset": {"name": "static-subset", "ratio": RATIO},
    }
    orders = {name: batches(schedule, size, EPOCHS, BATCH, seed) for name, schedule in schedules.items()}
    steps = len(orders["rs2"])
    orders["shuffle, same steps"] = batches("shuffle", size, EPOCHS, BATCH, seed)[:steps]
    found = {name: accuracy(trained(train, order, seed), test) for name, order in orders.items()}
    hard = hardest(train, seed)
    order = batches("shuffle", len(hard.labels), EPOCHS, BATCH, seed)
    return {**found, "hardest by EL2N": accuracy(trained(hard, order, seed), test)}


def main() -> None:
    found = [arms(seed) for seed in SEEDS]
    values = {name: [f[name] for f in found] for name in found[0]}
    others = ("static-subset", "hardest by EL2N", "shuffle, same steps", "rs2 without replacement")
    gaps = with_holm([gap(f"rs2 minus {name}", values["rs2"], values[name]) for name in others])
    show([*(row(f"accuracy: {name}", v) for name, v in values.items()), *gaps])


if __name__ == "__main__":
    main()
