"""What the engine is asked for and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class Sampling:
    """The sampling distribution: the one definition that the engine samples from and the trainer's ratio is taken under.

    ``temperature`` 0 is greedy. Filters apply in the order top-k, top-p, min-p, after the temperature.
    """

    temperature: Annotated[float, Ge(0)] = 1.0
    top_k: Annotated[int, Ge(0)] = 0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    max_new_tokens: Annotated[int, Gt(0)] = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled continuation.

    ``ids`` includes the end-of-sequence token if it was sampled; ``logps[i]`` is the log-probability (natural, under the
    filtered distribution that was sampled from) of ``ids[i]``; ``text`` has special tokens and the stop string removed.
    ``finish``: ``eos``, ``stop`` (a stop string) or ``length`` (``max_new_tokens`` or the context was reached).
    """

    prompt: int
    ids: Sequence[int]
    logps: Sequence[float]
    text: str
    finish: Literal["eos", "stop", "length"]
