"""Turns the rewards of whole rollouts into one advantage per trained token.

This is the only place where it is done. It works on examples and not on batches, because group statistics need whole groups
and whitening needs the whole rollout; the result stands in ``token_values["advantages"]`` and stays fixed however many
epochs and micro-batches the rollout is used for.

Shapes: B rows; per-row numbers are float64 [B], per-token numbers lists as long as the row's ``input_ids``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from whet.data.example import Example
from whet.errors import DataError

Array = npt.NDArray[np.float64]
Advantage = Literal["one", "reward", "running", "greedy", "group", "group-std", "leave-one-out", "return", "gae"]

GROUPED = ("group", "group-std", "leave-one-out")
EQUAL = 1e-8
"""Rewards that differ by less are equal: their differences are rounding noise, which a division by their spread would blow up."""


def advantages_of(
    examples: Sequence[Example],
    kind: Advantage,
    *,
    kl: float = 0.0,
    gamma: float = 1.0,
    lam: float = 0.95,
    whitened: bool = False,
    running: float | None = None,
) -> tuple[list[Example], float]:
    """Writes ``token_values["advantages"]`` into the rows of a whole rollout (``gae``: also ``returns``).

    Args:
        examples: rows with ``values["reward"]``; of one prompt they share ``unit``.
        kind: which advantage, see :mod:`whet.train.objectives.upge`.
        kl: coefficient of the KL to the reference that is taken off the rewards, 0 for none.
        gamma, lam: of ``return`` and ``gae``.
        whitened: standardize over all tokens of the rollout.
        running: the baseline of ``running``; ``None`` takes this rollout's mean.

    Returns:
        The rows, without greedy baseline rows (``values["is_baseline"]``), and the mean reward of these rows.

    Raises:
        DataError: rewards that are missing or not finite, groups that are too small or split, missing token values.
    """
    rows = [e for e in examples if not e.values.get("is_baseline")]
    if not rows:
        return [], 0.0
    rewards = rewards_of(rows)
    mean = float(rewards.mean())
    if kind in ("return", "gae"):
        per_token = [token_rewards(e, r, kl) for e, r in zip(rows, rewards)]
    else:
        if kl:
            rewards = rewards - kl * np.array([token_log_ratio(e).sum() for e in rows])
        per_row = _row_advantages(examples, rows, rewards, kind, mean if running is None else running)
        per_token = [np.full(e.trained_tokens, a) for e, a in zip(rows, per_row)]
    if kind == "gae":
        values = [old_values(e) for e in rows]
        per_token = [gae(r, v, gamma, lam) for r, v in zip(per_token, values)]
        rows = [with_tokens(e, returns=a + v) for e, a, v in zip(rows, per_token, values)]
    elif kind == "return":
        per_token = [returns_to_go(r, gamma) for r in per_token]
    per_token = whiten(per_token) if whitened else per_token
    return [with_tokens(e, advantages=a) for e, a in zip(rows, per_token)], mean


def _row_advantages(
    examples: Sequence[Example], rows: Sequence[Example], rewards: Array, kind: Advantage, running: float
) -> Array:
    if kind in GROUPED:
        return group_advantages(rewards, whole_groups(rows, smallest=2), kind)
    if kind == "greedy":
        baselines = [e for e in examples if e.values.get("is_baseline")]
        greedy = dict(zip((e.unit for e in baselines), rewards_of(baselines)))
        without = next((e.unit for e in rows if e.unit not in greedy), None)
        if without is not None:
            raise DataError(f"unit {without} has no greedy completion to compare with (a row with values['is_baseline'] = 1)")
        return rewards - np.array([greedy[e.unit] for e in rows])
    return rewards - running if kind == "running" else rewards


def old_values(example: Example) -> Array:
    """The value head's predictions at rollout time, [T].

    Raises:
        DataError: the row has none.
    """
    if "old_values" not in example.token_values:
        raise DataError(f"advantage 'gae' needs a value head: unit {example.unit} has no token_values['old_values']")
    return trained(example, "old_values")


def rewards_of(examples: Sequence[Example]) -> Array:
    """Reward of each row, its length penalty included.

    Raises:
        DataError: a row has no reward, or one that is NaN or infinite.
    """
    missing = next((i for i, e in enumerate(examples) if "reward" not in e.values), None)
    if missing is not None:
        raise DataError(f"row {missing} of the rollout (unit {examples[missing].unit}) has no value 'reward'")
    rewards = np.array([e.values["reward"] + e.values.get("penalty", 0.0) for e in examples], dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(rewards))
    if wrong.size:
        i = int(wrong[0])
        first = f"the first is {rewards[i]} (unit {examples[i].unit})"
        raise DataError(f"{wrong.size} of {rewards.size} rewards are not finite; {first}")
    return rewards


def whole_groups(examples: Sequence[Example], smallest: int) -> npt.NDArray[np.int64]:
    """The group number of each row, from 0, in the order of first appearance.

    Raises:
        DataError: a group is smaller than ``smallest``, or is not the whole of the ``group_size`` that its rows state.
    """
    counts = Counter(e.unit for e in examples)
    for example in examples:
        found, expected = counts[example.unit], int(example.values.get("group_size", counts[example.unit]))
        if found != expected:
            raise DataError(f"unit {example.unit} has {found} of its {expected} rows; a group must not be split over two calls")
        if found < smallest:
            raise DataError(f"unit {example.unit} has {found} row; a group baseline needs at least {smallest}: raise group_size")
    numbers = {unit: i for i, unit in enumerate(counts)}
    return np.array([numbers[e.unit] for e in examples], dtype=np.int64)


def group_advantages(rewards: Array, groups: npt.NDArray[np.int64], kind: Advantage) -> Array:
    """Rewards less their group's baseline, [B]; exactly 0 in groups whose rewards are all equal.

    ``group``: R - mean. ``group-std``: that divided by (sample standard deviation + 1e-6). ``leave-one-out``: R - mean of
    the others = G/(G-1) * (R - mean).
    """
    result = np.zeros_like(rewards)
    for group in np.unique(groups):
        member = groups == group
        own = rewards[member]
        if np.ptp(own) < EQUAL:
            continue
        centred = own - own.mean()
        if kind == "group-std":
            centred /= own.std(ddof=1) + 1e-6
        elif kind == "leave-one-out":
            centred *= own.size / (own.size - 1)
        result[member] = centred
    return result


def returns_to_go(rewards: Array, gamma: float) -> Array:
    """Discounted sum of a row's rewards from each token on: [T]."""
    result = np.zeros_like(rewards)
    running = 0.0
    for t in reversed(range(rewards.size)):
        running = rewards[t] + gamma * running
        result[t] = running
    return result


def gae(rewards: Array, values: Array, gamma: float, lam: float) -> Array:
    """Generalized advantage estimates of one row, [T]: discounted sums of r_t + gamma V_{t+1} - V_t, V = 0 at the end."""
    following = np.append(values[1:], 0.0)
    return returns_to_go(rewards + gamma * following - values, gamma * lam)


def whiten(per_token: Sequence[Array]) -> list[Array]:
    """Shifts and scales numbers to mean 0 and standard deviation 1 over all tokens of all rows; all equal gives 0."""
    joined = np.concatenate(list(per_token))
    if np.ptp(joined) < EQUAL:
        return [np.zeros_like(row) for row in per_token]
    mean, scale = joined.mean(), joined.std(ddof=1) + 1e-6
    return [(row - mean) / scale for row in per_token]


def token_log_ratio(example: Example) -> Array:
    """``old_logps - reference_logps`` of a row's trained tokens, the k1 estimate of the KL to the reference: [T].

    Raises:
        DataError: one of the two is missing.
    """
    for name in ("old_logps", "reference_logps"):
        if name not in example.token_values:
            raise DataError(f"a KL in the reward reads token_values[{name!r}], which unit {example.unit} does not have")
    return trained(example, "old_logps") - trained(example, "reference_logps")


def trained(example: Example, name: str) -> Array:
    """``token_values[name]`` at the trained tokens: [T]."""
    return np.asarray(example.token_values[name], dtype=np.float64)[np.asarray(example.trained, dtype=bool)]


def token_rewards(example: Example, reward: float, kl: float) -> Array:
    """[T]: the row's reward at its last token, less ``kl`` times the log-ratio to the reference at each."""
    rewards = -kl * token_log_ratio(example) if kl else np.zeros(example.trained_tokens)
    rewards[-1] += reward
    return rewards


def with_tokens(example: Example, **per_token: Array) -> Example:
    """The example with further token values, given at its trained tokens and 0 elsewhere."""
    where = np.asarray(example.trained, dtype=bool)
    values = dict(example.token_values)
    for name, numbers in per_token.items():
        full = np.zeros(len(example))
        full[where] = numbers
        values[name] = full.tolist()
    return replace(example, token_values=values)


def has_signal(example: Example) -> bool:
    """Whether the row moves the policy: some advantage is not 0, or it is imitated."""
    return any(example.token_values.get("advantages", ())) or example.values.get("sft_weight", 0.0) > 0


def with_step_counts(examples: Sequence[Example]) -> list[Example]:
    """Writes into every row how much of the *step* is imitated, for losses that divide the two branches apart.

    ``step_sft_tokens``: trained tokens of imitated rows; ``step_sft_units``: prompts that have one.
    """
    imitated = [e for e in examples if e.values.get("sft_weight", 0.0) > 0]
    counts = {
        "step_sft_tokens": float(sum(e.trained_tokens for e in imitated)),
        "step_sft_units": float(len({e.unit for e in imitated})),
    }
    return [replace(e, values={**e.values, **counts}) for e in examples]
