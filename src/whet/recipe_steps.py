"""The steps of a recipe, one frozen dataclass per section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Gt

from whet.parts import Kind

BASE = "base"
"""How steps refer to the recipe's own model."""


@dataclass(frozen=True)
class DataStep:
    """Makes a dataset: from a source, or from another data step, passed through synthesis, labels and selection."""

    name: str
    source: Annotated[Any, Kind("source")] | None = None
    """Where rows come from; exactly one of ``source`` and ``data`` is given."""
    data: str | None = None
    """Another data step whose rows are taken."""
    split: str = "train"
    model: str | None = None
    """The stage whose model ``synthesize``, ``label`` and ``select`` use, in this order; default the recipe's model."""
    reference: str | None = None
    """The stage that ``label`` and ``select`` hold the model against, where they compare two."""
    synthesize: Annotated[tuple[Any, ...], Kind("synthesize")] = ()
    label: Annotated[tuple[Any, ...], Kind("label")] = ()
    select: Annotated[tuple[Any, ...], Kind("select")] = ()


@dataclass(frozen=True)
class TrainStep:
    """Trains a stage's model. ``settings`` holds the fields of ``whet.train.settings.TrainSettings`` that were given."""

    name: str
    data: str
    model: str | None = None
    """The stage to start from; default the training step before this one, or the recipe's model."""
    format: Annotated[Any, Kind("format")] | None = None
    """Default: ``preference`` where the objective needs pairs, else ``chat``."""
    objective: Any = "sft"
    """A part, or a list of parts each with a ``weight``."""
    adapter: Annotated[Any, Kind("adapter")] = "full"
    optimizer: Annotated[Any, Kind("optimizer")] = "adamw"
    schedule: Annotated[Any, Kind("schedule")] = "shuffle"
    reference: str | None = None
    """The stage that objectives hold the policy against; default the one to start from, for those that can do with it."""
    reward: Annotated[Any, Kind("reward")] | None = None
    """Only for objectives that need rollouts."""
    rollouts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``whet.train.rollout_settings.RolloutSettings``; only for objectives that need rollouts."""
    validate: Annotated[Any, Kind("task")] | None = None
    """A task on validation rows that is measured ``validations`` times while it trains, neither timed nor counted."""
    validations: Annotated[int, Gt(0)] = 8
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditStep:
    """Merges or rescales weights of several stages without training."""

    name: str
    models: tuple[str, ...]
    method: Annotated[Any, Kind("edit")]
    base: str | None = None
    """The common ancestor, where the method needs one; default the recipe's model."""
    score: Annotated[Any, Kind("task")] | None = None
    """The held-out task that selecting methods (a greedy soup) score candidates with; never a test set."""


@dataclass(frozen=True)
class QuantizeStep:
    """Quantizes a stage's model. ``settings`` holds the fields of ``whet.quantize.settings.QuantizeSettings`` that were given."""

    name: str
    model: str | None = None
    data: str | None = None
    """The data step whose rows calibrate; needed where a piece reads activations."""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureStep:
    """Measures stages on tasks and compares each stage with the one it came from."""

    name: str
    tasks: Annotated[tuple[Any, ...], Kind("task")]
    models: tuple[str, ...] = ()
    """Default: the recipe's model and every stage."""
    against: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Stage -> the stage, or stages, that it is compared with; default the one that it was made from."""
    reference: str | None = None
    """A stage: each task also says how many of the examples that it solves a measured model does not (negative flips)."""

    @property
    def rivals(self) -> dict[str, tuple[str, ...]]:
        """``against``, each stage with all that it is compared with."""
        return {stage: (names,) if isinstance(names, str) else tuple(names) for stage, names in self.against.items()}


@dataclass(frozen=True)
class ExportStep:
    """Writes a stage's model in a form that other software loads."""

    name: str
    to: Annotated[Any, Kind("export")]
    model: str | None = None


Step = DataStep | TrainStep | EditStep | QuantizeStep | MeasureStep | ExportStep


SECTIONS: dict[str, type] = {
    "data": DataStep,
    "train": TrainStep,
    "edit": EditStep,
    "quantize": QuantizeStep,
    "measure": MeasureStep,
    "export": ExportStep,
}


MODEL_SECTIONS = ("train", "edit", "quantize")
"""Sections whose steps make a model."""
