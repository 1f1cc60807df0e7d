"""Are averaged weights of fine-tuned models better than the best of them, at no cost when the model is used?

A network is trained on upright digits and fine-tuned 8 times on digits turned by 35 degrees, each time with another learning
rate, weight decay, noise and length. The soups are whet's edit; the ingredients are chosen on validation images.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from _digits import Images, accuracy, batches, digits, fit, load, mlp, save
from _report import gap, row, show, with_holm
from torch import nn

from whet.edit.run import run_edit

SEEDS, MODELS, ANGLE, FURTHER = range(10), 8, 35.0, 55.0
TRAIN, VALIDATION = 1000, 300
WIDTHS = (64, 128, 128, 10)


def pretrained(data: Images, seed: int) -> nn.Module:
    network = mlp(WIDTHS, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    return fit(network, data, batches("shuffle", len(data.labels), 30, 64, seed), optimizer)


def tuned(start: nn.Module, data: Images, seed: int, number: int) -> nn.Module:
    """One fine-tuning; its settings are drawn from (seed, number)."""
    rng = np.random.default_rng([seed, number])
    lr, decay = 10 ** rng.uniform(-4, -3), 10 ** rng.uniform(-4, -1)
    noise, epochs = float(rng.uniform(0, 0.3)), int(rng.integers(5, 21))
    network = copy.deepcopy(start)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=decay)
    order = batches("shuffle", len(data.labels), epochs, 64, 100 * seed + number)
    return fit(network, data, order, optimizer, noise=noise, seed=100 * seed + number)


def arms(seed: int, work: Path) -> dict[str, float]:
    """Test accuracies of the soups and of the single models."""
    train, validation, test = digits(seed, TRAIN, VALIDATION)
    start, turned, held = pretrained(train, seed), train.rotated(ANGLE), validation.rotated(ANGLE)
    folders = [save(tuned(start, turned, seed, i), work / f"m{i}") for i in range(MODELS)]

    def score(folder: Path, images: Images = held) -> float:
        return accuracy(load(mlp(WIDTHS, 0), folder), images)

    uniform, _ = run_edit(folders, {"name": "soup", "mode": "uniform"}, output=work / "uniform")
    greedy, receipt = run_edit(folders, {"name": "soup", "mode": "greedy"}, output=work / "greedy", scorer=score)
    best = folders[int(np.argmax([score(f) for f in folders]))]
    found = {"greedy ingredients": float(len(receipt["ingredients"]))}
    for place, images in (("", test.rotated(ANGLE)), (", 20 degrees further", test.rotated(FURTHER))):
        singles = [score(f, images) for f in folders]
        found |= {
            f"greedy soup{place}": score(greedy, images),
            f"uniform soup{place}": score(uniform, images),
            f"best single by validation{place}": score(best, images),
            f"mean of singles{place}": sum(singles) / len(singles),
        }
    return found


def main() -> None:
    found = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as work:
            found.append(arms(seed, Path(work)))
    values = {name: [f[name] for f in found] for name in found[0]}
    pairs = [("greedy soup", "best single by validation"), ("uniform soup", "mean of singles")]
    gaps = [gap(f"{a} minus {b}{s}", values[a + s], values[b + s]) for s in ("", ", 20 degrees further") for a, b in pairs]
    show([*(row(name, v) for name, v in values.items()), *with_holm(gaps)])


if __name__ == "__main__":
    main()
