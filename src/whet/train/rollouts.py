"""Samples groups of completions from the model being trained, scores them, and hands them to the loop as training examples.

One *rollout* takes the next prompts of the schedule, samples ``group_size`` completions of each with the generation engine,
scores them, lets the objective turn rewards into advantages over whole groups, and is then used for ``epochs_per_rollout``
passes in ``minibatches`` optimizer steps each. Old log-probabilities are the sampler's own and stay fixed meanwhile.

If several processes train (:mod:`whet.train.distributed`), each samples and scores its share of the prompts, and all get all
of the rows. The engine needs whole weights: each process holds a full copy of the network while it samples.

Everything random comes from (seed, number of the prompt drawn), so a rollout depends on the model and the state only; the
state (:meth:`RolloutProvider.state`) holds the position in the schedule and the rollout in use, and resuming goes on inside it.

An example's values: ``reward`` (scaled), ``penalty`` (of length), ``is_demo``, ``is_baseline``, ``ended``, ``group_size``
(rows of its unit), ``max_new_tokens``, ``temperature``; token values ``old_logps``, ``advantages`` and what
:meth:`RolloutProvider.bind` was given. ``unit`` is the prompt's group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from whet.data.example import Example
from whet.errors import RecipeError, WhetError
from whet.generate.completion import Completion, Sampling
from whet.generate.kept import generate_in_blocks
from whet.generate.scoring import Reward, score
from whet.train.advantages import EQUAL, has_signal, with_step_counts
from whet.train.distributed import world
from whet.train.objective import RolloutObjective
from whet.train.prompt_stream import Prompt, PromptStream
from whet.train.rollout_receipt import RolloutReceipt

if TYPE_CHECKING:
    from whet.model import Model
    from whet.train.prompt_stream import Schedule

    TokenValues = Callable[[Sequence[Example]], Sequence[Sequence[float]]]

Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True)
class RolloutSettings:
    """How completions are sampled and used. Defaults: 16 prompts x 8, small enough for one machine, one step per rollout.

    ``prompts``: per rollout. ``group_size``: rows per prompt; an objective that puts a demonstration *inside* the group
    samples one fewer. ``epochs_per_rollout``, ``minibatches``: optimizer steps per rollout = their product (PPO: 4 epochs).
    ``temperature``: must be the one that the policy's log-probabilities are computed at. ``reward_scale``: what a reward of
    1 counts. ``unfinished_reward``: what a completion gets that was cut at ``max_new_tokens``, whatever its text (default:
    its own reward). ``resample_rounds``: how often a rollout looks for fresh prompts in place of groups without signal, where
    the objective wants that. ``block``: prompts that are sampled together, and which another worker can take (default: by what
    the engine holds at once). ``patience``: rollouts in a row without any signal after which training stops.
    """

    prompts: Positive = 16
    group_size: Positive = 8
    max_new_tokens: Positive = 256
    temperature: Annotated[float, Gt(0)] = 1.0
    stop: tuple[str, ...] = ()
    epochs_per_rollout: Positive = 1
    minibatches: Positive = 1
    reward_scale: Annotated[float, Gt(0)] = 1.0
    unfinished_reward: float | None = None
    resample_rounds: Annotated[int, Ge(0)] = 4
    patience: Positive = 20
    batch_tokens: Positive = 32768
    block: Positive | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise RecipeError("rollouts.stop holds an empty string, which would end every completion at once; remove it")
        if self.minibatches > self.prompts:
            raise RecipeError(
                f"rollouts.minibatches {self.minibatches}: must be at most 'prompts' ({self.prompts}), one group each"
            )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens, stop=self.stop)

    @property
    def steps_per_rollout(self) -> int:
        return self.epochs_per_rollout * self.minibatches


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
        self.plan = objective.plan
        self.sampled = settings.group_size - (self.plan.demonstration == "inside")
        if self.sampled < self.plan.smallest_group:
            needed = self.plan.smallest_group + (self.plan.demonstration == "inside")
            raise RecipeError(
                f"rollouts.group_size {settings.group_size}: this objective compares the completions of a prompt with each "
                f"other and needs at least {needed}; without groups take reinforce or reinforce++"
            )
        self.reward, self.objective, self.settings, self.seed = reward, objective, settings, seed
        self.prompts = PromptStream(data, schedule, seed, system=settings.system, demonstration=self.plan.demonstration)
        self.counts = RolloutReceipt()
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
            "settings": {**asdict(self.settings), "stop": list(self.settings.stop), "seed": self.seed},
            "prompts": self.prompts.state(),
            "barren": self._barren,
            "buffer": [_plain(example) for example in self._buffer],
            "counts": asdict(self.counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a :meth:`state`.

        Raises:
            RecipeError: it is of other settings, so that the rest would not be the run that was stopped.
        """
        for name, now in self.state()["settings"].items():
            saved = state["settings"].get(name)
            if saved != now:
                raise RecipeError(f"cannot resume: rollouts.{name} was {saved!r} and is {now!r}; train afresh without resume")
        self.prompts.restore(state["prompts"])
        self._barren = state["barren"]
        self._buffer = [Example(**example) for example in state["buffer"]]
        self.counts = RolloutReceipt(**state["counts"])

    def _minibatch(self, inner: int) -> list[Example]:
        epoch, part = divmod(inner, self.settings.minibatches)
        units = np.unique([e.unit for e in self._buffer])
        order = np.random.default_rng([self.seed, self.counts.rollouts, epoch]).permutation(units)
        parts = np.array_split(order, min(self.settings.minibatches, units.size))
        chosen = set(parts[part % len(parts)].tolist())
        return [e for e in self._buffer if e.unit in chosen]

    def _rollout(self, step: int, model: Model) -> list[Example]:
        groups, replaced = self._groups(model)
        rows = [replace(e, unit=number) for number, group in enumerate(groups) for e in group]
        for name, function in self._token_values.items():
            numbers = function(rows)
            rows = [replace(e, token_values={**e.token_values, name: list(n)}) for e, n in zip(rows, numbers, strict=True)]
        prepared = self.objective.prepare(rows)
        with_signal = len({e.unit for e in prepared if has_signal(e)})
        scored = [*rows, *(row for group in replaced for row in group)]
        self.counts.rollout(step, scored, rows, prepared, len(groups), with_signal)
        self.counts.prompts_too_long = self.prompts.too_long
        self._barren = 0 if with_signal else self._barren + 1
        if self._barren >= self.settings.patience:
            raise WhetError(self._no_signal())
        return prepared

    def _groups(self, model: Model) -> tuple[list[list[Example]], list[list[Example]]]:
        """The rollout's groups, and those that fresh prompts have replaced because all their rewards are equal."""
        groups = self._sample(model, self.prompts.draw(self.settings.prompts, model))
        if not self.plan.resample:
            return groups, []
        useful, equal = _by_spread(groups)
        for _ in range(self.settings.resample_rounds):
            missing = self.settings.prompts - len(useful)
            if not missing:
                break
            self.counts.groups_resampled += missing
            more, still_equal = _by_spread(self._sample(model, self.prompts.draw(missing, model)))
            useful, equal = useful + more, equal + still_equal
        if useful:
            return useful, equal
        # Without any signal a length penalty alone must not drive the update, nor hide that there is none.
        return [[_valued(e, penalty=0.0) for e in group] for group in equal], []

    def _sample(self, model: Model, prompts: Sequence[Prompt]) -> list[list[Example]]:
        """One group of examples per prompt: sampled rows, then the greedy baseline or the demonstration if there is one."""
        groups = self._completions(model, prompts, self.settings.sampling, self.sampled)
        if self.plan.greedy:
            greedy = replace(self.settings.sampling, temperature=0.0)
            baselines = self._completions(model, prompts, greedy, 1)
            groups = [[*group, _valued(row, is_baseline=1.0)] for group, (row,) in zip(groups, baselines)]
        for prompt, group in zip(prompts, groups):
            if prompt.demonstration is not None:
                group.append(self._shown(prompt.demonstration))
        return [[_valued(e, group_size=_members(group)) for e in group] for group in groups]

    def _completions(self, model: Model, prompts: Sequence[Prompt], sampling: Sampling, size: int) -> list[list[Example]]:
        ranks = world()
        own = prompts[ranks.rank :: ranks.size]
        groups: list[Any] = [None] * len(prompts)
        for rank, share in enumerate(ranks.gather(self._share(model, own, sampling, size) if own else None)):
            if share is not None:
                self.counts.sampled(*share[0])
                groups[rank :: ranks.size] = share[1]
        return groups

    def _share(self, model: Model, prompts: Sequence[Prompt], sampling: Sampling, size: int) -> tuple[Any, list[list[Example]]]:
        """What the receipt counts, and one group of sampled rows per prompt."""
        engine: dict[str, Any] = {}
        completions = generate_in_blocks(
            model,
            [p.ids for p in prompts],
            sampling,
            group_size=size,
            seed=self.seed,
            keys=[p.key for p in prompts],
            batch_tokens=self.settings.batch_tokens,
            block=self.settings.block,
            receipt=engine,
        )
        scores = score(self.reward, [prompts[c.prompt].row for c in completions], [c.text for c in completions])
        counted = engine, scores.failures, completions, scores.receipt.get("details")
        examples = [self._example(prompts[c.prompt], c, value) for c, value in zip(completions, scores.values)]
        return counted, [examples[i : i + size] for i in range(0, len(examples), size)]

    def _example(self, prompt: Prompt, completion: Completion, value: float) -> Example:
        settings, before, length = self.settings, len(prompt.ids), len(completion.ids)
        reward = value * settings.reward_scale
        if completion.finish == "length" and settings.unfinished_reward is not None:
            reward = settings.unfinished_reward
        penalty = settings.reward_scale * overlong_penalty(length, settings.max_new_tokens, self.plan.overlong)
        return Example(
            [*prompt.ids, *completion.ids],
            [False] * before + [True] * length,
            values=self._values(reward=reward, penalty=penalty, ended=float(completion.finish != "length")),
            token_values={"old_logps": [0.0] * before + list(completion.logps)},
        )

    def _shown(self, demonstration: Example) -> Example:
        values = self._values(reward=self.settings.reward_scale, is_demo=1.0, ended=1.0)
        return replace(demonstration, values=values, token_values={"old_logps": [0.0] * len(demonstration)})

    def _values(self, **own: float) -> dict[str, float]:
        """All rows of a batch carry the same values, so that they can stand in one tensor."""
        none = dict.fromkeys(("penalty", "is_demo", "is_baseline"), 0.0)
        conditions = {"max_new_tokens": float(self.settings.max_new_tokens), "temperature": self.settings.temperature}
        return {**none, **conditions, **own}

    def _no_signal(self) -> str:
        return (
            f"{self._barren} rollouts in a row gave no signal: in every group all completions had the same reward (mean of the "
            f"last rollout {self.counts.last['reward']:.3f}). Near 0: easier prompts, a reward with partial credit, a better "
            "starting model, or hpt with demonstrations. Near 1: harder prompts. Or a higher temperature, a larger group_size, "
            "or a larger patience"
        )


def overlong_penalty(length: int, limit: int, share: float) -> float:
    """0 up to the last ``share`` of ``limit`` tokens, then falling linearly to -1 at ``limit`` (DAPO's soft punishment)."""
    buffer = share * limit
    return -min(1.0, max(0.0, (length - (limit - buffer)) / buffer)) if buffer else 0.0


def _by_spread(groups: Sequence[list[Example]]) -> tuple[list[list[Example]], list[list[Example]]]:
    """Groups whose rewards differ, and groups whose rewards are all equal (length penalties do not count)."""
    parts: tuple[list[list[Example]], list[list[Example]]] = ([], [])
    for group in groups:
        rewards = [e.values["reward"] for e in group]
        parts[max(rewards) - min(rewards) < EQUAL].append(group)
    return parts


def _members(group: Sequence[Example]) -> float:
    return float(sum(not e.values["is_baseline"] for e in group))


def _valued(example: Example, **values: float) -> Example:
    return replace(example, values={**example.values, **values})


def _plain(example: Example) -> dict[str, Any]:
    return {
        "input_ids": [int(i) for i in example.input_ids],
        "trained": [bool(t) for t in example.trained],
        "unit": int(example.unit),
        "values": {k: float(v) for k, v in example.values.items()},
        "token_values": {k: [float(x) for x in v] for k, v in example.token_values.items()},
    }
