"""Adding models' changes to their common ancestor: one family, of which task arithmetic, TIES and DARE are points.

A *delta* is a model's tensor minus the base's. It may be sparsified, is weighted, and the deltas are combined either by
their plain sum or after electing a sign per entry. Every pass reads one model at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from whet.edit.streaming import Slot

Sparsify = Callable[[Tensor, str, int], Tensor]
"""(delta, tensor name, number of the model) -> the delta with entries set to zero; may work in place."""


def weighted_deltas(slot: Slot, base: Tensor, weights: Sequence[float], sparsify: Sparsify | None) -> Iterator[Tensor]:
    """Per model: its weighted, sparsified delta; a new tensor each, free to be changed."""
    for number, (tensor, weight) in enumerate(zip(slot.tensors(), weights, strict=True)):
        delta = tensor.sub_(base)
        if sparsify is not None:
            delta = sparsify(delta, slot.name, number)
        yield delta.mul_(weight)


def linear_delta(slot: Slot, base: Tensor, weights: Sequence[float], sparsify: Sparsify | None = None) -> Tensor:
    """Sum of the weighted deltas."""
    total = torch.zeros_like(base)
    for delta in weighted_deltas(slot, base, weights, sparsify):
        total.add_(delta)
    return total


def elected_delta(
    slot: Slot, base: Tensor, weights: Sequence[float], sparsify: Sparsify | None = None, *, mean: bool = True
) -> Tensor:
    """Per entry, the sign with the larger weighted mass is elected, and only deltas of that sign are combined.

    ``mean`` divides by the sum of the weights that took part (zeros take no part); else their sum.
    """
    positive = linear_delta(slot, base, weights, sparsify) >= 0
    total, taken = torch.zeros_like(base), torch.zeros_like(base)
    for delta, weight in zip(weighted_deltas(slot, base, weights, sparsify), weights, strict=True):
        agrees = torch.where(positive, delta > 0, delta < 0)
        total.add_(delta.mul_(agrees))
        if mean:
            taken.add_(agrees, alpha=weight)
    return total.div_(torch.where(taken == 0, 1.0, taken)) if mean else total


def keep_largest(density: float) -> Sparsify:
    """Keeps the ``density`` share of entries with the largest magnitude of each tensor (at least one); ties are all kept."""

    def trim(delta: Tensor, name: str, number: int) -> Tensor:
        kept = max(1, int(density * delta.numel()))
        if density >= 1 or kept >= delta.numel():
            return delta
        magnitude = delta.abs()
        threshold = magnitude.flatten().kthvalue(delta.numel() - kept + 1).values
        return delta.mul_(magnitude >= threshold)

    return trim


def drop_random(density: float, seed: int, rescale: bool) -> Sparsify:
    """Keeps each entry with probability ``density`` and divides by it if ``rescale``.

    The random stream is that of (seed, number of the model, tensor name): it depends neither on the order in which tensors
    are visited nor on how they are sharded.
    """

    def drop(delta: Tensor, name: str, number: int) -> Tensor:
        if density >= 1:
            return delta
        digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        delta.mul_(torch.rand(delta.shape, generator=generator) < density)
        return delta.div_(density) if rescale else delta

    return drop


def terms(names: Sequence[str], weights: Sequence[float], wrap: str = "(θ[{}] − θ_base)") -> str:
    """The weighted sum as text: ``0.5·(θ[a] − θ_base) + 0.5·(θ[b] − θ_base)``."""
    return " + ".join(f"{weight:.6g}·{wrap.format(name)}" for name, weight in zip(names, weights, strict=True))
