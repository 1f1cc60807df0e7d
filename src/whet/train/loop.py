"""The one training loop: supervised, preference and reinforcement objectives, every adapter and optimizer go through it.

A step gathers all its examples, counts them (what losses are divided by), packs them into micro-batches, adds up the
gradients, clips and updates. How the step was split never changes its result. A run that was stopped goes on from its
last checkpoint and, on a CPU, ends with the same bits as one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from whet.data.example import Example
from whet.data.packing import count, pack
from whet.errors import WhetError
from whet.model import Model
from whet.train.lr import factor
from whet.train.objective import Objective
from whet.train.provider import Provider
from whet.train.receipt import StepLog, receipt_of
from whet.train.settings import TrainSettings
from whet.train.sieve import sieve
from whet.train.training import Training, prepare

log = logging.getLogger("whet")


@dataclass(frozen=True)
class FitResult:
    """The trained model (adapter merged), the receipt, and the curve: one :class:`StepLog` as a mapping per step."""

    model: Model
    receipt: dict[str, Any]
    curve: list[dict[str, Any]]


def fit(
    model: Model,
    provider: Provider,
    objective: Objective | Sequence[tuple[float, Objective]],
    settings: TrainSettings,
    *,
    adapter: Any = "full",
    optimizer: Any = "adamw",
    temperature: float = 1.0,
    checkpoint_folder: Path | None = None,
    resume: bool = True,
    on_step: Callable[[StepLog], None] | None = None,
    progress: bool | None = None,
    in_place: bool = False,
) -> FitResult:
    """Trains a model.

    Args:
        model: where to start; it is not changed unless ``in_place``.
        provider: gives the examples of each step.
        objective: one, or several with weights.
        settings: how long, how fast, how exactly.
        adapter, optimizer: a part or its recipe form.
        temperature: of the log-probabilities, for rollouts sampled at it.
        checkpoint_folder: where checkpoints go; without it nothing is saved.
        resume: go on from the newest checkpoint in the folder, if there is one.
        on_step: called after each step.
        progress: shows a bar; default: on a terminal.

    Raises:
        RecipeError: settings that do not fit together, or differ from those of the checkpoint.
        WhetError: a loss or gradient that is not finite (names the step), or nothing to learn from for too long.
    """
    with torch.random.fork_rng(enabled=True):
        torch.manual_seed(settings.seed)
        training = prepare(model, provider, objective, settings, adapter, optimizer, temperature, in_place)
        training.resume(checkpoint_folder if resume else None)
        with training.running() as attention:
            _run(training, checkpoint_folder, on_step, progress)
        return _finish(training, attention, checkpoint_folder)


def _run(training: Training, folder: Path | None, on_step: Callable[[StepLog], None] | None, progress: bool | None) -> None:
    settings, saved_at = training.settings, time.monotonic()
    bar = tqdm(total=training.steps, initial=training.step, unit="step", disable=None if progress is None else not progress)
    with bar:
        while training.step < training.steps:
            entry = train_step(training)
            training.step += 1
            training.meter.curve.append(asdict(entry))
            due = settings.checkpoint_every is not None and training.step % settings.checkpoint_every == 0
            due = due or time.monotonic() - saved_at > settings.checkpoint_seconds or training.step == training.steps
            if folder is not None and due:
                training.save(folder)
                saved_at = time.monotonic()
            bar.update()
            bar.set_postfix_str(f"loss {entry.loss:.4f}, {entry.tokens / max(entry.seconds, 1e-9):,.0f} tokens/s", refresh=False)
            if training.step % settings.log_every == 0:
                log.info(
                    "step %d of %d: loss %.4f, %d tokens in %.2f s",
                    training.step,
                    training.steps,
                    entry.loss,
                    entry.tokens,
                    entry.seconds,
                )
            if on_step is not None:
                on_step(entry)


def train_step(training: Training) -> StepLog:
    """Carries out one optimizer step.

    Raises:
        WhetError: the loss or the gradient is not finite; the weights are still those before the step.
    """
    started = time.perf_counter()
    settings, policy, meter = training.settings, training.policy, training.meter
    given = training.provider.examples(training.step, training.current())
    examples = sieve(given, training.limit, "error" if settings.overlong == "error" else "drop", training.dropped)
    policy.network.train()
    lr = settings.lr * factor(settings.lr_schedule, training.step, training.steps, settings.warmup, settings.lr_final)
    if not examples:
        return _empty_step(training, lr, time.perf_counter() - started)
    training.empty = 0
    loss, terms = _backward(training, examples)
    norm = _update(training, loss, lr)
    meter.steps += 1
    meter.rows += len(examples)
    meter.units += len({e.unit for e in examples})
    meter.tokens += (tokens := sum(map(len, examples)))
    meter.trained_tokens += (trained := sum(e.trained_tokens for e in examples))
    meter.clipped_steps += bool(settings.clip and norm > settings.clip)
    meter.seconds += (seconds := time.perf_counter() - started)
    return StepLog(training.step, training.steps, loss, terms, norm, lr, tokens, trained, seconds)


def _backward(training: Training, examples: Sequence[Example]) -> tuple[float, dict[str, float]]:
    """Adds up the step's gradients; returns its loss and terms."""
    policy, settings, meter = training.policy, training.settings, training.meter
    training.optimizer.zero_grad(set_to_none=True)
    losses: list[torch.Tensor] = []
    terms: dict[str, list[torch.Tensor]] = {}
    micro_batches = pack(
        examples,
        totals=count(examples),
        micro_tokens=training.micro_tokens,
        share=policy.shares_packs,
        step=training.step,
        steps=training.steps,
        seed=settings.seed,
        device=policy.device,
    )
    for batch in micro_batches:
        loss = training.objective(policy, batch)
        loss.total.backward()
        policy.forget()
        losses.append(loss.total.detach())
        for name, value in loss.terms.items():
            terms.setdefault(name, []).append(value)
        meter.positions += batch.input_ids.numel()
        meter.packs += len(batch.input_ids)
    meter.micro_batches += len(micro_batches)
    return float(torch.stack(losses).sum()), {name: float(sum(values)) for name, values in terms.items()}


def _update(training: Training, loss: float, lr: float) -> float:
    """Clips and steps the optimizer; returns the gradient's norm before clipping."""
    parameters = [p for _, p in training.parameters]
    clip = training.settings.clip or math.inf
    norm = float(nn.utils.clip_grad_norm_(parameters, clip))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        raise WhetError(
            f"step {training.step + 1} of {training.steps}: {what}; this step was not taken and the last checkpoint is good. "
            f"Usual ways out: a lower lr (now {lr:.3g}), a longer warmup, precision: float32"
        )
    for group, peak in zip(training.optimizer.param_groups, training.peaks):
        group["lr"] = lr * peak
    training.optimizer.step()
    return norm


def _empty_step(training: Training, lr: float, seconds: float) -> StepLog:
    training.empty += 1
    training.meter.empty_steps += 1
    training.meter.seconds += seconds
    if training.empty >= training.settings.max_empty_steps:
        raise WhetError(
            f"step {training.step + 1}: {training.empty} steps in a row had nothing to learn from; rows left out so far: "
            f"{training.dropped.overlong} overlong, {training.dropped.untrained} without a trained token"
        )
    return StepLog(training.step, training.steps, 0.0, {}, 0.0, lr, 0, 0, seconds)


def _finish(training: Training, attention: str, folder: Path | None) -> FitResult:
    network: Any = training.policy.network
    receipt = receipt_of(training, attention)
    if folder is not None and hasattr(training.adapter, "save"):
        training.adapter.save(network, folder / "adapter")
        receipt["adapter_folder"] = str(folder / "adapter")
    merged = training.adapter.merge(network).to(training.start_dtype).requires_grad_(True).eval()
    for parameter in merged.parameters():
        parameter.grad = None
    return FitResult(replace(training.model, network=merged, quantized={}), receipt, training.meter.curve)
