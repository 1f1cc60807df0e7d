"""Where the examples of a step come from: fixed units in the order of a schedule, or (elsewhere) fresh rollouts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whet.data.example import Example
from whet.errors import DataError, RecipeError

if TYPE_CHECKING:
    from whet.model import Model

    Schedule = Callable[[int, int, int], np.ndarray]


class Provider(Protocol):
    """Gives the examples of each optimizer step, and can save and restore what that depends on.

    A provider may also have, each optional:

    * ``steps_for(epochs, tokens) -> int``: how many steps that is.
    * ``receipt``: what it did, as a mapping or a dataclass.
    * ``reads_model(step) -> bool``: whether that step looks at the model's weights. If several processes train, gathering
      them is spared where it does not.
    * ``bind(old_values, old_logps)`` and ``bind_reader(read)``: given the functions that read numbers off the policy, see
      :mod:`whet.train.token_values`.
    * ``sampled_tokens``: what sampling has read and written, and ``measured_tokens``: what the policy itself has read between
      steps; both count against a budget.
    """

    def examples(self, step: int, model: Model) -> list[Example]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class FixedExamples:
    """Units (a row's example, a pair's two) in the order that a schedule gives, epoch after epoch.

    Which units a step has is a pure function of (seed, epoch, index): nothing is remembered, so resuming cannot reshuffle.
    A batch never spans two epochs; an epoch's steps are as equal as possible, at most ``batch_size`` units each.

    Args:
        units: each unit's examples.
        schedule: ``(size, epoch, seed) -> indices``.
        seed: of the schedule.
        batch_size: units per step.

    Raises:
        DataError: no units, or an empty unit.
    """

    def __init__(self, units: Sequence[Sequence[Example]], schedule: Schedule, *, seed: int = 0, batch_size: int = 64) -> None:
        if not len(units):
            raise DataError("there are no rows to train on; the receipt of the data step says where they went")
        for index, unit in enumerate(units):
            if not unit:
                raise DataError(f"unit {index} has no examples")
        self.units, self.schedule, self.seed, self.batch_size = units, schedule, seed, batch_size
        self._ends: list[int] = []
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def units_total(self) -> int:
        return len(self.units)

    def examples(self, step: int, model: Model | None = None) -> list[Example]:
        """The step's examples; ``unit`` numbers the units within the step."""
        return [replace(e, unit=k) for k, index in enumerate(self.indices(step)) for e in self.units[index]]

    def reads_model(self, step: int) -> bool:
        """Never: the units are fixed."""
        return False

    def indices(self, step: int) -> list[int]:
        """Which units step ``step`` (from 0) has; no unit comes twice within an epoch.

        Raises:
            RecipeError: the schedule repeats a row within an epoch, or names one that is not there.
        """
        epoch = 0
        while step >= self._end(epoch):
            epoch += 1
        first = self._ends[epoch - 1] if epoch else 0
        order, part = self._epoch(epoch), step - first
        size, longer = divmod(len(order), self._ends[epoch] - first)
        start = part * size + min(part, longer)
        return order[start : start + size + (part < longer)].tolist()

    def steps_for(self, *, epochs: float | None = None, tokens: int | None = None) -> int:
        """Steps that pass ``epochs`` times over the units, or the fewest that read at least ``tokens`` input tokens."""
        if epochs is not None:
            whole, part = int(epochs), epochs - int(epochs)
            before = self._end(whole - 1) if whole else 0
            return before + int(np.ceil(round(part * (self._end(whole) - before), 6))) if part else before
        assert tokens is not None
        steps = read = 0
        while read < tokens:
            read += sum(len(e) for index in self.indices(steps) for e in self.units[index])
            steps += 1
        return steps

    def state(self) -> dict[str, Any]:
        """What the order depends on, so that a changed data set is noticed."""
        return {
            "fingerprint": self._fingerprint,
            "units": len(self.units),
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Checks that the order is the one of the checkpoint.

        Raises:
            RecipeError: units, seed or batch size are others.
        """
        refuse_other_data(state, self.state())

    @cached_property
    def _fingerprint(self) -> str:
        # Every checkpoint holds it, and it reads every token.
        return fingerprint(self.units)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            order = np.asarray(self.schedule(len(self.units), epoch, self.seed))
            if not order.size:
                raise RecipeError(f"the schedule gives no rows for epoch {epoch}")
            _refuse_repeats(order, len(self.units), epoch)
            self._order = (epoch, order)
        return self._order[1]

    def _end(self, epoch: int) -> int:
        """Number of the step after the epoch's last."""
        while len(self._ends) <= epoch:
            size = len(self._epoch(len(self._ends)))
            self._ends.append((self._ends[-1] if self._ends else 0) - (-size // self.batch_size))
        return self._ends[epoch]


def fingerprint(units: Sequence[Sequence[Example]]) -> str:
    """A hash of the units' tokens and of which are trained."""
    digest = hashlib.sha256()
    for unit in units:
        for example in unit:
            digest.update(np.asarray(example.input_ids, np.int64).tobytes())
            digest.update(np.asarray(example.trained, np.int8).tobytes())
    return digest.hexdigest()[:16]


def refuse_other_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises RecipeError if what the order depends on is not what it was in the checkpoint."""
    for name, value in now.items():
        if saved[name] != value:
            raise RecipeError(
                f"cannot resume: the training data's {name} was {saved[name]!r} and is {value!r}; train afresh without resume"
            )


def fixed_order(schedule: Any) -> Schedule:
    """The schedule, or in place of one that reacts to losses, for trials that measure none, a shuffled order."""
    from whet.data.order import permutation

    return permutation if hasattr(schedule, "weights") else schedule


def _refuse_repeats(order: np.ndarray, size: int, epoch: int) -> None:
    """Raises RecipeError if an epoch would show a row twice (which lowers the loss and looks like progress) or one that is not
    there."""
    rows, times = np.unique(order, return_counts=True)
    if rows[0] < 0 or rows[-1] >= size:
        wrong = int(rows[0] if rows[0] < 0 else rows[-1])
        raise RecipeError(f"the schedule asks for row {wrong} in epoch {epoch}; there are rows 0 to {size - 1}")
    if (repeated := rows[times > 1]).size:
        shown = ", ".join(map(str, repeated[:5].tolist()))
        raise RecipeError(
            f"the schedule repeats {repeated.size} of {size} rows within epoch {epoch} (rows {shown}); a row may come once per "
            "epoch: put repeated rows into the data, where the receipt shows them, or use more epochs"
        )


def total_steps(provider: Any, *, steps: int | None, epochs: float | None, tokens: int | None) -> int:
    """How many optimizer steps a run has.

    Raises:
        RecipeError: the provider has no notion of epochs or of a token budget.
    """
    if steps is not None:
        return steps
    if not hasattr(provider, "steps_for"):
        asked = f"epochs: {epochs}" if epochs is not None else f"tokens: {tokens}"
        raise RecipeError(f"{asked} cannot be turned into steps here, since rows are sampled while training; say 'steps'")
    return provider.steps_for(epochs=epochs, tokens=tokens)
