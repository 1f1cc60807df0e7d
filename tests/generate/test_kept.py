"""Completions come in blocks that do not depend on whether they are kept; kept blocks are not written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whet.errors import DataError
from whet.generate import kept
from whet.generate.completion import Completion, Sampling
from whet.generate.engine import generate
from whet.generate.kept import generate_in_blocks, kept_in
from whet.model import Model

PROMPTS = [[5 + i % 40, 7, 9 + i % 3] for i in range(20)]
SAMPLING = Sampling(max_new_tokens=6)


class Killed(KeyboardInterrupt):
    """As if the machine went away."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts of two completions each."""
    monkeypatch.setattr(kept, "ROUNDS", 0)
    monkeypatch.setattr(kept, "LEAST", 6)


def write(model: Model, receipt: dict[str, Any] | None = None, seed: int = 3) -> list[Completion]:
    return generate_in_blocks(model, PROMPTS, SAMPLING, group_size=2, seed=seed, receipt=receipt)


def test_the_rows_are_those_of_the_engine(tiny_model: Model) -> None:
    receipts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    ours = write(tiny_model, receipts[0])
    engine = generate(tiny_model, PROMPTS, SAMPLING, group_size=2, seed=3, receipt=receipts[1])
    assert [(c.prompt, c.ids, c.text, c.finish) for c in ours] == [(c.prompt, c.ids, c.text, c.finish) for c in engine]
    for key in ("rows", "decode_tokens", "finish"):
        assert receipts[0][key] == receipts[1][key]


def test_after_a_kill_only_the_block_under_way_is_written_again(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(model: Model, prompts: Any, *args: Any, **settings: Any) -> list[Completion]:
        calls.append(len(prompts))
        if len(calls) == 4:
            raise Killed
        return generate(model, prompts, *args, **settings)

    undisturbed: dict[str, Any] = {}
    whole = write(tiny_model, undisturbed)
    monkeypatch.setattr(kept, "generate", counted)
    with kept_in(tmp_path), pytest.raises(Killed):
        write(tiny_model)
    resumed: dict[str, Any] = {}
    with kept_in(tmp_path):
        again = write(tiny_model, resumed)
    assert calls == [3, 3, 3, 3, 3, 3, 3, 2]
    assert again == whole and resumed == undisturbed


def test_another_request_finds_nothing(tiny_model: Model, tmp_path: Path) -> None:
    with kept_in(tmp_path):
        first, other = write(tiny_model), write(tiny_model, seed=4)
    assert len(list(tmp_path.iterdir())) == 2
    assert [c.ids for c in first] != [c.ids for c in other]


def test_numbers_come_back_bit_for_bit(tiny_model: Model, tmp_path: Path) -> None:
    with kept_in(tmp_path):
        first, second = write(tiny_model), write(tiny_model)
    assert json.dumps([c.logps for c in first]) == json.dumps([c.logps for c in second])


def test_a_wrong_prompt_is_named_before_anything_is_written(tiny_model: Model, tmp_path: Path) -> None:
    with kept_in(tmp_path), pytest.raises(DataError, match="prompt 12 is empty"):
        generate_in_blocks(tiny_model, [*PROMPTS[:12], []], SAMPLING)
    assert not list(tmp_path.iterdir())
    assert generate_in_blocks(tiny_model, [], SAMPLING) == []
