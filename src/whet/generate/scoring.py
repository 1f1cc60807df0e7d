"""Scores completions with a reward, with a guard: one completion that breaks the reward costs that completion, not the run.

A reward that raises on a completion scores it 0; the failure is counted and shown. A reward that judges many completions at
once and knows itself which of them failed says so by ``judge`` (:class:`Judge`). A reward that gives NaN or a number
outside [0, 1] is wrong as a whole and is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from whet import parts
from whet.errors import RecipeError, WhetError

SHOWN = 3


class Reward(Protocol):
    """Scores ``completions[i]``, given for dataset row ``rows[i]``, in [0, 1]."""

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]: ...


@runtime_checkable
class Wrapper(Protocol):
    """A reward that changes what another gives; :func:`score` guards the inner one itself."""

    inner: Reward

    def adjust(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str], values: Sequence[float]) -> list[float]: ...


@dataclass(frozen=True)
class Judged:
    """What a :class:`Judge` gives: ``values[i]`` in [0, 1], why single completions could not be scored (they have 0), and what
    the receipt should say besides."""

    values: list[float]
    failures: Mapping[int, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Judge(Protocol):
    """A reward that guards single completions itself."""

    def judge(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Judged: ...


@dataclass(frozen=True)
class Scores:
    """``values[i]`` in [0, 1]; ``failures`` maps the number of a completion to why the reward could not score it (it has 0).

    ``receipt``: ``completions``, ``mean``, ``failures`` (their number), ``failed`` (the first few, with text and reason), and
    ``details`` where the reward gives some.
    """

    values: list[float]
    failures: Mapping[int, str]
    receipt: Mapping[str, Any]


def score(reward: Reward, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Scores:
    """Rewards of completions.

    Args:
        reward: the part.
        rows: the dataset row of each completion (repeated for the completions of one prompt, which stand together).
        completions: texts, as many as rows.

    Raises:
        RecipeError: the reward gives NaN, a number outside [0, 1], or not one number per completion.
        WhetError: what the reward itself raises for the user (a missing column, a wrong setting) is not swallowed.
    """
    if len(rows) != len(completions):
        raise ValueError(f"{len(rows)} rows but {len(completions)} completions")
    judged = _guarded(reward, rows, completions)
    values, failures = judged.values, judged.failures
    shown = [f"{completions[i][:200]!r}: {failures[i]}" for i in sorted(failures)[:SHOWN]]
    mean = sum(values) / len(values) if values else 0.0
    receipt = {"completions": len(values), "mean": mean, "failures": len(failures), "failed": shown}
    return Scores(values, failures, {**receipt, **({"details": dict(judged.details)} if judged.details else {})})


def _guarded(reward: Reward, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Judged:
    if isinstance(reward, Wrapper):
        inner = _guarded(reward.inner, rows, completions)
        return replace(inner, values=_checked(reward, reward.adjust(rows, completions, inner.values), completions))
    if isinstance(reward, Judge):
        judged = reward.judge(rows, completions)
        return replace(judged, values=_checked(reward, judged.values, completions))
    try:
        return Judged(_checked(reward, reward(rows, completions), completions))
    except WhetError:
        raise
    except Exception:
        _refuse_other_arguments(reward, rows, completions)
        # The batch does not tell which completion broke it, so each is scored alone; its error is kept as its reason.
        return _one_by_one(reward, rows, completions)


def _refuse_other_arguments(reward: Reward, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> None:
    """A function that takes something else fails on every completion, which would look like a model that solves nothing."""
    try:
        inspect.signature(reward).bind(rows, completions)
    except TypeError as error:
        raise RecipeError(f"reward {_name(reward)} cannot be called as reward(rows, completions): {error}") from error


def _name(reward: Reward) -> str:
    return str(parts.effective(reward)["name"])


def _one_by_one(reward: Reward, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> Judged:
    values, failures = [], {}
    for i, (row, completion) in enumerate(zip(rows, completions)):
        try:
            values += _checked(reward, reward([row], [completion]), [completion])
        except WhetError:
            raise
        except Exception as error:
            values.append(0.0)
            failures[i] = f"{type(error).__name__}: {error}"
    return Judged(values, failures)


def _checked(reward: Reward, values: Sequence[float], completions: Sequence[str]) -> list[float]:
    name = _name(reward)
    if len(values) != len(completions):
        raise RecipeError(f"reward {name} gave {len(values)} numbers for {len(completions)} completions")
    for value, completion in zip(values, completions):
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise RecipeError(f"reward {name} gave {value} for {completion[:80]!r}; a reward must lie in [0, 1]")
    return [float(value) for value in values]
