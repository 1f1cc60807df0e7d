"""The one training loop: supervised, preference and reinforcement objectives, every adapter and optimizer go through it.

A step gathers all its examples, counts them (what losses are divided by), packs them into micro-batches, adds up the
gradients, clips and updates. How the step was split never changes its result. A run that was stopped goes on from its
last checkpoint and, on a CPU, ends with the same bits as one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from whet import parts
from whet.data.example import Example
from whet.data.packing import count, pack
from whet.errors import RecipeError, WhetError
from whet.model import Model
from whet.train import checkpoint as checkpoints
from whet.train import lr as schedules
from whet.train.combine import combine
from whet.train.objective import Objective
from whet.train.policy import HFPolicy
from whet.train.precision import Choice, attention_for, choose, keep_memory
from whet.train.probe import inner
from whet.train.provider import Provider, total_steps
from whet.train.receipt import Meter, StepLog, dtypes, flops, peak_memory, plain
from whet.train.settings import TrainSettings
from whet.train.sieve import Dropped, sieve

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
        training = _prepare(model, provider, objective, settings, adapter, optimizer, temperature, in_place)
        training.resume(checkpoint_folder if resume else None)
        with training.running() as attention:
            _run(training, checkpoint_folder, on_step, progress)
        return _finish(training, attention, checkpoint_folder)


@dataclass
class Training:
    """A run in progress."""

    model: Model
    policy: HFPolicy
    objective: Any
    provider: Any
    adapter: Any
    optimizer: torch.optim.Optimizer
    parameters: list[tuple[str, nn.Parameter]]
    settings: TrainSettings
    steps: int
    limit: int
    precision: Choice
    start_dtype: torch.dtype
    identity: dict[str, Any]
    step: int = 0
    empty: int = 0
    resumed_at: int = 0

    def __post_init__(self) -> None:
        self.meter, self.dropped = Meter(), Dropped()
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def current(self) -> Model:
        """The model with the weights of this moment, for providers that sample from it."""
        return replace(self.model, network=self.policy.network)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Training mode, the fastest attention and allocator; undone after. Gives the name of the attention."""
        network: Any = self.policy.network
        keep_memory()
        if self.settings.gradient_checkpointing:
            inner(network).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with attention_for(inner(network), self.precision.compute, self.limit) as attention:
            log.info("products in %s: %s; attention: %s", self.precision.compute, self.precision.reason, attention)
            network.train()
            try:
                yield attention
            finally:
                network.eval()
                if self.settings.gradient_checkpointing:
                    inner(network).gradient_checkpointing_disable()

    def save(self, folder: Path) -> None:
        """Writes a checkpoint of this moment."""
        self.meter.forward, self.meter.backward = self.policy.work.forward, self.policy.work.backward
        state = {
            "identity": self.identity,
            "provider": self.provider.state(),
            "objective": self.objective.state_dict() if hasattr(self.objective, "state_dict") else {},
            "meter": asdict(self.meter),
            "dropped": asdict(self.dropped),
            "empty": self.empty,
        }
        weights = {name: p for name, p in self.parameters}
        checkpoints.save(folder, self.step, weights, self.optimizer, state, self.settings.checkpoint_keep)

    def resume(self, folder: Path | None) -> None:
        """Goes on from the folder's newest checkpoint, if there is one."""
        saved = checkpoints.latest(folder) if folder is not None else None
        if saved is None:
            return
        _refuse_other(saved.state["identity"], self.identity)
        checkpoints.restore_weights(self.parameters, saved.weights)
        self.optimizer.load_state_dict(dict(saved.optimizer))
        self.provider.restore(saved.state["provider"])
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(saved.state["objective"])
        self.meter, self.dropped = Meter(**saved.state["meter"]), Dropped(**saved.state["dropped"])
        self.policy.work.forward, self.policy.work.backward = self.meter.forward, self.meter.backward
        self.step = self.resumed_at = saved.step
        self.empty = saved.state["empty"]
        checkpoints.restore_random(saved.random)


def _prepare(
    model: Model, provider: Any, objective: Any, settings: TrainSettings, adapter: Any, optimizer: Any, temperature: float, in_place: bool
) -> Training:
    objective, adapter = combine(objective), parts.build("adapter", adapter)
    optimizer = parts.build("optimizer", optimizer)
    network: Any = model.network if in_place else model.copy().network
    start_dtype, width = network.dtype, int(getattr(network.config.get_text_config(), "hidden_size", 0) or 0)
    network = adapter.attach(network)
    precision = choose(settings.precision, model.network.device, width)
    head = _value_head(width, model.network.device) if "values" in objective.needs else None
    policy = HFPolicy(network, precision.compute, temperature, head)
    parameters = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    parameters += [(f"value_head.{n}", p) for n, p in head.named_parameters()] if head else []
    if not parameters:
        raise RecipeError(f"adapter {parts.effective(adapter)}: it leaves nothing to train")
    steps = total_steps(provider, steps=settings.steps, epochs=settings.epochs, tokens=settings.tokens)
    identity = {
        "settings": settings.fixed(),
        "objective": _described(objective),
        "adapter": parts.effective(adapter),
        "optimizer": parts.effective(optimizer),
        "temperature": temperature,
        "compute": str(precision.compute),
        "steps": steps,
    }
    return Training(
        model=model,
        policy=policy,
        objective=objective,
        provider=provider,
        adapter=adapter,
        optimizer=optimizer(parameters),
        parameters=parameters,
        settings=settings,
        steps=steps,
        limit=_limit(settings, model),
        precision=precision,
        start_dtype=start_dtype,
        identity=identity,
    )


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
                log.info("step %d of %d: loss %.4f, %d tokens in %.2f s", training.step, training.steps, entry.loss, entry.tokens, entry.seconds)
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
    examples = sieve(given, training.limit, settings.overlong, training.dropped)
    policy.network.train()
    lr = settings.lr * schedules.factor(settings.lr_schedule, training.step, training.steps, settings.warmup, settings.lr_final)
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
        micro_tokens=settings.micro_tokens,
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
    receipt = _receipt(training, attention)
    if folder is not None and hasattr(training.adapter, "save"):
        training.adapter.save(network, folder / "adapter")
        receipt["adapter_folder"] = str(folder / "adapter")
    merged = training.adapter.merge(network).to(training.start_dtype).requires_grad_(True).eval()
    for parameter in merged.parameters():
        parameter.grad = None
    return FitResult(replace(training.model, network=merged, quantized={}), receipt, training.meter.curve)


def _receipt(training: Training, attention: str) -> dict[str, Any]:
    network, meter, work = training.policy.network, training.meter, training.policy.work
    weights, trained = sum(p.numel() for p in network.parameters()), sum(p.numel() for _, p in training.parameters)
    counted = {k: v for k, v in asdict(meter).items() if k not in ("curve", "forward", "backward")}
    receipt = {
        **counted,
        "padding_share": 1 - meter.tokens / max(1, meter.positions),
        "dropped": asdict(training.dropped),
        "dtypes": {**dtypes(network, training.precision.compute, training.optimizer), "result": str(training.start_dtype)[6:]},
        "precision_reason": training.precision.reason,
        "attention": attention,
        "packed": training.policy.shares_packs,
        "weights": weights,
        "trainable_weights": trained,
        "settings": asdict(training.settings),
        "defaults": training.settings.defaults(),
        **{name: training.identity[name] for name in ("objective", "adapter", "optimizer", "temperature")},
        "resumed_at": training.resumed_at,
        "cost": {
            "tokens": meter.tokens,
            "flops": flops(weights, trained, work, training.settings.gradient_checkpointing),
            "seconds": meter.seconds,
            "peak_memory_bytes": peak_memory(training.policy.device),
        },
        "curve": meter.curve,
    }
    given = getattr(training.provider, "receipt", None)
    if given is not None:
        receipt["provider"] = given.summary() if hasattr(given, "summary") else plain(given)
    return receipt


def _limit(settings: TrainSettings, model: Model) -> int:
    context = model.context or (1 << 30)
    if settings.max_length is not None and settings.max_length > context:
        raise RecipeError(f"max_length: {settings.max_length} is more than the model's context of {context} tokens")
    return settings.max_length or context


def _value_head(width: int, device: torch.device) -> nn.Linear:
    """A linear layer that says 0 at first, so that it does not disturb the start."""
    head = nn.Linear(width, 1, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _described(objective: Any) -> Any:
    from whet.train.combine import WeightedSum

    if isinstance(objective, WeightedSum):
        return [{"weight": weight, **parts.effective(o)} for _, weight, o in objective.parts]
    return parts.effective(objective)


def _refuse_other(saved: dict[str, Any], now: dict[str, Any]) -> None:
    import json

    current = json.loads(json.dumps(now, default=str))
    for name in current:
        if saved.get(name) != current[name]:
            raise RecipeError(f"cannot resume: {name} was {saved.get(name)!r} in the checkpoint and is {current[name]!r}; train afresh without resume")
