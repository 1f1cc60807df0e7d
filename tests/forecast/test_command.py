"""Forecasts from a comparison in the ledger, a watched run and a CSV file, by the command and from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import whet
from whet.cli import main
from whet.errors import DataError, RecipeError, StoreError
from whet.run.compare.carry import compare_recipe
from whet.run.observing import from_comparison, from_run
from whet.run.runner import run_recipe

EASY = {"name": "nanoworld", "skills": ["variables"], "difficulty": [1, 1]}
LLAMA = {
    "name": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "intermediate_size": 32,
    "vocab_size": 300, "context": 256,
}  # fmt: skip
REPLIES = {"name": "replies", "data": {**EASY, "rows": 8, "seed": 3}}
RECIPE: dict[str, Any] = {
    "name": "sizes",
    "model": LLAMA,
    "tokenizer_data": "text",
    "data": [
        {"name": "text", "source": {**EASY, "rows": 40, "form": "plain"}},
        {"name": "pool", "source": {**EASY, "rows": 64, "form": "preference"}},
        {"name": "chosen", "data": "pool", "select": {"name": "random", "rows": 4}},
        {"name": "pairs", "data": "pool", "select": {"name": "random", "rows": 4, "skip": 4}},
    ],
    "train": [
        {"name": "start", "data": "text", "format": "plain", "steps": 1, "batch_size": 4},
        {"name": "sft", "data": "chosen", "steps": 4, "batch_size": 4, "lr": 1e-2, "validate": REPLIES, "validations": 4},
        {"name": "dpo", "data": "pairs", "objective": "dpo", "steps": 1, "batch_size": 4},
    ],
    "measure": [{"name": "scores", "tasks": [REPLIES]}],
}
VARIANTS = {f"{n} rows": {"data.chosen.select.rows": n, "train.sft.steps": n} for n in (4, 8, 16, 32)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a comparison over sizes, and one with preference pairs."""
    folder = tmp_path_factory.mktemp("home")
    pairs = {"half": {"data.pairs.select.skip": 4}, "none": {"data.chosen.select.rows": 8}}
    apart = {"four": {}, "eight others": {"data.chosen.select": {"name": "random", "rows": 8, "skip": 8}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHET_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, variants, stage in (("sizes", VARIANTS, "sft"), ("split", pairs, {"none": "sft"}), ("apart", apart, "sft")):
            seeds = 2 if name == "sizes" else 1
            compare_recipe({**RECIPE, "name": name}, say=lambda _: None, variants=variants, seeds=seeds, stage=stage)
        yield folder


@pytest.fixture(autouse=True)
def there(home: Path, own_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_HOME", str(home))


def test_variants_become_sizes_and_scores() -> None:
    found = from_comparison("sizes")
    assert sorted({row.size for row in found.rows}) == [4, 8, 16, 32] and {row.seed for row in found.rows} == {0, 1}
    assert (found.metric, found.lower) == ("perplexity", True)
    assert any("each smaller set of rows lies in the next larger one (checked by content)" in note for note in found.notes)
    assert from_comparison("sizes", x="data.chosen.select.rows").rows == found.rows
    assert from_comparison("sizes", metric="perplexity").rows == found.rows
    tokens = from_comparison("sizes", x="tokens")
    assert len({row.size for row in tokens.rows}) == 4 and not any("each smaller" in note for note in tokens.notes)


def test_the_share_of_pairs_is_read_from_what_was_trained_on() -> None:
    rows = from_comparison("split", group="preference").rows
    assert {(row.group, row.size) for row in rows} == {("0.5", 8), ("0", 8)}


def test_sets_that_are_not_nested_are_refused() -> None:
    with pytest.raises(DataError, match=r"the rows of 'four' do not all lie in those of 'eight others' \(seed 0\)"):
        from_comparison("apart")


def test_the_command_forecasts_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "posttrain-power-law", "--comparison", "sizes", "--at", "64,1000"]) == 0
    text = capsys.readouterr().out
    assert "posttrain-power-law: perplexity" in text and "E(n) = " in text and "at 64 (2 times as far): " in text
    assert "at 1000 (31.2 times as far)" in text and "NOT TO BE RELIED ON: extrapolates 31.2 times" in text
    assert main(["forecast", "posttrain-power-law", "--comparison", "sizes", "--at", "64", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    (one,) = data["extrapolations"]
    assert one["predictions"][0]["low"] <= one["predictions"][0]["value"] <= one["predictions"][0]["high"]
    again = whet.forecast("posttrain-power-law", comparison="sizes", at=64)
    assert again.predictions[0].value == one["predictions"][0]["value"]


def test_a_watched_run_is_a_curve(capsys: pytest.CaptureFixture[str]) -> None:
    made = run_recipe({**RECIPE, "name": "watched", "train": RECIPE["train"][:2]}, quiet=True)
    found = from_run(f"{made.run.id}:sft")
    assert [row.size for row in found.rows] == [4, 8, 12, 16] and found.metric == "perplexity"
    assert any("learning rate followed 'cosine'" in note for note in found.notes)
    with pytest.raises(StoreError, match="has no start step that was watched"):
        from_run(f"{made.run.id}:start")
    with pytest.raises(RecipeError, match="unknown figure 'perplexty': did you mean 'perplexity'"):
        from_run(made.run.id, metric="perplexty")


def test_a_file_decides_whether_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "curve.csv"
    file.write_text("size,score\n" + "\n".join(f"{n},{0.97 - 2 * n**-0.6}" for n in range(40, 441, 20)))
    assert main(["forecast", "{name: curve-stop, within: 0.06}", str(file)]) == 0
    assert "stop: at most 0.0519 can still be gained" in capsys.readouterr().out
    assert main(["forecast", "{name: curve-stop, within: 0.04}", str(file)]) == 1
    assert main(["forecast", "learning-curve-trace", str(file), "--at", "1280"]) == 0
    assert "at 1280 (2.91 times as far): 0.9427" in capsys.readouterr().out


def test_a_budget_is_divided_without_observations_and_after_a_probe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "budget-split", "--at", "400"]) == 0
    assert "budget 400: share 0: 400 demonstrations and 0 preference pairs (cost 400 + 0)" in capsys.readouterr().out
    probe = ["--model", "nano", "--data", "{name: chain-mod10, rows: 4, form: preference}"]
    assert main(["forecast", "budget-split", "--at", "400", *probe]) == 0
    assert "cold start: demonstrations first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("law", "asked", "message"),
    [
        ("posttrain-power-law", {}, "is fitted to one of: a CSV file .* got none"),
        ("posttrain-power-law", {"comparison": "sizes", "run": "last"}, "got comparison and run"),
        ("posttrain-power-law", {"run": "last", "group": "seed"}, "group: 'seed' would not be read with run"),
        ("posttrain-power-law", {"comparison": "sizes", "x": "data.chosen.share"}, "variant '4 rows' has nothing at 'share'"),
        (
            "posttrain-power-law",
            {"comparison": "sizes", "x": "data.chosen.data"},
            "data.chosen.data is 'pool' .* a size is a number",
        ),
        ("posttrain-power-law", {"comparison": "sizes", "task": "answers"}, "unknown task 'answers'"),
        ("posttrain-power-law", {"comparison": "sizes", "metric": "accuracy"}, "unknown metric 'accuracy'"),
        ("posttrain-power-law", {"comparison": "sizes", "model": "nano", "data": "nanoworld"}, "needs no model"),
        ("budget-split", {"model": "nano"}, "needs both: a model, and data"),
        ("posttrain-power-law", {"comparision": "sizes"}, "unknown field 'comparision': did you mean 'comparison'"),
        ("power-law", {"comparison": "sizes"}, "unknown forecast 'power-law': did you mean 'posttrain-power-law'"),
    ],
)
def test_what_cannot_be_asked(law: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        whet.forecast(law, at=64, **asked)
