"""A training run in progress: what it is made of, and how it is saved and continued."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whet import parts
from whet.budget import Budget
from whet.errors import RecipeError
from whet.generate.divergence import refuse_other_vocabulary
from whet.model import Model
from whet.train import checkpoint as checkpoints
from whet.train.combine import WeightedSum, combine
from whet.train.distributed import World, world
from whet.train.length import Length
from whet.train.policy import HFPolicy, Work
from whet.train.precision import Choice, attention_for, choose, keep_memory
from whet.train.probe import inner
from whet.train.provider import total_steps
from whet.train.receipt import Meter, flops
from whet.train.settings import TrainSettings
from whet.train.sharding import shard, whole
from whet.train.sieve import Dropped
from whet.train.token_values import reader

log = logging.getLogger("whet")

MICRO_TOKENS = {"cpu": 2048}
"""Default positions per forward pass by device; 16384 elsewhere."""


@dataclass
class Training:
    """A run in progress, on this rank of ``world``; ``shape`` is the network without weights where these are spread over
    ranks; ``already`` are tokens that were read before it began.
    """

    model: Model
    policy: HFPolicy
    objective: Any
    provider: Any
    adapter: Any
    optimizer: torch.optim.Optimizer
    parameters: list[tuple[str, nn.Parameter]]
    settings: TrainSettings
    length: Length
    limit: int
    precision: Choice
    start_dtype: torch.dtype
    identity: dict[str, Any]
    world: World
    shape: nn.Module | None
    already: int = 0
    step: int = 0
    empty: int = 0
    resumed_at: int = 0
    saved_at: int | None = None
    own_tokens: int = 0

    def __post_init__(self) -> None:
        self.meter, self.dropped = Meter(), Dropped()
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def micro_tokens(self) -> int:
        """Positions per forward pass."""
        return self.settings.micro_tokens or MICRO_TOKENS.get(self.policy.device.type, 16384)

    def current(self) -> Model:
        """The model with the weights of this moment, for providers that sample from it.

        Where the weights are spread over ranks a full copy is gathered on each, for the steps that read it.
        """
        reads = getattr(self.provider, "reads_model", None)
        network: Any = self.policy.network if reads is not None and not reads(self.step) else self.network()
        return replace(self.model, network=network)

    def network(self) -> nn.Module:
        """The network with all its weights: the one in training, or a copy gathered from all ranks."""
        if self.shape is None:
            return self.policy.network
        return whole(self.policy, self.shape, self.model.network.device)

    def work(self) -> Work:
        """Positions that went through the network, on all ranks."""
        done = self.world.sum({"forward": self.policy.work.forward, "backward": self.policy.work.backward})
        return Work(int(done["forward"]), int(done["backward"]))

    def where(self) -> str:
        """For messages: the step, and how to go on."""
        again = "run the same command again, with any number of processes: "
        again += f"training goes on after step {self.saved_at}" if self.saved_at else "there is no checkpoint yet"
        return f"at {self.length.text(self.step + 1)}; {again}"

    def spent(self) -> dict[str, float]:
        """What the run has taken so far, in every unit of a budget."""
        weights = sum(p.numel() for p in self.policy.network.parameters())
        trained = sum(p.numel() for _, p in self.parameters)
        read = self.already + int(getattr(self.provider, "sampled_tokens", 0))
        others = self.reference_cost()
        own = flops(weights, trained, self.work(), self.settings.gradient_checkpointing)
        return {
            "tokens": float(self.meter.tokens + read) + others["tokens"],
            "examples": float(self.meter.rows),
            "flops": own + 2.0 * weights * read + others["flops"],
            "seconds": float(self.world.gather(self.meter.seconds)[0]),
        }

    def reference_cost(self) -> dict[str, float]:
        """Tokens and FLOPs of the references' forward passes, which read what the policy reads."""
        weights = [sum(p.numel() for p in other.network.parameters()) for other in self.policy.references.values()]
        return {"tokens": float(len(weights) * self.meter.tokens), "flops": 2.0 * sum(weights) * self.meter.tokens}

    def advance(self) -> None:
        """Notes that a step is done."""
        self.step += 1
        if self.length.budget is not None:
            self.length.count(self.spent()[self.length.budget.unit])

    @contextmanager
    def running(self) -> Iterator[str]:
        """Training mode, the fastest attention and allocator; undone after. Gives the name of the attention."""
        network: Any = self.policy.network
        keep_memory()
        if self.settings.gradient_checkpointing:
            inner(network).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with ExitStack() as formats:
            attention, *_ = [
                formats.enter_context(attention_for(inner(policy.network), self.precision.compute, self.limit))
                for policy in (self.policy, *self.policy.references.values())
            ]
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
        work = self.work()
        self.meter.forward, self.meter.backward = work.forward, work.backward
        state = {
            "identity": self.identity,
            "provider": self.provider.state(),
            "objective": self.objective.state_dict() if hasattr(self.objective, "state_dict") else {},
            "meter": asdict(self.meter),
            "dropped": asdict(self.dropped),
            "empty": self.empty,
            "spent": [self.length.spent, self.length.last],
        }
        weights = dict(self.parameters)
        checkpoints.save(folder, self.step, weights, self.optimizer, state, self.settings.checkpoint_keep, self.world)
        self.saved_at = self.step

    def resume(self, folder: Path | None) -> None:
        """Goes on from the folder's newest checkpoint, if there is one."""
        saved = checkpoints.latest(folder) if folder is not None else None
        if saved is None:
            return
        _refuse_other(saved.state["identity"], self.identity)
        checkpoints.restore_weights(self.parameters, saved)
        checkpoints.restore_optimizer(self.optimizer, saved)
        self.provider.restore(saved.state["provider"])
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(saved.state["objective"])
        self.meter, self.dropped = Meter(**saved.state["meter"]), Dropped(**saved.state["dropped"])
        if self.world.rank == 0:
            self.policy.work.forward, self.policy.work.backward = self.meter.forward, self.meter.backward
        self.step = self.resumed_at = self.saved_at = saved.step
        self.empty = saved.state["empty"]
        self.length.spent, self.length.last = saved.state.get("spent", (0.0, 0.0))
        if not checkpoints.restore_random(saved, self.world):
            own_stream(self.settings.seed, self.world, saved.step)


def prepare(
    model: Model,
    provider: Any,
    objective: Any,
    settings: TrainSettings,
    adapter: Any,
    optimizer: Any,
    temperature: float,
    in_place: bool,
    already: int = 0,
    reference: Model | None = None,
) -> Training:
    """Attaches the adapter, chooses the formats and builds the optimizer; the arguments are those of :func:`whet.train.loop.fit`.

    Raises:
        RecipeError: nothing would be trained, or settings that do not fit the model or each other.
    """
    objective, adapter = combine(objective), parts.build("adapter", adapter)
    optimizer = parts.build("optimizer", optimizer)
    precision = precision_of(settings, model)
    others = _references(objective.needs, model, reference, precision.compute, in_place)
    network: Any = model.network if in_place else model.copy().network
    start_dtype, width = network.dtype, _width(network)
    network = _attached(adapter, network, model.quantized)
    head = _value_head(width, model.network.device) if "values" in objective.needs else None
    policy, ranks = HFPolicy(network, precision.compute, temperature, head, others), world()
    shape = shard(policy, ranks)
    _bind(provider, policy, ranks)
    parameters = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    parameters += [(f"value_head.{n}", p) for n, p in head.named_parameters()] if head else []
    if not parameters:
        raise RecipeError(f"adapter {parts.effective(adapter)}: it leaves nothing to train")
    budget = Budget.parse(settings.budget) if settings.budget else None
    steps = None
    if budget is None:
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
    training = Training(
        model=model,
        policy=policy,
        objective=objective,
        provider=provider,
        adapter=adapter,
        optimizer=optimizer(parameters),
        parameters=parameters,
        settings=settings,
        length=Length(steps, budget),
        limit=_limit(settings, model),
        precision=precision,
        start_dtype=start_dtype,
        identity=identity,
        world=ranks,
        shape=shape,
        already=already,
    )
    if budget is not None:
        training.length.spent = training.spent()[budget.unit]
    return training


def _attached(adapter: Any, network: Any, codes: Mapping[str, Any]) -> Any:
    """The network to train.

    Raises:
        RecipeError: the model is quantized and the adapter would make it dense.
    """
    if not codes:
        return adapter.attach(network)
    if not hasattr(adapter, "attach_codes"):
        name = parts.effective(adapter)["name"]
        raise RecipeError(
            f"adapter {name}: the model is quantized and would come out dense; take adapter scales, which keeps its codes, or train the "
            "stage that it was quantized from"
        )
    return adapter.attach_codes(network, codes)


def _references(
    needs: frozenset[str], start: Model, reference: Model | None, compute: torch.dtype, in_place: bool
) -> dict[str, HFPolicy]:
    """The models that the objective holds the policy against, as policies that are not trained; each process has them whole.

    Raises:
        RecipeError: it needs another model and none was given.
        ModelError: the models' tokens do not mean the same.
    """
    found = {}
    if "reference_logits" in needs:
        if reference is None:
            raise RecipeError("the objective holds the policy against another model: give one as the train step's `reference`")
        refuse_other_vocabulary(start, reference)
        found["reference"] = HFPolicy(reference.network.eval(), compute)
    if "start_logits" in needs:
        found["start"] = HFPolicy((start.copy() if in_place else start).network.eval(), compute)
    return found


def own_stream(seed: int, world: World, step: int = 0) -> None:
    """Gives every rank but the first random numbers of its own; all have drawn the same until now."""
    if world.rank:
        torch.manual_seed((seed * 1_000_003 + step) * 65_537 + world.rank)


def _bind(provider: Any, policy: HFPolicy, ranks: World) -> None:
    """Lets rollouts carry the value head's predictions and, where training rounds its products, the trainer's log-probabilities
    for the sampler's, which differ from them by that rounding: the ratio must begin at 1."""
    if hasattr(provider, "bind"):
        read = partial(reader, share=policy.shares_packs, stems=policy.shares_stems, device=policy.device, world=ranks)
        provider.bind(
            old_values=read(policy.values) if policy.value_head is not None else None,
            old_logps=read(policy.logps) if policy.compute is not torch.float32 else None,
        )


def _limit(settings: TrainSettings, model: Model) -> int:
    context = model.context or (1 << 30)
    if settings.max_length is not None and settings.max_length > context:
        raise RecipeError(f"max_length: {settings.max_length} is more than the model's context of {context} tokens")
    return settings.max_length or context


def precision_of(settings: TrainSettings, model: Model) -> Choice:
    """The format of training's products on this model's device."""
    return choose(settings.precision, model.network.device, _width(model.network))


def _width(network: Any) -> int:
    return int(getattr(network.config.get_text_config(), "hidden_size", 0) or 0)


def _value_head(width: int, device: torch.device) -> nn.Linear:
    """A linear layer that says 0 at first, so that it does not disturb the start."""
    head = nn.Linear(width, 1, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _described(objective: Any) -> Any:
    if isinstance(objective, WeightedSum):
        return [{"weight": weight, **parts.effective(o)} for _, weight, o in objective.parts]
    return parts.effective(objective)


def _refuse_other(saved: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises if the run of a checkpoint was set up differently; names what differs."""
    now = _flat(json.loads(json.dumps(identity, default=str)))
    was = _flat(saved)
    differing = [
        f"{k} was {was.get(k)!r} and is {now.get(k)!r}" for k in sorted(was.keys() | now.keys()) if was.get(k) != now.get(k)
    ]
    if differing:
        raise RecipeError(
            f"cannot resume from the checkpoint: {'; '.join(differing)}. Set it back, or train afresh without resume"
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for name, value in tree.items() for k, v in _flat(value, f"{prefix}.{name}" if prefix else str(name)).items()}
