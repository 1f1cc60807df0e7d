"""How well the model predicts reference replies to prompts: perplexity of the trained part of a chat, prompts not counted.

The held-out form of the fine-tuning loss: rows are rendered and marked exactly as the ``chat`` format does for training, and

    perplexity = exp( sum over rows of -log p(trained tokens | what stands before) / trained tokens )

Rows longer than the context are left out and counted. Defaults: every turn of the assistant, the whole test split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt

from whet.data.chat import encode
from whet.data.example import Example
from whet.data.messages import messages_of, prompt_text
from whet.errors import DataError
from whet.generate.likelihood import sequence_logps
from whet.measure.conditions import conditions, tokenizer_hash
from whet.measure.estimates import by_groups
from whet.measure.metrics.perplexity import perplexity
from whet.measure.outcome import Outcome, TaskResult
from whet.measure.rows import Row, draw_rows, labels_of
from whet.model import Model, OtherTemplate, checked_template
from whet.parts import Kind


@dataclass(frozen=True, kw_only=True)
class Replies:
    """``limit`` rows of ``split`` are drawn by ``seed``; estimates are also given for each value of the columns ``by``. A chat
    template that is not the one stored with the weights is refused, unless ``other_template`` is ``allow``."""

    data: Annotated[Any, Kind("source")]
    split: str = "test"
    train_on: Literal["all", "last"] = "all"
    limit: Annotated[int, Gt(0)] | None = None
    balance: str | None = None
    by: tuple[str, ...] = ()
    seed: int = 0
    batch_tokens: Annotated[int, Gt(0)] = 8192
    title: str = "replies"
    other_template: OtherTemplate = "refuse"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return ("perplexity",)

    def __call__(self, model: Model) -> TaskResult:
        checked_template(model, self.other_template)
        drawn = draw_rows(self.data, self.split, self.limit, self.balance, self.seed)
        encoded = [encode(messages_of(row, None), model.tokenizer, train_on=self.train_on) for row in drawn.rows]
        fits = [not model.context or len(example) <= model.context for example in encoded]
        kept = [(i, row, example) for i, row, example, fit in zip(drawn.ids, drawn.rows, encoded, fits) if fit]
        if not kept:
            raise DataError(f"{self.title}: every row is longer than the model's context of {model.context} tokens")
        logps, _ = sequence_logps(
            model, [([*e.input_ids[:1]], [*e.input_ids[1:]]) for _, _, e in kept], batch_tokens=self.batch_tokens
        )
        outcomes = tuple(_outcome(i, row, example, found) for (i, row, example), found in zip(kept, logps))
        tokens = int(sum(outcome.weight for outcome in outcomes))
        shown = [list(example.input_ids) for _, _, example in kept]
        settings = {"train_on": self.train_on, "tokenizer": tokenizer_hash(model)}
        return TaskResult(
            task=self.title,
            model=model.name,
            metric="perplexity",
            outcomes=outcomes,
            conditions=conditions(model, [row for _, row, _ in kept], shown, settings),
            estimates=by_groups(outcomes, {"perplexity": perplexity}, self.by),
            receipt={
                **drawn.receipt,
                "rows over the context": len(fits) - len(kept),
                "tokens": tokens,
                "prompt_tokens": sum(map(len, shown)),
                "generated_tokens": 0,
            },
        )


def _outcome(row_id: str, row: Row, example: Example, logps: list[float]) -> Outcome:
    trained = [value for value, target in zip(logps, example.trained[1:]) if target]
    nll = -sum(trained)
    return Outcome(
        id=row_id,
        score=nll / len(trained),
        prompt=prompt_text(row),
        reference=str(row.get("completion", "")),
        weight=float(len(trained)),
        scores={"nll": nll, "tokens": float(len(trained))},
        labels=labels_of(row),
    )
