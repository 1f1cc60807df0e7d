"""How completions are sampled and used: what a user can say about the rollouts of a train step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from whet.errors import RecipeError
from whet.generate.completion import Sampling

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
