"""GRPO steps per second against TRL's GRPOTrainer with generation by transformers: python bench/grpo.py

The same randomly initialised Llama, the same prompts, group size and longest completion, one update per rollout, no reference
model; a reward that costs nothing. Several token ids end a completion, so that its length is ragged in the same way on both
sides: as much is sampled, scored and trained on, which the printed tokens per step show. TRL in float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from _environment import need
from _llama import about, asked
from _rounds import peaks, report, rounds
from _rows import joined, llama
from datasets import Dataset

from whet import parts
from whet.data.sources.nanoworld import NanoWorld
from whet.model import Model
from whet.train.loop import fit
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.settings import TrainSettings

ENDS = 12
"""Token ids that end a completion: a random network samples one of them about every 85 tokens."""

Counter = Callable[[float], None]


def main() -> None:
    given = asked(
        __doc__,
        prompts=(4, "prompts per optimizer step"),
        group=(8, "completions per prompt"),
        new=(128, "longest completion"),
        steps=(3, "optimizer steps"),
    )
    need("trl")
    count = given.prompts * given.steps
    rows = joined(NanoWorld(rows=9 * count)("train"), ["prompt"], count)
    model = llama(given.hidden, given.layers)
    model.network.generation_config.eos_token_id = [model.tokenizer.eos_token_id, *range(300, 300 + ENDS - 1)]
    sampled: dict[str, list[float]] = {}
    contenders = {"whet": lambda: ours(model, rows, given, sampled.setdefault("whet", []).append)} | {
        name: lambda half=half, name=name: trl(model, rows, given, half, sampled.setdefault(name, []).append)
        for name, half in (("TRL float32", False), ("TRL bfloat16", True))
    }
    if given.only:
        contenders[given.only]()
        return
    figures = rounds(contenders, given.rounds)
    title = f"GRPO, {about(model)}, {given.prompts} prompts x {given.group} completions of at most {given.new} tokens a step"
    report(title, "steps/s", "whet", figures)
    memory = peaks(contenders)
    for name, tokens in sampled.items():
        print(f"  {name}: {mean(tokens):.1f} tokens per completion, peak memory {memory[name]:.2f} GB")


def ours(model: Model, rows: Dataset, given: argparse.Namespace, count: Counter) -> float:
    """Steps per second of whet's loop with rollouts."""
    objective = parts.build("objective", {"name": "grpo", "kl": 0.0})
    sampling = RolloutSettings(prompts=given.prompts, group_size=given.group, max_new_tokens=given.new)
    provider = RolloutProvider(rows, _reward, objective, sampling, schedule=parts.build("schedule", "shuffle"))
    settings = TrainSettings(steps=given.steps, batch_size=given.prompts, lr=1e-6)
    started = time.perf_counter()
    receipt = fit(model, provider, objective, settings, progress=False).receipt
    seconds = time.perf_counter() - started
    count(receipt["trained_tokens"] / receipt["rows"])
    return given.steps / seconds


def trl(model: Model, rows: Dataset, given: argparse.Namespace, half: bool, count: Counter) -> float:
    """Steps per second of GRPOTrainer over one pass through the prompts."""
    from trl import GRPOConfig, GRPOTrainer

    lengths: list[int] = []

    def reward(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [_score(completion[0]["content"]) for completion in completions]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=given.steps,
            per_device_train_batch_size=given.prompts * given.group,
            num_generations=given.group,
            max_completion_length=given.new,
            steps_per_generation=1,
            learning_rate=1e-6,
            beta=0.0,
            loss_type="grpo",
            bf16=half,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=10_000,
            disable_tqdm=True,
        )
        data = rows.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
        trainer = GRPOTrainer(model.copy().network, reward, args=config, train_dataset=data, processing_class=model.tokenizer)
        seconds = trainer.train().metrics["train_runtime"]
    count(mean(lengths))
    return given.steps / seconds


def _reward(rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
    return [_score(text) for text in completions]


def _score(text: str) -> float:
    return len(text) % 7 / 6


if __name__ == "__main__":
    main()
