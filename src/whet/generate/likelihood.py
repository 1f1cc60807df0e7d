"""Log-likelihoods of continuations, for multiple choice and perplexity: a context is run once for all its continuations.

The continuations of one context become one sequence, a tree: the context, then each continuation's tokens but the last.
Attention lets a continuation see the context and itself, positions go on from the context for each, and one causal forward
pass without a cache scores them all. Padding stands at the right, where nothing looks, so a score does not depend on what
else is in the batch. Networks that take no such mask (windows, biases by distance, recurrent state) score each pair in a
row of its own instead, with the same result.

Shapes: N sequences of S positions, M scored positions, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from whet.errors import DataError, ModelError
from whet.generate.batches import by_length
from whet.generate.cache import forward_positions, takes_full_mask, vocabulary_size
from whet.generate.evaluation import evaluation
from whet.generate.products import fast_linears
from whet.model import Model
from whet.nonfinite import first_nonfinite

BRANCHES = 2048
"""Positions of a tree beyond which further continuations of the context start a new one, as its mask grows with the square."""
LOGITS = 1 << 27
"""Numbers in one batch's logits (0.5 GB in float32)."""

Pair = tuple[Sequence[int], Sequence[int]]


@dataclass
class _Tree:
    """One sequence. ``branch``: 0 in the context, i in the i-th continuation. ``scored``: (position that predicts, target)."""

    ids: list[int]
    positions: list[int]
    branch: list[int]
    pairs: list[int] = field(default_factory=list)
    scored: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, context: Sequence[int]) -> _Tree:
        return cls(list(context), list(range(len(context))), [0] * len(context))

    def add(self, pair: int, stem: int, continuation: Sequence[int]) -> None:
        """Adds a continuation of the first ``stem`` tokens."""
        self.pairs.append(pair)
        start = len(self.ids)
        at = [stem - 1, *range(start, start + len(continuation) - 1)]
        self.scored += zip(at, continuation)
        self.ids += continuation[:-1]
        self.positions += range(stem, stem + len(continuation) - 1)
        self.branch += [len(self.pairs)] * (len(continuation) - 1)


def sequence_logps(model: Model, pairs: Sequence[Pair], *, batch_tokens: int = 8192) -> tuple[list[list[float]], list[bool]]:
    """Scores each continuation given its context.

    Args:
        model: a causal model; put into evaluation mode meanwhile.
        pairs: (context ids, continuation ids), neither empty; the context and all but the last token of the continuation
            must fit into the model's context. Pairs with the same context share its computation, wherever they stand.
        batch_tokens: the most positions of one forward pass, padding included; on a processor it is fewer, which is faster.

    Returns:
        For each pair the log-probability of every token of the continuation (nats, natural distribution, taken in float32),
        and whether each of these tokens is the most probable one.

    Raises:
        DataError: an empty context or continuation, or a pair that is too long.
        ModelError: predictions that are NaN or Inf; names the module.
    """
    sharing = takes_full_mask(model.network)
    logps: list[list[float]] = [[] for _ in pairs]
    greedy = [False] * len(pairs)
    batches = by_length(
        _trees(model, pairs, sharing),
        lambda tree: len(tree.ids),
        min(batch_tokens, forward_positions(model.device)),
        scored=lambda tree: len(tree.scored),
        most_scored=LOGITS // vocabulary_size(model.network),
    )
    with evaluation(model.network), fast_linears(model.network):
        for batch in batches:
            scores, best = _score(model.network, batch, sharing)
            at = 0
            for i in (i for tree in batch for i in tree.pairs):
                stop = at + len(pairs[i][1])
                logps[i], greedy[i] = scores[at:stop], all(best[at:stop])
                at = stop
    return logps, greedy


def _trees(model: Model, pairs: Sequence[Pair], sharing: bool) -> list[_Tree]:
    trees: list[_Tree] = []
    open_trees: dict[tuple[int, ...], _Tree] = {}
    vocabulary = vocabulary_size(model.network)
    for i, (context, continuation) in enumerate(pairs):
        _check(model, i, context, continuation, vocabulary)
        key = tuple(context)
        tree = open_trees.get(key)
        if tree is None or not sharing or len(tree.ids) + len(continuation) > max(BRANCHES, 2 * len(context)):
            tree = open_trees[key] = _Tree.of(context)
            trees.append(tree)
        tree.add(i, len(context), continuation)
    return trees


def _check(model: Model, index: int, context: Sequence[int], continuation: Sequence[int], vocabulary: int) -> None:
    for name, ids in (("context", context), ("continuation", continuation)):
        if not len(ids):
            way_out = "a beginning-of-text token can be the context" if name == "context" else "drop the pair"
            raise DataError(f"pair {index}: the {name} is empty; {way_out}")
        if min(ids) < 0 or max(ids) >= vocabulary:
            wrong = max(ids) if max(ids) >= vocabulary else min(ids)
            raise DataError(
                f"pair {index}: token id {wrong}, but model {model.name!r} has ids 0 to {vocabulary - 1}; use its own tokenizer"
            )
    needed = len(context) + len(continuation) - 1
    if model.context and needed > model.context:
        raise DataError(
            f"pair {index}: context and continuation need {needed} positions, but model {model.name!r} has {model.context}; "
            "shorten the context (fewer examples in the prompt, a smaller window) or drop the pair"
        )


def _score(network: Any, batch: Sequence[_Tree], sharing: bool) -> tuple[list[float], list[bool]]:
    """Log-probabilities of all targets of a batch, tree by tree, and whether each is the most probable token."""
    device, longest = network.device, len(batch[0].ids)

    def padded(rows: Iterator[list[int]], value: int) -> Tensor:
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], device=device)

    ids, positions = padded((t.ids for t in batch), 0), padded((t.positions for t in batch), 0)
    mask = _mask(padded((t.branch for t in batch), -1), network.dtype) if sharing else None
    row = torch.tensor([i for i, t in enumerate(batch) for _ in t.scored], device=device)
    at = torch.tensor([p for t in batch for p, _ in t.scored], device=device)
    targets = torch.tensor([target for t in batch for _, target in t.scored], device=device)

    def forward() -> Tensor:
        return network(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits

    with logits_at(network, row, at) as gather:
        logits = gather(forward()).float()
    logps = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    if not bool(logps.isfinite().all()):
        refuse_nonfinite(network, forward)
    return logps.tolist(), (logits.argmax(-1) == targets).tolist()


def refuse_nonfinite(network: Any, forward: Callable[[], Any]) -> None:
    """Raises ModelError for predictions that are NaN or Inf; names the module where they arise when computed again."""
    where = first_nonfinite(network, forward) or "every module's output is finite, so a token has probability 0"
    raise ModelError(
        f"the network's predictions are not finite: {where}. Its weights are broken, or overflow in {network.dtype}: load it in "
        "float32 or bfloat16"
    )


def _mask(branch: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive ``[N, 1, S, S]``: earlier positions of the context and of the own continuation (padding is a branch, too)."""
    seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return torch.zeros(seen.shape, dtype=dtype, device=branch.device).masked_fill_(~seen.tril_(), -torch.inf)[:, None]


@contextmanager
def logits_at(network: Any, row: Tensor, at: Tensor) -> Iterator[Any]:
    """Lets the output head see only the positions ``[row, at]`` of its input ``[N, S, H]``.

    Yields:
        A function that turns the network's logits into ``[M, V]``, whether or not the network has a head to hook into.
    """
    hooked = []

    def select(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hooked.append(True)
        return (args[0][row, at][None], *args[1:])

    head = network.get_output_embeddings()
    handle = head.register_forward_pre_hook(select) if head is not None else None
    try:
        yield lambda logits: logits[0] if hooked else logits[row, at]
    finally:
        if handle:
            handle.remove()
