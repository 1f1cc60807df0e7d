"""Multiple choice by log-likelihood: the model chooses the continuation that it finds most probable.

With the continuations' log-likelihoods l_k = log p(choice k | context),

    acc        argmax_k l_k
    acc_norm   argmax_k l_k / (characters of choice k)
    acc_bytes  argmax_k l_k / (UTF-8 bytes of choice k)

is compared with the right choice. The names are those of lm-eval, whose ``acc_norm`` counts characters, which are bytes in plain
English. Longer choices have lower likelihood, so ``acc`` favours short ones; which of them is fair depends on the choices. The
confidence is the softmax of l at the chosen one.

Context and continuation are tokenized as lm-eval does: the text of both together, cut where the context's own tokens end, blanks
at the context's end going to the continuation. A pair that is too long for the model loses tokens at the context's beginning,
which is counted.

Rows: ``prompt``, ``choices`` (list of texts) and ``gold`` (index of the right one) or ``answer`` (its text). Without ``choices``
the answers of the other rows of the same skill serve as wrong ones: ``distractors`` of them, drawn by the seed.

Defaults: ``acc`` is the main metric, blank before each choice, plain text, no worked examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from whet import parts
from whet.data.chat import prompt_messages, render
from whet.data.rows import text_cell
from whet.errors import DataError
from whet.generate.likelihood import sequence_logps
from whet.measure.conditions import conditions, digest
from whet.measure.estimates import by_groups
from whet.measure.metrics.accuracy import accuracy
from whet.measure.metrics.brier import brier
from whet.measure.metrics.calibration_error import calibration_error
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.rows import Row, Rows, draw_rows, draw_shots, labels_of
from whet.measure.windows import fit, split_pair
from whet.model import Model, OtherTemplate, checked_template
from whet.parts import Kind

NORMS = ("acc", "acc_norm", "acc_bytes")

PRESETS = {
    "nanoworld-choices": {
        "about": "Multiple choice in the nanoworld: the right answer against three others of its skill.",
        "data": {"name": "nanoworld", "rows": 400, "skills": ["facts", "multi-hop", "styles", "ordering"]},
        "title": "nanoworld-choices",
        "form": "chat",
        "prefix": "answer:",
    },
}


@dataclass(frozen=True)
class _Question:
    """One row ready to be scored: context text, choices, index of the right one."""

    context: str
    choices: Sequence[str]
    gold: int


@dataclass(frozen=True, kw_only=True)
class Choices:
    """``norm`` decides the score (all three are kept); ``form`` ``chat`` puts the prompt through the chat template; ``prefix``
    opens the reply in every context; ``delimiter`` stands between context and choice. ``limit``, ``balance``, ``by``,
    ``few_shot``, ``seed`` and ``other_template`` as in generative tasks."""

    data: Annotated[Any, Kind("source")]
    split: str = "test"
    limit: Annotated[int, Gt(0)] | None = None
    balance: str | None = None
    by: tuple[str, ...] = ("skill",)
    norm: Literal["acc", "acc_norm", "acc_bytes"] = "acc"
    form: Literal["plain", "chat"] = "plain"
    prefix: str = ""
    delimiter: str = " "
    few_shot: Annotated[int, Ge(0)] = 0
    few_shot_split: str = "train"
    distractors: Annotated[int, Gt(0)] = 3
    seed: int = 0
    batch_tokens: Annotated[int, Gt(0)] = 8192
    title: str = "choices"
    other_template: OtherTemplate = "refuse"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return ("accuracy", *NORMS, "brier", "calibration_error")

    def __call__(self, model: Model) -> TaskResult:
        if self.form == "chat":
            checked_template(model, self.other_template)
        source = parts.build("source", self.data, "data")
        drawn = draw_rows(source, self.split, self.limit, self.balance, self.seed)
        shots = draw_shots(source, self.few_shot_split, self.few_shot, drawn.rows, self.seed)
        questions = [self._question(row, choices, shots, model) for row, choices in zip(drawn.rows, self._choices(drawn))]
        pairs = [
            split_pair(model, q.context, self.delimiter + choice, self.form == "chat") for q in questions for choice in q.choices
        ]
        fitted = [fit(model, *pair) for pair in pairs]
        flat = iter(sequence_logps(model, fitted, batch_tokens=self.batch_tokens)[0])
        outcomes = tuple(
            self._outcome(row_id, row, question, [sum(next(flat)) for _ in question.choices])
            for row_id, row, question in zip(drawn.ids, drawn.rows, questions)
        )
        cut = sum(len(before[0]) != len(after[0]) for before, after in zip(pairs, fitted))
        return TaskResult(
            task=self.title,
            model=model.name,
            metric="accuracy",
            outcomes=outcomes,
            conditions=self._conditions(model, drawn, questions, shots),
            estimates=self._estimates(outcomes),
            receipt={
                **drawn.receipt,
                "requests": len(pairs),
                "contexts cut at the left": cut,
                "prompt_tokens": sum(len(context) + len(continuation) for context, continuation in fitted),
                "generated_tokens": 0,
                "baselines": _baselines(questions),
            },
        )

    def _estimates(self, outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
        groups = by_groups(outcomes, {"accuracy": accuracy}, self.by)
        norms = {name: accuracy(outcomes, score=name) for name in NORMS}
        return {**groups, **norms, "brier": brier(outcomes), "calibration_error": calibration_error(outcomes)}

    def _conditions(self, model: Model, drawn: Rows, questions: Sequence[_Question], shots: Sequence[Row]) -> dict[str, Any]:
        shown = [f"{q.context}|{self.delimiter}{choice}" for q in questions for choice in q.choices]
        few_shot = {"rows": self.few_shot, "hash": digest([dict(row) for row in shots])}
        return conditions(
            model,
            drawn.rows,
            shown,
            {"form": self.form, "few_shot": few_shot, "extractor": {"rule": "log-likelihood", "norm": self.norm}},
        )

    def _choices(self, drawn: Rows) -> list[list[str]]:
        rng = np.random.default_rng(self.seed)
        return [_own_choices(row) if row.get("choices") else self._drawn_choices(row, drawn.rows, rng) for row in drawn.rows]

    def _drawn_choices(self, row: Row, rows: Sequence[Row], rng: np.random.Generator) -> list[str]:
        """The row's answer among answers of other rows of its skill, in random order."""
        answer = text_cell(row, "answer")
        others = sorted({text_cell(r, "answer") for r in rows if r.get("skill") == row.get("skill")} - {answer})
        if not others:
            raise DataError(
                f"choices: no other answer in skill {row.get('skill')!r} can serve as a wrong choice; give a column 'choices'"
            )
        picked = rng.permutation(len(others))[: self.distractors]
        choices = [answer, *(others[int(i)] for i in picked)]
        return [choices[int(i)] for i in rng.permutation(len(choices))]

    def _question(self, row: Row, choices: Sequence[str], shots: Sequence[Row], model: Model) -> _Question:
        return _Question(self._context(row, shots, model), choices, _gold(row, choices))

    def _context(self, row: Row, shots: Sequence[Row], model: Model) -> str:
        if self.form == "chat":
            turns = [
                turn
                for shot in shots
                for turn in (
                    *prompt_messages(shot),
                    {"role": "assistant", "content": self.prefix + self.delimiter + text_cell(shot, "answer")},
                )
            ]
            return render([*turns, *prompt_messages(row)], model.tokenizer, generation=True) + self.prefix
        worked = "".join(
            f"{text_cell(shot, 'prompt')}{self.prefix}{self.delimiter}{text_cell(shot, 'answer')}\n\n" for shot in shots
        )
        return worked + text_cell(row, "prompt") + self.prefix

    def _outcome(self, row_id: str, row: Row, question: _Question, logps: Sequence[float]) -> Outcome:
        scores = choice_scores(logps, question.choices, question.gold)
        chosen = question.choices[int(scores[f"choice_{self.norm}"])]
        return Outcome(
            id=row_id,
            score=scores[self.norm],
            prompt=str(row.get("prompt", "")),
            reference=question.choices[question.gold],
            completion=chosen,
            scores=scores,
            labels=labels_of(row),
            answer=chosen,
        )


def choice_scores(logps: Sequence[float], choices: Sequence[str], gold: int) -> dict[str, float]:
    """All scores of one question.

    Args:
        logps: log-likelihood of each choice (nats, summed over its tokens).
        choices: their texts, for the length normalizations.
        gold: index of the right one.

    Returns:
        ``acc``, ``acc_norm``, ``acc_bytes`` (0 or 1) with the chosen index as ``choice_acc``, ...; ``confidence`` (softmax at the
        most probable one) and ``first`` (whether that one is right); ``gold`` and ``logp_0``, ``logp_1``, ... as given; ``nll`` of
        the right choice among all; ``brier_choices`` (squared error summed over the choices, in [0, 2]); ``margin``
        (log-likelihood of the right one minus the best wrong one).
    """
    values = np.asarray(logps, dtype=np.float64)
    lengths = {
        "acc": np.ones(len(choices)),
        "acc_norm": [len(c) for c in choices],
        "acc_bytes": [len(c.encode()) for c in choices],
    }
    scores: dict[str, float] = {}
    for name, length in lengths.items():
        chosen = int(np.argmax(values / np.asarray(length, dtype=np.float64)))
        scores |= {name: float(chosen == gold), f"choice_{name}": float(chosen)}
    logs = values - np.logaddexp.reduce(values)
    target = np.eye(len(choices))[gold]
    wrong = np.delete(values, gold)
    return {
        **scores,
        "first": scores["acc"],
        "gold": float(gold),
        **{f"logp_{k}": float(value) for k, value in enumerate(values)},
        "confidence": float(np.exp(logs.max())),
        "nll": float(-logs[gold]),
        "brier_choices": float(np.sum((np.exp(logs) - target) ** 2)),
        "margin": float(values[gold] - wrong.max()) if len(wrong) else 0.0,
    }


def _own_choices(row: Mapping[str, Any]) -> list[str]:
    choices = row["choices"]
    if len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
        raise DataError(f"choices: expected at least two non-empty texts, got {choices!r}")
    return list(choices)


def _gold(row: Mapping[str, Any], choices: Sequence[str]) -> int:
    gold = row.get("gold")
    if row.get("choices") and gold is not None:
        if not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise DataError(f"choices: 'gold' is {gold!r}, but there are choices 0 to {len(choices) - 1}")
        return gold
    answer = text_cell(row, "answer")
    if answer not in choices:
        raise DataError(f"choices: the answer {answer!r} is not among the choices {list(choices)!r}; give 'gold', its index")
    return list(choices).index(answer)


def _baselines(questions: Sequence[_Question]) -> dict[str, float]:
    """Random choice, always the same place, always the shortest choice."""
    n = len(questions)
    places = [q.gold for q in questions]
    return {
        "random": sum(1 / len(q.choices) for q in questions) / n,
        "majority": max(places.count(place) for place in set(places)) / n,
        "shortest": sum(min(range(len(q.choices)), key=lambda k: len(q.choices[k])) == q.gold for q in questions) / n,
    }
