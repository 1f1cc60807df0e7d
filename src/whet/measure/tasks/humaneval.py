"""Functions written from their docstring, judged by unit tests in a sandbox (HumanEval): pass@k, from the set's own file.

Reads ``HumanEval.jsonl.gz``. The program is found in the completion by the rule of the reward ``python-tests`` and passes only if
all tests of its problem do. Pass@k is estimated without bias from n samples per prompt (metric ``pass-at-k``); the usual settings
of the literature are greedy decoding for pass@1, and temperature 0.8 with 200 samples for pass@100.

Two forms: the default shows an instruction and expects a code block; ``form: plain`` with ``instruction: "{code}"`` lets a base
model continue the bare code, where a stop text such as ``"\\ndef "`` saves time.

Defaults: greedy, one sample, 512 new tokens; 10 s per completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from whet import parts
from whet.data.rows import text_cell
from whet.generate.code_blocks import EXTRACTOR, program
from whet.measure.answering import answer_metrics, answer_result, refuse_many_tries
from whet.measure.generative import Generation
from whet.measure.outcome import TaskResult
from whet.model import Model
from whet.parts import Kind


@dataclass(frozen=True, kw_only=True)
class HumanEval(Generation):
    """``path`` is the file or its folder; ``instruction`` the prompt with ``{code}`` (default: the source's); ``pass_at`` lists
    the k of pass@k."""

    path: Path
    instruction: str | None = None
    reward: Annotated[Any, Kind("reward")] = "python-tests"
    pass_at: tuple[int, ...] = (1,)
    max_new_tokens: Annotated[int, Gt(0)] = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_many_tries(self.pass_at, self.samples)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return answer_metrics(self.pass_at)

    def __call__(self, model: Model) -> TaskResult:
        shown = {} if self.instruction is None else {"instruction": self.instruction}
        source = parts.build("source", {"name": "humaneval", "path": str(self.path), **shown}, "path")
        reward = parts.build("reward", self.reward, "reward")
        return answer_result("humaneval", self.write(model, source), reward, self.pass_at, _program, EXTRACTOR)


def _program(row: Mapping[str, Any], completion: str) -> str | None:
    found = program(completion, text_cell(row, "prefix"), text_cell(row, "entry_point"))
    return found.code if found else None
