"""Turns dataset rows into units of examples, and says in a receipt what became of every row and token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from whet.data.example import Example
from whet.data.rows import row_hash
from whet.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    Format = Callable[[Mapping[str, Any], PreTrainedTokenizerBase], list[Example]]

Overlong = Literal["drop", "chunk", "truncate", "error"]
SHOWN = 3
"""How many rows of a kind the receipt shows."""
_COUNTED = (
    "rows_in",
    "rows_out",
    "rows_repeated",
    "rows_dropped",
    "rows_without_target",
    "tokens_in",
    "tokens_dropped",
    "longest",
)


def prepare(
    dataset: Dataset | Sequence[Mapping[str, Any]],
    format: Format,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    overlong: Overlong = "drop",
    vocabulary: int | None = None,
) -> tuple[list[list[Example]], dict[str, Any]]:
    """Tokenizes every row.

    Args:
        dataset: rows.
        format: row -> the examples of one unit.
        tokenizer: the model's.
        max_length: longest example in tokens.
        overlong: what becomes of a unit with a longer example. ``drop`` leaves it out; ``chunk`` cuts it into windows of
            ``max_length`` that overlap by one token, so that every token is a target exactly once; ``truncate`` cuts its end
            off; ``error`` stops. All are counted.
        vocabulary: entries of the model's embedding; a row with a token beyond it is refused. Default: not looked at.

    Returns:
        Units (each a list of examples that share ``unit``, numbered from 0; a window of an overlong row is a unit of its own)
        and the receipt: ``rows_in``, ``rows_out``, ``rows_repeated`` (equal to one before), ``rows_overlong``,
        ``rows_dropped``, ``rows_without_target`` (dropped too), ``units_out``, ``examples_out``, ``tokens_in``, ``tokens_out``,
        ``tokens_dropped``, ``tokens_trained``, ``longest``, ``replies_ended`` (share of examples whose last trained token is the
        end-of-sequence token), ``overlong_rows`` (the first ones, with lengths), ``rendered`` (three units as text with trained
        tokens between ⟦ ⟧), ``data`` (hash of the rows' content).

    Raises:
        DataError: a row that the format refuses (its number is named), an overlong row under ``error``, no row left.
    """
    if max_length < 2:
        raise DataError(f"max_length {max_length}: an example needs at least two tokens, one to see and one to predict")
    units: list[list[Example]] = []
    digest = hashlib.sha256()
    count = dict.fromkeys(_COUNTED, 0)
    overlong_rows: list[str] = []
    seen: set[str] = set()
    for number, row in enumerate(dataset):
        digest.update((content := row_hash(row)).encode())
        count["rows_repeated"] += (key := content[:16]) in seen
        seen.add(key)
        examples = examples_of(format, row, tokenizer, number, vocabulary)
        fitting = [examples]
        if (longest := _longest(examples)) > max_length:
            overlong_rows.append(f"row {number}: {longest} tokens")
            fitting = _fit(examples, max_length, overlong, number)
        kept = [unit for unit in map(_with_targets, fitting) if unit]
        _count(count, examples, fitting, kept)
        units += [[replace(example, unit=len(units) + i) for example in unit] for i, unit in enumerate(kept)]
    if not units:
        raise DataError(_nothing_left(count, len(overlong_rows), max_length))
    settings = {"max_length": max_length, "overlong": overlong}
    lost = {"rows_overlong": len(overlong_rows), "overlong_rows": overlong_rows[:SHOWN]}
    return units, {**count, **lost, **_totals(units, tokenizer), **settings, "data": digest.hexdigest()[:16]}


def _count(
    count: dict[str, int], examples: Sequence[Example], fitting: Sequence[Sequence[Example]], kept: Sequence[Sequence[Example]]
) -> None:
    """Adds a row: its examples, the units that they became, and those of them that are kept."""
    tokens = _tokens([examples])
    count["rows_in"] += 1
    count["rows_out" if kept else "rows_dropped"] += 1
    count["rows_without_target"] += bool(fitting) and not kept
    count["tokens_in"] += tokens
    # Windows share a token with the one before, which is not counted twice; only they have more tokens than the row.
    count["tokens_dropped"] += tokens - _tokens(kept) + max(0, _tokens(fitting) - tokens)
    count["longest"] = max(count["longest"], _longest(examples))


def _longest(examples: Sequence[Example]) -> int:
    return max(map(len, examples), default=0)


def examples_of(
    format: Format, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, number: int, vocabulary: int | None = None
) -> list[Example]:
    """The examples of row ``number``.

    Raises:
        DataError: the format refuses the row, or a token is not in the ``vocabulary``; names the row.
    """
    try:
        examples = format(row, tokenizer)
    except DataError as error:
        raise DataError(f"row {number}: {error}") from error
    for example in examples if vocabulary else ():
        if len(example) and max(example.input_ids) >= (vocabulary or 0):
            wrong = max(example.input_ids)
            raise DataError(
                f"row {number}: token id {wrong} ({tokenizer.convert_ids_to_tokens(int(wrong))!r}), but the model's embedding has "
                f"ids 0 to {(vocabulary or 0) - 1}; use the model's own tokenizer, or enlarge the model: "
                "network.resize_token_embeddings(len(tokenizer))"
            )
    return examples


def _tokens(units: Sequence[Sequence[Example]]) -> int:
    return sum(len(example) for unit in units for example in unit)


def render_trained(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """The example as text, special tokens included, runs of trained tokens between ⟦ and ⟧."""
    pairs = zip(example.trained, example.input_ids)
    runs = [(trained, [token for _, token in run]) for trained, run in groupby(pairs, key=lambda pair: pair[0])]
    texts = [(trained, str(tokenizer.decode(ids, skip_special_tokens=False))) for trained, ids in runs]
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in texts)


def chunk(example: Example, length: int) -> list[Example]:
    """Cuts an example into windows of ``length`` tokens; each window begins with the last token of the one before.

    That token is context there and not a target, so every trained token stays a target exactly once.
    """
    starts = range(0, max(1, len(example) - 1), length - 1)
    return [_window(example, start, start + length) for start in starts]


def _window(example: Example, start: int, end: int) -> Example:
    trained = list(example.trained[start:end])
    trained[0] = False
    token_values = {name: values[start:end] for name, values in example.token_values.items()}
    return replace(example, input_ids=example.input_ids[start:end], trained=trained, token_values=token_values)


def _fit(examples: list[Example], max_length: int, overlong: Overlong, number: int) -> list[list[Example]]:
    """The units that a unit with an overlong example becomes: none, itself cut, or one for each window."""
    longest = _longest(examples)
    if overlong == "drop":
        return []
    if overlong == "truncate":
        return [[_window(example, 0, max_length) for example in examples]]
    if overlong == "error":
        raise DataError(
            f"row {number}: {longest} tokens, but max_length is {max_length}. Ways out: overlong: drop, chunk or truncate"
        )
    if _is_paired(examples):
        raise DataError(
            f"row {number}: a preference pair of {longest} tokens cannot be cut into windows; use overlong: drop or truncate"
        )
    return [[piece] for example in examples for piece in chunk(example, max_length)]


def _with_targets(unit: list[Example]) -> list[Example]:
    """The unit without examples that have no trained token; a pair that lost one side's is left out whole."""
    kept = [example for example in unit if example.trained_tokens]
    return [] if _is_paired(unit) and len(kept) < len(unit) else kept


def _is_paired(examples: Sequence[Example]) -> bool:
    return any("chosen" in example.values for example in examples)


def _nothing_left(count: Mapping[str, int], overlong: int, max_length: int) -> str:
    if not count["rows_in"]:
        return "the data has no rows"
    return (
        f"none of the {count['rows_in']} rows is left: {overlong} are longer than max_length {max_length} (longest "
        f"{count['longest']} tokens), {count['rows_without_target']} have no trained token. "
        "Ways out: a larger max_length, overlong: chunk"
    )


def _totals(units: Sequence[Sequence[Example]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    examples = [example for unit in units for example in unit]
    shown = [units[i * (len(units) - 1) // max(1, SHOWN - 1)] for i in range(min(SHOWN, len(units)))]
    return {
        "units_out": len(units),
        "examples_out": len(examples),
        "tokens_out": _tokens(units),
        "tokens_trained": sum(example.trained_tokens for example in examples),
        "replies_ended": sum(_last_trained(example) == tokenizer.eos_token_id for example in examples) / len(examples),
        "rendered": ["\n".join(render_trained(example, tokenizer) for example in unit) for unit in shown],
    }


def _last_trained(example: Example) -> int | None:
    return next((token for token, trained in zip(reversed(example.input_ids), reversed(example.trained)) if trained), None)
