"""Sampling throughput against transformers.generate on ragged prompts and lengths: python bench/generate.py

The same randomly initialised Llama and prompts; several end-of-sequence ids make completions end at ragged lengths. Tokens up to
the end of each completion per second: what a peer decodes for rows that have ended does not count.
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from _rounds import report, rounds
from transformers import LlamaConfig, LlamaForCausalLM

from whet.architectures.tokenizer import train_tokenizer
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.model import Model, quiet_transformers

ENDS = list(range(1, 11))
"""Token ids that end a completion."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--rows", type=int, default=64)
    options.add_argument("--new", type=int, default=192, help="longest completion")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    quiet_transformers()
    heads = given.hidden // 32
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=given.hidden,
        intermediate_size=4 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=ENDS,
    )
    model = Model(LlamaForCausalLM(config).eval(), train_tokenizer(["a b c"], 300), "bench")
    draw = random.Random(0)
    prompts = [[draw.randrange(20, 1000) for _ in range(draw.randint(20, 120))] for _ in range(given.rows)]
    seeds = iter(range(10_000))
    figures = rounds(
        {
            "whet": lambda: ours(model, prompts, given.new, next(seeds)),
            "transformers": lambda: theirs(model, prompts, given.new, next(seeds)),
        },
        given.rounds,
    )
    about = f"{model.parameters / 1e6:.1f} M weights, {torch.get_num_threads()} threads, torch {torch.__version__}"
    report(f"sampling, {about}, {given.rows} prompts of 20 to 120 tokens", "tokens/s", "whet", figures)


def ours(model: Model, prompts: list[list[int]], new: int, seed: int) -> float:
    started = time.perf_counter()
    completions = generate(model, prompts, Sampling(max_new_tokens=new), seed=seed)
    return sum(len(c.ids) for c in completions) / (time.perf_counter() - started)


def theirs(model: Model, prompts: list[list[int]], new: int, seed: int) -> float:
    torch.manual_seed(seed)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    started = time.perf_counter()
    out = model.network.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=True, top_k=0)[:, longest:]
    seconds = time.perf_counter() - started
    ended = torch.isin(out, torch.tensor(ENDS))
    lengths = torch.where(ended.any(1), ended.float().argmax(1) + 1, out.shape[1])
    return int(lengths.sum()) / seconds


if __name__ == "__main__":
    main()
