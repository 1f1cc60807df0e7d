"""What a training run did, as plain data: for the run's record, for ``whet diff`` and for the reader's trust."""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from whet.train.policy import Work
    from whet.train.training import Training


@dataclass(frozen=True)
class StepLog:
    """One optimizer step of ``steps`` (``None``: a budget decides): ``loss`` of the whole step, the objective's ``terms``, the gradient's norm before clipping, ``lr``,
    input ``tokens`` and ``trained`` tokens, ``seconds``.
    """

    step: int
    steps: int | None
    loss: float
    terms: Mapping[str, float]
    gradient_norm: float
    lr: float
    tokens: int
    trained: int
    seconds: float


@dataclass
class Meter:
    """Counts over a run; saved in its checkpoints, so that a stopped run's go on where it left them. ``seconds`` passed in the
    steps, ``processor`` seconds were computed in them, of all cores and (saved) of all ranks; measuring is in neither.
    """

    steps: int = 0
    empty_steps: int = 0
    rows: int = 0
    units: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    positions: int = 0
    shared_tokens: int = 0
    packs: int = 0
    micro_batches: int = 0
    clipped_steps: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    forward: int = 0
    backward: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)


def flops(weights: int, trained: int, work: Work, recomputed: bool) -> float:
    """Floating-point operations by the usual count: 2 per weight and position forward, 2 more backward to pass the gradient on,
    2 per *trained* weight for its own gradient (6 in all when everything is trained); checkpointing repeats the forward.
    """
    backward = 2.0 * weights + 2.0 * trained + (2.0 * weights if recomputed else 0.0)
    return 2.0 * weights * work.forward + backward * work.backward


def peak_memory(device: torch.device) -> int:
    """Bytes: the accelerator's peak, or on a CPU the process's largest resident size so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def dtypes(network: nn.Module, compute: torch.dtype, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """The four formats: weights (trained and frozen), compute, optimizer state, reduction of loss and gradient."""
    trained = {p.dtype for p in network.parameters() if p.requires_grad}
    frozen = {p.dtype for p in network.parameters() if not p.requires_grad}
    moments = {v.dtype for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)}
    return {
        "weights": _names(trained),
        "frozen_weights": _names(frozen),
        "compute": _names({compute}),
        "optimizer": _names(moments),
        "reduction": "float32",
    }


def _names(types: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(t).removeprefix("torch.") for t in types)) or "none"


def _plain(value: Any) -> Any:
    """A provider's or sieve's receipt as plain data."""
    return asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else dict(value)


def _spread(training: Training) -> dict[str, Any]:
    """How several processes shared the work; ``tokens_per_rank`` since the run was last continued. Nothing for one process."""
    world = training.world
    if world.size == 1:
        return {}
    return {
        "processes": {
            "world_size": world.size,
            "backend": world.backend,
            "sharding": "weights, gradients and optimizer state by rows (FSDP2); gradients summed in float32",
            "tokens_per_rank": world.gather(training.own_tokens),
            "peak_memory_bytes_per_rank": world.gather(peak_memory(training.policy.device)),
        }
    }


def receipt_of(training: Training, attention: str) -> dict[str, Any]:
    """The receipt of a finished run; ``attention`` names the attention code it used."""
    network, meter, work = training.policy.network, training.meter, training.work()
    weights, trained = sum(p.numel() for p in network.parameters()), sum(p.numel() for _, p in training.parameters)
    others = training.reference_cost()
    counted = {k: v for k, v in asdict(meter).items() if k not in ("curve", "validation", "forward", "backward", "processor")}
    receipt = {
        **counted,
        "padding_share": 1 - (meter.tokens - meter.shared_tokens) / max(1, meter.positions),
        "dropped": asdict(training.dropped),
        "dtypes": {**dtypes(network, training.precision.compute, training.optimizer), "result": str(training.start_dtype)[6:]},
        "precision_reason": training.precision.reason,
        "attention": attention,
        "packed": training.policy.shares_packs,
        "micro_tokens": training.micro_tokens,
        "weights": weights,
        "trainable_weights": trained,
        "settings": asdict(training.settings),
        "defaults": training.settings.defaults(),
        **{name: training.identity[name] for name in ("objective", "adapter", "optimizer", "temperature")},
        "resumed_at": training.resumed_at,
        **_spread(training),
        **({"reference_tokens": int(others["tokens"])} if others["tokens"] else {}),
        "cost": {
            "tokens": meter.tokens + int(others["tokens"]),
            "flops": flops(weights, trained, work, training.settings.gradient_checkpointing) + others["flops"],
            "seconds": meter.seconds,
            "processor": training.processor(),
            "peak_memory_bytes": peak_memory(training.policy.device),
        },
        "curve": meter.curve,
        **({"validation": meter.validation} if meter.validation else {}),
    }
    given = getattr(training.provider, "receipt", None)
    if given is not None:
        receipt["provider"] = given.summary() if hasattr(given, "summary") else _plain(given)
    return receipt
