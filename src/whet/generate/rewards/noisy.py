"""Another reward with a share of its verdicts flipped: r' = 1 - r with probability p.

For studying how much reward noise training stands. With ``level: group`` one coin is tossed for all completions of a prompt
that stand together: either all or none of them are flipped. Since group baselines compare completions of one prompt, an
all-wrong group then stays without signal, and such noise harms little; with ``level: sample`` each completion has a coin of
its own and false winners appear in exactly those groups. For rewards centred on their expectation, E[flipped advantage] =
(1 - 2p) * advantage, so p over 0.5 trains the wrong answer. p = 0 is the inner reward, bit for bit.

The coin is a hash of the seed, the prompt and the completions it is tossed for: the same call gives the same flips on any
machine and after any resume, and a prompt that comes again with new completions gets a new coin.

Defaults: p 0.2; level ``group``, as in the paper's public code.

Paper: noisy-rewards — The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to Reason
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from whet.errors import RecipeError
from whet.generate.scoring import Reward
from whet.parts import Kind


@dataclass(frozen=True)
class Noisy:
    """``inner``: the reward to flip. ``p``: probability. ``level``: one coin for a prompt's ``group`` or for each ``sample``."""

    inner: Annotated[Reward, Kind("reward")]
    p: Annotated[float, Ge(0), Le(1)] = 0.2
    level: Literal["group", "sample"] = "group"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise RecipeError(f"p {self.p}: a probability lies in [0, 1]")

    def __call__(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str]) -> list[float]:
        return self.adjust(rows, completions, self.inner(rows, completions))

    def adjust(self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str], values: Sequence[float]) -> list[float]:
        """The inner reward's ``values`` with the flips that this call's rows and completions draw."""
        flips = [flip for start, end in _groups(rows) for flip in self._flips(rows[start], completions[start:end])]
        return [1.0 - value if flip else value for value, flip in zip(values, flips)]

    def _flips(self, row: Mapping[str, Any], completions: Sequence[str]) -> list[bool]:
        if self.level == "group":
            return [self._coin(row, list(completions), 0)] * len(completions)
        return [self._coin(row, [completion], number) for number, completion in enumerate(completions)]

    def _coin(self, row: Mapping[str, Any], completions: list[str], number: int) -> bool:
        # Not the whole row: it may hold numbers that change from visit to visit without meaning.
        text = json.dumps([self.seed, _prompt(row), completions, number])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < self.p * 2**64


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """[start, end) of each run of rows with the same prompt."""
    sizes = [sum(1 for _ in run) for _, run in groupby(rows, key=_prompt)]
    return list(pairwise(accumulate(sizes, initial=0)))


def _prompt(row: Mapping[str, Any]) -> str:
    return json.dumps(row.get("prompt") or row.get("messages"), default=str)
