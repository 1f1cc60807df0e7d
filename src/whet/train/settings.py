"""What a user can say about a training step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from whet.budget import Budget
from whet.errors import RecipeError
from whet.train.lr import Schedule
from whet.train.precision import Precision


@dataclass(frozen=True)
class TrainSettings:
    """How long, how fast and how exactly to train. Exactly one of ``steps``, ``epochs``, ``tokens`` and ``budget`` says how long.

    steps: optimizer steps.  epochs: passes over the units (may be a fraction).  tokens: input tokens to train on.
    budget: everything counted, sampling and the reference model too: ``2M tokens``, ``500 examples``, ``1e15 flops`` or
    ``90 seconds`` (which is not the same from run to run). Training ends with the step that comes nearest to it.
    batch_size: units (rows, pairs, prompts) per optimizer step.
    lr: peak learning rate (1e-3 suits networks of a few million weights; 1e-5 those of billions).
    lr_schedule: see :func:`whet.train.lr.factor`.  warmup: share of the steps.  lr_final: last factor of the peak.
    clip: largest gradient norm (1.0, as in GPT-3 and Llama); 0 turns clipping off.
    micro_tokens: positions per forward pass: bounds memory, never changes the result. Default: 2048 on a CPU, whose caches it
    suits best, 16384 on an accelerator.
    precision: format of the products; ``auto`` takes bfloat16 where the machine is faster with it. Weights stay float32.
    gradient_checkpointing: computes activations twice to keep fewer.
    max_length: rows above this are overlong; default: the model's context.
    overlong: ``drop`` leaves their units out; ``chunk`` cuts them into windows that lose no token; ``truncate`` cuts their
        ends off; ``error`` stops. All are counted and shown; nothing is cut unless asked for.
    seed: of everything random.
    checkpoint_every: steps between checkpoints; checkpoint_seconds: longest time between them; checkpoint_keep: how many stay.
    log_every: steps between log lines.
    max_empty_steps: steps in a row without anything to learn from (all rewards equal, say) after which training stops.
    """

    steps: Annotated[int, Gt(0)] | None = None
    epochs: Annotated[float, Gt(0)] | None = None
    tokens: Annotated[int, Gt(0)] | None = None
    budget: str | None = None
    batch_size: Annotated[int, Gt(0)] = 64
    lr: Annotated[float, Ge(0)] = 1e-3
    lr_schedule: Schedule = "cosine"
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.05
    lr_final: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Ge(0)] = 1.0
    micro_tokens: Annotated[int, Gt(0)] | None = None
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    max_length: Annotated[int, Gt(1)] | None = None
    overlong: Literal["drop", "chunk", "truncate", "error"] = "drop"
    seed: int = 0
    checkpoint_every: Annotated[int, Gt(0)] | None = None
    checkpoint_seconds: Annotated[float, Gt(0)] = 120.0
    checkpoint_keep: Annotated[int, Gt(0)] = 2
    log_every: Annotated[int, Gt(0)] = 20
    max_empty_steps: Annotated[int, Gt(0)] = 20

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "tokens", "budget") if getattr(self, name) is not None]
        if len(given) != 1:
            has = " and ".join(f"{name}: {getattr(self, name)}" for name in given) or "none of them"
            raise RecipeError(
                f"training needs exactly one of 'steps', 'epochs', 'tokens' and 'budget' (how long to train); it has {has}"
            )
        if self.budget is not None:
            Budget.parse(self.budget)

    def defaults(self) -> list[str]:
        """Names of the settings that have their default value."""
        return [f.name for f in fields(self) if getattr(self, f.name) == f.default]

    def fixed(self) -> dict[str, Any]:
        """The settings that decide the result: a checkpoint can only be continued with the same."""
        free = {"checkpoint_every", "checkpoint_seconds", "checkpoint_keep", "log_every"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}
