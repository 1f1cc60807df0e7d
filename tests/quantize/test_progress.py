"""A quantization that was stopped goes on after the last saved block, with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from whet.errors import RecipeError, StoreError
from whet.model import Model
from whet.quantize.coding import Coding
from whet.quantize.fidelity import probe_rows
from whet.quantize.pipeline import quantize
from whet.quantize.progress import CODES, HIDDEN, Progress
from whet.quantize.stream import Stream

ROWS = [*probe_rows(300, 256, 12, 40), *probe_rows(300, 256, 8, 25)]
CLOCK = ("seconds", "peak_memory_bytes", "resumed_at")


class Killed(Exception):
    """As if the machine went away."""


@pytest.fixture
def model(tiny_tokenizer: Any) -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1
    )
    return Model(LlamaForCausalLM(config).eval(), tiny_tokenizer, "deep", {"weights": "abc"})


def killed_in(model: Model, folder: Path, block: int, patch: pytest.MonkeyPatch, **settings: Any) -> None:
    """A quantization that ends when the given block (from 0) has been run."""
    advance = Stream.advance

    def until(self: Stream) -> None:
        if self.depth == block and len(self.blocks) == 4 and self.check:
            raise Killed
        advance(self)

    with patch.context() as inner:
        inner.setattr(Stream, "advance", until)
        with pytest.raises(Killed):
            quantize(model, ROWS, checkpoint=folder, checkpoint_seconds=0, **settings)


def equal(first: tuple[Model, dict[str, Any]], second: tuple[Model, dict[str, Any]]) -> None:
    for a, b in zip(first[0].network.state_dict().values(), second[0].network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert list(first[0].quantized) == list(second[0].quantized)
    for name, layer in first[0].quantized.items():
        other = second[0].quantized[name]
        for part in ("codes", "scales", "zeros", "codebook", "order"):
            mine, theirs = getattr(layer, part), getattr(other, part)
            assert mine is theirs is None or (mine.dtype == theirs.dtype and torch.equal(mine, theirs)), (name, part)
        assert (layer.plan, layer.dtype, layer.grid) == (other.plan, other.dtype, other.grid)
    assert {k: v for k, v in first[1].items() if k not in CLOCK} == {k: v for k, v in second[1].items() if k not in CLOCK}


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 4, "group_size": 32, "transform": "hadamard"},
        {"bits": 3, "group_size": 16, "compensate": {"name": "gptq", "act_order": True}, "lm_head": True},
        {"bits": 2, "group_size": 32, "grid": "ternary"},
    ],
    ids=["hadamard", "order and head", "codebook"],
)
def test_a_killed_quantization_goes_on_with_the_same_bits(
    settings: dict[str, Any], model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = quantize(model, ROWS, **settings)
    killed_in(model, tmp_path, 2, monkeypatch, **settings)
    killed_in(model, tmp_path, 3, monkeypatch, **settings)
    resumed = quantize(model, ROWS, checkpoint=tmp_path, checkpoint_seconds=0, **settings)
    assert resumed[1]["resumed_at"] == 3 and undisturbed[1]["resumed_at"] == 0
    equal(undisturbed, resumed)


def test_no_layer_is_written_twice_and_only_the_newest_states_stay(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in(model, tmp_path, 3, monkeypatch, group_size=32)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"blocks-{i:08d}" for i in (1, 2, 3)]
    assert [p.parent.name for p in tmp_path.glob(f"*/{HIDDEN}")] == ["blocks-00000003"]
    sizes = [(folder / CODES).stat().st_size for folder in sorted(tmp_path.iterdir())]
    assert max(sizes) - min(sizes) < 1000


def test_plans_are_remembered(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in(model, tmp_path, 2, monkeypatch, group_size=32)

    def asked_again(*_: object) -> None:
        raise AssertionError("the allocation was computed again")

    monkeypatch.setattr(Coding, "plans", asked_again)
    assert len(quantize(model, ROWS, checkpoint=tmp_path, group_size=32)[0].quantized) == 28


def test_a_half_written_save_is_passed_over(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in(model, tmp_path, 2, monkeypatch, group_size=32)
    half = tmp_path / ".blocks-00000003.77"
    half.mkdir()
    (half / CODES).write_text("cut off")
    assert quantize(model, ROWS, checkpoint=tmp_path, group_size=32)[1]["resumed_at"] == 2
    assert not half.exists()


def test_progress_of_another_quantization_is_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in(model, tmp_path, 2, monkeypatch, group_size=32)
    with pytest.raises(
        RecipeError, match=r"cannot go on from .*: bits was 4 and is 3; group_size was 32 and is 16\. Set it back"
    ):
        quantize(model, ROWS, checkpoint=tmp_path, bits=3, group_size=16)
    with pytest.raises(RecipeError, match="calibration rows was"):
        quantize(model, ROWS[1:], checkpoint=tmp_path, group_size=32)


def test_damaged_progress_names_the_way_out(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in(model, tmp_path, 2, monkeypatch, group_size=32)
    (tmp_path / "blocks-00000001" / CODES).write_bytes(b"cut off")
    with pytest.raises(StoreError, match=r"cannot be read .*; delete this folder to start anew"):
        quantize(model, ROWS, checkpoint=tmp_path, group_size=32)


def test_nothing_is_saved_before_the_interval_is_over(model: Model, tmp_path: Path) -> None:
    quantize(model, ROWS, checkpoint=tmp_path / "progress", checkpoint_seconds=1000, group_size=32)
    assert not (tmp_path / "progress").exists()
    assert not Progress(None, 0, {}).due()
