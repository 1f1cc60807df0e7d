"""Pairs from the model's own completions: right against wrong, with every prompt accounted for."""

from __future__ import annotations

import pytest
from datasets import Dataset

from whet import parts
from whet.data.context import Context
from whet.errors import DataError, RecipeError

ROWS = [{"prompt": "What is 3 plus 4?", "answer": "7"}, {"prompt": "Tom", "answer": "7"}]
SPEC = {
    "name": "on-policy-pairs",
    "reward": {"name": "pattern", "pattern": "[aeiou]"},
    "group_size": 6,
    "max_new_tokens": 60,
    "stop": list("12345Tsnp"),
}


def test_pairs_are_right_against_wrong_and_reproducible(tiny_model):
    runs = []
    for _ in range(2):
        context = Context(tiny_model, seed=3)
        runs.append((parts.build("synthesize", SPEC)(Dataset.from_list(ROWS), context).to_list(), context.receipt))
    assert runs[0] == runs[1]
    rows, receipt = runs[0]
    for row in rows:
        assert set("aeiou") & set(row["chosen"]) and not set("aeiou") & set(row["rejected"])
        assert row["reason"] == "pattern gives 1 against 0"
        assert row["answer"] == "7"
    assert receipt["rows_in"] == 2
    assert receipt["rows_out"] == len(rows) == 2 - receipt["prompts_without_pair"]
    assert receipt["completions"] == 12
    assert receipt["tokens_generated"] == receipt["engine"]["decode_tokens"]


def test_no_pair_and_no_model_are_errors(tiny_model):
    hopeless = parts.build("synthesize", {**SPEC, "reward": "exact-answer"})
    context = Context(tiny_model)
    with pytest.raises(DataError, match=r"none of 2 prompts gave a right and a wrong completion .*larger group_size"):
        hopeless(Dataset.from_list(ROWS), context)
    assert context.receipt["prompts_all_wrong"] == 2
    with pytest.raises(RecipeError, match=r"on-policy-pairs needs a model"):
        hopeless(Dataset.from_list(ROWS), Context())
