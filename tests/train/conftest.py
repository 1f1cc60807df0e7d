"""Fixtures for tests of objectives: examples as a batch without a packer, and a policy that is a table of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from whet.data.example import IGNORE, Batch, Example, Totals

VOCABULARY = 11


class TablePolicy:
    """Free logits for every position of one batch: gradients with respect to them are gradients of any network."""

    temperature = 1.0

    def __init__(self, batch: Batch, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(*batch.labels.shape, VOCABULARY, generator=generator, dtype=dtype).requires_grad_()
        self.value_table = torch.randn(*batch.labels.shape, generator=generator, dtype=dtype).requires_grad_()

    def logps(self, batch: Batch) -> Tensor:
        picked = self.logits.log_softmax(-1).gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
        return picked * batch.mask

    def logps_and_entropy(self, batch: Batch, entropy_gradient: bool = True) -> tuple[Tensor, Tensor]:
        logs = self.logits.log_softmax(-1)
        return self.logps(batch), -(logs.exp() * logs).sum(-1) * batch.mask

    def values(self, batch: Batch) -> Tensor:
        return self.value_table * batch.mask

    def gradient(self, total: Tensor) -> Tensor:
        """Gradient of a loss with respect to the logits."""
        return torch.autograd.grad(total, self.logits, retain_graph=True)[0]


def as_batch(examples: Sequence[Example], totals: Totals | None = None, width: int = 0, step: int = 0) -> Batch:
    """One example per line, padded on the right; labels and token values shifted by one, in float64."""
    longest = max(width, *map(len, examples))
    shape = (len(examples), longest)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    row, labels = torch.full(shape, -1), torch.full(shape, IGNORE)
    names = sorted({name for e in examples for name in e.token_values})
    token_values = {name: torch.zeros(shape, dtype=torch.float64) for name in names}
    for i, e in enumerate(examples):
        length = len(e)
        ids[i, :length] = torch.tensor(e.input_ids)
        positions[i, :length], row[i, :length] = torch.arange(length), i
        labels[i, : length - 1] = torch.where(torch.tensor(e.trained[1:]), ids[i, 1:length], IGNORE)
        for name, numbers in e.token_values.items():
            token_values[name][i, : length - 1] = torch.tensor(numbers[1:], dtype=torch.float64)
    unit = torch.tensor([e.unit for e in examples])
    values = {name: torch.tensor([e.values[name] for e in examples], dtype=torch.float64) for name in examples[0].values}
    tokens = sum(e.trained_tokens for e in examples)
    totals = totals or Totals(tokens, len(examples), len({e.unit for e in examples}))
    return Batch(ids, positions, row, labels, unit, totals, values, token_values, step=step)


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return as_batch


@pytest.fixture
def table_policy() -> type[TablePolicy]:
    return TablePolicy


def random_rollout(seed=0, *, drift=0.4, demo=False, groups=3, size=4, longest=6, prompt=3, rewards=None):
    """Random completions with old and reference log-probabilities; with ``demo`` the last row of a group is a demonstration."""
    rng = np.random.default_rng(seed)
    examples = []
    for unit in range(groups):
        for member in range(size):
            length = int(rng.integers(1, longest + 1))
            is_demo = demo and member == size - 1
            reward = 1.0 if is_demo else float(rng.integers(0, 2)) if rewards is None else rewards[unit][member]
            tokens = {
                name: [0.0] * prompt
                + ([0.0] * length if is_demo and name == "old_logps" else (-2.4 + drift * rng.normal(size=length)).tolist())
                for name in ("old_logps", "reference_logps")
            }
            values = {"reward": reward, "is_demo": float(is_demo), "max_new_tokens": float(longest), "group_size": float(size)}
            ids = rng.integers(0, 11, size=prompt + length).tolist()
            examples.append(Example(ids, [False] * prompt + [True] * length, unit, values, tokens))
    return examples


@pytest.fixture
def rollout() -> Callable[..., list[Example]]:
    return random_rollout
