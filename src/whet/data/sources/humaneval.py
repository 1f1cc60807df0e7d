"""HumanEval: 164 functions to be written from their docstring, with unit tests, from its file ``HumanEval.jsonl.gz``.

Each line has ``task_id``, ``prompt`` (imports, helpers, the function's head and docstring), ``canonical_solution`` (its body),
``test`` (defines ``check(candidate)``) and ``entry_point`` (the function's name). The row gets ``prompt`` (the instruction with
the code), ``prefix`` (the code alone), ``completion`` (the whole function in a code block), ``tests``, ``entry_point``, ``text``
(plain code), ``id`` and ``skill``. The set is for tests alone: there are no training rows.

Defaults: an instruction for chat models; ``instruction: "{code}"`` shows the bare code, to be continued.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.data.splits import check_split, no_split
from whet.data.tables import map_columns, read_rows, to_dataset
from whet.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

INSTRUCTION = "Complete this Python function. Reply with the whole function in a code block.\n\n```python\n{code}```"
_COLUMNS = {
    "id": "task_id",
    "text": "prompt",
    "completion": "canonical_solution",
    "tests": "test",
    "entry_point": "entry_point",
}


@dataclass(frozen=True)
class HumanEval:
    """``path``: the file, or the folder that holds it. ``instruction``: the prompt, with ``{code}``."""

    path: str
    instruction: str = INSTRUCTION

    def __post_init__(self) -> None:
        if "{code}" not in self.instruction:
            raise RecipeError(f"instruction {self.instruction!r}: must contain {{code}}")

    def __call__(self, split: str) -> Dataset:
        check_split(split)
        path = Path(self.path).expanduser()
        file = path / "HumanEval.jsonl.gz" if path.is_dir() else path
        if split != "test":
            raise no_split(str(file), split)
        rows = map_columns(read_rows(file), _COLUMNS, str(file))
        return to_dataset((self._row(row) for _, row in rows), f"{file} ({split})")

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        code, whole = row["text"], row["text"] + row["completion"]
        return {
            "id": row["id"],
            "prompt": self.instruction.replace("{code}", code),
            "completion": f"```python\n{whole.rstrip()}\n```",
            "text": whole,
            "prefix": code,
            "tests": row["tests"],
            "entry_point": row["entry_point"],
            "skill": "humaneval",
        }
