"""GSM8K: grade-school word problems with worked solutions, from a folder with ``train.jsonl`` and ``test.jsonl``.

Each line has ``question`` and ``answer``; the answer is the solution, then ``#### N``. The row gets ``prompt``, ``answer`` (N
without commas), ``completion`` (the solution and a last line with the answer), ``text`` (both), ``steps`` (lines of the
solution). The solutions hold calculator notes such as ``<<48/2=24>>``, which are removed unless they are asked for.
The set has no validation split: a share of the training questions is held out by their hash.

Defaults: notes removed, 5% validation, last line ``answer: N``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from whet.data.splits import Shares, check_split
from whet.data.tables import map_columns, read_rows, to_dataset
from whet.errors import DataError, RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

_NOTE = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class GSM8K:
    """``path``: the folder. ``notes``: keep calculator notes. ``last_line``: how the completion ends, with ``{answer}``."""

    path: str
    notes: bool = False
    validation: Annotated[float, Ge(0), Lt(1)] = 0.05
    last_line: str = "answer: {answer}"

    def __post_init__(self) -> None:
        if "{answer}" not in self.last_line:
            raise RecipeError(f"last_line {self.last_line!r}: must contain {{answer}}, for example '#### {{answer}}'")

    def __call__(self, split: str) -> Dataset:
        check_split(split)
        file = Path(self.path).expanduser() / ("test.jsonl" if split == "test" else "train.jsonl")
        rows = map_columns(read_rows(file), {"prompt": "question", "answer": "answer"}, str(file))
        held_out = Shares(validation=self.validation)
        kept = [(where, row) for where, row in rows if split == "test" or held_out.split_of(row["prompt"]) == split]
        return to_dataset((self._row(row, f"{file}, {where}") for where, row in kept), f"{file} ({split})")

    def _row(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        solution, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise DataError(f"{where}: the answer has no '#### N' at its end: {row['answer'][-60:]!r}")
        answer = answer.strip().replace(",", "")
        solution = (solution if self.notes else _NOTE.sub("", solution)).strip()
        completion = f"{solution}\n{self.last_line.replace('{answer}', answer)}"
        return {
            "prompt": row["prompt"],
            "completion": completion,
            "answer": answer,
            "text": f"{row['prompt']}\n{completion}",
            "skill": "gsm8k",
            "steps": len(solution.splitlines()),
        }
