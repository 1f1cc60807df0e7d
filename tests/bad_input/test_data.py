"""Rows that cannot be read or used: refused with file and line, column or row, before anything is computed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

GOOD = '{"prompt": "What is 3?", "completion": "The answer is 3."}\n'


def refused(user: Any, name: str, content: bytes | str, *wanted: str, **settings: Any) -> None:
    user.refused(user.recipe(data=[user.source(user.file(name, content), **settings)]), *wanted)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", "", "rows.jsonl: the file holds no rows"),
        ("rows.jsonl", " \n\n", "rows.jsonl: the file holds no rows"),
        ("rows.json", "[]", "rows.json: the file holds no rows"),
        ("rows.csv", "prompt,completion\n", "rows.csv: the file holds no rows"),
        ("rows.jsonl.gz", gzip.compress(b"", mtime=0), "rows.jsonl.gz: the file holds no rows"),
    ],
)
def test_empty_file(user: Any, name: str, content: bytes | str, message: str) -> None:
    refused(user, name, content, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", GOOD * 6 + '{"prompt": "a"\n', "rows.jsonl:7: not JSON"),
        ("rows.jsonl", GOOD + "[1]\n", "rows.jsonl:2: expected an object"),
        ("rows.jsonl", GOOD + '{"prompt": "a", "prompt": "b"}\n', "rows.jsonl:2: not JSON: 'prompt' is given twice"),
        ("rows.jsonl", GOOD.encode() + b'{"prompt": "\xff"}\n', "rows.jsonl:2: not UTF-8"),
        ("rows.jsonl", GOOD.encode() + b'{"prompt": "a\0b"}\n', "rows.jsonl:2: not JSON"),
        ("rows.jsonl", (GOOD * 2).encode("utf-16"), "rows.jsonl:1: not UTF-8"),
        ("rows.jsonl", gzip.compress(GOOD.encode(), mtime=0), "rows.jsonl:1: not UTF-8"),
        (
            "rows.jsonl.gz",
            gzip.compress(GOOD.encode() * 99, mtime=0)[:40],
            "rows.jsonl.gz: cannot read it: Compressed file ended",
        ),
        ("rows.jsonl.gz", GOOD, "rows.jsonl.gz: cannot read it: Not a gzipped file"),
        ("rows.csv", 'prompt,completion\na,b\n"a,b\n', "are quotes closed?"),
        ("rows.csv", "prompt,completion\na,b\na,b,c\n", "rows.csv:3: 2 columns in the header"),
        ("rows.csv", "prompt,prompt\na,b\n", "rows.csv:1: the column 'prompt' stands twice"),
        ("rows.csv", "prompt,completion\n\xe9,b\n".encode("latin1"), "rows.csv: not UTF-8"),
        ("rows.parquet", b"PAR1" + bytes(60), "rows.parquet: cannot be read as Parquet"),
        ("rows.parquet", b"", "rows.parquet: cannot be read as Parquet"),
    ],
)
def test_malformed_file(user: Any, name: str, content: bytes | str, message: str) -> None:
    refused(user, name, content, message)


def test_parquet_that_was_cut_off(user: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"prompt": ["a"] * 500, "completion": ["b"] * 500}), user.folder / "whole.parquet")
    refused(user, "rows.parquet", (user.folder / "whole.parquet").read_bytes()[:-20], "rows.parquet: cannot be read as Parquet")


def test_byte_order_marks_windows_line_ends_and_escapes_are_read(user: Any) -> None:
    for name, content in {
        "bom.jsonl": b"\xef\xbb\xbf" + GOOD.encode() * 4,
        "windows.jsonl": GOOD.replace("\n", "\r\n").encode() * 4,
        "escaped.jsonl": b'{"prompt": "a\\u0000b", "completion": "c"}\n' * 4,
        "windows.csv": b"\xef\xbb\xbfprompt,completion\r\na,b\r\n",
    }.items():
        data = user.source(user.file(name, content))
        status, printed, message = user.run(user.recipe(data=[data], train=None))
        assert status == 0, message
        assert "columns: prompt, completion" in printed


def test_row_without_the_needed_column(user: Any) -> None:
    user.refused(
        user.recipe(data=[user.source(user.file("rows.jsonl", '{"prompt": "a", "compltion": "b"}\n' * 4))]),
        "no column 'completion'",
        commands=("run", "check"),
    )
    refused(
        user,
        "rows.jsonl",
        '{"prompt": "a", "compltion": "b"}\n' * 4,
        "no column 'completion': did you mean 'compltion'?",
        "columns: {completion: compltion}",
    )
    refused(
        user,
        "rows.jsonl",
        GOOD * 50 + '{"prompt": "a"}\n' + GOOD * 50,
        "train step 'sft': row 50: column 'completion' is empty (null)",
    )
    refused(user, "rows.jsonl", GOOD * 4, "rows.jsonl, line 1: no column 'question'", columns={"prompt": "question"})
    refused(
        user,
        "rows.jsonl",
        '{"messages": [{"role": "user"}]}\n',
        "row 0: column 'messages', message 0: needs 'role' and 'content'",
    )
    refused(user, "rows.jsonl", '{"messages": "hi"}\n', "row 0: column 'messages': expected a list of messages, got str 'hi'")


def test_needed_column_of_a_later_step(user: Any) -> None:
    first = {"name": "sft", "data": "rows", "steps": 1, "batch_size": 4}
    user.refused(
        user.recipe(train=[first, {**first, "name": "dpo", "objective": "dpo"}]), "train step 'dpo': row 0: no column 'chosen'"
    )
    absent = {
        "name": "perplexity",
        "data": {"name": "file", "path": str(user.folder / "rows.jsonl")},
        "split": "train",
        "column": "txt",
    }
    user.refused(
        user.recipe(measure=[{"name": "m", "tasks": [absent]}]),
        "measure step 'm': perplexity: row 0: no column 'txt': did you mean 'text'?",
    )


def test_file_of_a_later_step(user: Any) -> None:
    broken = user.file("held-out.jsonl", GOOD + "{\n")
    task = {"name": "answers", "data": {"name": "file", "path": str(broken)}, "split": "train"}
    user.refused(
        user.recipe(measure=[{"name": "m", "tasks": [task]}]), "measure step 'm': answers:", "held-out.jsonl:2: not JSON"
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"a": 1}, "expected text, got dict"),
        (3, "expected text, got int '3'; set `numbers_as_text: true`"),
        (True, "expected text, got bool"),
    ],
)
def test_cell_of_the_wrong_type(user: Any, cell: Any, message: str) -> None:
    refused(
        user,
        "rows.jsonl",
        GOOD + json.dumps({"prompt": cell, "completion": "b"}) + "\n",
        "rows.jsonl, line 2, column 'prompt': ",
        message,
    )


def test_columns_of_mixed_types(user: Any) -> None:
    refused(
        user,
        "rows.jsonl",
        '{"prompt": "a", "completion": "b", "n": 1}\n{"prompt": "a", "completion": "b", "n": "x"}\n',
        "column 'n': row 1 holds int, but row 2 holds str 'x'",
    )
    refused(user, "rows.jsonl", '{"prompt": "a", "completion": "b", "n": 99999999999999999999999}\n', "column 'n'")


def test_a_file_that_is_a_folder_or_not_there(user: Any) -> None:
    (user.folder / "empty.jsonl").mkdir()
    user.refused(
        user.recipe(data=[user.source(user.folder / "empty.jsonl")]),
        "empty.jsonl: the folder has no file train.jsonl",
        "it holds: nothing",
    )
    user.refused(
        user.recipe(data=[user.source(user.folder / "rws.jsonl")]), "rws.jsonl: no such file. The folder holds: ", "rows.jsonl"
    )
    user.refused(
        user.recipe(data=[user.source(user.folder / "rows.xlsx")]), "cannot read a file ending in '.xlsx'; known: .jsonl"
    )


def test_all_rows_filtered_out(user: Any) -> None:
    refused(
        user,
        "rows.jsonl",
        GOOD * 3,
        "none of its 3 rows falls into the train split, with shares held out of {'validation': 0.99",
        validation=0.99,
    )
    known = {
        "name": "ngram-decontaminate",
        "against": {"name": "file", "path": str(user.folder / "rows.jsonl")},
        "split": "train",
        "n": 2,
    }
    recipe = user.recipe()
    recipe["data"].append({"name": "left", "data": "rows", "select": [known]})
    recipe["train"][0]["data"] = "left"
    user.refused(recipe, "all 3 rows overlap with the evaluation set; is it the same data?")


def test_empty_prompts_and_replies_are_counted(user: Any) -> None:
    rows = '{"prompt": "", "completion": "b"}\n{"prompt": "a", "completion": " "}\n' * 3
    status, printed, _ = user.run(user.recipe(data=[user.source(user.file("rows.jsonl", rows))], train=None))
    assert status == 0
    assert "empty_cells: prompt 3, completion 3" in printed


def test_empty_replies_in_chats_and_repeated_rows_are_counted(user: Any) -> None:
    def chat(reply: str) -> str:
        turns = [{"role": "user", "content": "T"}, {"role": "assistant", "content": reply}]
        return json.dumps({"messages": turns}) + "\n"

    user.file("rows.jsonl", chat("a") * 3 + chat("") + chat("b"))
    status, printed, _ = user.run(user.recipe(train=[{"name": "sft", "data": "rows", "steps": 1}]))
    assert status == 0
    assert "empty_cells: messages 1" in printed and "rows_repeated 2" in printed


def test_a_missing_chat_or_one_under_another_name_is_told(user: Any) -> None:
    chat = {"messages": [{"role": "user", "content": "T"}, {"role": "assistant", "content": "a"}]}
    user.file("rows.jsonl", json.dumps(chat) + '\n{"answer": "a"}\n')
    step = {"name": "sft", "data": "rows", "steps": 1}
    user.refused(user.recipe(train=[step]), "row 1: column 'messages' is empty (null) in this row; fill it or remove the row")
    user.file("rows.jsonl", json.dumps({"conversations": chat["messages"]}) + "\n")
    user.refused(user.recipe(train=[step]), "`columns: {messages: conversations}`, which looks like one")


def test_nothing_trained(user: Any) -> None:
    user.file("rows.jsonl", '{"text": "T"}\n' * 4)
    step = {"name": "plain", "data": "rows", "format": {"name": "plain", "eos": False}, "steps": 1}
    user.refused(user.recipe(train=[step]), "none of the 4 rows is left", "4 have no trained token")


def test_a_bad_file_leaves_finished_steps_alone(user: Any) -> None:
    recipe = user.recipe()
    assert user.run(recipe)[0] == 0
    artifacts = {p: p.read_bytes() for p in Path(user.folder / "whet-home" / "artifacts").rglob("*") if p.is_file()}
    broken = {**recipe, "data": [*recipe["data"], {**user.source(user.file("more.jsonl", "{\n")), "name": "more"}]}
    assert user.run(broken)[0] == 2
    assert all(path.read_bytes() == content for path, content in artifacts.items())
    status, printed, _ = user.run(recipe)
    assert status == 0 and "[train] sft: reused" in printed
