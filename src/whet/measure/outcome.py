"""What a measurement keeps: the outcome of every example, the conditions it was taken under, and estimates with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """One example's result. ``score`` in [0, 1] for accuracy-like tasks, a negative log-likelihood for perplexity.

    ``weight`` is what the score is averaged with (tokens, for perplexity). ``scores`` holds further per-example numbers
    (``prefix_accuracy``, ``confidence``, ``margin``, ...); ``labels`` groups it (``skill``, ``difficulty``, ...);
    ``samples`` the scores of several completions of the same prompt, where there are several. ``answer`` is what was
    extracted from the completion (the choice taken, the final answer), empty where nothing could be extracted.
    """

    id: str
    score: float
    prompt: str = ""
    reference: str = ""
    completion: str = ""
    weight: float = 1.0
    scores: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[float] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval and how many items it rests on; ``method`` names the interval."""

    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True)
class TaskResult:
    """A task's outcomes on one model. Two results may be compared only if their ``conditions`` agree.

    ``conditions``: prompt and template hash, sampling, extractor, dtype, few-shot rows, versions, data hash.
    """

    task: str
    model: str
    metric: str
    outcomes: Sequence[Outcome]
    conditions: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    receipt: Mapping[str, Any] = field(default_factory=dict)
