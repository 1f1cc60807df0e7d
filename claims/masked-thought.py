"""Masked thought against plain SFT on a few longer chains, from a base that is right on shorter ones.

Base: SFT on chains of 3 steps. Both arms: the same fine-tuning on 200 chains of 5 steps, 250 steps. Scores: greedy exact
answers on 500 held-out chains of 5 steps, and the share of right second steps after a given *wrong* first one.
"""

from __future__ import annotations

import random
import time
from typing import Any

from chain_world import Scores, chains, difference, figure, fresh, score, show, train

from whet.data.chat import prompt_ids
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.model import Model

SEEDS = (0, 1, 2, 3)
LONG: dict[str, Any] = {"steps": 5}
ARMS: dict[str, Any] = {"sft": "sft", "masked-thought": {"name": "masked-thought", "p": 0.2, "mode": "random"}}


def recovery(model: Model) -> Scores:
    """1 for each test prompt whose second step is the true one although the given first step is wrong."""
    rows = chains("test", rows=500, **LONG)
    prompts = [_wrong_start(row, model, random.Random(number)) for number, row in enumerate(rows)]
    completions = generate(model, prompts, Sampling(temperature=0.0, max_new_tokens=1))
    return [float(c.text.strip() == row["states"][1]) for c, row in zip(completions, rows, strict=True)]


def _wrong_start(row: dict[str, Any], model: Model, rng: random.Random) -> list[int]:
    """The prompt and a wrong first step, as ids."""
    wrong = rng.choice([digit for digit in "0123456789" if digit != row["states"][0]])
    return [*prompt_ids(row, model.tokenizer), *model.tokenizer(wrong)["input_ids"]]


def main() -> None:
    """Trains and scores all arms at all seeds; prints the figures."""
    started = time.process_time()
    exact: dict[str, list[Scores]] = {name: [] for name in ("base on 3 steps", "base on 5 steps", *ARMS)}
    recovered: dict[str, list[Scores]] = {name: [] for name in ARMS}
    for seed in SEEDS:
        base = train(fresh(seed), chains(rows=16000, seed=seed), steps=800, lr=3e-3, seed=seed)
        exact["base on 3 steps"].append(score(base, {}))
        exact["base on 5 steps"].append(score(base, LONG))
        few = chains(rows=200, seed=seed, **LONG)
        for name, objective in ARMS.items():
            tuned = train(base, few, steps=250, lr=1e-3, seed=seed, objective=objective)
            exact[name].append(score(tuned, LONG))
            recovered[name].append(recovery(tuned))
    result = [figure(f"exact accuracy, {name}", scores) for name, scores in exact.items()]
    result += [figure(f"second step after a wrong first, {name}", scores) for name, scores in recovered.items()]
    for what, scores in (("exact accuracy", exact), ("second step after a wrong first", recovered)):
        result.append(difference(f"{what}, masked-thought minus sft", scores["masked-thought"], scores["sft"]))
    show(result, started)


if __name__ == "__main__":
    main()
