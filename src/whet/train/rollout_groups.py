"""Samples a group of completions per prompt, scores them, and makes examples of them.

If several processes train (:mod:`whet.train.distributed`), each samples and scores its share of the prompts, and all get all
of the rows. The engine needs whole weights: each process holds a full copy of the network while it samples.

An example's values: ``reward`` (scaled), ``penalty`` (of length), ``is_demo``, ``is_baseline``, ``ended``, ``group_size``
(rows of its unit), ``max_new_tokens``, ``temperature``; its token values: ``old_logps``, the sampler's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from whet.data.example import Example
from whet.generate.completion import Completion, Sampling
from whet.generate.kept import generate_in_blocks
from whet.generate.scoring import Reward, score
from whet.train.advantages import EQUAL
from whet.train.distributed import world
from whet.train.objective import RolloutPlan
from whet.train.prompt_stream import Prompt, PromptStream
from whet.train.rollout_receipt import RolloutReceipt
from whet.train.rollout_settings import RolloutSettings

if TYPE_CHECKING:
    from whet.model import Model

    Group = list[Example]


@dataclass
class GroupSampler:
    """Turns the next ``prompts`` into groups that ``reward`` has scored; ``counts`` what it does.

    ``plan``: what the objective asks of a group.  ``size``: completions sampled per prompt.  ``seed``: of the sampling.
    """

    prompts: PromptStream
    reward: Reward
    plan: RolloutPlan
    settings: RolloutSettings
    size: int
    seed: int
    counts: RolloutReceipt = field(default_factory=RolloutReceipt)

    def groups(self, model: Model) -> tuple[list[Group], list[Group]]:
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

    def _sample(self, model: Model, prompts: Sequence[Prompt]) -> list[Group]:
        """One group of examples per prompt: sampled rows, then the greedy baseline or the demonstration if there is one."""
        groups = self._completions(model, prompts, self.settings.sampling, self.size)
        if self.plan.greedy:
            greedy = replace(self.settings.sampling, temperature=0.0)
            baselines = self._completions(model, prompts, greedy, 1)
            groups = [[*group, _valued(row, is_baseline=1.0)] for group, (row,) in zip(groups, baselines)]
        for prompt, group in zip(prompts, groups):
            if prompt.demonstration is not None:
                group.append(self._shown(prompt.demonstration))
        return [[_valued(e, group_size=_members(group)) for e in group] for group in groups]

    def _completions(self, model: Model, prompts: Sequence[Prompt], sampling: Sampling, size: int) -> list[Group]:
        ranks = world()
        own = prompts[ranks.rank :: ranks.size]
        groups: list[Any] = [None] * len(prompts)
        for rank, share in enumerate(ranks.gather(self._share(model, own, sampling, size) if own else None)):
            if share is not None:
                self.counts.sampled(*share[0])
                groups[rank :: ranks.size] = share[1]
        return groups

    def _share(self, model: Model, prompts: Sequence[Prompt], sampling: Sampling, size: int) -> tuple[Any, list[Group]]:
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


def overlong_penalty(length: int, limit: int, share: float) -> float:
    """0 up to the last ``share`` of ``limit`` tokens, then falling linearly to -1 at ``limit`` (DAPO's soft punishment)."""
    buffer = share * limit
    return -min(1.0, max(0.0, (length - (limit - buffer)) / buffer)) if buffer else 0.0


def _by_spread(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Groups whose rewards differ, and groups whose rewards are all equal (length penalties do not count)."""
    parts: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        rewards = [e.values["reward"] for e in group]
        parts[max(rewards) - min(rewards) < EQUAL].append(group)
    return parts


def _members(group: Group) -> float:
    return float(sum(not e.values["is_baseline"] for e in group))


def _valued(example: Example, **values: float) -> Example:
    return replace(example, values={**example.values, **values})
