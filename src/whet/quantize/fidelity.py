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


LOGITS = 1 << 22
"""Numbers in the logits that are compared at a time: 16 MB in float32, of which a handful is alive."""


@torch.no_grad()
def compare(reference: Any, other: Any, rows: Sequence[Sequence[int]], batch_tokens: int = 4096) -> Fidelity:
    """Runs both networks on the rows; a row counts by its tokens. ``rows`` must not be empty."""
    kl, same, weights = [], [], []
    largest = difference = 0.0
    vocabulary = int(reference.config.get_text_config().vocab_size)
    piece = max(1, LOGITS // vocabulary)
    for ids in batches(rows, min(batch_tokens, piece)):
        ours = reference(input_ids=ids.to(reference.device), use_cache=False).logits
        theirs = other(input_ids=ids.to(other.device), use_cache=False).logits.to(ours.device)
        apart, agreeing = torch.zeros(ids.shape, dtype=torch.float64), torch.zeros(ids.shape, dtype=torch.float64)
        for start in range(0, ids.shape[1], piece):
            span = slice(start, start + piece)
            p, q = ours[:, span].float(), theirs[:, span].float()
            largest = max(largest, float(p.abs().max()))
            difference = max(difference, float((p - q).abs().max()))
            agreeing[:, span] = (p.argmax(-1) == q.argmax(-1)).double().cpu()
            logp, logq = p.log_softmax(-1), q.log_softmax(-1)
            apart[:, span] = (logp.exp() * (logp - logq)).sum(-1).double().cpu()
        kl.append(apart.mean(-1))
        same.append(agreeing.mean(-1))
        weights.append(torch.full((ids.shape[0],), float(ids.shape[1]), dtype=torch.float64))
    weight = torch.cat(weights)
    kl_mean, kl_stderr = _weighted(torch.cat(kl), weight)
    top1, top1_stderr = _weighted(torch.cat(same), weight)
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
