"""Which weights decay: matrices do; biases, norms and other vectors do not."""

from __future__ import annotations

from typing import Any

from torch.nn import Parameter


def decay_groups(parameters: list[tuple[str, Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer: matrices with the decay, vectors without; none is empty."""
    matrices = [p for _, p in parameters if p.ndim >= 2]
    vectors = [p for _, p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
