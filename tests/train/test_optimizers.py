"""Optimizers: their equations, who decays, the same bits after a stop, presets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whet import parts
from whet.data.example import Example
from whet.data.schedules.shuffle import shuffle
from whet.errors import RecipeError
from whet.model import Model, weights_hash
from whet.train.loop import FitResult, fit
from whet.train.objectives.sft import SFT
from whet.train.provider import FixedExamples
from whet.train.settings import TrainSettings

NAMES = ("adamw", "nadamw", "sgd", "nesterov", "heavy-ball")
LR, B1, B2, EPS, DECAY, PSI = 0.05, 0.9, 0.95, 1e-8, 0.1, 4e-3

Update = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]


def adamw(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    s["m"], s["v"] = B1 * s.get("m", 0) + (1 - B1) * g, B2 * s.get("v", 0) + (1 - B2) * g * g
    return w - LR * (s["m"] / (1 - B1**t) / (np.sqrt(s["v"] / (1 - B2**t)) + EPS) + DECAY * w)


def nadamw(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    s["m"], s["v"] = B1 * s.get("m", 0) + (1 - B1) * g, B2 * s.get("v", 0) + (1 - B2) * g * g
    u = [B1 * (1 - 0.5 * 0.96 ** (k * PSI)) for k in (t, t + 1)]
    s["product"] = s.get("product", 1.0) * u[0]
    ahead = u[1] * s["m"] / (1 - s["product"] * u[1]) + (1 - u[0]) * g / (1 - s["product"])
    return w - LR * (ahead / (np.sqrt(s["v"] / (1 - B2**t)) + EPS) + DECAY * w)


def momentum(nesterov: bool) -> Update:
    def update(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
        g = g + DECAY * w
        s["b"] = 0.9 * s["b"] + g if s else g
        return w - LR * (g + 0.9 * s["b"] if nesterov else s["b"])

    return update


def plain(w: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    return w - LR * (g + DECAY * w)


EQUATIONS: dict[str, Update] = {
    "adamw": adamw,
    "nadamw": nadamw,
    "sgd": plain,
    "nesterov": momentum(True),
    "heavy-ball": momentum(False),
}


@pytest.mark.parametrize("name", NAMES)
def test_updates_follow_the_equations_and_only_matrices_decay(name: str) -> None:
    rng = np.random.default_rng(0)
    matrix, vector = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3))
    optimizer = parts.build("optimizer", {"name": name, "weight_decay": DECAY})([("a", matrix), ("b", vector)])
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 1.0]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [DECAY, 0.0]
    expected, state = np.ones((2, 3)), dict[str, Any]()
    for t in range(1, 8):
        gradient = rng.normal(size=(2, 3))
        expected = EQUATIONS[name](expected, gradient, state, t)
        matrix.grad, vector.grad = torch.tensor(gradient, dtype=torch.float32), torch.zeros(3)
        for group in optimizer.param_groups:
            group["lr"] = LR
        optimizer.step()
        assert matrix.detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert torch.equal(vector.detach(), torch.ones(3))


def run(model: Model, optimizer: Any, folder: Path | None = None, stop: int = 0) -> FitResult:
    rng = np.random.default_rng(5)
    rows = [[int(start + k) % 40 + 5 for k in range(12)] for start in rng.integers(0, 40, 24)]
    units = [[Example(row, [i > 1 for i in range(len(row))])] for row in rows]
    lr = 0.3 if parts.effective(parts.build("optimizer", optimizer))["name"] == "sgd" else 3e-3
    settings = TrainSettings(steps=12, batch_size=6, lr=lr, checkpoint_every=3, precision="float32")

    def interrupt(entry: Any) -> None:
        if entry.step == stop:
            raise KeyboardInterrupt

    provider = FixedExamples(units, shuffle, batch_size=6)
    return fit(
        model, provider, SFT(), settings, optimizer=optimizer, checkpoint_folder=folder, progress=False,
        on_step=interrupt if stop else None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["nadamw", "sgd", "nesterov", "heavy-ball"])
def test_it_learns_and_goes_on_to_the_same_bits(tiny_model: Model, tmp_path: Path, name: str) -> None:
    undisturbed = run(tiny_model, name)
    assert undisturbed.curve[-1]["loss"] < 0.95 * undisturbed.curve[0]["loss"]
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, name, tmp_path, stop=7)
    resumed = run(tiny_model, name, tmp_path)
    assert resumed.receipt["resumed_at"] == 6
    assert weights_hash(resumed.model.network.state_dict()) == weights_hash(undisturbed.model.network.state_dict())


def test_a_checkpoint_of_another_optimizer_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    run(tiny_model, "nesterov", tmp_path)
    with pytest.raises(RecipeError, match=r"optimizer\.nesterov was True and is False"):
        run(tiny_model, "heavy-ball", tmp_path)


def test_presets_and_refusals() -> None:
    assert parts.effective(parts.build("optimizer", "nesterov")) == {
        "name": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0,
    }
    with pytest.raises(RecipeError, match="optimizer: nesterov: needs a momentum above 0"):
        parts.build("optimizer", {"name": "sgd", "nesterov": True}, "optimizer")
    with pytest.raises(RecipeError, match="momentum"):
        parts.build("optimizer", {"name": "sgd", "momentum": 1.0})
    assert math.isclose(parts.build("optimizer", "nadamw").momentum_decay, 4e-3)
