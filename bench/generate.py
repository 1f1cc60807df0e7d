"""Sampling throughput against transformers.generate on ragged prompts and lengths: python bench/generate.py

The same randomly initialised Llama, the same prompts, and the same length for each prompt's completion in all contenders: nobody
knows it before the row ends there, and no token ends a row early. Tokens of the completions per second; what a peer decodes for
rows that have ended does not count. Of the peer's settings (all rows at once or prompts sorted and in batches, dynamic or static
cache) each format's fastest in a trial goes into the rounds. Its continuous batching, made for accelerators, is no contender: it
was three times slower than its ``generate`` on a processor.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from _llama import about, asked
from _llama import network as llama
from _rounds import peaks, report, rounds
from transformers import StoppingCriteria, StoppingCriteriaList

from whet.architectures.tokenizer import train_tokenizer
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.model import Model

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COPIED = 1 << 28
"""Bytes of the array whose copying measures the memory's bandwidth."""


@dataclass(frozen=True)
class Work:
    """The prompts, how long each one's completion gets, and the longest that any may get."""

    prompts: Sequence[list[int]]
    lengths: Sequence[int]
    new: int


def main() -> None:
    given = asked(__doc__, rounds=5, rows=(64, "prompts"), new=(192, "longest completion"))
    models = {name: network(given.hidden, given.layers, dtype) for name, dtype in FORMATS.items()}
    work = some_work(given.rows, given.new)
    mine: dict[str, Callable[[], float]] = {f"whet {name}": lambda m=model: ours(m, work) for name, model in models.items()}
    peers = {name: settings_of_peer(name, model, work) for name, model in models.items()}
    if given.only:
        (mine | {k: v for tried in peers.values() for k, v in tried.items()})[given.only]()
        return
    best = {name: max(tried, key=lambda setting: tried[setting]()) for name, tried in peers.items()}
    contenders = mine | {setting: peers[name][setting] for name, setting in best.items()}
    figures = rounds(contenders, given.rounds)
    title = f"sampling, {about(models['float32'])}, {given.rows} prompts of 20 to 120 tokens, {sum(work.lengths) / given.rows:.0f} new ones each"
    for name in FORMATS:
        pair = {key: figures[key] for key in (f"whet {name}", best[name])}
        report(f"{title}, {name}", "tokens/s", f"whet {name}", pair)
    fastest = max(mine, key=lambda key: median(figures[key]))
    report(f"{title}, fastest of both", "tokens/s", fastest, {k: figures[k] for k in (fastest, *best.values())})
    print(share_of_bandwidth(models["float32"], work, sum(work.lengths) / median(figures["whet float32"])))
    for name, peak in peaks(contenders).items():
        print(f"  {name}: peak memory {peak:.2f} GB")


def network(hidden: int, layers: int, dtype: torch.dtype) -> Model:
    tokenizer = train_tokenizer(["a b c"], 300)
    tokenizer.eos_token = None
    return Model(llama(hidden, layers, 1024).to(dtype), tokenizer, "bench")


def some_work(rows: int, new: int) -> Work:
    """Uniform prompt lengths; completions of geometrically distributed length, cut at ``new``."""
    draw = random.Random(0)
    prompts = [[draw.randrange(20, 1000) for _ in range(draw.randint(20, 120))] for _ in range(rows)]
    return Work(prompts, [min(new, 1 + int(draw.expovariate(2 / new))) for _ in range(rows)], new)


def ours(model: Model, work: Work) -> float:
    started = time.perf_counter()
    completions = generate(model, work.prompts, Sampling(max_new_tokens=work.new), limits=work.lengths)
    assert [len(c.ids) for c in completions] == list(work.lengths)
    return sum(work.lengths) / (time.perf_counter() - started)


def settings_of_peer(name: str, model: Model, work: Work) -> dict[str, Callable[[], float]]:
    """The peer's settings by name. Sorted batches lose less padding, large ones have fewer steps."""
    rows = len(work.prompts)
    tried = [(rows, None), (rows, "static"), (-(-rows // 2), None), (-(-rows // 4), None)]
    return {
        f"transformers {name}, batches of {size}{', static cache' if cache else ''}": (
            lambda size=size, cache=cache: theirs(model, work, size, cache)
        )
        for size, cache in tried
    }


class _Lengths(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, start: int, lengths: Sequence[int]) -> None:
        self.start, self.lengths = start, torch.tensor(lengths)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return input_ids.shape[1] - self.start >= self.lengths


def theirs(model: Model, work: Work, size: int, cache: str | None) -> float:
    torch.manual_seed(0)
    order = sorted(range(len(work.prompts)), key=lambda i: len(work.prompts[i]))
    started = time.perf_counter()
    for at in range(0, len(order), size):
        prompts, lengths = [work.prompts[i] for i in order[at : at + size]], [work.lengths[i] for i in order[at : at + size]]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        out = model.network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=work.new,
            do_sample=True,
            top_k=0,
            cache_implementation=cache,
            stopping_criteria=StoppingCriteriaList([_Lengths(longest, lengths)]),
        )
        assert out.shape[1] == longest + max(lengths)
    return sum(work.lengths) / (time.perf_counter() - started)


def share_of_bandwidth(model: Model, work: Work, seconds: float) -> str:
    """What decoding has to read, all weights once per step and each row's keys and values, against the speed of a plain copy."""
    receipt: dict[str, Any] = {}
    generate(model, work.prompts, Sampling(max_new_tokens=work.new), limits=work.lengths, receipt=receipt)
    weights = sum(p.nbytes for p in model.network.parameters()) - model.network.get_input_embeddings().weight.nbytes
    config = model.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.network.dtype.itemsize
    cached = sum(n * len(p) + n * (n - 1) // 2 for p, n in zip(work.prompts, work.lengths))
    decoding = (receipt["steps"] * weights + cached * token) / seconds / 1e9
    source, target = torch.ones(2, COPIED // 4, dtype=torch.float32)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - started)
    copying = 2 * COPIED / min(times) / 1e9
    return f"  whet float32 reads {decoding:.1f} GB/s, prefills included in the time: {decoding / copying:.0%} of a copy's {copying:.1f}"


if __name__ == "__main__":
    main()
