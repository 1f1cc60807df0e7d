"""Equalities that must hold on any model before its scores mean anything; each function gives the number that shows it.

A score that depends on the batch is no property of the model: padding, batch size and neighbours must not change a
log-likelihood by more than rounding, nor a greedy completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whet.generate.completion import Completion, Sampling
from whet.generate.engine import generate
from whet.generate.likelihood import sequence_logps
from whet.model import Model

Pair = tuple[Sequence[int], Sequence[int]]

_LIMITS = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.02}
"""Largest difference of two log-probabilities of a token (nats) that rounding explains, by the weights' type."""


@dataclass(frozen=True)
class Invariant:
    """One checked equality: what must hold, the largest deviation found, and the largest that is allowed."""

    name: str
    statement: str
    deviation: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.limit

    def __str__(self) -> str:
        numbers = f"deviation {self.deviation:.2g}, limit {self.limit:.2g}"
        return f"{'holds ' if self.holds else 'BROKEN'}  {self.name}: {self.statement} ({numbers})"


def rounding_limit(model: Model) -> float:
    """Largest difference of a token's log-probabilities (nats) that the arithmetic of the model's type explains."""
    return _LIMITS.get(model.network.dtype, 0.15)


def likelihood_ignores_batch(model: Model, pairs: Sequence[Pair]) -> Invariant:
    """Scores pairs together, one at a time and in reverse; the largest difference of a token's log-probability (nats).

    Args:
        model: a causal model.
        pairs: (context ids, continuation ids) of different lengths, so that the batch needs padding.
    """
    together, _ = sequence_logps(model, pairs)
    alone = [sequence_logps(model, [pair], batch_tokens=1)[0][0] for pair in pairs]
    reverse = sequence_logps(model, list(reversed(pairs)))[0][::-1]
    deviation = max(_largest(together, alone), _largest(together, reverse))
    statement = f"log-likelihoods of {len(pairs)} continuations do not depend on padding, batch or order"
    return Invariant("likelihood ignores batch", statement, deviation, rounding_limit(model))


def likelihood_is_the_networks(model: Model, pairs: Sequence[Pair]) -> Invariant:
    """Compares the batched scores with one plain forward pass per pair, without padding or shared contexts (nats)."""
    scored, _ = sequence_logps(model, pairs)
    plain = [_plain_logps(model, *pair) for pair in pairs]
    statement = f"log-likelihoods of {len(pairs)} continuations are those of a plain forward pass"
    return Invariant("likelihood is the network's", statement, _largest(scored, plain), rounding_limit(model))


def greedy_ignores_batch(model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int = 32) -> Invariant:
    """Decodes prompts together and one at a time; the share of prompts whose greedy completions differ beyond a tie.

    Where the two differ first, it is a tie if the log-probabilities of the two tokens lie within rounding.
    """
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    together = generate(model, prompts, sampling)
    alone = [generate(model, [prompt], sampling)[0] for prompt in prompts]
    broken = sum(not _same_but_ties(a, b, rounding_limit(model)) for a, b in zip(together, alone))
    statement = f"greedy completions of {len(prompts)} prompts do not depend on the batch"
    return Invariant("greedy ignores batch", statement, broken / len(prompts), 0.0)


def check_all(model: Model, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[Invariant]:
    """All invariants of this module on prompts of the user's data and a continuation of each (token ids)."""
    pairs = list(zip(prompts, continuations))
    return [
        likelihood_ignores_batch(model, pairs),
        likelihood_is_the_networks(model, pairs),
        greedy_ignores_batch(model, prompts),
    ]


def _largest(one: Sequence[Sequence[float]], two: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for x, y in zip(one, two) for a, b in zip(x, y))


@torch.no_grad()
def _plain_logps(model: Model, context: Sequence[int], continuation: Sequence[int]) -> list[float]:
    ids = torch.tensor([[*context, *continuation]], device=model.device)
    logits = model.network(input_ids=ids[:, :-1], use_cache=False).logits[0, len(context) - 1 :].float()
    targets = ids[0, len(context) :, None]
    return logits.log_softmax(-1).gather(-1, targets)[:, 0].tolist()


def _same_but_ties(one: Completion, two: Completion, limit: float) -> bool:
    for a, b, logp_a, logp_b in zip(one.ids, two.ids, one.logps, two.logps):
        if a != b:
            return abs(logp_a - logp_b) <= 2 * limit
    return len(one.ids) == len(two.ids)
