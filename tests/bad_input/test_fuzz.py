"""Whatever the bytes, a reader gives rows, tensors or a recipe, or an error that a user can act on; nothing else, and in time."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from whet.data.formats.chat import Chat
from whet.data.formats.plain import Plain
from whet.data.formats.preference import Preference
from whet.data.sources.file import File
from whet.data.sources.gsm8k import GSM8K
from whet.data.sources.humaneval import HumanEval
from whet.data.sources.text import Text
from whet.data.tables import read_rows
from whet.edit.tensors import Checkpoint
from whet.errors import ModelError, RecipeError, WhetError
from whet.model import read_lineage
from whet.recipe import read
from whet.weight_files import check_weights, read_header

FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def tries(number: int) -> Any:
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=FIXTURES)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)
COLUMNS = st.sampled_from(
    [
        "prompt",
        "completion",
        "messages",
        "chosen",
        "rejected",
        "text",
        "question",
        "answer",
        "task_id",
        "test",
        "entry_point",
        "canonical_solution",
        "é\u202e",
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional={"role": VALUES | st.just("user") | st.just("assistant"), "content": VALUES}), max_size=3
)
ROWS = st.dictionaries(COLUMNS, VALUES | st.text(max_size=20) | MESSAGES, max_size=5)
TEXTS = st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ abtruefalsn019.eE-\n\r\t\0\ufeff\ud800#|', max_size=80).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


def harmless(call: Callable[[], Any]) -> Any:
    """What ``call`` gives; ``None`` if it raised an error for the user, which must say something."""
    try:
        return call()
    except WhetError as error:
        assert str(error).strip()
        return None


@tries(100)
@given(TEXTS, st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.csv.gz"]), st.booleans())
def test_files_of_any_bytes(tmp_path: Path, content: bytes, name: str, packed: bool) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if packed and name.endswith("gz") else content)
    rows = harmless(lambda: read_rows(tmp_path / name))
    assert rows is None or all(isinstance(row, dict) for _, row in rows)


@tries(50)
@example(199, b"\x80")
@example(199, b"\0")
@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_parquet_with_changed_bytes(tmp_path: Path, at: int, new: bytes) -> None:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "n": [1, 2]}), buffer)
    content = buffer.getvalue()
    at = at % len(content)
    (tmp_path / "a.parquet").write_bytes(content[:at] + new + content[at + len(new) :])
    harmless(lambda: File(str(tmp_path / "a.parquet"))("train"))


@tries(50)
@given(st.lists(ROWS, min_size=1, max_size=3))
def test_rows_of_any_shape(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    for name in ("train.jsonl", "test.jsonl", "HumanEval.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    harmless(lambda: File(str(tmp_path / "train.jsonl"))("train"))
    harmless(lambda: File(str(tmp_path), columns={"prompt": "question"}, numbers_as_text=True)("train"))
    harmless(lambda: GSM8K(str(tmp_path))("test"))
    harmless(lambda: HumanEval(str(tmp_path / "HumanEval.jsonl"))("test"))


@tries(50)
@given(TEXTS, st.sampled_from(["wikitext", "markdown", "blank-line", "line", "file"]))
def test_texts_of_any_bytes(tmp_path: Path, content: bytes, documents: Any) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    harmless(lambda: Text(str(tmp_path / "a.txt"), documents)("train"))


@pytest.mark.parametrize(
    "form", [Chat(), Chat(train_on="each", system="x"), Plain(), Preference()], ids=["chat", "each", "plain", "preference"]
)
@tries(50)
@given(ROWS)
def test_formats_on_rows_of_any_shape(tiny_tokenizer: Any, form: Any, row: dict[str, Any]) -> None:
    examples = harmless(lambda: form(row, tiny_tokenizer))
    for made in examples or ():
        assert len(made.input_ids) == len(made.trained) and not made.trained[0]


KEYS = st.sampled_from(
    [
        "name",
        "model",
        "train",
        "data",
        "source",
        "objective",
        "steps",
        "seed",
        "quantize",
        "measure",
        "tasks",
        "edit",
        "export",
        "whet",
        "x",
    ]
)
DOCUMENTS = st.recursive(
    SCALARS | st.sampled_from(["sft", "dpo", "nanoworld", "base", "grpo"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@tries(100)
@given(st.dictionaries(KEYS, DOCUMENTS, max_size=5))
def test_recipes_of_any_shape(document: dict[str, Any]) -> None:
    harmless(lambda: read({"name": "x", **document}))


@tries(100)
@given(st.text(alphabet="abname:{}[]&*<>!|-'\"%@` \n\t#?,.0\ud800\0", max_size=40) | DOCUMENTS.map(yaml.safe_dump))
def test_recipe_files_of_any_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    harmless(lambda: read(tmp_path / "r.yaml"))


@tries(100)
@given(
    st.text(alphabet="train.0sft=lr&*[]{}:!-'\"\0 ", max_size=24)
    | st.tuples(
        st.sampled_from(["train.0.lr", "train.sft.objective.p", "seed", "data.0", "train", "x.y"]), st.text(max_size=10)
    ).map("=".join)
)
def test_overrides_of_any_text(override: str) -> None:
    document = {"name": "x", "data": [{"name": "d", "source": "nanoworld"}], "train": [{"name": "sft", "data": "d", "steps": 1}]}
    try:
        read(document, [override])
    except RecipeError as error:
        assert str(error).strip()


HEADERS = st.dictionaries(
    st.sampled_from(["a", "b", "__metadata__"]),
    VALUES
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "Q9", 3]),
            "shape": st.lists(st.integers(-2, 2**40), max_size=3) | VALUES,
            "data_offsets": st.lists(st.integers(-4, 2**40), min_size=1, max_size=3) | VALUES,
        }
    ),
    max_size=3,
)


@tries(100)
@given(HEADERS.map(lambda h: json.dumps(h).encode()) | TEXTS, st.integers(-20, 20), st.binary(max_size=16))
def test_safetensors_of_any_header(tmp_path: Path, header: bytes, wrong: int, data: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(max(0, len(header) + wrong * (wrong % 3 == 0)).to_bytes(8, "little") + header + data)
    (tmp_path / "config.json").write_text("{}")
    for call in (lambda: read_header(file), lambda: check_weights(tmp_path), lambda: Checkpoint(tmp_path)):
        try:
            call()
        except ModelError as error:
            assert "model.safetensors" in str(error)


@tries(100)
@given(TEXTS | VALUES.map(lambda value: json.dumps(value).encode()))
def test_lineage_and_index_of_any_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "whet.json").write_bytes(content)
    found = harmless(lambda: read_lineage(tmp_path))
    assert found is None or isinstance(found, dict)
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    harmless(lambda: check_weights(tmp_path))
