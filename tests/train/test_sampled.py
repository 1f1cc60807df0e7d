"""What is sampled after training: ten prompts spread over the rows, counted; nothing where there is no prompt."""

from __future__ import annotations

from typing import Any

import pytest

from whet.data.example import Example
from whet.errors import ModelError
from whet.generate.completion import Completion
from whet.model import Model
from whet.train import sampled


def units(count: int, before: int = 3, reply: int = 1) -> list[list[Example]]:
    return [[Example([*range(5, 4 + before), 7 + i, *[8] * reply], [False] * before + [True] * reply, i)] for i in range(count)]


def test_ten_prompts_are_spread_over_the_rows_and_counted(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def generate(model: Model, prompts: Any, sampling: Any) -> list[Completion]:
        given.extend(prompts)
        assert sampling.temperature == 0
        return [Completion(i, [5, 1], [0.0, 0.0], "x", "eos" if i % 2 else "length") for i in range(len(prompts))]

    monkeypatch.setattr(sampled, "generate", generate)
    found = sampled.sampled_outputs(tiny_model, units(40))
    assert [prompt[-1] for prompt in given] == [7 + 4 * i for i in range(10)]
    assert (found["sampled"], found["ended"], found["ended_share"], found["limit"]) == (10, 5, 0.5, 2)
    assert found["tokens"] == 10 * 3 + 10 * 2 and found["outputs"] == ["[length] 'x'", "[eos] 'x'", "[length] 'x'"]


def test_rows_without_a_prompt_or_room_are_passed_over(tiny_model: Model) -> None:
    assert sampled.sampled_outputs(tiny_model, units(3, before=1)) == {}
    assert sampled.sampled_outputs(tiny_model, units(1, before=256)) == {}
    assert sampled.sampled_outputs(tiny_model, []) == {}
    assert sampled.sampled_outputs(tiny_model, [*units(1), *units(1, before=256)])["sampled"] == 1


def test_a_network_that_cannot_generate_does_not_end_the_run(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: Any) -> None:
        raise ModelError("no key-value cache")

    monkeypatch.setattr(sampled, "generate", generate)
    assert sampled.sampled_outputs(tiny_model, units(2)) == {"not_sampled": "no key-value cache"}
