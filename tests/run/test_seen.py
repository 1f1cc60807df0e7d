"""Measuring rows that were trained on is said before the run, in the receipt and on the page; exports are found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import whet
from tiny import llama, text
from whet.errors import RecipeError
from whet.run.report import write_report
from whet.run.runner import run_recipe

WORLD = {"name": "nanoworld", "rows": 20}


def _recipe(file: Path, held_out: float | None) -> dict[str, Any]:
    source = {"name": "file", "path": str(file), **({"test": held_out} if held_out else {})}
    return {
        "name": "tiny",
        "model": llama(layers=1, intermediate_size=32),
        "tokenizer_data": "text",
        "data": [text(rows=20), {"name": "own", "source": source}],
        "train": [{"name": "sft", "data": "own", "steps": 1, "batch_size": 2}],
        "measure": [{"name": "scores", "tasks": [{"name": "replies", "data": {**source, "test": 0.3}}]}],
        "export": [{"name": "out", "model": "sft", "to": "transformers"}],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i} + 1?", "completion": str(i + 1)}) + "\n" for i in range(20)))
    return path


def test_rows_that_are_trained_on_and_measured_are_named(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_recipe(_recipe(file, None), out=tmp_path / "out")
    said = result.run.steps[-2].receipt["not_held_out"]["replies"]
    assert said.startswith("measured on rows that were trained on: ") and said.endswith(" are also in 'own'")
    counted = said.split(": ")[1].split(" are")[0].split(" of ")
    assert counted[0] == counted[1]
    printed = capsys.readouterr().out
    assert printed.index("note: scores: replies: measured on rows") < printed.index("[train] sft")
    page = write_report(result.run, result.folders, tmp_path / "page").read_text()
    assert "measured on rows that were trained on" in page and "held-out examples" not in page
    assert result.exports() == {"out": tmp_path / "out" / "out" / "model"}
    assert f"out: {tmp_path / 'out' / 'out' / 'model'}" in result.closing()


def test_the_same_share_held_out_on_both_sides_is_clean(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_recipe(_recipe(file, 0.3))
    assert "not_held_out" not in result.run.steps[-2].receipt and "note:" not in capsys.readouterr().out
    made = result.exports()["out"]
    assert made == result.folders["out"] / "model" and (made / "config.json").is_file()


@pytest.mark.parametrize(
    "begin", [whet.run, whet.compare, whet.race, lambda _, out: whet.recover("nano", "nano", WORLD, out=out)]
)
def test_a_folder_that_nothing_can_be_written_to_is_refused_before_anything_is_read(begin: Any, file: Path) -> None:
    with pytest.raises(RecipeError, match=r"--out .*chats.jsonl/out: nothing can be written there: .*Not a directory"):
        begin(_recipe(file, 0.3), out=file / "out")


def test_an_export_of_another_format_replaces_the_one_before(file: Path, tmp_path: Path) -> None:
    recipe = _recipe(file, 0.3)
    for step in ({"model": "sft", "to": "transformers"}, {"model": "w4", "to": "packed"}):
        quantized = [{"name": "w4", "model": "sft", "bits": 4, "group_size": 16, "compensate": "none"}]
        made = run_recipe(
            {**recipe, "quantize": quantized, "export": [{"name": "out", **step}]}, out=tmp_path / "out", quiet=True
        )
    assert sorted(p.name for p in made.exports()["out"].glob("*.safetensors")) == ["packed.safetensors"]
