"""A training run in progress: what it is made of, and how it is saved and continued."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whet.errors import RecipeError
from whet.model import Model
from whet.train import checkpoint as checkpoints
from whet.train.distributed import World
from whet.train.length import Length
from whet.train.policy import HFPolicy, Work
from whet.train.precision import Choice, attention_for, keep_memory
from whet.train.probe import inner
from whet.train.receipt import Meter, flops
from whet.train.settings import TrainSettings
from whet.train.sharding import whole
from whet.train.sieve import Dropped

log = logging.getLogger("whet")

MICRO_TOKENS = {"cpu": 2048}
"""Default positions per forward pass by device; 16384 elsewhere."""


@dataclass
class Training:
    """A run in progress, on this rank of ``world``; ``shape`` is the network without weights where these are spread over
    ranks; ``already`` is what was spent for it before it began, by unit of a budget.
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
    already: Mapping[str, float] = field(default_factory=dict)
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

    def processor(self) -> float:
        """Seconds of processor time, of all cores on all ranks, that the steps took."""
        return sum(self.world.gather(self.meter.processor))

    def where(self) -> str:
        """For messages: the step, and how to go on."""
        again = "run the same command again, with any number of processes: "
        again += f"training goes on after step {self.saved_at}" if self.saved_at else "there is no checkpoint yet"
        return f"at {self.length.text(self.step + 1)}; {again}"

    def spent(self) -> dict[str, float]:
        """What the run has taken so far, in every unit of a budget, and in ``processor`` seconds."""
        weights = sum(p.numel() for p in self.policy.network.parameters())
        trained = sum(p.numel() for _, p in self.parameters)
        sampled = int(getattr(self.provider, "sampled_tokens", 0))
        # The policy itself reads these, so their operations are among its work.
        measured = int(getattr(self.provider, "measured_tokens", 0))
        others = self.reference_cost()
        own = {
            "tokens": self.meter.tokens + sampled + measured + others["tokens"],
            "examples": self.meter.rows,
            "flops": flops(weights, trained, self.work(), self.settings.gradient_checkpointing)
            + 2.0 * weights * sampled
            + others["flops"],
            "seconds": self.world.gather(self.meter.seconds)[0],
            "processor": self.processor(),
        }
        return {unit: float(amount) + self.already.get(unit, 0.0) for unit, amount in own.items()}

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
            "meter": {**asdict(self.meter), "processor": self.processor()},
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
        else:
            self.meter.processor = 0.0
        self.step = self.resumed_at = self.saved_at = saved.step
        self.empty = saved.state["empty"]
        self.length.spent, self.length.last = saved.state.get("spent", (0.0, 0.0))
        if not checkpoints.restore_random(saved, self.world):
            own_stream(self.settings.seed, self.world, saved.step)


def own_stream(seed: int, world: World, step: int = 0) -> None:
    """Gives every rank but the first random numbers of its own; all have drawn the same until now."""
    if world.rank:
        torch.manual_seed((seed * 1_000_003 + step) * 65_537 + world.rank)


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
