"""Log-likelihood evaluation against lm-eval's HFLM on the same questions and model: python bench/likelihood.py

Three shapes of random words: a shared context with four endings of some 20 tokens (as HellaSwag), long contexts with four choices
of one token (as MMLU with examples), and rolling perplexity of documents (as WikiText). Both contenders go from the rows to each
question's scores, tokenization included, in float32; lm-eval with its fastest batch size in a trial (its ``auto`` would come to
64 on a processor, after ten passes to find that out). The log-likelihoods must agree to 1e-4 per token. Needs the extra ``bench``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _llama import about, asked
from _llama import network as llama
from _rounds import peaks, report, rounds
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from whet.generate.likelihood import sequence_logps
from whet.measure.tasks.choices import Choices
from whet.measure.tasks.perplexity import Perplexity
from whet.measure.windows import split_pair
from whet.model import Model

BATCHES = (8, 32, 64)
VOCABULARY = 8192
TOLERANCE = 1e-4
"""Nats per token."""

Scores = list[float]


def main() -> None:
    given = asked(__doc__, hidden=384, rows=(32, "questions of the first shape; the others have half and a quarter"))
    model = network(given.hidden, given.layers)
    shapes = {
        "endings": questions(given.rows, (40, 100), (10, 30)),
        "single tokens": questions(given.rows // 2, (200, 600), (1, 1)),
        "rolling": [{"text": words(random.Random(i), (500, 1500))} for i in range(given.rows // 4)],
    }
    contenders: dict[str, dict[str, Callable[[], Scores]]] = {}
    for shape, rows in shapes.items():
        peer = rolling if shape == "rolling" else multiple_choice
        mine: dict[str, Callable[[], Scores]] = {f"whet, {shape}": lambda rows=rows: ours(model, rows)}
        contenders[shape] = mine | {
            f"lm-eval, {shape}, batch size {size}": lambda peer=peer, rows=rows, size=size: peer(model, rows, size)
            for size in BATCHES
        }
    if given.only:
        next(tried[given.only] for tried in contenders.values() if given.only in tried)()
        return
    for shape, tried in contenders.items():
        rows = shapes[shape]
        logps = [] if shape == "rolling" else choice_logps(model, rows)
        compare(f"log-likelihood of {shape}, {about(model)}, {len(rows)} rows", tried, logps, len(rows), given.rounds)


def compare(title: str, tried: dict[str, Callable[[], Scores]], logps: Scores, rows: int, count: int) -> None:
    """Prints the largest difference, the rounds' ratio and the peaks of ours and the peer's fastest setting."""
    mine, *theirs = tried
    expected, speeds = tried[mine]() + logps, {}
    largest = 0.0
    for name in theirs:
        started = time.perf_counter()
        largest = max(largest, float(np.abs(np.subtract(tried[name](), expected)).max()))
        speeds[name] = rows / (time.perf_counter() - started)
    if largest > TOLERANCE:
        raise SystemExit(f"{title}: the numbers differ by {largest:.1e} nats per token")
    contenders = {name: tried[name] for name in (mine, max(speeds, key=lambda name: speeds[name]))}
    figures = rounds({name: lambda run=run: rows / _seconds(run) for name, run in contenders.items()}, count)
    report(title, "rows/s", mine, figures)
    print(f"  largest difference {largest:.1e} nats per token")
    for name, peak in peaks(contenders).items():
        print(f"  {name}: peak memory {peak:.2f} GB")


def _seconds(run: Callable[[], Scores]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def network(hidden: int, layers: int) -> Model:
    """A random Llama and a tokenizer of whole words, so that a text's words are its tokens."""
    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    return Model(llama(hidden, layers, VOCABULARY, end=1), fast, "bench")


def words(draw: random.Random, lengths: tuple[int, int]) -> str:
    return " ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(draw.randint(*lengths)))


def questions(count: int, context: tuple[int, int], choice: tuple[int, int]) -> list[dict[str, Any]]:
    """Questions with four choices, lengths in words."""
    draw = random.Random(0)
    return [
        {"prompt": words(draw, context), "choices": [words(draw, choice) for _ in range(4)], "gold": draw.randrange(4)}
        for _ in range(count)
    ]


def ours(model: Model, rows: list[dict[str, Any]]) -> Scores:
    """Nats per token: the margin of each question's right choice, or each document."""
    if "text" in rows[0]:
        result = Perplexity(data=lambda split: Dataset.from_list(rows))(model)
        return [-outcome.scores["nll"] / outcome.scores["tokens"] for outcome in result.outcomes]
    result = Choices(data=lambda split: Dataset.from_list(rows))(model)
    return [outcome.scores["margin"] / _tokens(row) for outcome, row in zip(result.outcomes, rows)]


def choice_logps(model: Model, rows: list[dict[str, Any]]) -> Scores:
    """Nats per token of every choice of every question."""
    pairs = [split_pair(model, row["prompt"], f" {choice}") for row in rows for choice in row["choices"]]
    return [sum(logps) / len(logps) for logps in sequence_logps(model, pairs)[0]]


def multiple_choice(model: Model, rows: list[dict[str, Any]], size: int) -> Scores:
    """By lm-eval's own multiple-choice task, in nats per token: each question's margin, then every choice of every question."""
    config = {
        "task": "bench",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
    }
    task = ConfigurableTask(config=config)
    task.build_all_requests(rank=0, world_size=1)
    answers = iter(_harness(model, size).loglikelihood(task.instances, disable_tqdm=True))
    margins, each = [], []
    for row in rows:
        given = [next(answers) for _ in row["choices"]]
        task.process_results(row, given)
        logps = [value for value, _ in given]
        each += [value / len(choice.split()) for value, choice in zip(logps, row["choices"])]
        right = logps.pop(row["gold"])
        margins.append((right - max(logps)) / _tokens(row))
    return margins + each


def rolling(model: Model, rows: list[dict[str, Any]], size: int) -> Scores:
    requests = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(row["text"],), idx=0) for row in rows]
    found = _harness(model, size).loglikelihood_rolling(requests, disable_tqdm=True)
    return [value / len(row["text"].split()) for value, row in zip(found, rows)]


def _harness(model: Model, size: int) -> Any:
    return HFLM(pretrained=model.network, tokenizer=model.tokenizer, device="cpu", batch_size=size, max_length=model.context)


def _tokens(row: dict[str, Any]) -> int:
    return max(len(choice.split()) for choice in row["choices"])


if __name__ == "__main__":
    main()
