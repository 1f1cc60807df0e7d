"""Sources read files as they are, or say which file, line and column is wrong and what to do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet import parts
from whet.data.sources.file import File
from whet.data.sources.gsm8k import GSM8K
from whet.data.sources.hub import Hub
from whet.data.sources.text import Text
from whet.data.splits import Shares
from whet.data.tables import read_rows
from whet.errors import DataError, RecipeError

QUESTIONS = [{"question": f"What is {i} plus 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(40)]


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_file_format_gives_the_same_rows(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"question": 'a "quoted", text', "answer": "1"}, {"question": "two\nlines", "answer": "2 é"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    quoted = "\n".join('"' + row["question"].replace('"', '""') + '","' + row["answer"] + '"' for row in rows)
    (tmp_path / "a.csv").write_text(f"question,answer\n{quoted}\n", encoding="utf-8-sig")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.csv", "b.jsonl.gz", "a.parquet"):
        data = File(str(tmp_path / name), columns={"prompt": "question", "completion": "answer"})("train")
        assert data.to_list() == [{"prompt": row["question"], "completion": row["answer"]} for row in rows], name


def test_a_malformed_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:3: not JSON: .*it begins '\{\"prompt\": \"b\"'"):
        File(str(path))("train")
    path.write_text('{"prompt": "a"}\n["b"]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:2: expected an object .* got list"):
        File(str(path))("train")
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:2: not UTF-8"):
        File(str(path))("train")


def test_a_missing_column_gets_the_nearest_right_name(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*QUESTIONS[:2], {"questions": "x", "answer": "y"}])
    with pytest.raises(
        DataError, match=r"line 3: no column 'question': did you mean 'questions'\?.*columns: \{prompt: questions\}"
    ):
        File(str(path), columns={"prompt": "question"})("train")


def test_cells_that_are_no_text_are_named(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": 2}])
    with pytest.raises(DataError, match=r"line 2, column 'answer': expected text, got int '2'; set `numbers_as_text: true`"):
        File(str(path))("train")
    assert File(str(path), numbers_as_text=True)("train")["answer"][:] == ["1", "2"]
    path = write_jsonl(tmp_path / "null.jsonl", [{"q": None}])
    with pytest.raises(DataError, match=r"line 1, column 'prompt': expected text, got nothing"):
        File(str(path), columns={"prompt": "q"})("train")
    path = write_jsonl(tmp_path / "half.jsonl", [{"prompt": "\ud800"}])
    with pytest.raises(DataError, match=r"half of a surrogate pair"):
        File(str(path))("train")
    path = write_jsonl(tmp_path / "mixed.jsonl", [{"prompt": "a", "note": 1}, {"prompt": "b", "note": "two"}])
    with pytest.raises(DataError, match=r"column 'note': row 1 holds int, but row 2 holds str 'two'"):
        File(str(path))("train")


def test_files_that_hold_nothing_or_are_not_there(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "head.csv").write_text("prompt,answer\n")
    for name in ("empty.jsonl", "head.csv"):
        with pytest.raises(DataError, match=r"holds no rows"):
            File(str(tmp_path / name))("train")
    with pytest.raises(DataError, match=r"no such file. The folder holds: empty.jsonl, head.csv"):
        File(str(tmp_path / "emtpy.jsonl"))("train")
    with pytest.raises(DataError, match=r"ending in '.xlsx'; known: .jsonl"):
        File(str(tmp_path / "a.xlsx"))("train")
    (tmp_path / "ragged.csv").write_text("prompt,answer\na,b,c\n")
    with pytest.raises(DataError, match=r"ragged.csv:2: 2 columns in the header"):
        File(str(tmp_path / "ragged.csv"))("train")


def test_held_out_shares_are_disjoint_and_do_not_depend_on_order(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": row["question"]} for row in QUESTIONS] * 2)
    source = File(str(path), validation=0.2, test=0.2)
    splits = {split: source(split)["prompt"][:] for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 80
    assert not set(splits["train"]) & set(splits["validation"]) and not set(splits["train"]) & set(splits["test"])
    write_jsonl(path, [{"prompt": row["question"]} for row in reversed(QUESTIONS)])
    assert set(source("test")["prompt"]) == set(splits["test"])
    shares = Shares(validation=0.25)
    assert 200 < sum(shares.split_of(str(i)) == "validation" for i in range(1000)) < 300


def test_splits_from_files_and_their_errors(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "a"}])
    write_jsonl(tmp_path / "valid.jsonl", [{"prompt": "b"}])
    write_jsonl(tmp_path / "other.jsonl", [{"prompt": "c"}])
    assert File(str(tmp_path))("validation")["prompt"][:] == ["b"]
    assert File(str(tmp_path), test="other.jsonl")("test")["prompt"][:] == ["c"]
    with pytest.raises(DataError, match=r"there is no test split. Way out: `test: 0.1`"):
        File(str(tmp_path))("test")
    with pytest.raises(DataError, match=r"must lie in"):
        File(str(tmp_path / "train.jsonl"), validation=1.5)("train")
    with pytest.raises(DataError, match=r"must be one of train, validation, test"):
        File(str(tmp_path))("dev")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.text(alphabet='{}[]":,\\ truefalsn0123456789.eE-\n\ud800', max_size=80)))
def test_any_bytes_are_rows_or_a_data_error(tmp_path, content):
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        rows = read_rows(path)
    except DataError as error:
        assert "fuzz.jsonl" in str(error)
    else:
        assert all(isinstance(row, dict) for _, row in rows)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["prompt", "answer", "note"]), st.one_of(st.text(), st.integers(), st.none())), max_size=5
    )
)
def test_any_json_rows_are_a_dataset_or_a_data_error(tmp_path, rows):
    path = write_jsonl(tmp_path / "fuzz.jsonl", rows)
    try:
        data = File(str(path))("train")
    except DataError:
        return
    assert [row.get("prompt") for row in data.to_list()] == [row.get("prompt") for row in rows]


def test_deep_nesting_and_long_numbers_are_data_errors(tmp_path):
    for text in ("[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"a.jsonl:1: not JSON"):
            read_rows(tmp_path / "a.jsonl")


def test_gsm8k_rows(tmp_path):
    notes = {"question": "How many?", "answer": "She has 48/2 = <<48/2=24>>24.\nIn all <<24+976=1000>>1,000.\n#### 1,000"}
    write_jsonl(tmp_path / "train.jsonl", [*QUESTIONS, notes])
    write_jsonl(tmp_path / "test.jsonl", [notes])
    source = GSM8K(str(tmp_path), validation=0.3)
    (row,) = source("test").to_list()
    assert row["completion"] == "She has 48/2 = 24.\nIn all 1,000.\nanswer: 1000"
    assert (row["answer"], row["steps"], row["prompt"]) == ("1000", 2, "How many?")
    assert row["text"] == f"{row['prompt']}\n{row['completion']}"
    (row,) = GSM8K(str(tmp_path), notes=True, last_line="#### {answer}")("test").to_list()
    assert "<<48/2=24>>" in row["completion"] and row["completion"].endswith("#### 1000")
    train, validation = (set(source(split)["prompt"]) for split in ("train", "validation"))
    assert len(train) + len(validation) == 41 and not train & validation
    write_jsonl(tmp_path / "test.jsonl", [{"question": "a", "answer": "no mark"}])
    with pytest.raises(DataError, match=r"line 1: the answer has no '#### N'"):
        source("test")
    with pytest.raises(RecipeError, match=r"must contain"):
        GSM8K("x", last_line="answer")


WIKI = " \n = One = \n \n Text of one . \n = = Part = = \n More . \n = Two = \n \n Text of two . \n"


@pytest.mark.parametrize(
    ("documents", "content", "titles"),
    [
        ("wikitext", WIKI, ["One", "Two"]),
        ("markdown", "preface\n# A\ntext\n## part\n# B\ntext\n", ["", "A", "B"]),
        ("blank-line", "one\n\n\ntwo\nmore\n \nthree", ["", "", ""]),
        ("line", "one\n\ntwo\n", ["", ""]),
        ("file", WIKI, [""]),
    ],
)
def test_documents_hold_every_character_once(tmp_path, documents, content, titles):
    (tmp_path / "train.txt").write_text(content, encoding="utf-8")
    rows = Text(str(tmp_path), documents=documents)("train").to_list()
    assert "".join(row["text"] for row in rows) == content
    assert [row["title"] for row in rows] == titles
    assert rows[0]["document_id"] == "train.txt#0"


@given(
    st.text(alphabet="ab= #\n", min_size=1, max_size=60), st.sampled_from(["wikitext", "markdown", "blank-line", "line", "file"])
)
def test_cutting_is_lossless(content, documents):
    pieces = [text for _, text in Text("x", documents=documents)._cut(content)]
    assert "".join(pieces) == content
    assert len(pieces) == 1 or all(piece.strip() for piece in pieces)


def test_text_splits_and_empty_files(tmp_path):
    (tmp_path / "train.txt").write_text(WIKI * 10)
    (tmp_path / "empty.txt").write_text(" \n")
    source = Text(str(tmp_path / "train.txt"), documents="line", test="empty.txt")
    assert len(source("train")) == 60
    with pytest.raises(DataError, match=r"empty.txt: the file is empty"):
        source("test")


def test_hub_source_reads_a_local_folder_in_hub_layout(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "train.jsonl", QUESTIONS)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = Hub(str(tmp_path), columns={"prompt": "question", "completion": "answer"}, validation=0.25, test="train[:3]")
    assert len(source("train")) + len(source("validation")) == 40
    assert source("test")["prompt"][:] == [row["question"] for row in QUESTIONS[:3]]
    with pytest.raises(DataError, match=r"cannot load split 'validation' of dataset"):
        Hub(str(tmp_path))("validation")
    with pytest.raises(DataError, match=r"there is no test split"):
        Hub(str(tmp_path), test=None)("test")


def test_sources_are_built_from_recipes(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", QUESTIONS)
    source = parts.build("source", {"name": "file", "path": str(path), "columns": {"prompt": "question"}})
    assert source("train").column_names == ["answer", "prompt"]
    with pytest.raises(RecipeError, match=r"did you mean 'columns'"):
        parts.build("source", {"name": "file", "path": str(path), "colums": {}})
