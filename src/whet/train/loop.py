"""The one training loop: supervised, preference and reinforcement objectives, every adapter and optimizer go through it.

A step gathers all its examples, counts them (what losses are divided by), packs them into micro-batches, adds up the
gradients, clips and updates. How the step was split never changes its result. A run that was stopped goes on from its
last checkpoint and, on a CPU, ends with the same bits as one that was not. Several processes share the micro-batches of a
step out and add the gradients up, see :mod:`whet.train.distributed`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from whet.data.example import Batch, Example
from whet.data.packing import count, pack
from whet.errors import WhetError
from whet.interrupt import asked, deferred, join, stop_if_asked
from whet.model import Model
from whet.nonfinite import first_nonfinite
from whet.train.distributed import world
from whet.train.lr import factor
from whet.train.objective import Objective
from whet.train.provider import Provider
from whet.train.receipt import StepLog, receipt_of
from whet.train.settings import TrainSettings
from whet.train.setup import prepare
from whet.train.sharding import clip_gradients
from whet.train.sieve import sieve
from whet.train.training import Training, own_stream

log = logging.getLogger("whet")

Watch = Callable[[Training], None]
"""Called after every step, with the weights of this moment."""


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
    already: Mapping[str, float] | None = None,
    watch: Watch | None = None,
    reference: Model | None = None,
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
        already: what was spent for this run before (``tokens``, ``flops``, ...); it counts against a budget.
        watch: measures the model at moments of the run.
        reference: for objectives that need ``reference_logits``; it stays as it is.

    Several processes, started by torchrun, all call this with the same arguments and all get the whole trained model.

    Raises:
        OtherRank: another process failed.
        RecipeError: settings that do not fit together, or differ from those of the checkpoint.
        WhetError: a loss or gradient that is not finite (names the step), or nothing to learn from for too long.
    """
    ranks, where = world(), lambda: "before training"
    with ranks.together(lambda: where()), torch.random.fork_rng(enabled=True):
        torch.manual_seed(settings.seed)
        training = prepare(model, provider, objective, settings, adapter, optimizer, temperature, in_place, already, reference)
        where = training.where
        own_stream(settings.seed, ranks)
        training.resume(checkpoint_folder if resume else None)
        with training.running() as attention:
            _run(training, checkpoint_folder, on_step, progress, watch)
        return _finish(training, attention, checkpoint_folder)


def _run(
    training: Training,
    folder: Path | None,
    on_step: Callable[[StepLog], None] | None,
    progress: bool | None,
    watch: Watch | None,
) -> None:
    settings, saved_at = training.settings, time.monotonic()
    hidden = True if training.world.rank else None if progress is None else not progress
    bar = tqdm(total=training.length.steps, initial=training.step, unit="step", disable=hidden)
    with bar, deferred():
        while not training.length.finished(training.step):
            entry = train_step(training)
            training.advance()
            training.meter.curve.append(asdict(entry))
            if watch is not None:
                watch(training)
            due = settings.checkpoint_every is not None and training.step % settings.checkpoint_every == 0
            due = due or time.monotonic() - saved_at > settings.checkpoint_seconds or training.length.finished(training.step)
            # The ranks' clocks differ, so the first one decides when to save; a stop that one was asked for is one of all.
            votes = training.world.gather((due, asked()))
            stop = next((number for _, number in votes if number), None)
            if folder is not None and (votes[0][0] or stop):
                training.save(folder)
                saved_at = time.monotonic()
            bar.update()
            bar.set_postfix_str(f"loss {entry.loss:.4f}, {entry.tokens / max(entry.seconds, 1e-9):,.0f} tokens/s", refresh=False)
            if training.step % settings.log_every == 0:
                done = training.length.text(training.step)
                log.info("%s: loss %.4f, %d tokens in %.2f s", done, entry.loss, entry.tokens, entry.seconds)
            if on_step is not None:
                on_step(entry)
            if stop:
                join(stop)
                stop_if_asked()


def train_step(training: Training) -> StepLog:
    """Carries out one optimizer step.

    Raises:
        WhetError: the loss or the gradient is not finite; the weights are still those before the step.
    """
    started, computed = time.perf_counter(), time.process_time()
    settings, policy, meter = training.settings, training.policy, training.meter
    given = training.provider.examples(training.step, training.current())
    examples = sieve(given, training.limit, "error" if settings.overlong == "error" else "drop", training.dropped)
    policy.network.train()
    at, of = training.length.position(training.step)
    lr = settings.lr * factor(settings.lr_schedule, at, of, settings.warmup, settings.lr_final)
    if not examples:
        meter.processor += time.process_time() - computed
        return _empty_step(training, lr, time.perf_counter() - started)
    training.empty = 0
    loss, terms = _backward(training, examples)
    norm = _update(training, examples, loss, lr)
    meter.steps += 1
    meter.rows += len(examples)
    meter.units += len({e.unit for e in examples})
    meter.tokens += (tokens := sum(map(len, examples)))
    meter.trained_tokens += (trained := sum(e.trained_tokens for e in examples))
    meter.clipped_steps += bool(settings.clip and norm > settings.clip)
    meter.processor += time.process_time() - computed
    meter.seconds += (seconds := time.perf_counter() - started)
    return StepLog(training.step, training.length.steps, loss, terms, norm, lr, tokens, trained, seconds)


def _backward(training: Training, examples: Sequence[Example]) -> tuple[float, dict[str, float]]:
    """Adds up the step's gradients; returns its loss and terms."""
    policy, meter = training.policy, training.meter
    training.optimizer.zero_grad(set_to_none=True)
    losses: list[torch.Tensor] = []
    terms: dict[str, list[torch.Tensor]] = {}
    micro_batches = _packed(training, examples)
    for batch, counts in training.world.portion(micro_batches):
        if not counts:
            _match(training, batch)
            continue
        loss = training.objective(policy, batch)
        loss.total.backward()
        policy.forget()
        losses.append(loss.total.detach())
        for name, value in loss.terms.items():
            terms.setdefault(name, []).append(value)
        training.own_tokens += int((batch.row >= 0).sum()) if training.world.size > 1 else 0
    meter.positions += sum(batch.input_ids.numel() for batch in micro_batches)
    meter.shared_tokens += sum(map(len, examples)) - sum(batch.filled for batch in micro_batches)
    meter.packs += sum(len(batch.input_ids) for batch in micro_batches)
    meter.micro_batches += len(micro_batches)
    own = {f"term {name}": float(sum(values)) for name, values in terms.items()}
    summed = training.world.sum({"loss": float(torch.stack(losses).sum()) if losses else 0.0, **own})
    return summed.pop("loss"), {name.removeprefix("term "): value for name, value in summed.items()}


def _packed(training: Training, examples: Sequence[Example]) -> list[Batch]:
    """The micro-batches of a step, all ranks' together."""
    return pack(
        examples,
        totals=count(examples),
        micro_tokens=_micro_tokens(training, examples),
        share=training.policy.shares_packs,
        stems=training.policy.shares_stems,
        step=training.step,
        steps=training.length.expected_steps(training.step),
        seed=training.settings.seed,
        device=training.policy.device,
    )


def _micro_tokens(training: Training, examples: Sequence[Example]) -> int:
    """Positions per forward pass: fewer than allowed where that gives every rank a micro-batch in every round.

    A tenth is left for what does not fit exactly: a micro-batch too many would be a round in which most ranks wait.
    """
    allowed, ranks = training.micro_tokens, training.world.size
    if ranks == 1:
        return allowed
    tokens = 1.1 * sum(map(len, examples))
    return min(allowed, math.ceil(tokens / (ranks * math.ceil(tokens / (ranks * allowed)))))


def _match(training: Training, batch: Batch) -> None:
    """Runs a micro-batch that is another rank's, for nothing but taking part in the gathering of weights and gradients."""
    policy, work = training.policy, replace(training.policy.work)
    (0.0 * training.objective(policy, batch).total).backward()
    policy.forget()
    policy.work = work


def _update(training: Training, examples: Sequence[Example], loss: float, lr: float) -> float:
    """Clips and steps the optimizer; returns the gradient's norm before clipping."""
    parameters = [p for _, p in training.parameters]
    clip = training.settings.clip or math.inf
    norm = clip_gradients(parameters, clip, training.world)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        raise WhetError(
            f"{training.length.text(training.step + 1)}: {what}; this step was not taken and the last checkpoint is good. "
            f"Cause: {_origin(training, examples)}. Usual ways out: a lower lr (now {lr:.3g}), a longer warmup, precision: float32"
        )
    for group, peak in zip(training.optimizer.param_groups, training.peaks):
        group["lr"] = lr * peak
    training.optimizer.step()
    return norm


def _origin(training: Training, examples: Sequence[Example]) -> str:
    """Where a loss or gradient that is not finite comes from, found by computing the step's forward passes again."""
    found: list[str] = []
    for batch, _ in training.world.portion(_packed(training, examples)):
        given = {**batch.values, **batch.token_values}
        found += [f"the rows' {name} hold NaN or Inf" for name, numbers in given.items() if not bool(numbers.isfinite().all())]
        where = first_nonfinite(training.policy.network, partial(training.objective, training.policy, batch))
        training.policy.forget()
        found += [where] if where else []
    places = [place for rank in training.world.gather(found[:1]) for place in rank]
    return places[0] if places else "every module's output is finite, so it arises in the loss or in the backward pass"


def _empty_step(training: Training, lr: float, seconds: float) -> StepLog:
    training.empty += 1
    training.meter.empty_steps += 1
    training.meter.seconds += seconds
    if training.empty >= training.settings.max_empty_steps:
        raise WhetError(
            f"step {training.step + 1}: {training.empty} steps in a row had nothing to learn from; rows left out so far: "
            f"{training.dropped.overlong} overlong, {training.dropped.untrained} without a trained token"
        )
    return StepLog(training.step, training.length.steps, 0.0, {}, 0.0, lr, 0, 0, seconds)


def _finish(training: Training, attention: str, folder: Path | None) -> FitResult:
    receipt = receipt_of(training, attention)
    network: Any = training.network()
    if folder is not None and hasattr(training.adapter, "save"):
        if training.world.rank == 0:
            training.adapter.save(network, folder / "adapter")
        receipt["adapter_folder"] = str(folder / "adapter")
    codes = training.adapter.codes(network) if training.model.quantized else {}
    merged = training.adapter.merge(network).to(training.start_dtype).requires_grad_(True).eval()
    for parameter in merged.parameters():
        parameter.grad = None
    return FitResult(replace(training.model, network=merged, quantized=codes), receipt, training.meter.curve)
