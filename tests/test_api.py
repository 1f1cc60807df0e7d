"""The public functions, used as a reader of the README would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import whet
from whet.errors import RecipeError
from whet.model import Model

PAIR = {"prompt": "What is 3 plus 4?", "completion": "The answer is 7."}


def test_the_public_surface_is_frozen() -> None:
    known = ["check", "compare", "edit", "export", "forecast", "load", "measure", "quantize", "race", "recover", "run", "train"]
    assert whet.__all__ == known


def test_functions_keep_their_names_when_the_rooms_of_the_same_name_are_imported() -> None:
    import whet.measure.compare
    import whet.quantize.pipeline
    import whet.train.loop

    for name in whet.__all__:
        assert callable(getattr(whet, name)) and not isinstance(getattr(whet, name), ModuleType)


def test_importing_is_cheap() -> None:
    code = "import sys; b = set(sys.modules); import whet; print(sorted({m.partition('.')[0] for m in set(sys.modules) - b} - set(sys.stdlib_module_names)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['whet']"


def test_train_quantize_measure_export_in_memory(tiny_model: Model, tmp_path: Path) -> None:
    rows = [PAIR, {"prompt": "abc", "completion": "xyz"}] * 8
    before = tiny_model.network.state_dict()["model.norm.weight"].clone()
    tuned = whet.train(tiny_model, rows, objective="masked-thought", adapter="lora", budget="2 steps", name="tuned")
    assert tuned.lineage["parents"][0]["name"] == "tiny"
    assert bool((tiny_model.network.state_dict()["model.norm.weight"] == before).all())
    small = whet.quantize(tuned, rows, bits=4, group_size=32, transform="hadamard")
    assert small.quantized and small.name == "tuned-w4"
    table = whet.measure([tiny_model, tuned, small], {"name": "replies", "data": {"name": "nanoworld", "rows": 4}})
    assert {r.model for r in table.results} == {"tiny", "tuned", "tuned-w4"}
    receipt = whet.export(small, tmp_path / "packed", to="packed")
    assert receipt and whet.load(tmp_path / "packed").quantized


def test_an_export_does_not_mix_with_the_weights_of_another(tiny_model: Model, tmp_path: Path) -> None:
    whet.export(tiny_model, tmp_path / "out", to="transformers")
    with pytest.raises(RecipeError, match=r"out: this folder holds weights already \(model\.safetensors\)"):
        whet.export(tiny_model, tmp_path / "out", to="transformers")


def test_a_budget_that_is_no_budget_is_refused(tiny_model: Model) -> None:
    for wrong in ("0 tokens", "-5 steps", "lots", "2M apples"):
        with pytest.raises(RecipeError, match="budget: expected a positive number of tokens, steps"):
            whet.train(tiny_model, [PAIR], budget=wrong)
    with pytest.raises(RecipeError, match=r"train\.learning_rate: unknown field of a train step"):
        whet.train(tiny_model, [PAIR], budget="1 steps", learning_rate=1.0)
