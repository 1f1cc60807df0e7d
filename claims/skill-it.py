"""Does the online mixture of skill-it learn a skill that builds on two others sooner than fixed mixtures do?

Three parities of 20 bits: A and B of three bits each, C their product. A 128-128 network gets the bits and the skill, and 3,000 steps
in 12 rounds of 250. The mixture of every round is that of whet's schedule ``skill-it``; ``stratified`` is its preset, the other two
arms keep one mixture throughout. The area under C's accuracy curve is its mean over the run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import torch
from _digits import mlp
from _report import gap, row, show, with_holm
from torch import Tensor, nn

from whet import parts
from whet.data.mixture import History
from whet.data.sources.parity_staircase import SKILLS, ParityStaircase

SEEDS, STEPS, EVERY, LOOK, BATCH, HELD_OUT = range(5), 3000, 250, 50, 32, 1000
WORLD = ParityStaircase()
SCHEDULES = {
    "stratified": {"name": "stratified", "every": EVERY},
    "skill-it": {"name": "skill-it", "every": EVERY, "eta": 0.5, "influence": {"A": {"C": 0.5}, "B": {"C": 0.5}}},
}
FIXED: dict[str, Mapping[str, float]] = {
    "target only": {"A": 0.0, "B": 0.0, "C": 1.0},
    "proportional 1:1:4": {"A": 1 / 6, "B": 1 / 6, "C": 4 / 6},
}


def draw(rng: np.random.Generator, skills: np.ndarray) -> tuple[Tensor, Tensor]:
    """Inputs [n, 23] and answers [n] to random bits, one skill (0, 1, 2) each."""
    bits = rng.integers(0, 2, (len(skills), WORLD.bits))
    answers = np.stack([WORLD.answers(bits, skill) for skill in SKILLS])[skills, np.arange(len(skills))]
    inputs = np.concatenate([2 * bits - 1, np.eye(3)[skills]], 1)
    return torch.from_numpy(inputs).float(), torch.from_numpy(answers)


@torch.no_grad()
def measured(network: nn.Module, rows: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The loss of each skill on its held-out rows."""
    return {skill: float(nn.functional.cross_entropy(network(x), y)) for skill, (x, y) in rows.items()}


@torch.no_grad()
def accuracy(network: nn.Module, rows: tuple[Tensor, Tensor]) -> float:
    return float((network(rows[0]).argmax(1) == rows[1]).float().mean())


def area(arm: str, seed: int) -> float:
    """Mean accuracy on C over a run."""
    rng, network = np.random.default_rng([seed, 1]), mlp((WORLD.bits + 3, 128, 128, 2), seed)
    held_out, tests = (
        {s: draw(np.random.default_rng([seed, k]), np.full(HELD_OUT, i)) for i, s in enumerate(SKILLS)} for k in (2, 3)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = parts.build("schedule", SCHEDULES[arm]) if arm in SCHEDULES else None
    losses: list[dict[str, float]] = []
    curve, shares = [], dict(FIXED.get(arm, {}))
    for step in range(STEPS):
        if schedule is not None and step % EVERY == 0:
            shares = schedule.weights(History(dict.fromkeys(SKILLS, 1), SKILLS, step // EVERY, losses if step else ()))
            losses.append(measured(network, held_out))
        inputs, answers = draw(rng, rng.choice(3, BATCH, p=[shares[s] for s in SKILLS]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), answers).backward()
        optimizer.step()
        if (step + 1) % LOOK == 0:
            curve.append(accuracy(network, tests["C"]))
    return float(np.mean(curve))


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or list(SEEDS)
    values = {arm: [area(arm, seed) for seed in seeds] for arm in (*FIXED, *SCHEDULES)}
    pairs = [("skill-it", "proportional 1:1:4"), ("proportional 1:1:4", "target only"), ("skill-it", "stratified")]
    gaps = with_holm([gap(f"{a} minus {b}", values[a], values[b]) for a, b in pairs])
    show([*(row(f"area: {name}", v) for name, v in values.items()), *gaps])


if __name__ == "__main__":
    main()
