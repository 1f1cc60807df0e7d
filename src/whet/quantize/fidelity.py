"""How far one network's predictions are from another's on given token rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from whet.quantize.calibration import batches


@dataclass(frozen=True)
class Fidelity:
    """``kl``: mean over positions of KL(reference || other) in nats, ``kl_stderr`` over rows; ``top1``: share of positions
    with the same most likely token, ``top1_stderr`` over rows; ``max_logit_difference``: relative to the largest |logit|."""

    kl: float
    kl_stderr: float
    top1: float
    top1_stderr: float
    max_logit_difference: float
    rows: int
    tokens: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a receipt."""
        return asdict(self)


@torch.no_grad()
def compare(reference: Any, other: Any, rows: Sequence[Sequence[int]], batch_tokens: int = 4096) -> Fidelity:
    """Runs both networks on the rows; a row counts by its tokens. ``rows`` must not be empty."""
    kl, same, weights = [], [], []
    largest = difference = 0.0
    for ids in batches(rows, batch_tokens):
        ours = reference(input_ids=ids.to(reference.device), use_cache=False).logits.float()
        theirs = other(input_ids=ids.to(other.device), use_cache=False).logits.float().to(ours.device)
        largest = max(largest, float(ours.abs().max()))
        difference = max(difference, float((ours - theirs).abs().max()))
        logp, logq = ours.log_softmax(-1), theirs.log_softmax(-1)
        kl.append((logp.exp() * (logp - logq)).sum(-1).double().mean(-1))
        same.append((ours.argmax(-1) == theirs.argmax(-1)).double().mean(-1))
        weights.append(torch.full((ids.shape[0],), float(ids.shape[1]), dtype=torch.float64))
    weight = torch.cat(weights)
    kl_mean, kl_stderr = _weighted(torch.cat(kl).cpu(), weight)
    top1, top1_stderr = _weighted(torch.cat(same).cpu(), weight)
    return Fidelity(kl_mean, kl_stderr, top1, top1_stderr, difference / max(largest, 1e-12), len(rows), int(weight.sum()))


def _weighted(values: Tensor, weight: Tensor) -> tuple[float, float]:
    """Weighted mean, and its standard error with rows as the independent units (NaN for a single row)."""
    share = weight / weight.sum()
    mean = (share * values).sum()
    n = len(values)
    stderr = (share.square() * (values - mean).square()).sum().mul(n / (n - 1)).sqrt() if n > 1 else torch.tensor(float("nan"))
    return float(mean), float(stderr)


def probe_rows(vocabulary: int, context: int, count: int = 4, length: int = 64) -> list[list[int]]:
    """Random token rows, always the same: to tell whether two copies of a network are equal, any tokens will do."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, min(length, context or length))
    return torch.randint(0, vocabulary, shape, generator=generator).tolist()
