"""Twenty-three multi-step procedures with every intermediate state, of exactly controlled length.

The whole procedure is written in the prompt, so that neither knowledge nor search is needed; the reply writes the state after
each step on its own line and the last one as ``final: <state>``, which makes the first wrong step visible. Each task draws inputs
until the number of state changes is the wanted one, so that the number of steps is exact; it is confounded with the length of the
text, which ``characters`` (of prompt and reply) gives. Short problems have 2-6 steps, medium 7-16, long 17-25 (``difficulty`` 1,
2, 3).

Columns: ``id``, ``prompt``, ``completion``, ``answer`` (the final state), ``states`` (after each step; lists as JSON), ``steps``
(their number), ``skill`` (the task), ``difficulty``, ``text``, ``document_id``, ``characters``.

Problems are unique by hash within a split and the hash decides the split, so that splits cannot share one. The first rows go
through all lengths and tasks once, the next a second time: more ``problems`` keep the earlier rows.

Our choices where the description leaves room: states one per line in place of an extraction by another model; ``count`` gives
the running total; ``count2`` counts four given letters, not all; words are generated. Defaults: 2 to 25 steps and 10 problems for
each task and length, 5,520 rows, as in the benchmark.

Paper: procbench — ProcBench: Benchmark for Multi-Step Reasoning and Following Procedure
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt
from datasets import Dataset, Features, List, Value

from whet.data.nanoworld.problem import SPLITS, digest, split_of
from whet.data.procbench import TASKS
from whet.errors import DataError, RecipeError, unknown

_TEXT = ("id", "prompt", "completion", "answer", "skill", "text", "document_id")
_NUMBERS = ("steps", "difficulty", "characters")
FEATURES = Features(
    {**{name: Value("string") for name in _TEXT}, **{name: Value("int64") for name in _NUMBERS}, "states": List(Value("string"))}
)


@dataclass(frozen=True)
class ProcBench:
    """Settings of the benchmark.

    Attributes:
        tasks: which procedures.
        steps: fewest and most steps; every length between is given.
        problems: how many of each task and length.
        seed: of the problems.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    steps: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (2, 25)
    problems: Annotated[int, Gt(0)] = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps[0] > self.steps[1]:
            raise RecipeError(f"procbench.steps: the fewest come first, got {self.steps}")
        for name in self.tasks:
            if name not in TASKS:
                raise RecipeError(f"procbench.tasks: {unknown('task', name, TASKS)}")
            for length in self.steps:
                TASKS[name].reach(length)

    def __call__(self, split: str) -> Dataset:
        """The rows of ``train``, ``validation`` or ``test``."""
        if split not in SPLITS:
            raise DataError(f"procbench: {unknown('split', split, SPLITS)}")
        rows = list(self._rows(split))
        return Dataset.from_dict({name: [row[name] for row in rows] for name in FEATURES}, features=FEATURES)

    def _rows(self, split: str) -> Iterator[dict[str, Any]]:
        used: set[str] = set()
        fewest, most = self.steps
        for number in range(self.problems):
            for steps in range(fewest, most + 1):
                for task in self.tasks:
                    yield self._row(split, task, steps, number, used)

    def _row(self, split: str, task: str, steps: int, number: int, used: set[str]) -> dict[str, Any]:
        def take(key: str) -> bool:
            fits = key not in used and split_of(key) == split
            if fits:
                used.add(key)
            return fits

        rng = random.Random(f"procbench/{self.seed}/{split}/{task}/{steps}/{number}")
        prompt, states = TASKS[task].draw(rng, steps, take)
        completion = "\n".join([*states[:-1], f"final: {states[-1]}"])
        return {
            "id": f"procbench-{self.seed}-{split}-{task}-{steps}-{number}", "prompt": prompt, "completion": completion,
            "answer": states[-1], "states": states, "steps": steps, "skill": task,
            "difficulty": 1 if steps <= 6 else 2 if steps <= 16 else 3, "text": f"{prompt}\n{completion}",
            "document_id": digest(f"{task} {prompt}"), "characters": len(prompt) + len(completion),
        }  # fmt: skip
