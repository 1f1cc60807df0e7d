"""Every row and token is accounted for: kept, dropped, cut into windows, or the cause of an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.example import Example
from whet.data.formats.chat import Chat
from whet.data.formats.plain import Plain
from whet.data.formats.preference import Preference
from whet.data.prepare import chunk, prepare, render_trained
from whet.errors import DataError

ROWS = [
    {"prompt": f"What is {i} plus 4?", "completion": "The answer is 19. " * (i + 1), "text": "Tom has 12 apples. " * (i + 1)}
    for i in range(4)
]


def test_receipt_adds_up_when_rows_are_dropped(tiny_tokenizer):
    lengths = [len(Chat()(row, tiny_tokenizer)[0]) for row in ROWS]
    units, receipt = prepare(ROWS, Chat(), tiny_tokenizer, max_length=lengths[1])
    assert [unit[0].unit for unit in units] == [0, 1]
    assert (receipt["rows_in"], receipt["rows_out"], receipt["rows_overlong"], receipt["rows_dropped"]) == (4, 2, 2, 2)
    assert receipt["tokens_in"] == sum(lengths)
    assert receipt["tokens_out"] + receipt["tokens_dropped"] == receipt["tokens_in"]
    assert receipt["overlong_rows"] == [f"row 2: {lengths[2]} tokens", f"row 3: {lengths[3]} tokens"]
    assert receipt["replies_ended"] == 1.0
    assert receipt["rendered"][0] == "<|user|>What is 0 plus 4?<|assistant|>⟦The answer is 19. <|eos|>⟧"


def test_chunking_loses_no_token(tiny_tokenizer):
    whole, _ = prepare(ROWS, Plain(), tiny_tokenizer, max_length=1000)
    units, receipt = prepare(ROWS, Plain(), tiny_tokenizer, max_length=8, overlong="chunk")
    assert receipt["tokens_dropped"] == 0
    assert receipt["rows_out"] == 4
    assert receipt["units_out"] == len(units) > 4
    assert receipt["tokens_trained"] == sum(unit[0].trained_tokens for unit in whole)
    targets = [t for unit in units for e in unit for t, trained in zip(e.input_ids, e.trained) if trained]
    assert targets == [t for unit in whole for e in unit for t, trained in zip(e.input_ids, e.trained) if trained]
    assert max(len(e) for unit in units for e in unit) <= 8


@given(st.integers(1, 60), st.integers(2, 20), st.randoms())
def test_windows_make_every_trained_token_a_target_once(length, window, random):
    trained = [False] + [random.random() < 0.5 for _ in range(length - 1)]
    example = Example(list(range(length)), trained, token_values={"old_logps": list(range(length))})
    pieces = chunk(example, window)
    targets = [t for piece in pieces for t, on in zip(piece.input_ids, piece.trained) if on]
    assert targets == [i for i, on in enumerate(trained) if on]
    assert all(len(piece) <= window and list(piece.token_values["old_logps"]) == list(piece.input_ids) for piece in pieces)


def test_truncate_and_error(tiny_tokenizer):
    _, receipt = prepare(ROWS, Plain(), tiny_tokenizer, max_length=8, overlong="truncate")
    assert receipt["rows_out"] == 4
    assert receipt["tokens_dropped"] == receipt["tokens_in"] - receipt["tokens_out"] > 0
    assert receipt["replies_ended"] < 1
    with pytest.raises(DataError, match=r"row 0: \d+ tokens, but max_length is 3. Ways out"):
        prepare(ROWS, Plain(), tiny_tokenizer, max_length=3, overlong="error")


def test_a_pair_is_dropped_whole(tiny_tokenizer):
    rows = [{"prompt": "a", "chosen": "7", "rejected": "8"}, {"prompt": "a", "chosen": "7", "rejected": "8 " * 50}]
    units, receipt = prepare(rows, Preference(), tiny_tokenizer, max_length=30)
    assert [[e.unit for e in unit] for unit in units] == [[0, 0]]
    assert receipt["rows_dropped"] == 1
    with pytest.raises(DataError, match=r"row 1: a preference pair"):
        prepare(rows, Preference(), tiny_tokenizer, max_length=30, overlong="chunk")


def test_errors_name_the_row(tiny_tokenizer):
    with pytest.raises(DataError, match=r"row 1: column 'text': expected text, got int '3'"):
        prepare([{"text": "a b c"}, {"text": 3}], Plain(), tiny_tokenizer, max_length=10)
    with pytest.raises(DataError, match=r"none of the 4 rows is left: 4 are longer than max_length 2"):
        prepare(ROWS, Plain(), tiny_tokenizer, max_length=2)
    with pytest.raises(DataError, match=r"no rows"):
        prepare([], Plain(), tiny_tokenizer, max_length=10)


def test_rows_without_target_are_counted(tiny_tokenizer):
    _, receipt = prepare([{"text": "T"}, {"text": "Tom has"}], Plain(eos=False), tiny_tokenizer, max_length=10)
    assert (receipt["rows_without_target"], receipt["rows_dropped"], receipt["rows_out"]) == (1, 1, 1)


def test_the_data_hash_is_of_content(tiny_tokenizer):
    hashes = [
        prepare(rows, Plain(), tiny_tokenizer, max_length=100)[1]["data"]
        for rows in (ROWS, [dict(reversed(r.items())) for r in ROWS], ROWS[:3])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_render_trained_marks_runs(tiny_tokenizer):
    ids = tiny_tokenizer("abc", add_special_tokens=False)["input_ids"]
    assert render_trained(Example(ids, [False] * len(ids)), tiny_tokenizer) == "abc"
