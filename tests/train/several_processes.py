"""The training runs of test_distributed.py, for one process or several.

A case is a name in ``CASES``, with ``:folder`` to checkpoint there and ``:folder:step`` to forget what is later than that step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from whet import parts
from whet.api import quantize
from whet.data.example import Example
from whet.data.schedules.shuffle import shuffle
from whet.data.schedules.skill_it import SkillIt
from whet.errors import DataError, OtherRank, WhetError
from whet.model import Model, load_model, quiet_transformers, weights_hash
from whet.train.adapters.lora import LoRA
from whet.train.distributed import rank
from whet.train.loop import FitResult, fit, train_step
from whet.train.mixed import MixedExamples
from whet.train.objective import Loss
from whet.train.objectives.sft import SFT
from whet.train.provider import FixedExamples
from whet.train.reference import reference_reader, with_reference_logps
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.settings import TrainSettings
from whet.train.setup import prepare
from whet.train.sharding import is_sharded

STEPS = 8
Case = Callable[..., FitResult]


def rows(size: int, seed: int = 5) -> list[Example]:
    generator = np.random.default_rng(seed)
    made = [[int(start + k) % 40 + 5 for k in range(generator.integers(6, 30))] for start in generator.integers(0, 40, size)]
    return [Example(ids, [i > 1 for i in range(len(ids))]) for ids in made]


def train(model: Model, provider: Any, objective: Any, folder: Path | None, **settings: Any) -> FitResult:
    extra = {name: settings.pop(name) for name in ("adapter", "optimizer", "reference") if name in settings}
    chosen = TrainSettings(
        **{"steps": STEPS, "batch_size": 6, "lr": 3e-3, "precision": "float32", "micro_tokens": 96}
        | {"checkpoint_every": 2, "checkpoint_keep": STEPS}
        | settings
    )
    return fit(model, provider, objective, chosen, checkpoint_folder=folder, progress=False, **extra)


def supervised(objective: Any = None, size: int = 24, **settings: Any) -> Case:
    def run(model: Model, folder: Path | None = None) -> FitResult:
        provider = FixedExamples([[e] for e in rows(size)], shuffle, batch_size=settings.get("batch_size", 6))
        return train(model, provider, objective or SFT(), folder, **settings)

    return run


def mixed(model: Model, folder: Path | None = None) -> FitResult:
    both = {"short": [[e] for e in rows(24) if len(e) < 18], "long": [[e] for e in rows(24) if len(e) >= 18]}
    held_out = {skill: [unit[0] for unit in units[:3]] for skill, units in both.items()}
    schedule = SkillIt(every=3, measure_every=2, eta=2.0, influence={"short": {"long": 0.5}})
    return train(model, MixedExamples(both, held_out, schedule, batch_size=6), SFT(), folder)


def dpo(model: Model, folder: Path | None = None) -> FitResult:
    chosen, rejected = rows(24, seed=1), rows(24, seed=2)
    pairs = [
        [Example(e.input_ids, e.trained, values={"chosen": float(not i)}) for i, e in enumerate(pair)]
        for pair in zip(chosen, rejected)
    ]
    provider = FixedExamples(with_reference_logps(model, pairs), shuffle, batch_size=6)
    return train(model, provider, parts.build("objective", "dpo"), folder, micro_tokens=256)


def against_another(model: Model, folder: Path | None = None) -> FitResult:
    other = model.copy()
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(1.1)
    provider = FixedExamples([[e] for e in rows(24)], shuffle, batch_size=6)
    return train(model, provider, parts.build("objective", "compat-distill"), folder, reference=other)


def scales(model: Model, folder: Path | None = None) -> FitResult:
    small = quantize(model, bits=3, group_size=16, compensate="none")
    provider = FixedExamples([[e] for e in rows(24)], shuffle, batch_size=6)
    return train(small, provider, SFT(), folder, adapter="scales")


def vowels(asked: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def rollouts(objective: Any, **settings: Any) -> Case:
    def run(model: Model, folder: Path | None = None) -> FitResult:
        learner = parts.build("objective", objective)
        plan = RolloutSettings(prompts=3, group_size=4, max_new_tokens=6, epochs_per_rollout=2, minibatches=2)
        data = [{"prompt": f"What is {i} plus 4?"} for i in range(7)]
        provider = RolloutProvider(data, vowels, learner, plan, schedule=shuffle, seed=1)
        if "reference" in learner.needs:
            provider.bind(reference_logps=reference_reader(model))
        return train(model, provider, learner, folder, lr=1e-3, **settings)

    return run


def wrong_on_the_second(policy: Any, batch: Any) -> Loss:
    if rank() == 1 and batch.step == 3:
        raise DataError("row 17 has no soul")
    return SFT()(policy, batch)


def killed_on_the_second(policy: Any, batch: Any) -> Loss:
    if rank() == 1 and batch.step == int(os.environ.get("KILLED_AT", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
    return SFT()(policy, batch)


def not_a_number(policy: Any, batch: Any) -> Loss:
    loss = SFT()(policy, batch).total
    return Loss(loss * (float("nan") if batch.step == 4 and rank() == 1 else 1.0))


class WithValues:
    """SFT and a value head, whose shapes do not divide by the number of ranks."""

    needs = frozenset({"values"})

    def __call__(self, policy: Any, batch: Any) -> Loss:
        error = ((policy.values(batch) - 1) ** 2 * batch.mask).sum() / batch.totals.tokens
        return Loss(error + SFT()(policy, batch).total)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if is_sharded(tensor) else tensor).detach().clone()  # type: ignore[attr-defined]


def saved_and_loaded(model: Model, folder: Path, save: bool) -> dict[str, torch.Tensor]:
    """Trains two steps and saves, or loads what was saved; every weight and optimizer tensor, whole."""
    provider, chosen = FixedExamples([[e] for e in rows(24)], shuffle, batch_size=6), TrainSettings(steps=4, precision="float32")
    torch.manual_seed(0)
    training = prepare(model, provider, WithValues(), chosen, LoRA(r=3), "adamw", 1.0, False)
    if save:
        for training.step in (1, 2):
            train_step(training)
        training.save(folder)
    else:
        training.resume(folder)
    found = {name: whole(p) for name, p in training.parameters}
    for index, state in training.optimizer.state_dict()["state"].items():
        found |= {f"{index}.{name}": whole(tensor) for name, tensor in state.items()}
    return found


for spoiled in (wrong_on_the_second, killed_on_the_second, not_a_number):
    spoiled.needs = frozenset()  # type: ignore[attr-defined]

CASES: dict[str, Case] = {
    "sft": supervised(),
    "lora": supervised(adapter=LoRA(r=3)),
    "dpo": dpo,
    "grpo": rollouts("grpo"),
    "ppo": rollouts("ppo"),
    "uneven": supervised(batch_size=3, micro_tokens=40, steps=8),
    "one row": supervised(batch_size=1),
    "checkpointing": supervised(gradient_checkpointing=True),
    "skill-it": mixed,
    "two objectives": supervised([(1.0, SFT()), (0.5, parts.build("objective", {"name": "masked-thought", "p": 0.3}))]),
    "another model": against_another,
    "scales": scales,
    "nadamw": supervised(optimizer="nadamw"),
    "nesterov": supervised(optimizer="nesterov", lr=0.1),
    "bfloat16": supervised(precision="bfloat16"),
    "wrong": supervised(wrong_on_the_second),
    "killed": supervised(killed_on_the_second),
    "nan": supervised(not_a_number),
}


def carry_out(model: Model, case: str, out: Path) -> dict[str, Any]:
    name, _, rest = case.partition(":")
    folder, _, stop = rest.partition(":")
    result = CASES[name](model, out / folder if folder else None)
    if stop and rank() == 0:
        for later in (out / folder).glob("step-*"):
            if int(later.name[5:]) > int(stop):
                shutil.rmtree(later)
    return summary(result)


def summary(result: FitResult) -> dict[str, Any]:
    return {
        "curve": result.curve,
        "hash": weights_hash(result.model.network.state_dict()),
        "sums": {name: float(t.double().sum()) for name, t in result.model.network.state_dict().items()},
        "receipt": {name: value for name, value in result.receipt.items() if name != "curve"},
    }


def run_cases(model: Path, out: Path, cases: Sequence[str]) -> dict[str, Any]:
    quiet_transformers()
    loaded = load_model(model, dtype="float32", device="cpu")
    results = {case: carry_out(loaded, case, out) for case in cases if "=" not in case}
    for case in cases:
        if "=" in case:
            way, _, folder = case.partition("=")
            save_file(saved_and_loaded(loaded, out / folder, way == "save"), out / f"{way}-{folder}-{rank()}.safetensors")
    (out / f"rank{rank()}.json").write_text(json.dumps(results))
    return results


def start(number: int, size: int, port: int, model: Path, out: Path, cases: Sequence[str], killed_at: int) -> None:
    """One of several processes without torchrun; what it prints goes to a file, errors of whet end it as the command does."""
    own = {"RANK": number, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "KILLED_AT": killed_at}
    os.environ.update({name: str(value) for name, value in own.items()})
    printed = os.open(out / f"printed{number}", os.O_CREAT | os.O_WRONLY)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    torch.set_num_threads(1)
    try:
        run_cases(model, out, cases)
    except OtherRank:
        sys.exit(2)
    except WhetError as error:
        print(f"whet: {error}", flush=True)
        sys.exit(2)
