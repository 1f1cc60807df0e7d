"""Log-probabilities of a model that training leaves as it is, computed once for rows that do not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from whet.data.example import Example
from whet.model import Model
from whet.train.distributed import world
from whet.train.policy import HFPolicy
from whet.train.precision import attention_for
from whet.train.token_values import reader

SCORE_TOKENS = 8192
"""Positions of a forward pass that only scores."""


def reference_reader(
    model: Model, temperature: float = 1.0, compute: torch.dtype = torch.float32
) -> Callable[[Sequence[Example]], list[list[float]]]:
    """Reads the log-probabilities of a model that training leaves as it is.

    ``compute``: the format of the products. In the format of training the policy begins exactly at its reference.
    """
    policy = HFPolicy(model.network, compute, temperature)
    read = reader(
        policy.logps,
        micro_tokens=SCORE_TOKENS,
        share=policy.shares_packs,
        stems=policy.shares_stems,
        device=policy.device,
        world=world(),
    )

    def in_fast_attention(examples: Sequence[Example]) -> list[list[float]]:
        with attention_for(model.network, compute, max(map(len, examples), default=0)):
            numbers = read(examples)
        policy.forget()
        return numbers

    return in_fast_attention


def with_reference_logps(
    model: Model, units: Sequence[Sequence[Example]], compute: torch.dtype = torch.float32
) -> list[list[Example]]:
    """The units with ``token_values["reference_logps"]``, computed once before training; see :func:`reference_reader`."""
    read = reference_reader(model, compute=compute)
    numbers = iter(read([replace(e, unit=k) for k, unit in enumerate(units) for e in unit]))
    return [[replace(e, token_values={**e.token_values, "reference_logps": next(numbers)}) for e in unit] for unit in units]
