"""Chains of additions and multiplications modulo 10: the smallest world in which reasoning can be trained and checked.

A prompt is a start and ``steps`` operations, worked from left to right: ``4 + 3 * 7 =``. The reply writes the value after each
operation modulo 10, then the mark ``####`` and the final one: ``7 9 #### 9``. Every step is verifiable, tokens are few, and a
network of 0.1 M weights learns it in seconds, so that objectives, rewards and schedules can be compared over seeds.

With ``noise`` p each written step of a reply is, with probability p, a uniformly drawn digit in place of the right value, and
the chain goes on from what was written. A model trained on such replies is right now and then and stays unsure: a start that
still explores, which reinforcement learning needs. ``answer`` and ``states`` are the right ones whatever was written.

``form`` ``answer`` gives replies without the values, the mark and the final one alone: ``#### 9``. ``preference`` adds ``chosen``
(the reply), ``rejected`` (one step, drawn uniformly, is wrong and the chain goes on from it; the final value is wrong too unless
none of eight slips changes it) and ``reason``.

Columns: ``prompt``, ``completion``, ``answer`` (final value), ``states`` (right value after each operation), ``steps``,
``difficulty`` (the number of steps too), ``skill`` (the operations in it, such as ``+*``), ``text``, ``document_id``.

Problems are unique within a split, and the hash of the problem decides its split (80% train, 10% validation, 10% test),
whatever the settings: sources with other operations, lengths, noise or seeds never share a training with a test problem. More
``rows`` keep the earlier ones. Operands are 1 to 9, starts 0 to 9.

Defaults: both operations, 3 steps, 4,000 rows, no noise (0.4 for the exploring start), replies with their steps; ``separator``
is a blank, which makes short replies; a line break puts each value on its own line, which the reward ``steps`` reads as states.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from datasets import Dataset, Features, List, Value

from whet.data.nanoworld.problem import SPLITS, digest, split_of
from whet.errors import DataError, RecipeError, unknown

_TEXT = ("prompt", "completion", "answer", "skill", "text", "document_id")
FEATURES = Features(
    {
        **{name: Value("string") for name in _TEXT},
        "states": List(Value("string")),
        "steps": Value("int64"),
        "difficulty": Value("int64"),
    }
)
PAIR = ("chosen", "rejected", "reason")
"""Columns that ``form: preference`` adds."""
_TRIES = 2000
"""Draws in vain after which the problems of a split are taken to be used up."""
_SLIPS = 8
"""Wrong steps that are tried until one changes the final value."""


@dataclass(frozen=True)
class ChainMod10:
    """``ops``: operations drawn from. ``steps``: operations per chain. ``rows``: of a split. ``seed``: of problems and noise.
    ``noise``: share of written steps drawn at random. ``separator``: between the values of a reply. ``form``: of the replies."""

    ops: tuple[Literal["+", "*"], ...] = ("+", "*")
    steps: Annotated[int, Ge(1)] = 3
    rows: Annotated[int, Gt(0)] = 4000
    seed: int = 0
    noise: Annotated[float, Ge(0), Le(1)] = 0.0
    separator: Literal[" ", "\n"] = " "
    form: Literal["steps", "answer", "preference"] = "steps"

    def __post_init__(self) -> None:
        if self.form != "steps" and self.noise:
            raise RecipeError(
                f"chain-mod10.noise: {self.noise} is of written steps, which form: {self.form} needs right; remove one of them"
            )
        if not self.ops or len(set(self.ops)) != len(self.ops):
            raise RecipeError(f"chain-mod10.ops: name '+', '*' or both, each once; got {list(self.ops)}")

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``.

        Raises:
            DataError: an unknown split.
            RecipeError: there are fewer problems of this length than rows asked for.
        """
        if split not in SPLITS:
            raise DataError(f"chain-mod10: {unknown('split', split, SPLITS)}")
        used: set[str] = set()
        rows = [self._row(split, number, used) for number in range(self.rows)]
        pair = {name: Value("string") for name in PAIR if self.form == "preference"}
        features = Features({**FEATURES, **pair})
        return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)

    def _row(self, split: str, number: int, used: set[str]) -> dict[str, Any]:
        rng = random.Random(f"chain-mod10/{self.seed}/{split}/{self.ops}/{self.steps}/{number}")
        start, chain = self._draw(rng, split, number, used)
        prompt = _prompt(start, chain)
        # Noise has a stream of its own, so that it changes what is written and never the problems.
        slips = random.Random(f"chain-mod10/noise/{self.seed}/{prompt}")
        right, written = _work(start, chain, 0.0, slips), _work(start, chain, self.noise, slips)
        completion = self._reply(written)
        pair: dict[str, str] = {}
        if self.form == "preference":
            pair = {"chosen": completion, "rejected": self._reply(_slipped(chain, right, slips)), "reason": "wrong-step"}
        return {
            **pair,
            "prompt": prompt, "completion": completion, "answer": right[-1], "states": right, "steps": self.steps,
            "difficulty": self.steps, "skill": "".join(op for op in "+*" if op in dict(chain)),
            "text": f"{prompt} {completion}", "document_id": digest(prompt),
        }  # fmt: skip

    def _reply(self, written: list[str]) -> str:
        values = [] if self.form == "answer" else written
        return self.separator.join([*values, f"#### {written[-1]}"])

    def _draw(self, rng: random.Random, split: str, number: int, used: set[str]) -> tuple[int, list[tuple[str, int]]]:
        for _ in range(_TRIES):
            start = rng.randrange(10)
            chain: list[tuple[str, int]] = [(rng.choice(self.ops), rng.randint(1, 9)) for _ in range(self.steps)]
            key = _prompt(start, chain)
            if key not in used and split_of(key) == split:
                used.add(key)
                return start, chain
        raise RecipeError(
            f"chain-mod10: the {split} split has only about {number} problems with {self.steps} steps of {' and '.join(self.ops)}; "
            "ask for fewer 'rows' or more 'steps'"
        )


def _prompt(start: int, chain: list[tuple[str, int]]) -> str:
    return " ".join([str(start), *(f"{op} {operand}" for op, operand in chain), "="])


def _slipped(chain: list[tuple[str, int]], right: list[str], rng: random.Random) -> list[str]:
    """The values with one wrong step that is carried on."""
    written = right
    for _ in range(_SLIPS):
        at = rng.randrange(len(chain))
        wrong = (int(right[at]) + rng.randint(1, 9)) % 10
        written = [*right[:at], str(wrong), *_work(wrong, chain[at + 1 :], 0.0, rng)]
        if written[-1] != right[-1]:
            break
    return written


def _work(start: int, chain: list[tuple[str, int]], noise: float, rng: random.Random) -> list[str]:
    """The value written after each operation; a slip is carried on."""
    value, values = start, []
    for op, operand in chain:
        value = (value + operand if op == "+" else value * operand) % 10
        if noise and rng.random() < noise:
            value = rng.randrange(10)
        values.append(str(value))
    return values
