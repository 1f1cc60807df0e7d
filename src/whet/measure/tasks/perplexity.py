"""Perplexity of texts under the model, with a stated window and stride, and bits per byte.

Each document is read in windows of ``window`` tokens that move by ``stride`` tokens; every token is predicted exactly once, the
first one from the tokenizer's beginning (or end) token. With T tokens, B bytes and total negative log-likelihood N (nats),

    perplexity    = exp(N / T)          comparable only between models with the same tokenizer
    bits per byte = N / (B ln 2)        comparable between any models

With ``stride`` = ``window`` this is the rolling log-likelihood of lm-eval; a smaller stride gives more context and lower numbers,
at more cost, so window and stride belong to the conditions. ``join`` puts all rows into one text first (``"\\n\\n"`` is the
custom for WikiText-2 in the quantization literature); its windows are then the units of the interval, else the documents are.

Defaults: column ``text``, rows apart, window = the model's context, stride = window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Annotated, Any, Literal

from annotated_types import Gt

from whet import parts
from whet.data.rows import text_cell
from whet.errors import DataError, RecipeError
from whet.generate.likelihood import sequence_logps
from whet.measure.conditions import conditions, tokenizer_hash
from whet.measure.estimates import by_groups
from whet.measure.metrics.perplexity import bits_per_byte, perplexity
from whet.measure.outcome import Outcome, TaskResult
from whet.measure.rows import Rows, draw_rows, labels_of
from whet.measure.windows import Pair, prefix_token, rolling_windows
from whet.model import Model
from whet.parts import Kind

SHOWN = 200
"""Characters of a document that its outcome keeps."""


@dataclass(frozen=True)
class _Unit:
    """What one outcome stands for: a document, or a window of the joined text."""

    id: str
    text: str
    windows: Sequence[Pair]
    labels: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """``metric`` decides the main number (the other one is given too); ``limit``, ``balance``, ``by`` and ``seed`` choose and
    group rows as in other tasks. ``batch_tokens``: tokens of one forward pass."""

    data: Annotated[Any, Kind("source")]
    split: str = "test"
    column: str = "text"
    join: str | None = None
    window: Annotated[int, Gt(0)] | None = None
    stride: Annotated[int, Gt(0)] | None = None
    metric: Literal["perplexity", "bits_per_byte"] = "perplexity"
    limit: Annotated[int, Gt(0)] | None = None
    balance: str | None = None
    by: tuple[str, ...] = ()
    seed: int = 0
    batch_tokens: Annotated[int, Gt(0)] = 8192
    title: str = "perplexity"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it estimates over all examples."""
        return ("perplexity", "bits_per_byte")

    def __call__(self, model: Model) -> TaskResult:
        window, stride = self.lengths(model)
        drawn = draw_rows(parts.build("source", self.data, "data"), self.split, self.limit, self.balance, self.seed)
        cut = self._documents if self.join is None else self._joined
        units = [unit for unit in cut(model, drawn, window, stride) if unit.windows]
        if not units:
            raise DataError(f"perplexity: the rows' {self.column!r} has no tokens to predict")
        logps, _ = sequence_logps(model, [pair for unit in units for pair in unit.windows], batch_tokens=self.batch_tokens)
        flat = iter(logps)
        outcomes = tuple(self._outcome(unit, -sum(sum(next(flat)) for _ in unit.windows)) for unit in units)
        metrics = {"perplexity": perplexity, "bits_per_byte": bits_per_byte}
        tokens = sum(int(outcome.scores["tokens"]) for outcome in outcomes)
        return TaskResult(
            task=self.title,
            model=model.name,
            metric=self.metric,
            outcomes=outcomes,
            conditions=self._conditions(model, drawn, window, stride),
            estimates=by_groups(outcomes, {self.metric: metrics[self.metric], **metrics}, self.by),
            receipt={
                **drawn.receipt,
                "rows without tokens": len(drawn.rows) - len(units) if self.join is None else 0,
                "units": len(units),
                "window": window,
                "stride": stride,
                "tokens": tokens,
                "prompt_tokens": sum(
                    len(context) + len(continuation) - 1 for unit in units for context, continuation in unit.windows
                ),
                "generated_tokens": 0,
            },
        )

    def lengths(self, model: Model) -> tuple[int, int]:
        """Window and stride on that model.

        Raises:
            RecipeError: a window longer than the model's context, or a stride longer than the window.
        """
        window = self.window or model.context
        if not window:
            raise RecipeError(f"perplexity.window: model {model.name!r} states no context, so give a window in tokens")
        if model.context and window > model.context:
            raise RecipeError(f"perplexity.window: {window} tokens, but the context of model {model.name!r} is {model.context}")
        stride = self.stride or window
        if stride > window:
            raise RecipeError(f"perplexity.stride: {stride} would skip tokens, as the window is {window}; at most {window}")
        return window, stride

    def _documents(self, model: Model, drawn: Rows, window: int, stride: int) -> Iterator[_Unit]:
        prefix = prefix_token(model)
        for row_id, row in zip(drawn.ids, drawn.rows):
            text = text_cell(row, self.column)
            ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            yield _Unit(row_id, text, list(rolling_windows(ids, prefix, window, stride)), labels_of(row))

    def _joined(self, model: Model, drawn: Rows, window: int, stride: int) -> Iterator[_Unit]:
        text = str(self.join).join(text_cell(row, self.column) for row in drawn.rows)
        if not model.tokenizer.is_fast:
            raise RecipeError(
                "perplexity.join: needs a fast tokenizer, which knows where its tokens stand in the text; leave `join` out"
            )
        encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
        done = 0
        for number, pair in enumerate(rolling_windows(ids, prefix_token(model), window, stride)):
            end = done + len(pair[1])
            piece = text[starts[done] if done else 0 : starts[end] if end < len(ids) else len(text)]
            yield _Unit(f"window-{number}", piece, [pair], {})
            done = end

    def _outcome(self, unit: _Unit, nll: float) -> Outcome:
        tokens = sum(len(continuation) for _, continuation in unit.windows)
        size = len(unit.text.encode())
        by_tokens = self.metric == "perplexity"
        return Outcome(
            id=unit.id,
            score=nll / tokens if by_tokens else nll / log(2) / size,
            prompt=unit.text[:SHOWN],
            weight=float(tokens if by_tokens else size),
            scores={"nll": nll, "tokens": float(tokens), "bytes": float(size)},
            labels=unit.labels,
        )

    def _conditions(self, model: Model, drawn: Rows, window: int, stride: int) -> dict[str, Any]:
        settings = {"column": self.column, "join": self.join, "window": window, "stride": stride, "metric": self.metric}
        found = conditions(model, drawn.rows, [text_cell(row, self.column) for row in drawn.rows], settings)
        # The chat template plays no part here; the tokenizer only where the unit is the token.
        found["template"] = None
        return {**found, "tokenizer": tokenizer_hash(model)} if self.metric == "perplexity" else found
