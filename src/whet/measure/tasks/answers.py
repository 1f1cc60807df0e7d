"""Lets the model answer prompts and scores each completion: the general generative task.

Any source whose rows have a ``prompt``, any reward that judges completions. The default reward compares the extracted final
answer with the row's ``answer``. A prompt's score is the mean over its samples, and the prompt is the unit of every interval;
with several samples pass@k is given too. A prompt's confidence is the geometric mean probability of the tokens of its first
completion; Brier score and expected calibration error compare it with that completion's score.

Defaults: greedy decoding, one sample, the whole test split, 256 new tokens, no worked examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from whet import parts
from whet.measure.answering import answer_metrics, answer_result, refuse_many_tries
from whet.measure.generative import Generation
from whet.measure.outcome import TaskResult
from whet.model import Model
from whet.parts import Kind

PRESETS = {
    "nanoworld": {
        "about": "Accuracy in every skill of the nanoworld, on 400 held-out problems.",
        "data": {"name": "nanoworld", "rows": 400},
        "title": "nanoworld",
        "max_new_tokens": 160,
    },
}


@dataclass(frozen=True, kw_only=True)
class Answers(Generation):
    """``data`` gives rows with ``prompt`` (or ``messages``) and what the reward reads; ``title`` names the result;
    ``pass_at`` lists the k of pass@k; ``errors`` also gives the rates of errors of form and of reasoning, see the metric
    ``style-vs-skill``, for rows that have ``states``."""

    data: Annotated[Any, Kind("source")]
    reward: Annotated[Any, Kind("reward")] = "exact-answer"
    pass_at: tuple[int, ...] = ()
    title: str = "answers"
    errors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_many_tries(self.pass_at, self.samples)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return answer_metrics(self.pass_at, self.errors)

    def __call__(self, model: Model) -> TaskResult:
        reward = parts.build("reward", self.reward, "reward")
        written = self.write(model, parts.build("source", self.data, "data"))
        return answer_result(self.title, written, reward, self.pass_at, errors=self.errors)
