"""How far one network's predictions are from another's on given token rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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


BATCH_TOKENS = 4096
LOGITS = 1 << 22
"""Numbers in the logits that are compared at a time: 16 MB in float32, of which a handful is alive."""


def compare(reference: Any, other: Any, rows: Sequence[Sequence[int]]) -> Fidelity:
    """Runs both networks on the rows; a row counts by its tokens. ``rows`` must not be empty."""
    return _fidelity((_logits(reference, ids), _logits(other, ids)) for ids in _batches(reference, rows))


class Predictions:
    """What a network predicts on rows, so that it can be compared with itself after its weights were changed in place.

    Kept are a copy of its output head and what the head was given: one hidden state per token in place of all logits.
    """

    def __init__(self, network: Any, rows: Sequence[Sequence[int]]) -> None:
        self._network, self._batches = network, _batches(network, rows)
        self._head = copy.deepcopy(network.get_output_embeddings())
        self._inputs: list[Tensor] = []
        with self._at_head(lambda head, args, output: self._inputs.append(args[0])):
            for ids in self._batches:
                _logits(network, ids)

    def compare(self) -> Fidelity:
        """How far the network as it is now is from what it was."""
        return _fidelity((self._before(i), _logits(self._network, ids)) for i, ids in enumerate(self._batches))

    @torch.no_grad()
    def _before(self, batch: int) -> Tensor:
        """The earlier logits: what the network makes of the earlier head's output."""
        with self._at_head(lambda head, args, output: self._head(self._inputs[batch])):
            return _logits(self._network, self._batches[batch])

    @contextmanager
    def _at_head(self, hook: Callable[..., Tensor | None]) -> Iterator[None]:
        handle = self._network.get_output_embeddings().register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _batches(network: Any, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    return batches(rows, min(BATCH_TOKENS, LOGITS // int(network.config.get_text_config().vocab_size)))


@torch.no_grad()
def _logits(network: Any, ids: Tensor) -> Tensor:
    logits: Tensor = network(input_ids=ids.to(network.device), use_cache=False).logits
    return logits


def _fidelity(pairs: Iterable[tuple[Tensor, Tensor]]) -> Fidelity:
    kl, same, weights = [], [], []
    largest = difference = 0.0
    for ours, theirs in pairs:
        apart, agreeing = torch.zeros(ours.shape[:2], dtype=torch.float64), torch.zeros(ours.shape[:2], dtype=torch.float64)
        piece = max(1, LOGITS // ours.shape[2])
        for start in range(0, ours.shape[1], piece):
            span = slice(start, start + piece)
            p, q = ours[:, span].float(), theirs[:, span].to(ours.device).float()
            largest = max(largest, float(p.abs().max()))
            difference = max(difference, float((p - q).abs().max()))
            agreeing[:, span] = (p.argmax(-1) == q.argmax(-1)).double().cpu()
            logp, logq = p.log_softmax(-1), q.log_softmax(-1)
            apart[:, span] = (logp.exp() * (logp - logq)).sum(-1).double().cpu()
        kl.append(apart.mean(-1))
        same.append(agreeing.mean(-1))
        weights.append(torch.full((ours.shape[0],), float(ours.shape[1]), dtype=torch.float64))
    weight = torch.cat(weights)
    kl_mean, kl_stderr = _weighted(torch.cat(kl), weight)
    top1, top1_stderr = _weighted(torch.cat(same), weight)
    return Fidelity(kl_mean, kl_stderr, top1, top1_stderr, difference / max(largest, 1e-12), len(weight), int(weight.sum()))


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
