"""What the claims tested on the source ``chain-mod10`` share: the network, its training, its scores, and the result's YAML.

The network is a Llama of 2 layers, width 64 and 4 heads, about 0.14 M weights, in a tokenizer of 280 tokens
that is trained on the chains; the digits, operations and the mark ``####`` are one token each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from datasets import Dataset

import whet
from whet import parts
from whet.architectures.llama import Llama
from whet.measure.statistics import hierarchical_bootstrap, mean_interval
from whet.measure.statistics.result import TestResult
from whet.model import Model, quiet_transformers

NETWORK = Llama(
    hidden_size=64, layers=2, heads=4, key_value_heads=4, intermediate_size=192, vocab_size=280, context=64, tie_embeddings=False
)
TEST_ROWS = 500

Scores = list[float]
"""One test prompt each, in [0, 1]."""


def chains(split: str = "train", **settings: Any) -> Dataset:
    """Rows of ``chain-mod10``."""
    return parts.build("source", {"name": "chain-mod10", **settings})(split)


def fresh(seed: int) -> Model:
    """A network with random weights; the tokenizer is the same for every seed."""
    torch.set_num_threads(1)
    quiet_transformers()
    return NETWORK(chains(rows=1000)["text"], seed)


def train(model: Model, rows: Dataset, steps: int, lr: float, seed: int, **fields: Any) -> Model:
    """``steps`` optimizer steps of whet's training loop, 64 rows each unless ``fields`` say otherwise; its log line goes to standard error."""
    started = time.process_time()
    made = whet.train(model, rows, steps=steps, lr=lr, seed=seed, name="chains", **fields)
    print(
        f"seed {seed}: {steps} steps of {fields.get('objective', 'sft')}, {time.process_time() - started:.0f} s", file=sys.stderr
    )
    return made


def reinforce(model: Model, rows: Dataset, steps: int, seed: int, *, objective: Any, reward: Any = "exact-answer") -> Model:
    """``steps`` optimizer steps of 16 prompts x 8 completions, constant lr 1e-3 after the first twentieth.

    A policy that has become the same for all completions of a prompt goes on to the end: that is a result here.
    """
    rollouts = {"prompts": 16, "group_size": 8, "max_new_tokens": 8, "patience": steps + 1}
    fields = {"objective": objective, "reward": reward, "rollouts": rollouts, "lr_schedule": "constant"}
    return train(model, rows, steps, 1e-3, seed, **fields)


def receipt(model: Model) -> Mapping[str, Any]:
    """The receipt of the training step that made the model."""
    return model.lineage["step"]["receipt"]


def score(model: Model, test: Mapping[str, Any], *, samples: int = 0) -> Scores:
    """Exact answers on the test prompts of the ``chain-mod10`` settings ``test``.

    Args:
        model: who answers.
        test: settings of the source, without ``rows``.
        samples: 0 decodes greedily; else the mean over so many samples at temperature 1.
    """
    sampling = {"samples": samples, "temperature": 1.0} if samples else {}
    task = parts.build(
        "task",
        {
            "name": "answers",
            "data": {"name": "chain-mod10", "rows": TEST_ROWS, **test},
            "max_new_tokens": int(test.get("steps", 3)) + 4,
            "by": (),
            **sampling,
        },
    )
    return [outcome.score for outcome in task(model).outcomes]


def figure(name: str, scores: Sequence[Scores]) -> dict[str, Any]:
    """One arm: its value at each seed, their mean and t interval over seeds."""
    values = [sum(s) / len(s) for s in scores]
    interval = mean_interval(values)
    return {
        "name": name,
        "values": _rounded(values),
        "mean": round(interval.value, 4),
        "interval": _rounded([interval.low, interval.high]),
    }


def difference(name: str, first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Any]:
    """Two arms on the same seeds and test prompts: first minus second, bootstrap over seeds, then prompts."""
    gaps = [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(first, second, strict=True)]
    return {"name": name, "values": _rounded([sum(g) / len(g) for g in gaps]), **of_test(hierarchical_bootstrap(gaps))}


def of_test(test: TestResult) -> dict[str, Any]:
    """Mean, interval and p of a test."""
    assert test.effect is not None and test.low is not None and test.high is not None
    return {"mean": round(test.effect, 4), "interval": _rounded([test.low, test.high]), "p": round(test.p, 4)}


def show(result: Sequence[Mapping[str, Any]], started: float) -> None:
    """Prints the figures and the processor seconds since ``started`` as YAML."""
    seconds = round(time.process_time() - started)
    print(yaml.safe_dump({"result": list(result), "cost_seconds": seconds}, sort_keys=False, default_flow_style=None, width=150))


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
