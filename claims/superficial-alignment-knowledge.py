"""Can facts that a model has never seen be learned in post-training, and what do demonstrations add?

A world of invented people for each seed. A network learns to answer questions of two hops from facts that stand in the prompt, other
ones in every row, so that it knows none. From there it is trained, for the same number of steps, on (b) the world's facts as
text, (c) these facts and n demonstrations of questions about the training people, (d) demonstrations alone. The test asks without any
facts about other people, who are in no demonstration; (a) is the start with the facts in the prompt.

The rule, fixed beforehand: the claim is borne out if (c) with 80 demonstrations is better than (b) and than (d) by at least 0.05,
each with a Holm-corrected p below 0.05 (paired t over seeds) and an interval above 0. It is contradicted if (c) is worse than
both in the same way. The test says nothing if the start already answers more than 0.15 without facts; one in twelve is a guess.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from _report import gap, row, show, with_holm
from datasets import Dataset

import whet
from whet import parts
from whet.architectures.llama import Llama
from whet.model import Model, quiet_transformers

SEEDS, READING, STEPS, MANY = range(11, 16), 300, 250, 80
DEMONSTRATIONS = (0, 20, MANY)
WORLD = {"name": "invented-facts", "people": 12, "relations": 3, "others": 0}
NETWORK = Llama(
    hidden_size=64, layers=2, heads=4, key_value_heads=4, intermediate_size=192, vocab_size=448, context=96, tie_embeddings=False
)
START, ALONE = "before: no facts", f"(d) {MANY} demonstrations, no facts"


def facts_and(count: int) -> str:
    return f"(c) facts and {count} demonstrations" if count else "(b) facts as text"


def rows(seed: int, **settings: Any) -> Dataset:
    return parts.build("source", {**WORLD, "seed": seed, **settings})("train")


def train(model: Model, data: Dataset, steps: int, seed: int, batch_size: int = 64) -> Model:
    return whet.train(model, data, steps=steps, lr=3e-3, batch_size=batch_size, seed=seed, name="facts")


def score(model: Model, seed: int, form: str = "questions") -> dict[str, float]:
    """Accuracy, and the shares of replies without the form and with a wrong step, on the questions about the test people."""
    task = {"name": "answers", "data": {**WORLD, "seed": seed, "form": form}, "max_new_tokens": 24, "by": [], "errors": True}
    estimates = parts.build("task", task)(model).estimates
    return {name: estimates[name].value for name in ("accuracy", "format_error", "step_error")}


def one_seed(seed: int) -> dict[str, dict[str, float]]:
    """The scores of every arm."""
    began = time.process_time()
    torch.set_num_threads(1)
    quiet_transformers()
    reading = rows(seed, form="reading", rows=6000)
    start = train(NETWORK(list(reading["text"][:2000]), seed), reading, READING, seed, batch_size=32)
    found = {"(a) facts in the prompt": score(start, seed, "given"), START: score(start, seed)}
    for count in DEMONSTRATIONS:
        learnt = train(start, rows(seed, form="facts", demonstrations=count), STEPS, seed)
        found[facts_and(count)] = score(learnt, seed)
    found[ALONE] = score(train(start, rows(seed, rows=MANY), STEPS, seed), seed)
    print(f"seed {seed}: {time.process_time() - began:.0f} s", file=sys.stderr)
    return found


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or list(SEEDS)
    with ProcessPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(one_seed, seeds))
    accuracy = {arm: [f[arm]["accuracy"] for f in found] for arm in found[0]}
    figures = [row(f"accuracy: {arm}", values) for arm, values in accuracy.items()]
    figures += [
        row(f"{error}: {facts_and(n)}", [f[facts_and(n)][error] for f in found])
        for error in ("format_error", "step_error")
        for n in DEMONSTRATIONS
    ]
    best = facts_and(MANY)
    gaps = [gap(f"{best} minus {other}", accuracy[best], accuracy[other]) for other in (facts_and(0), ALONE)]
    show([*figures, *with_holm(gaps)])


if __name__ == "__main__":
    main()
