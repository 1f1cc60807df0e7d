"""Grade-school mathematics word problems (GSM8K), from its own file: exact match of the number after ``####``.

Reads the original JSON lines (``question``, ``answer``; the answer's last line is ``#### N``). Worked examples, if wanted, come
from the train file. The usual settings of the literature are 8 worked examples with chain of thought and greedy decoding,
1,319 test problems.

Defaults: no worked examples, greedy, 320 new tokens (the longest reference solutions are about that long).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from whet import parts
from whet.measure.answering import answer_metrics, answer_result, refuse_many_tries
from whet.measure.generative import Generation
from whet.measure.outcome import TaskResult
from whet.model import Model
from whet.parts import Kind


@dataclass(frozen=True, kw_only=True)
class Gsm8k(Generation):
    """``path`` is the folder that holds ``test.jsonl`` and ``train.jsonl``; ``pass_at`` lists the k of pass@k."""

    path: Path
    reward: Annotated[Any, Kind("reward")] = "exact-answer"
    pass_at: tuple[int, ...] = ()
    max_new_tokens: Annotated[int, Gt(0)] = 320

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_many_tries(self.pass_at, self.samples)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return answer_metrics(self.pass_at)

    def __call__(self, model: Model) -> TaskResult:
        source = parts.build("source", {"name": "gsm8k", "path": str(self.path)}, "path")
        reward = parts.build("reward", self.reward, "reward")
        return answer_result("gsm8k", self.write(model, source), reward, self.pass_at)
