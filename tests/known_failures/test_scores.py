"""Known failures of other tools: scores that depend on what nobody wrote down, seeds without spread, merges without a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

import whet
from whet.errors import ModelError, RecipeError
from whet.generate.verify import EXTRACTOR, final_answer
from whet.measure.compare import compare
from whet.measure.invariants import check_all, likelihood_ignores_batch
from whet.measure.tasks.answers import Answers
from whet.measure.tasks.choices import Choices
from whet.model import Model, load_model


def source(split: str) -> Dataset:
    shift = 100 if split == "train" else 0
    rows = [
        {"prompt": f"{shift + i} + 1?", "completion": f"answer: {shift + i + 1}", "answer": str(shift + i + 1)} for i in range(6)
    ]
    return Dataset.from_list(rows)


def answers(**settings: Any) -> Answers:
    return Answers(**{"data": source, "max_new_tokens": 4, **settings})


def test_a_score_carries_the_conditions_it_was_taken_under(tiny_model: Model) -> None:
    """EleutherAI/lm-evaluation-harness#2851 (with #1262): scores differ and nothing says what was different."""
    found = answers()(tiny_model).conditions
    assert {"prompts", "template", "data", "dtype", "versions", "few_shot", "sampling", "extractor", "form"} <= set(found)
    assert found["extractor"]["rule"] == EXTRACTOR and found["few_shot"]["rows"] == 0
    assert found["sampling"]["temperature"] == 0 and found["dtype"] == "float32"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"few_shot": 2}, "few_shot.rows: 0 against 2"),
        ({"max_new_tokens": 5}, "sampling.max_new_tokens: 4 against 5"),
        ({"temperature": 0.5}, "sampling.temperature: 0.0 against 0.5"),
        ({"form": "plain"}, "form: 'chat' against 'plain'"),
        ({"reward": {"name": "pattern", "pattern": "1"}}, "extractor.reward"),
    ],
    ids=["few-shot", "length", "temperature", "template", "extraction"],
)
def test_scores_under_other_conditions_are_not_compared(settings: Any, named: str, tiny_model: Model) -> None:
    """evalplus/evalplus#81 (with EleutherAI/lm-evaluation-harness#1625): 17.1 or 49.4 by how the answer is read."""
    first, second = answers()(tiny_model), answers(**settings)(tiny_model)
    with pytest.raises(RecipeError, match="the two scores were not taken under the same conditions") as error:
        compare(first, second)
    assert named in str(error.value) and "to compare all the same" in str(error.value)


def test_scores_in_other_number_formats_are_not_compared(tiny_model: Model) -> None:
    """EleutherAI/lm-evaluation-harness#3150: the same model in another dtype gives another score."""
    first = answers()(tiny_model)
    tiny_model.network.bfloat16()
    with pytest.raises(RecipeError, match="dtype: 'float32' against 'bfloat16'"):
        compare(first, answers()(tiny_model))


def test_a_likelihood_does_not_depend_on_padding_batch_or_neighbours(tiny_model: Model) -> None:
    """EleutherAI/lm-evaluation-harness#2851: the score changes with the batch size."""
    prompts = [list(range(5, 5 + n)) for n in (3, 17, 8, 30)]
    continuations = [list(range(50, 50 + n)) for n in (9, 2, 5, 1)]
    assert likelihood_ignores_batch(tiny_model, list(zip(prompts, continuations))).deviation < 1e-4
    assert all(invariant.holds for invariant in check_all(tiny_model, prompts, continuations))


def test_a_task_gives_the_same_scores_whatever_the_batch(tiny_model: Model) -> None:
    """EleutherAI/lm-evaluation-harness#3150: accuracy by batch size."""
    rows = [{"prompt": f"{i} + 1?" * (1 + i % 3), "choices": ["a", "bb " * 4, "c c"], "gold": i % 3} for i in range(6)]
    small, large = (Choices(data=lambda s: Dataset.from_list(rows), batch_tokens=n)(tiny_model) for n in (1, 10_000))
    assert [o.answer for o in small.outcomes] == [o.answer for o in large.outcomes]
    assert small.conditions == large.conditions
    one, many = answers(batch_tokens=12)(tiny_model), answers()(tiny_model)
    assert [o.completion for o in one.outcomes] == [o.completion for o in many.outcomes]
    assert compare(one, many).test.effect == 0


def test_an_answer_that_is_not_marked_is_counted_not_guessed(tiny_model: Model) -> None:
    """evalplus/evalplus#81: what cannot be read counts as wrong, and nobody sees how often that was so."""
    assert final_answer("I think of 7, or 12") is None
    receipt = answers()(tiny_model).receipt
    assert receipt["unparsable"] == 6 and receipt["ended"] <= 1 and receipt["baselines"]["reference"] == 1.0


def test_a_single_seed_is_called_what_it_is(tiny_model: Model) -> None:
    """wandb/wandb#5634 (with clearml/clearml#499): no spread over seeds, and one run is read as a method."""
    found = compare(answers()(tiny_model), answers()(tiny_model))
    assert "these checkpoints only" in str(found)


def moved(model: Model, folder: Path, name: str, seed: int) -> Path:
    other = model.copy(name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return other.save(folder / name)


def test_a_merge_writes_the_formula_that_it_carried_out(tiny_model: Model, tmp_path: Path) -> None:
    """arcee-ai/mergekit#214: merge weights are normalized without a word."""
    from whet.edit.run import run_edit

    a, b = (moved(tiny_model, tmp_path, name, seed) for name, seed in (("a", 1), ("b", 2)))
    folder, receipt = run_edit([a, b], "soup", weights=[3.0, 1.0], output=tmp_path / "mean")
    assert receipt["formula"] == "θ = 0.75·θ[a] + 0.25·θ[b]" and receipt["weights"] == [0.75, 0.25]
    assert load_model(folder, device="cpu").lineage["step"]["formula"] == receipt["formula"]
    key = "model.layers.0.mlp.up_proj.weight"
    first, second, merged = (load_file(f / "model.safetensors")[key] for f in (a, b, folder))
    torch.testing.assert_close(merged, 0.75 * first + 0.25 * second)
    _, plain = run_edit([a, b], {"name": "soup", "normalize": False}, weights=[3.0, 1.0], output=tmp_path / "sum")
    assert plain["formula"] == "θ = 3·θ[a] + 1·θ[b]"


def test_a_merge_never_cuts_a_vocabulary(tiny_model: Model, tmp_path: Path) -> None:
    """arcee-ai/mergekit#425: vocabularies of two sizes are cut to the smaller one without a word."""
    a, b = (moved(tiny_model, tmp_path, name, seed) for name, seed in (("a", 1), ("b", 2)))
    file = b / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:290].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"shape \(300, 64\) in a but \(290, 64\) in b; one has another vocabulary: resize it"):
        whet.edit([a, b], "soup", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    whole = moved(tiny_model, tmp_path, "c", 3)
    made = whet.edit([a, whole], "soup", tmp_path / "kept")
    assert made.lineage["receipts"][0]["changed_shapes"] == []
