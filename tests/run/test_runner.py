"""A recipe runs end to end, reuses what is finished, goes on where it stopped, and can be shown and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny import llama, text
from whet.errors import RecipeError, WhetError
from whet.model import LINEAGE_FILE
from whet.quantize.packed import INDEX
from whet.recipe import read
from whet.recipe_text import apply_override
from whet.run import steps
from whet.run.diff import diff_runs
from whet.run.ledger import Ledger
from whet.run.runner import RunResult, run_recipe
from whet.run.show import find_model_folder, show_all, show_run
from whet.run.store import Store

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": llama(layers=2, intermediate_size=64),
    "tokenizer_data": "text",
    "data": [
        text(rows=40),
        {"name": "chats", "source": {"name": "nanoworld", "rows": 24, "skills": ["variables"], "difficulty": [1, 1]}},
    ],
    "train": [
        {"name": "first", "data": "text", "format": "plain", "steps": 2, "batch_size": 8},
        {"name": "second", "data": "chats", "steps": 2, "batch_size": 8, "adapter": "lora"},
    ],
    "edit": [{"name": "mix", "models": ["first", "second"], "method": "soup"}],
    "quantize": [{"name": "w4", "model": "second", "data": "chats", "bits": 4, "group_size": 32}],
    "measure": [
        {
            "name": "scores",
            "models": ["first", "second", "w4"],
            "tasks": [
                {"name": "replies", "data": {"name": "nanoworld", "rows": 8, "skills": ["variables"], "difficulty": [1, 1]}}
            ],
        }
    ],
    "export": [{"name": "out", "model": "mix", "to": "transformers"}],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "home"))
    return tmp_path


def _statuses(result: RunResult) -> dict[str, str]:
    return {step.name: step.status for step in result.run.steps}


def test_a_quantized_stage_is_not_merged_nor_loaded_to_find_that_out(tmp_path: Path) -> None:
    recipe, packed = read(RECIPE), tmp_path / "second" / "model"
    packed.mkdir(parents=True)
    (packed / INDEX).write_text("{}")
    inputs = steps.Inputs(recipe, {name: tmp_path / name for name in ("first", "second")})
    with pytest.raises(RecipeError, match=r"edit step 'mix': stage 'second' is quantized; merge the unquantized stages"):
        steps.carry_out("edit", recipe.step("mix"), inputs, tmp_path, tmp_path)


def test_the_whole_path_runs_and_every_part_of_it_is_reused(home: Path) -> None:
    first = run_recipe(RECIPE, quiet=True, out=home / "out")
    assert set(_statuses(first).values()) == {"done"}
    again = run_recipe(RECIPE, quiet=True)
    assert set(_statuses(again).values()) == {"reused"}

    network = AutoModelForCausalLM.from_pretrained(home / "out" / "out" / "model")
    tokenizer = AutoTokenizer.from_pretrained(home / "out" / "out" / "model")
    assert network.config.hidden_size == 32 and tokenizer.chat_template

    from peft import PeftModel

    adapter = first.folders["second"] / "adapter"
    start = AutoModelForCausalLM.from_pretrained(first.folders["first"] / "model")
    tuned = AutoModelForCausalLM.from_pretrained(first.folders["second"] / "model")
    merged = PeftModel.from_pretrained(start, str(adapter)).merge_and_unload()
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(merged.state_dict()[name], tuned.state_dict()[name], atol=1e-6)

    page = (home / "out" / "report.html").read_text()
    assert len(page) < 1_500_000 and "http" not in page.replace("http://www.w3.org", "")
    for name in ("first", "second", "w4", "perplexity"):
        assert name in page

    lineage = json.loads((find_model_folder(f"{first.run.id}:second") / "model" / LINEAGE_FILE).read_text())
    assert lineage["parents"][0]["name"] == "first"

    data, text = show_run("tiny")
    assert [s["status"] for s in data["steps"]] == ["reused"] * 9
    assert "inputs, settings, code and seed are those of a finished step" in text
    assert len(show_all()[0]) == 2
    assert diff_runs(first.run.id, again.run.id)[0] == []


def test_a_changed_setting_runs_only_what_depends_on_it_and_diff_names_it(home: Path) -> None:
    first = run_recipe(RECIPE, quiet=True)
    changed = run_recipe(apply_override(RECIPE, "train.second.lr=5e-4"), quiet=True)
    assert _statuses(changed) == {**dict.fromkeys(("text", "base", "chats", "first"), "reused")} | dict.fromkeys(
        ("second", "mix", "w4", "scores", "out"), "done"
    )
    why = {step.name: step.why for step in changed.run.steps}
    assert "setting lr" in why["second"]
    assert "input models.1" in why["mix"]
    rows, _ = diff_runs(first.run.id, changed.run.id)
    assert {"where": "step.second.settings.lr", "first": 0.001, "second": 0.0005} in rows


def test_a_failed_step_keeps_the_finished_ones(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise WhetError("the quantizer broke")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "quantize_model", broken)
        with pytest.raises(WhetError, match="the quantizer broke"):
            run_recipe(RECIPE, quiet=True)
    run = Ledger.beside(Store.open().scratch).run("last")
    assert run.status == "failed"
    assert {s.name: s.status for s in run.steps}["w4"] == "failed"
    finished = run_recipe(RECIPE, quiet=True)
    assert _statuses(finished)["second"] == "reused" and _statuses(finished)["w4"] == "done"


def test_a_stopped_run_goes_on_from_its_checkpoint_to_the_same_bits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whet.train import loop

    recipe = {k: RECIPE[k] for k in ("name", "model", "tokenizer_data", "data")}
    recipe["train"] = [{"name": "first", "data": "text", "format": "plain", "steps": 6, "batch_size": 8, "checkpoint_every": 2}]
    real, calls = loop.train_step, []

    def stops(training: Any) -> Any:
        calls.append(training.step)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(training)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stops)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, quiet=True)
    assert Ledger.beside(Store.open().scratch).run("last").status == "stopped"
    resumed = run_recipe(recipe, quiet=True)
    assert next(s for s in resumed.run.steps if s.name == "first").receipt["resumed_at"] == 4

    monkeypatch.setenv("WHET_HOME", str(home / "other"))
    undisturbed = run_recipe(recipe, quiet=True)
    weights = [(r.folders["first"] / "model" / "model.safetensors").read_bytes() for r in (resumed, undisturbed)]
    assert weights[0] == weights[1]


def test_a_changed_data_file_is_seen(home: Path) -> None:
    file = home / "rows.jsonl"
    recipe = {k: RECIPE[k] for k in ("name", "model", "tokenizer_data")}
    recipe["data"] = [{"name": "text", "source": {"name": "file", "path": str(file)}}]
    file.write_text('{"text": "abc"}\n')
    run_recipe(recipe, quiet=True)
    assert _statuses(run_recipe(recipe, quiet=True))["text"] == "reused"
    file.write_text('{"text": "abd"}\n')
    assert _statuses(run_recipe(recipe, quiet=True))["text"] == "done"


def test_bad_rows_stop_before_training_and_name_the_line(home: Path) -> None:
    file = home / "rows.jsonl"
    file.write_text('{"text": "abc"}\n{"text": \n')
    recipe = {k: RECIPE[k] for k in ("name", "model", "tokenizer_data")} | {
        "data": [{"name": "text", "source": {"name": "file", "path": str(file)}}]
    }
    with pytest.raises(WhetError, match=r"rows\.jsonl:2: not JSON"):
        run_recipe(recipe, quiet=True)


def test_a_model_from_scratch_needs_text_for_its_tokenizer(home: Path) -> None:
    with pytest.raises(RecipeError, match="tokenizer_data"):
        run_recipe({"name": "x", "model": RECIPE["model"]}, quiet=True)
