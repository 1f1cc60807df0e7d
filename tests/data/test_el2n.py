"""The hardest and easiest rows by error norm: against the definition, counted in full, and in a recipe's data step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from whet.data.context import Context
from whet.data.drift import replies
from whet.data.select.el2n import EL2N
from whet.errors import RecipeError
from whet.generate.divergence import error_norms
from whet.model import Model
from whet.recipe_steps import DataStep
from whet.run.making import make_data


def pool(rows: int = 24) -> Dataset:
    """Two rows of three have the same reply, which is learned at once."""
    return Dataset.from_list(
        [{"prompt": f"What is {i} plus 4?", "completion": "The answer is 19." if i % 3 else f"x{i * 7919}y"} for i in range(rows)]
    )


@torch.no_grad()
def by_hand(model: Model, example: Any) -> float:
    """One row at a time, in numpy and float64."""
    logits = model.network(input_ids=torch.tensor([list(example.input_ids)])).logits[0].double().numpy()
    norms = []
    for place, trained in enumerate(example.trained):
        if trained:
            raw = np.exp(logits[place - 1] - logits[place - 1].max())
            error = raw / raw.sum() - np.eye(len(raw))[example.input_ids[place]]
            norms.append(np.sqrt((error**2).sum()))
    return float(np.mean(norms))


def test_error_norms_are_their_definition(tiny_model: Model) -> None:
    _, examples = replies(pool(9), tiny_model)
    found = error_norms(tiny_model, examples, batch_tokens=100)
    assert found == pytest.approx([by_hand(tiny_model, e) for e in examples], rel=1e-5)
    assert all(0 < norm < 2**0.5 for norm in found)


def test_the_mean_over_the_runs_decides_and_everything_is_counted(tiny_model: Model) -> None:
    made: list[tuple[Model, int]] = []

    def trainer(model: Model, rows: Any, settings: Any, seed: int) -> tuple[Model, dict[str, float]]:
        copy = model.copy()
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in copy.network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        made.append((copy, seed))
        assert len(rows) == 24 and settings == {"epochs": 1.0, "lr": 1e-3, "batch_size": 64}
        return copy, {"tokens": 1000.0, "flops": 5.0, "examples": 24.0}

    context = Context(model=tiny_model, seed=3, trainer=trainer)
    kept = EL2N(rows=8, runs=2)(pool(), context)
    _, examples = replies(pool(), tiny_model)
    scores = np.mean([error_norms(model, examples) for model, _ in made], axis=0)
    assert kept["prompt"] == [pool()[int(i)]["prompt"] for i in sorted(np.argsort(-scores)[:8])]
    assert len({seed for _, seed in made}) == 2
    read = 2 * sum(map(len, examples))
    assert context.cost["tokens"] == 2000 + read and context.cost["examples"] == 48
    assert context.cost["flops"] == 10 + 2 * tiny_model.parameters * read


def test_in_a_data_step_it_trains_and_finds_the_hard_rows(tiny_model: Model) -> None:
    both = {}
    for keep in ("hardest", "easiest"):
        part = EL2N(rows=8, keep=keep, runs=2, epochs=6, batch_size=6, lr=3e-3)
        kept, receipt = make_data(DataStep("hard", data="pool", select=(part,)), pool(), lambda _: tiny_model, 0)
        both[keep] = set(kept["completion"])
        low, high = receipt["el2n"]["error_norm_all"]
        assert 0 <= low < high <= 2**0.5 + 1e-6
        assert receipt["cost"]["examples"] == 2 * 6 * 24 and receipt["cost"]["tokens"] > 2 * 7 * 24 * 10
    assert "The answer is 19." not in both["hardest"] and both["easiest"] == {"The answer is 19."}


def test_refusals(tiny_model: Model) -> None:
    with pytest.raises(RecipeError, match="exactly one of 'share'"):
        EL2N()
    with pytest.raises(RecipeError, match="el2n needs a model"):
        EL2N(rows=4)(pool(), Context())
    with pytest.raises(RecipeError, match="el2n trains models and can only be used in a recipe's data step"):
        EL2N(rows=4)(pool(), Context(model=tiny_model))
