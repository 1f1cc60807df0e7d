"""Samples groups of completions from the model being trained, scores them, and hands them to the loop as training examples.

One *rollout* takes the next prompts of the schedule, samples ``group_size`` completions of each with the generation engine,
scores them, lets the objective turn rewards into advantages over whole groups, and is then used for ``epochs_per_rollout``
passes in ``minibatches`` optimizer steps each. Old log-probabilities are the sampler's own and stay fixed meanwhile.

Everything random comes from (seed, number of the prompt drawn), so a rollout depends on the model and the state only; the
state (:meth:`RolloutProvider.state`) holds the position in the schedule and the rollout in use, and resuming goes on inside it.

The examples are those of :mod:`whet.train.rollout_groups`, with token values ``advantages`` and what
:meth:`RolloutProvider.bind` was given. ``unit`` is the prompt's group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data.example import Example
from whet.errors import RecipeError, WhetError
from whet.generate.scoring import Reward
from whet.train.advantages import has_signal, with_step_counts
from whet.train.objective import RolloutObjective
from whet.train.prompt_stream import PromptStream
from whet.train.rollout_groups import GroupSampler
from whet.train.rollout_receipt import RolloutReceipt
from whet.train.rollout_settings import RolloutSettings

if TYPE_CHECKING:
    from whet.model import Model
    from whet.train.prompt_stream import Schedule

    TokenValues = Callable[[Sequence[Example]], Sequence[Sequence[float]]]


class RolloutProvider:
    """Gives the loop the examples of each step.

    Args:
        data: rows with a ``prompt`` (or ``messages``), what the reward reads, and a ``completion`` for demonstrations.
        reward: scores completions in [0, 1].
        objective: says what it needs (``plan``) and turns rewards into advantages (``prepare``).
        settings: see :class:`RolloutSettings`.
        schedule: ``(size, epoch, seed) -> indices``: the order of the prompts.
        seed: of the schedule and of the sampling.

    Raises:
        RecipeError: a group that is too small for the objective; a sum of objectives.
        DataError: no rows.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]] | Any,
        reward: Reward,
        objective: RolloutObjective,
        settings: RolloutSettings,
        *,
        schedule: Schedule,
        seed: int = 0,
    ) -> None:
        if not hasattr(objective, "plan"):
            raise RecipeError(
                "an objective that learns from rollouts cannot be summed with others: its rows are the policy's own samples. "
                "To mix in demonstrations use hpt, luffy, srft, or upge with rows: both and sft_weight"
            )
        plan, inside = objective.plan, objective.plan.demonstration == "inside"
        size = settings.group_size - inside
        if size < plan.smallest_group:
            raise RecipeError(
                f"rollouts.group_size {settings.group_size}: this objective compares the completions of a prompt with each "
                f"other and needs at least {plan.smallest_group + inside}; without groups take reinforce or reinforce++"
            )
        self.objective, self.settings, self.seed = objective, settings, seed
        prompts = PromptStream(data, schedule, seed, system=settings.system, demonstration=plan.demonstration)
        self._sampler = GroupSampler(prompts, reward, plan, settings, size, seed)
        self._token_values: dict[str, TokenValues] = {}
        self._barren = 0
        self._buffer: list[Example] = []

    def bind(self, **token_values: TokenValues | None) -> None:
        """Gives the functions that compute further token values of fresh rows, once per rollout and before advantages.

        ``reference_logps`` (objectives that need ``reference``) and ``old_values`` (``values``): each maps examples to one list
        of numbers per example, aligned with its ``input_ids``; see :func:`whet.train.token_values.reader`. ``old_logps`` replaces
        the sampler's own, where training computes in another precision than sampling. ``None`` is ignored.
        """
        self._token_values.update({name: function for name, function in token_values.items() if function is not None})

    def examples(self, step: int, model: Model) -> list[Example]:
        """The examples of an optimizer step; samples a new rollout from ``model`` when the one in use is used up.

        Raises:
            WhetError: ``patience`` rollouts in a row had no signal.
            DataError: a row that cannot be used; names it.
        """
        inner = step % self.settings.steps_per_rollout
        if self.reads_model(step):
            self._buffer = self._rollout(step, model)
        return with_step_counts(self._minibatch(inner))

    def reads_model(self, step: int) -> bool:
        """Whether the step samples a new rollout."""
        return step % self.settings.steps_per_rollout == 0 or not self._buffer

    @property
    def counts(self) -> RolloutReceipt:
        """Counts over the run so far."""
        return self._sampler.counts

    @property
    def receipt(self) -> dict[str, Any]:
        """What was sampled and what of it was of use: see :class:`whet.train.rollout_receipt.RolloutReceipt`."""
        return self.counts.summary()

    @property
    def sampled_tokens(self) -> int:
        """Tokens that sampling has read and written."""
        return self.counts.prefill_tokens + self.counts.decode_tokens

    def state(self) -> dict[str, Any]:
        """What resuming needs, as plain data that JSON can hold."""
        return {
            "settings": self._fixed(),
            "prompts": self._sampler.prompts.state(),
            "barren": self._barren,
            "buffer": [_plain(example) for example in self._buffer],
            "counts": asdict(self.counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a :meth:`state`.

        Raises:
            RecipeError: it is of other settings, so that the rest would not be the run that was stopped.
        """
        for name, now in self._fixed().items():
            saved = state["settings"].get(name)
            if saved != now:
                raise RecipeError(f"cannot resume: rollouts.{name} was {saved!r} and is {now!r}; train afresh without resume")
        self._sampler.prompts.restore(state["prompts"])
        self._barren = state["barren"]
        self._buffer = [Example(**example) for example in state["buffer"]]
        self._sampler.counts = RolloutReceipt(**state["counts"])

    def _fixed(self) -> dict[str, Any]:
        """What the rest of a run depends on, as JSON gives it back."""
        return {**asdict(self.settings), "stop": list(self.settings.stop), "seed": self.seed}

    def _minibatch(self, inner: int) -> list[Example]:
        """The rows of the ``inner``-th step on the rollout in use: whole groups, dealt out anew in every pass."""
        epoch, part = divmod(inner, self.settings.minibatches)
        units = np.unique([e.unit for e in self._buffer])
        order = np.random.default_rng([self.seed, self.counts.rollouts, epoch]).permutation(units)
        parts = np.array_split(order, min(self.settings.minibatches, units.size))
        chosen = set(parts[part % len(parts)].tolist())
        return [e for e in self._buffer if e.unit in chosen]

    def _rollout(self, step: int, model: Model) -> list[Example]:
        """Samples a rollout and prepares its rows, all their token values included."""
        groups, replaced = self._sampler.groups(model)
        rows = [replace(e, unit=number) for number, group in enumerate(groups) for e in group]
        for name, function in self._token_values.items():
            numbers = function(rows)
            rows = [replace(e, token_values={**e.token_values, name: list(n)}) for e, n in zip(rows, numbers, strict=True)]
        prepared = self.objective.prepare(rows)
        with_signal = len({e.unit for e in prepared if has_signal(e)})
        scored = [*rows, *(row for group in replaced for row in group)]
        self.counts.rollout(step, scored, rows, prepared, len(groups), with_signal)
        self.counts.prompts_too_long = self._sampler.prompts.too_long
        self._barren = 0 if with_signal else self._barren + 1
        if self._barren >= self.settings.patience:
            raise WhetError(self._no_signal())
        return prepared

    def _no_signal(self) -> str:
        return (
            f"{self._barren} rollouts in a row gave no signal: in every group all completions had the same reward (mean of the "
            f"last rollout {self.counts.last['reward']:.3f}). Near 0: easier prompts, a reward with partial credit, a better "
            "starting model, or hpt with demonstrations. Near 1: harder prompts. Or a higher temperature, a larger group_size, "
            "or a larger patience"
        )


def _plain(example: Example) -> dict[str, Any]:
    return {
        "input_ids": [int(i) for i in example.input_ids],
        "trained": [bool(t) for t in example.trained],
        "unit": int(example.unit),
        "values": {k: float(v) for k, v in example.values.items()},
        "token_values": {k: [float(x) for x in v] for k, v in example.token_values.items()},
    }
