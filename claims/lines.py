"""Does scaling a fine-tuning update up with depth keep the target task and give back what other tasks lost?

A residual network learns to restore masked digits; five tasks read its features through frozen linear heads. It is fine-tuned
on one task, and the others (the controls) suffer. Layer scaling is compared with constant scaling, both whet's edits.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from _digits import Images, Residual, accuracy, batches, digits, fit, load, save
from _report import gap, row, show, with_holm
from torch import Tensor, nn

from whet.edit.run import run_edit

SEEDS, WIDTH, BLOCKS, TRAIN, VALIDATION = range(5), 64, 6, 1000, 300
TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "even": lambda y: y % 2,
    "large": lambda y: (y > 4).long(),
    "modulo 3": lambda y: y % 3,
    "closed loop": lambda y: torch.isin(y, torch.tensor([0, 6, 8, 9])).long(),
    "straight": lambda y: torch.isin(y, torch.tensor([1, 4, 7])).long(),
}
FIXED: dict[str, Mapping[str, Any]] = {
    "lines 0.8": {"name": "lines", "alpha": 0.8},
    "constant 0.8": {"name": "wise-ft", "alpha": 0.8},
    "constant 0.9": {"name": "wise-ft", "alpha": 0.9},
}
SEARCHED: dict[str, Mapping[str, Any]] = {
    "lines searched": {"name": "lines"},
    "constant searched": {"name": "lines", "beta": 0.0},
}


def pretrained(data: Images, seed: int) -> Residual:
    torch.manual_seed(seed)
    network = Residual(WIDTH, BLOCKS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for batch in batches("shuffle", len(data.labels), 60, 64, seed):
        pixels = data.pixels[batch]
        restored = network.decode(network(pixels * (torch.rand_like(pixels) > 0.5)))
        optimizer.zero_grad()
        nn.functional.mse_loss(restored, pixels).backward()
        optimizer.step()
    return network


def of(task: str, data: Images) -> Images:
    return Images(data.pixels, TASKS[task](data.labels))


def head(network: Residual, data: Images, seed: int) -> nn.Linear:
    """A linear probe on the frozen features."""
    torch.manual_seed(seed)
    probe = nn.Linear(WIDTH, int(data.labels.max()) + 1)
    with torch.no_grad():
        features = Images(network(data.pixels), data.labels)
    fit(probe, features, batches("shuffle", len(data.labels), 40, 64, seed), torch.optim.AdamW(probe.parameters(), lr=1e-2))
    return probe.requires_grad_(False)


class Bench:
    """One seed: the networks' folders, and accuracies by task."""

    def __init__(self, seed: int, work: Path) -> None:
        self.train, self.validation, self.test = digits(seed, TRAIN, VALIDATION)
        self.seed, self.work, start = seed, work, pretrained(self.train, seed)
        self.heads = {task: head(start, of(task, self.train), seed) for task in TASKS}
        self.base = save(start, work / "base")
        self.tuned = {task: save(self.tune(start, task), work / task.replace(" ", "-")) for task in TASKS}

    def tune(self, start: Residual, task: str) -> Residual:
        network = copy.deepcopy(start)
        order = batches("shuffle", TRAIN, 20, 64, self.seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        fit(nn.Sequential(network, self.heads[task]), of(task, self.train), order, optimizer)
        return network

    def accuracies(self, folder: Path, data: Images) -> dict[str, float]:
        network = load(Residual(WIDTH, BLOCKS), folder)
        return {task: accuracy(nn.Sequential(network, self.heads[task]), of(task, data)) for task in TASKS}

    def split(self, folder: Path, task: str, data: Images) -> tuple[float, float]:
        """Accuracy on the target and the mean over the other tasks."""
        found = self.accuracies(folder, data)
        return found[task], sum(v for t, v in found.items() if t != task) / (len(TASKS) - 1)

    def one_task(self, task: str) -> dict[str, tuple[float, float]]:
        tuned, best, zero = self.tuned[task], *(self.split(f, task, self.validation) for f in (self.tuned[task], self.base))

        def score(folder: Path) -> float:
            target, control = self.split(folder, task, self.validation)
            return (2 * target / best[0] + control / zero[1]) / 3

        found = {"base": self.base, "fine-tuned": tuned}
        for i, (name, method) in enumerate({**FIXED, **SEARCHED}.items()):
            scorer = score if name in SEARCHED else None
            found[name], _ = run_edit([tuned], method, output=self.work / f"{tuned.name}-{i}", base=self.base, scorer=scorer)
        return {name: self.split(folder, task, self.test) for name, folder in found.items()}

    def merged(self) -> dict[str, float]:
        """Mean over tasks of the merged model's accuracy relative to the fine-tuned ones; coefficients chosen on validation."""
        models = list(self.tuned.values())

        def score(folder: Path, data: Images = self.validation) -> float:
            found = self.accuracies(folder, data)
            return sum(v / self.accuracies(self.tuned[t], data)[t] for t, v in found.items()) / len(TASKS)

        lines, _ = run_edit(models, "lines", output=self.work / "lines", base=self.base, scorer=score)
        sums = [{"name": "task-arithmetic", "coefficient": i / 20} for i in range(1, 21)]
        plain = [run_edit(models, m, output=self.work / f"sum{i}", base=self.base)[0] for i, m in enumerate(sums)]
        return {"merged by lines": score(lines, self.test), "merged by task arithmetic": score(max(plain, key=score), self.test)}


def arms(seed: int) -> dict[str, float]:
    """Every figure of one seed; those of single tasks as means over the five."""
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(seed, Path(work))
        tasks, merged = [bench.one_task(task) for task in TASKS], bench.merged()
    kinds = enumerate(("target", "control"))
    means = {f"{kind}: {name}": sum(t[name][i] for t in tasks) / len(TASKS) for i, kind in kinds for name in tasks[0]}
    kept = means["target: lines 0.8"] / means["target: fine-tuned"]
    return {**means, **merged, "share of target kept, lines 0.8": kept}


def main() -> None:
    found = [arms(seed) for seed in SEEDS]
    values = {name: [f[name] for f in found] for name in found[0]}
    pairs = [("control: lines 0.8", "control: fine-tuned"), ("target: lines 0.8", "target: fine-tuned")]
    pairs += [(f"{kind}: lines 0.8", f"{kind}: constant {c}") for kind in ("control", "target") for c in (0.8, 0.9)]
    pairs += [(f"{kind}: lines searched", f"{kind}: constant searched") for kind in ("control", "target")]
    pairs += [("merged by lines", "merged by task arithmetic")]
    gaps = with_holm([gap(f"{a} minus {b}", values[a], values[b]) for a, b in pairs])
    show([*(row(name, v) for name, v in values.items()), *gaps])


if __name__ == "__main__":
    main()
