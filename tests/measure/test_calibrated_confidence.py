"""The task that calibrates another one's confidences: on a language model, by hand, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset

import whet
from whet import parts
from whet.errors import DataError, RecipeError
from whet.measure.calibrated import calibrated, predictions_of
from whet.measure.compare import compare
from whet.measure.outcome import Outcome, TaskResult
from whet.measure.results import ResultTable, read_result, write_result
from whet.measure.tasks.calibrated_confidence import CalibratedConfidence
from whet.measure.tasks.choices import Choices
from whet.measure.thinned import thinned
from whet.model import Model
from whet.recipe import read
from whet.run.preflight import preflight

WORDS = ("apple", "pear", "plum", "fig", "date", "lime")


class Source:
    """Questions about fruit, other ones in each split; ``words`` puts them otherwise."""

    def __init__(self, rows: int = 60, words: str = "Which fruit is number {} of {}?") -> None:
        self.rows, self.words = rows, words

    def __call__(self, split: str) -> Dataset:
        start = {"train": 0, "validation": 1000, "test": 2000}[split]

        def row(i: int) -> dict[str, object]:
            choices = [WORDS[(i + k) % 6] for k in range(3 + i % 2)]
            return {"id": str(start + i), "prompt": self.words.format(i, start), "choices": choices, "gold": i % 3}

        return Dataset.from_list([row(i) for i in range(self.rows)])


def fruit(**settings: object) -> Choices:
    return Choices(data=Source(), **settings)  # type: ignore[arg-type]


def few_errors(name: str) -> dict[str, object]:
    return {"name": name, "least_errors": 5}


def test_a_language_model_is_calibrated_on_one_split_and_judged_on_another(tiny_model: Model, tmp_path: Path) -> None:
    task = CalibratedConfidence(
        task=fruit(),
        calibrator=few_errors("transform-calibrator"),
        views=({"prefix": " It is"}, {"delimiter": ": "}),
        dropout=(0.2,),
    )
    result = task(tiny_model)
    plain = fruit()(tiny_model)
    about = result.receipt["calibration"]
    assert (result.metric, about["views"], about["items"]) == ("brier", 3, 60)
    for before, after in zip(plain.outcomes, result.outcomes):
        assert after.answer == before.answer and after.scores["first"] == before.scores["first"]
        assert after.scores["confidence_before"] == pytest.approx(before.scores["confidence"])
        assert after.score == pytest.approx((after.scores["confidence"] - after.scores["first"]) ** 2)
    assert result.estimates["accuracy"] == plain.estimates["accuracy"]
    assert result.estimates["brier[confidence=before]"].value == pytest.approx(plain.estimates["brier"].value)
    assert result.estimates["calibration_error[confidence=before]"].value == pytest.approx(
        plain.estimates["calibration_error"].value
    )
    assert {"auroc", "auroc[confidence=before]", "calibration_error[confidence=25 bins]"} <= result.estimates.keys()
    gain = result.estimates["brier"].value - result.estimates["brier[confidence=before]"].value
    assert gain < -0.02 and about["tests"]["brier"]["effect"] == pytest.approx(gain) and about["tests"]["brier"]["p"] < 0.05
    assert "brier" in about["says"][0] and "before, 25 bins" in str(ResultTable([result]))
    assert result.receipt["prompt_tokens"] > 7 * plain.receipt["prompt_tokens"]
    stored = read_result(write_result(result, tmp_path / "r.jsonl"))
    assert stored == replace(result, receipt=stored.receipt)
    assert compare(stored, result).verdict in ("equivalent", "no difference found")


def test_fitted_parameters_give_the_same_confidences_again(tiny_model: Model) -> None:
    result = CalibratedConfidence(task=fruit())(tiny_model)
    fitted = parts.build("calibrator", "temperature-scaling").fitted(result.receipt["calibration"]["parameters"])
    again = fitted(predictions_of(fruit()(tiny_model)))
    assert again.tolist() == pytest.approx([o.scores["confidence"] for o in result.outcomes])


def test_dropout_is_one_fixed_network_and_leaves_the_model_alone(tiny_model: Model) -> None:
    task, ids = fruit(limit=12), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = tiny_model.network(ids).logits
        with thinned(tiny_model, 0.3, 1) as thin:
            inside = tiny_model.network(ids).logits
            first, second = task(thin), replace(task, batch_tokens=64)(thin)
            assert thin.lineage["weights"] != tiny_model.lineage.get("weights")
        assert not torch.allclose(inside, before) and torch.equal(tiny_model.network(ids).logits, before)
        with thinned(tiny_model, 0.3, 2):
            assert not torch.allclose(tiny_model.network(ids).logits, inside)
    for a, b in zip(first.outcomes, second.outcomes):
        assert a.scores["logp_0"] == pytest.approx(b.scores["logp_0"], abs=1e-4)


def test_paraphrases_are_views_if_they_ask_for_the_same(tiny_model: Model) -> None:
    small = CalibratedConfidence(task=fruit(), calibrator=few_errors("transform-calibrator"))
    good = replace(small, views=({"data": Source(words="Of {1}, which fruit has number {0}?")},))
    assert good(tiny_model).receipt["calibration"]["views"] == 1

    class Other(Source):
        def __call__(self, split: str) -> Dataset:
            return super().__call__(split).map(lambda row: {"gold": (row["gold"] + 1) % 3})

    with pytest.raises(DataError, match=r"views\.0: item '1000' has another right answer"):
        replace(small, views=({"data": Other()},))(tiny_model)


def written(split: str, stated: Sequence[float], right: Sequence[bool], answers: Sequence[str] | None = None) -> TaskResult:
    outcomes = [
        Outcome(f"{i}", float(r), f"{split} {i}", scores={"confidence": c, "first": float(r)}, answer=(answers or "a" * 999)[i])
        for i, (c, r) in enumerate(zip(stated, right))
    ]
    return TaskResult("answers", "m", "accuracy", outcomes, {"dtype": "float32", "data": split}, {})


def test_written_answers_get_a_power_of_their_confidence() -> None:
    stated, right = [0.9, 0.8] * 100, [i % 3 == 0 for i in range(200)]
    result = calibrated(written("fit", stated, right), written("test", stated, right), "temperature-scaling")
    temperature = result.receipt["calibration"]["temperatures"]["50%"]
    assert temperature < 0.3
    assert [o.scores["confidence"] for o in result.outcomes[:2]] == pytest.approx(
        [0.9 ** (1 / temperature), 0.8 ** (1 / temperature)]
    )
    assert result.estimates["brier"].value < 0.25 < result.estimates["brier[confidence=before]"].value
    assert result.receipt["baselines"]["always the calibration set's accuracy"] == pytest.approx(0.335 * 0.665)


def test_a_view_with_another_answer_counts_as_no_support() -> None:
    one = written("fit", [0.9, 0.8], [True, False], ["x", "y"])
    view = written("fit", [0.7, 0.6], [True, False], ["x", "z"])
    assert predictions_of(one, [view]).views.exp().flatten().tolist() == pytest.approx([0.7, 0.0], abs=1e-12)
    assert predictions_of(one).labels.tolist() == [0, 1]


def test_what_cannot_be_calibrated_is_refused() -> None:
    stated, right = [0.5 + i / 500 for i in range(200)], [i % 2 == 0 for i in range(200)]
    fit, test = written("fit", stated, right), written("test", stated, right)
    with pytest.raises(DataError, match="200 of the 200 test prompts are in the calibration set too, first 'fit 0'"):
        calibrated(fit, fit, "temperature-scaling")
    with pytest.raises(RecipeError, match="answers of other; measure both"):
        calibrated(fit, replace(test, model="other"), "temperature-scaling")
    with pytest.raises(RecipeError, match=r"dtype: 'float32' against 'bfloat16'"):
        calibrated(fit, replace(test, conditions={**test.conditions, "dtype": "bfloat16"}), "temperature-scaling")
    with pytest.raises(RecipeError, match="the calibration set has 1 views and the test set 0"):
        calibrated(fit, test, "temperature-scaling", fit_views=[fit])
    with pytest.raises(RecipeError, match=r"answers, view 1: calibration set.*'float32' against 'int8'"):
        other = replace(test, conditions={**test.conditions, "dtype": "int8"})
        calibrated(fit, test, "temperature-scaling", fit_views=[fit], test_views=[other])
    with pytest.raises(DataError, match="no score 'confidence'"):
        predictions_of(replace(fit, outcomes=[Outcome("0", 1.0)]))
    all_right = calibrated(fit, written("test", stated, [True] * 200), "temperature-scaling")
    assert "auroc" not in all_right.estimates and list(all_right.receipt["calibration"]["tests"]) == ["brier"]


def test_rows_that_the_model_was_trained_on_are_refused(tiny_model: Model) -> None:
    rows = [{"prompt": f"What is {i} plus 4?", "completion": f"The answer is {i + 4}.", "answer": str(i + 4)} for i in range(8)]

    class Same(Source):
        def __call__(self, split: str) -> Dataset:
            return Dataset.from_list(rows) if split == "train" else super().__call__(split)

    tuned = whet.train(tiny_model, rows, steps=1, name="tuned")
    child = tuned.with_lineage({"section": "edit"}, "child")
    task = Choices(data=Same())
    for model in (tuned, child):
        with pytest.raises(DataError, match=f"fit_split: 'train' holds the rows that '{model.name}' was trained on"):
            CalibratedConfidence(task=task, fit_split="train")(model)
    CalibratedConfidence(task=task)(tuned)


def test_settings_are_checked_when_the_recipe_is_read() -> None:
    base = {"name": "nanoworld-choices", "limit": 20}

    def build(**settings: object) -> CalibratedConfidence:
        built = parts.build("task", {"name": "calibrated-confidence", "task": base, **settings}, "tasks.0")
        assert isinstance(built, CalibratedConfidence)
        return built

    built = build(views=[{"form": "plain"}, {"prefix": "so:"}], dropout=[0.1])
    assert [view.form for view in built.views] == ["plain", "chat"] and built.views[1].limit == 20
    assert len(built.tasks) == 6 and {t.split for t in built.tasks[:3]} == {"validation"} and built.tasks[0].limit is None
    assert parts.effective(built)["views"][1]["prefix"] == "so:"
    with pytest.raises(
        RecipeError, match=r"tasks\.0: views\.0\.forn: unknown field of task 'choices' 'forn': did you mean 'form'"
    ):
        build(views=[{"forn": "plain"}])
    with pytest.raises(RecipeError, match=r"views\.0: expected a mapping"):
        build(views=["plain"])
    with pytest.raises(RecipeError, match="fit_split: 'test' is the split that is judged"):
        build(fit_split="test")
    with pytest.raises(RecipeError, match=r"dropout\.0"):
        build(dropout=[1.0])
    with pytest.raises(RecipeError, match="unknown calibrator 'temperature': did you mean 'temperature-scaling'"):
        build(calibrator="temperature")
    with pytest.raises(RecipeError, match="has no data, split and limit"):
        parts.build("task", {"name": "calibrated-confidence", "task": built})


def test_a_mistake_in_the_rows_of_either_split_is_found_before_anything_runs(tiny_model: Model, tmp_path: Path) -> None:
    good = [json.dumps({"prompt": f"{i}?", "choices": ["a", "b"], "gold": 0}) for i in range(4)]
    for split, bad in (("train", []), ("validation", ['{"prompt": null, "choices": ["a", "b"], "gold": 0}']), ("test", [])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join([*good, *bad]))
    task = {"name": "calibrated-confidence", "task": {"name": "choices", "data": {"name": "file", "path": str(tmp_path)}}}
    recipe = read({"whet": 1, "name": "r", "model": "nano", "measure": [{"name": "m", "tasks": [task]}]})
    with pytest.raises((RecipeError, DataError), match="calibrated-confidence: row 4"):
        preflight(recipe, tiny_model, lambda name: None)


def test_log_zero_is_read_as_no_confidence() -> None:
    found = predictions_of(written("fit", [0.0, 1.0], [False, True]))
    assert found.logits.flatten().tolist() == pytest.approx([-50.0, 0.0], abs=1e-6) and math.isfinite(float(found.logits.sum()))
