"""How far two models' predictions lie apart, token by token, and what their hidden states say of a text.

At each scored token, with next-token distributions p of one model, q of the other and m = (p + q)/2,

    JSD = (KL(p || m) + KL(q || m)) / 2,      KL = KL(q || p)

both in nats and computed from log-probabilities in float32; 0 <= JSD <= ln 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whet.data.example import Example
from whet.errors import ModelError
from whet.generate.batches import by_length
from whet.generate.evaluation import evaluation
from whet.generate.likelihood import logits_at
from whet.model import Model

LOGITS = 1 << 25
"""Numbers in one batch's logits of each model (0.13 GB in float32)."""


@dataclass(frozen=True)
class Divergence:
    """Over the trained tokens of one example: means of JSD and of KL(reference || model) in nats, the share of tokens whose most
    probable token is the same, and how many there are.
    """

    jsd: float
    kl: float
    agreement: float
    tokens: int


def divergences(model: Model, reference: Model, examples: Sequence[Example], batch_tokens: int = 8192) -> list[Divergence]:
    """Compares two models on every example's trained tokens.

    Args:
        model, reference: causal models with the same vocabulary.
        examples: token sequences, each with at least one trained token.
        batch_tokens: positions of one forward pass.

    Raises:
        ModelError: the vocabularies differ, or a prediction is not finite.
    """
    refuse_other_vocabulary(model, reference)
    found: list[Divergence | None] = [None] * len(examples)
    width = int(model.config.get_text_config().vocab_size)
    with evaluation(model.network), evaluation(reference.network):
        for numbers in _batches(examples, batch_tokens, width):
            batch = [examples[i] for i in numbers]
            p, q = (_log_distributions(m, batch) for m in (model, reference))
            row = torch.tensor([i for i, e in enumerate(batch) for t in e.trained if t], device=p.device)
            jsd, kl = _jsd(p, q.to(p.device)), _kl(q.to(p.device), p)
            same = (p.argmax(-1) == q.to(p.device).argmax(-1)).float()
            counts = torch.bincount(row, minlength=len(batch))
            means = [(torch.zeros(len(batch), device=p.device).index_add_(0, row, v) / counts).tolist() for v in (jsd, kl, same)]
            for place, number in enumerate(numbers):
                found[number] = Divergence(means[0][place], means[1][place], means[2][place], int(counts[place]))
    return [d for d in found if d is not None]


def error_norms(model: Model, examples: Sequence[Example], batch_tokens: int = 8192) -> list[float]:
    """The mean over each example's trained tokens of ``||softmax - onehot||_2``, between 0 and sqrt(2).

    Args:
        model: a causal model.
        examples: token sequences, each with at least one trained token.
        batch_tokens: positions of one forward pass.

    Raises:
        ModelError: a prediction is not finite.
    """
    found = [0.0] * len(examples)
    with evaluation(model.network):
        for numbers in _batches(examples, batch_tokens, int(model.config.get_text_config().vocab_size)):
            batch = [examples[i] for i in numbers]
            probabilities = _log_distributions(model, batch).exp()
            targets = [token for e in batch for token, t in zip(e.input_ids, e.trained) if t]
            probabilities[torch.arange(len(targets)), torch.tensor(targets, device=probabilities.device)] -= 1.0
            norms = probabilities.norm(dim=-1).split([e.trained_tokens for e in batch])
            for number, own in zip(numbers, norms):
                found[number] = float(own.mean())
    return found


def refuse_other_vocabulary(model: Model, reference: Model) -> None:
    """Raises ModelError if two models' tokens do not mean the same."""
    if model.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise ModelError(
            f"{model.name!r} and {reference.name!r} have different vocabularies, so their predictions cannot be compared token by token"
        )
    widths = [int(m.config.get_text_config().vocab_size) for m in (model, reference)]
    if widths[0] != widths[1]:
        raise ModelError(
            f"{model.name!r} predicts {widths[0]} tokens and {reference.name!r} {widths[1]}, though their tokenizers agree; resize "
            "the embeddings of one to those of the other"
        )


def text_embeddings(model: Model, sequences: Sequence[Sequence[int]], batch_tokens: int = 8192) -> NDArray[np.float64]:
    """Mean of the last hidden states over each token sequence: float64 [n, width]."""
    out = np.zeros((len(sequences), 0))
    examples = [Example(list(ids), [False] + [True] * (len(ids) - 1)) for ids in sequences]
    with evaluation(model.network):
        for numbers in _batches(examples, batch_tokens, 1):
            batch = [sequences[i] for i in numbers]
            ids, mask = _padded(batch, model.device)
            hidden = model.network.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
            means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            if out.shape[1] == 0:
                out = np.zeros((len(sequences), means.shape[1]))
            out[numbers] = means.double().cpu().numpy()
    return out


def _log_distributions(model: Model, batch: Sequence[Example]) -> Tensor:
    """log-probabilities [M, V] of the next token at each position that predicts a trained one, row by row."""
    ids, mask = _padded([e.input_ids for e in batch], model.device)
    row = torch.tensor([i for i, e in enumerate(batch) for t in e.trained if t], device=model.device)
    at = torch.tensor([p - 1 for e in batch for p, t in enumerate(e.trained) if t], device=model.device)
    with logits_at(model.network, row, at) as gather:
        logits = gather(model.network(input_ids=ids, attention_mask=mask, use_cache=False).logits).float()
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"model {model.name!r}: predictions are not finite; its weights are broken, or overflow in {model.network.dtype}"
        )
    return logits.log_softmax(-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [M, V]: [M]."""
    return (p.exp() * (p - q)).sum(-1).clamp_min(0.0)


def _jsd(p: Tensor, q: Tensor) -> Tensor:
    # Exactly p where both agree: what the rounding of m leaves there would pass for drift.
    m = torch.where(p == q, p, torch.logaddexp(p, q) - math.log(2.0))
    return (0.5 * (_kl(p, m) + _kl(q, m))).clamp(0.0, math.log(2.0))


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


def _batches(examples: Sequence[Example], batch_tokens: int, vocabulary: int) -> Iterator[list[int]]:
    """Numbers of examples in batches within ``batch_tokens`` positions and ``LOGITS``, or of one."""
    return by_length(
        range(len(examples)),
        lambda number: len(examples[number]),
        batch_tokens,
        scored=lambda number: examples[number].trained_tokens,
        most_scored=LOGITS // vocabulary,
    )
