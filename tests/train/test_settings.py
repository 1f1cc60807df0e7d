"""How long a run is, in which order it sees its rows, and at which rate."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from whet.data.example import Example
from whet.data.schedules.shuffle import shuffle
from whet.errors import DataError, RecipeError
from whet.train import provider as provider_module
from whet.train.lr import factor
from whet.train.optimizers.adamw import AdamW
from whet.train.precision import choose, keep_memory
from whet.train.provider import FixedExamples, total_steps
from whet.train.settings import TrainSettings


def provider(size: int, batch_size: int = 4, seed: int = 0) -> FixedExamples:
    return FixedExamples(
        [[Example([1] * (5 + i % 3), [True] * (5 + i % 3))] for i in range(size)], shuffle, seed=seed, batch_size=batch_size
    )


@pytest.mark.parametrize("size", [1, 4, 9, 31])
def test_an_epoch_has_every_unit_once_in_near_equal_steps(size: int) -> None:
    data = provider(size)
    per_epoch = data.steps_for(epochs=1)
    for epoch in range(3):
        batches = [data.indices(epoch * per_epoch + k) for k in range(per_epoch)]
        assert Counter(i for b in batches for i in b) == Counter(range(size))
        assert max(map(len, batches)) <= 4 and max(map(len, batches)) - min(map(len, batches)) <= 1
    assert data.indices(0) == provider(size).indices(0)


def test_steps_cut_an_epoch_as_numpy_splits_an_array() -> None:
    for size in range(1, 40):
        data = FixedExamples(provider(size).units, lambda size, epoch, seed: np.arange(size), batch_size=6)
        steps = data.steps_for(epochs=1)
        assert [data.indices(s) for s in range(steps)] == [part.tolist() for part in np.array_split(np.arange(size), steps)]


def test_the_rows_are_hashed_once_however_many_checkpoints_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data, read = provider(9), []
    monkeypatch.setattr(provider_module, "fingerprint", lambda units: read.append(len(units)) or "abc")
    assert data.state() == data.state() and data.state()["fingerprint"] == "abc"
    assert read == [9]


def test_order_does_not_depend_on_what_was_asked_before() -> None:
    forward, backward = provider(31), provider(31)
    steps = range(25)
    assert {s: forward.indices(s) for s in steps} == {s: backward.indices(s) for s in reversed(steps)}
    assert forward.indices(0) != provider(31, seed=1).indices(0)


def test_length_in_epochs_and_tokens() -> None:
    data = provider(30)
    assert [data.steps_for(epochs=e) for e in (1, 2, 0.5, 1.25)] == [8, 16, 4, 10]
    steps = data.steps_for(tokens=300)
    read = [sum(len(e) for e in data.examples(s)) for s in range(steps)]
    assert sum(read) >= 300 > sum(read[:-1])
    with pytest.raises(RecipeError, match="rows are sampled while training; say 'steps'"):
        total_steps(object(), steps=None, epochs=1.0, tokens=None)


def test_schedules_that_take_a_part_of_the_rows() -> None:
    half = FixedExamples(provider(10).units, lambda size, epoch, seed: np.arange(5) + 5 * (epoch % 2), batch_size=5)
    assert [half.indices(s) for s in range(3)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    with pytest.raises(DataError, match="there are no rows to train on"):
        FixedExamples([], shuffle)


@pytest.mark.parametrize("given", [{}, {"steps": 3, "epochs": 1}])
def test_length_must_be_said_once(given: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="exactly one of 'steps', 'epochs', 'tokens' and 'budget'"):
        TrainSettings(**given)


def test_learning_rates() -> None:
    for schedule in ("cosine", "linear", "wsd", "constant"):
        rates = [factor(schedule, s, 100, warmup=0.1, final=0.1) for s in range(100)]  # type: ignore[arg-type]
        assert rates[0] > 0 and np.all(np.diff(rates[:10]) > 0) and max(rates) == pytest.approx(1.0)
        assert np.all(np.diff(rates[10:]) <= 1e-12)
    assert factor("cosine", 55, 100, 0.1) == pytest.approx(0.5)
    assert factor("linear", 55, 100, 0.1) == pytest.approx(0.5)
    assert [factor("wsd", s, 100, 0.1) for s in (20, 79, 80, 90)] == pytest.approx([1.0, 1.0, 1.0, 0.5])
    assert factor("constant", 99, 100) == 1.0


def test_adamw_decays_matrices_only() -> None:
    named = [("w", torch.nn.Parameter(torch.ones(3, 3))), ("b", torch.nn.Parameter(torch.ones(3)))]
    optimizer = AdamW(weight_decay=0.1)(named)
    for _, p in named:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert float(named[0][1].max()) == pytest.approx(0.9) and float(named[1][1].min()) == 1.0


def test_precision_is_a_rule_with_a_reason() -> None:
    cpu = torch.device("cpu")
    assert choose("float32", cpu, 512).compute is torch.float32
    small = choose("auto", cpu, 32)
    assert small.compute is torch.float32 and small.reason
    assert choose("auto", cpu, 512) == choose("auto", cpu, 512)
    assert keep_memory() in (True, False)
