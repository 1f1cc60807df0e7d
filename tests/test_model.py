"""The chat template's hash travels with the weights, through every step that does not train."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from whet.errors import ModelError
from whet.model import Model, checked_template, load_model, template_hash


@pytest.fixture
def other(tiny_model: Model, tmp_path: Path) -> Model:
    """A saved model whose tokenizer then got another template."""
    model = load_model(tiny_model.save(tmp_path / "m"), device="cpu")
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template += " "
    return replace(model, tokenizer=tokenizer)


def test_a_model_without_a_stored_hash_and_one_with_the_same_are_taken(tiny_model: Model, tmp_path: Path) -> None:
    assert checked_template(tiny_model, "refuse") is tiny_model
    saved = load_model(tiny_model.save(tmp_path / "m"), device="cpu")
    assert saved.lineage["template"] == template_hash(tiny_model.tokenizer)
    assert checked_template(saved, "refuse") is saved


def test_another_template_is_refused_or_becomes_the_models_own(other: Model) -> None:
    with pytest.raises(ModelError, match=r"its tokenizer now has .*: it would answer under a template .* other_template: allow"):
        checked_template(other, "refuse")
    allowed = checked_template(other, "allow")
    assert allowed.lineage["template"] == template_hash(other.tokenizer)
    assert allowed.lineage["template_before"] == other.lineage["template"]
    assert checked_template(allowed, "refuse") is allowed


def test_the_stored_hash_survives_new_names_and_saving(other: Model, tmp_path: Path) -> None:
    stored = other.lineage["template"]
    renamed = other.with_lineage({"edit": "none"}, "renamed")
    assert renamed.lineage["template"] == stored
    again = load_model(renamed.save(tmp_path / "again"), device="cpu")
    assert again.lineage["template"] == stored != template_hash(again.tokenizer)


def test_a_tokenizer_that_lost_its_template_is_noticed(other: Model) -> None:
    other.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="its tokenizer now has none"):
        checked_template(other, "refuse")
