"""The one generation engine: batched decoding with continuous batching, shared prefills and a random stream per row.

Prompts wait in a queue, the longest first. Whenever slots are free, the next rows take them: the prompt but its last token
is run once, however many rows share it, and copied into their slots; the last token is then the row's first decoding step,
so that all sampling happens in one place. A row that ends leaves at once, and the batch stays dense: no step is spent on
finished rows or on empty slots.

A row is the same whatever the batch is: its noise comes from (seed, key, sample, step) alone, see
:mod:`whet.generate.sampling`. What remains is arithmetic: matrix products of other shapes differ in their last bits, which
changes a token only where two candidates tie to about 1e-7 in float32 (1e-2 in bfloat16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from whet.errors import DataError, ModelError, RecipeError
from whet.generate.batches import by_length
from whet.generate.cache import (
    Prefix,
    SlotCache,
    forward_positions,
    last_logits_only,
    prefill,
    require_cache,
    takes_full_mask,
    vocabulary_size,
)
from whet.generate.completion import Completion, Sampling
from whet.generate.evaluation import evaluation
from whet.generate.products import fast_linears
from whet.generate.sampling import draw, log_distribution, stream
from whet.generate.stopping import StopStrings, eos_ids
from whet.model import Model
from whet.nonfinite import first_nonfinite


@dataclass
class _Row:
    prompt: int
    ids: Sequence[int]
    stream: int
    budget: int
    new: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    finish: Literal["eos", "stop", "length"] | None = None


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    group_size: int = 1,
    seed: int = 0,
    keys: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
    batch_tokens: int = 32768,
    receipt: dict[str, Any] | None = None,
) -> list[Completion]:
    """Samples ``group_size`` completions of every prompt.

    Args:
        model: a causal model on any device, in any floating type; it is put into evaluation mode meanwhile.
        prompts: token ids. A completion ends at the context's end (finish ``length``) if that comes before ``max_new_tokens``.
        sampling: the sampling distribution, ``max_new_tokens`` and stop strings.
        group_size: completions per prompt.
        seed: the run's seed.
        keys: one number per prompt that stands for it in the random streams; default: its index.
        limits: the most new tokens of each prompt's completions, where that is less than ``max_new_tokens``.
        batch_tokens: tokens in the cache at once: so many rows run together as fit in with prompt and ``max_new_tokens``.
        receipt: filled with what was done: ``rows``, ``slots``, ``prefill_tokens``, ``shared_tokens`` (prompt tokens that were
            not run again), ``decode_tokens`` (row steps), ``steps`` (forward passes of decoding) and ``finish`` (rows by reason).

    Returns:
        Completions in the order of the prompts, the members of a group together: ``len(prompts) * group_size``.

    Raises:
        DataError: an empty prompt, one that fills the context, a token id outside of the vocabulary, or not one key or limit per prompt.
        ModelError: a model without a key-value cache, or logits that are NaN.
        RecipeError: an empty stop string, or a ``group_size`` or limit below 1.
    """
    require_cache(model.network)
    if group_size < 1:
        raise RecipeError(f"group_size is {group_size}; it is the number of completions of each prompt, at least 1")
    rows = []
    for i, (ids, key, limit) in enumerate(zip(prompts, *_per_prompt(prompts, sampling, keys, limits))):
        budget = min(limit, check_prompt(model, ids, f"prompt {i}"))
        rows += [_Row(i, ids, stream(seed, key, sample), budget) for sample in range(group_size)]
    with evaluation(model.network), fast_linears(model.network):
        run = _Run(model, sampling, rows, batch_tokens)
        run.finish_all()
    if receipt is not None:
        receipt.update(run.receipt())
    return _completions(model, rows, run.stops)


def _per_prompt(
    prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[int] | None, limits: Sequence[int] | None
) -> tuple[Sequence[int], Sequence[int]]:
    """The key and the most new tokens of each prompt."""
    for name, given in (("keys", keys), ("limits", limits)):
        if given is not None and len(given) != len(prompts):
            raise DataError(f"{name} has {len(given)} entries for {len(prompts)} prompts; give one per prompt, or none")
    if limits is not None and min(limits, default=1) < 1:
        raise RecipeError(f"limits holds {min(limits)}; a completion has at least 1 token, so leave the prompt out")
    most = sampling.max_new_tokens
    return range(len(prompts)) if keys is None else keys, [min(most, n) for n in limits or [most] * len(prompts)]


def check_prompt(model: Model, ids: Sequence[int], what: str) -> int:
    """The tokens that the context has left after a prompt (a very large number if the model states no context).

    Raises:
        DataError: the prompt is empty, fills the context or has an id outside of the vocabulary.
    """
    if not len(ids):
        raise DataError(f"{what} is empty; a model needs at least one token to go on from, such as a beginning-of-text token")
    if model.context and len(ids) >= model.context:
        raise DataError(
            f"{what} has {len(ids)} tokens, but the context of model {model.name!r} is {model.context}, which leaves no room "
            "for a new token; shorten the prompt or drop the row"
        )
    entries = vocabulary_size(model.network)
    if min(ids) < 0 or max(ids) >= entries:
        wrong = next(i for i in ids if not 0 <= i < entries)
        raise DataError(
            f"{what} has token id {wrong}, but model {model.name!r} has ids 0 to {entries - 1}; use its own tokenizer"
        )
    return model.context - len(ids) if model.context else 1 << 62


def _completions(model: Model, rows: Sequence[_Row], stops: StopStrings) -> list[Completion]:
    plain = [row.new[:-1] if row.finish == "eos" else row.new for row in rows]
    texts = model.tokenizer.batch_decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    texts = [stops.cut(row.new) if row.finish == "stop" else text for row, text in zip(rows, texts)]
    return [Completion(r.prompt, r.new, r.logps, text, r.finish or "length") for r, text in zip(rows, texts)]


class _Run:
    """The state of one call: the queue, the running rows (row b is slot b of the cache) and their next inputs."""

    def __init__(self, model: Model, sampling: Sampling, rows: Sequence[_Row], batch_tokens: int) -> None:
        self.network: Any = model.network
        self.sampling = sampling
        self.device = model.device
        self.queue = sorted(rows, key=lambda row: (len(row.ids), tuple(row.ids)))
        self.running: list[_Row] = []
        self.eos = eos_ids(model)
        self.stops = StopStrings(model.tokenizer, sampling.stop)
        longest = max((len(row.ids) + row.budget for row in rows), default=1)
        self.slots = max(1, min(len(rows), batch_tokens // longest))
        mask_dtype = self.network.dtype if takes_full_mask(self.network) else None
        self.cache = SlotCache(self.slots, longest, self.device, mask_dtype)
        self.extra = last_logits_only(self.network)
        self.shared: tuple[tuple[int, ...], Prefix] = ((), [])
        self.counts = dict.fromkeys(("prefill_tokens", "shared_tokens", "decode_tokens", "steps"), 0)
        self.finishes = dict.fromkeys(("eos", "stop", "length"), 0)

    def finish_all(self) -> None:
        """Decodes until no row runs and none waits."""
        self._admit([])
        while self.running:
            tokens, logps = self._step()
            ended = self._record(tokens.tolist(), logps.tolist())
            if ended:
                self._admit(ended)
            else:
                self.tokens = tokens
                self.positions += 1
                self.draws += 1

    def receipt(self) -> dict[str, Any]:
        return {"rows": sum(self.finishes.values()), "slots": self.slots, **self.counts, "finish": self.finishes}

    def _step(self) -> tuple[Tensor, Tensor]:
        """One token for every running row: ids and log-probabilities, both ``[B]``."""
        logits = self.network(
            input_ids=self.tokens[:, None],
            attention_mask=self.cache.open_column(),
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
            **self.extra,
        ).logits[:, -1]
        self.cache.close_column()
        self.counts["steps"] += 1
        self.counts["decode_tokens"] += len(self.running)
        logps = log_distribution(logits, self.sampling)
        greedy = self.sampling.temperature == 0
        tokens = logps.argmax(-1) if greedy else draw(logps, self.streams, self.draws)
        return tokens, logps.gather(-1, tokens[:, None])[:, 0]

    def _record(self, tokens: list[int], logps: list[float]) -> list[int]:
        """Appends each row's token; returns the slots of the rows that ended."""
        ended = []
        for slot, (row, token, logp) in enumerate(zip(self.running, tokens, logps)):
            if logp != logp:
                raise ModelError(self._not_finite(row))
            row.new.append(token)
            row.logps.append(logp)
            if token in self.eos:
                row.finish = "eos"
            elif self.stops.ended(row.new):
                row.finish = "stop"
            elif len(row.new) >= row.budget:
                row.finish = "length"
            if row.finish:
                self.finishes[row.finish] += 1
                ended.append(slot)
        return ended

    def _not_finite(self, row: _Row) -> str:
        ids = torch.tensor([[*row.ids, *row.new]], device=self.device)
        where = first_nonfinite(self.network, lambda: self.network(input_ids=ids, use_cache=False))
        return (
            f"the network's logits for prompt {row.prompt} are NaN after {len(row.new)} tokens"
            f"{f': {where}' if where else ''}; its weights are broken or overflow in {self.network.dtype}: load it in float32 or "
            "bfloat16"
        )

    def _admit(self, ended: list[int]) -> None:
        """Lets rows leave and waiting ones take their slots, several at once because a prefill has fixed costs."""
        free = self.slots - len(self.running) + len(ended)
        enough = free >= min(len(self.queue), max(1, self.slots // 8))
        places: dict[int, _Row] = {}
        for _ in range(min(free, len(self.queue)) if enough else 0):
            row = self.queue.pop()
            slot = ended.pop(0) if ended else len(self.running)
            self.running[slot : slot + 1] = [row]
            self.cache.place(slot, len(row.ids) - 1)
            places[slot] = row
        for slot in reversed(ended):
            self.running[slot] = self.running[-1]
            self.running.pop()
            self.cache.leave(slot)
        self._fill(places)
        self.cache.settle()
        self._inputs()

    def _fill(self, places: dict[int, _Row]) -> None:
        """Runs the prompts of new rows, each prefix once, and copies them into their slots."""
        slots: dict[tuple[int, ...], list[int]] = {}
        for slot, row in places.items():
            if len(row.ids) > 1:
                slots.setdefault(tuple(row.ids[:-1]), []).append(slot)
        if self.shared[0] in slots:
            self.cache.fill(slots[self.shared[0]], self.shared[1])
        new = [ids for ids in slots if ids != self.shared[0]]
        for part in by_length(new, len, forward_positions(self.device)):
            for ids, prefix in zip(part, prefill(self.network, part)):
                self.cache.fill(slots[ids], prefix)
                self.shared = (ids, prefix)
        placed, run = sum(len(ids) * len(taken) for ids, taken in slots.items()), sum(map(len, new))
        self.counts["prefill_tokens"] += run
        self.counts["shared_tokens"] += placed - run
        self._keep_shared()

    def _keep_shared(self) -> None:
        """Keeps the last prefix only if the next row in the queue has it, and without the batch that it was made in."""
        ids, prefix = self.shared
        waiting = bool(self.queue) and tuple(self.queue[-1].ids[:-1]) == ids
        self.shared = (ids, [(i, keys.clone(), values.clone()) for i, keys, values in prefix]) if waiting else ((), [])

    def _inputs(self) -> None:
        rows = self.running
        last = [row.new[-1] if row.new else row.ids[-1] for row in rows]
        self.tokens = torch.tensor(last, device=self.device)
        self.positions = torch.tensor([len(row.ids) + len(row.new) - 1 for row in rows], device=self.device)
        self.draws = torch.tensor([len(row.new) for row in rows], device=self.device)
        self.streams = torch.tensor([row.stream for row in rows], device=self.device)
