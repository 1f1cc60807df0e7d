"""Forward passes that wait inside a block give what passes from the block's entrance give."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from whet.errors import ModelError
from whet.model import Model
from whet.quantize import memory, pipeline
from whet.quantize.blocks import Stream, find_blocks, linears, set_weight, weight_of
from whet.quantize.calibration import CalibrationSet, batches
from whet.quantize.fidelity import probe_rows
from whet.quantize.pipeline import quantize
from whet.quantize.walk import Walk

ROWS = [*probe_rows(300, 256, 12, 40), *probe_rows(300, 256, 6, 25)]


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2)).eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_result_does_not_depend_on_how_many_batches_wait(
    kind: str, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model if kind == "llama" else Model(gpt2(), tiny_model.tokenizer, "gpt2")
    monkeypatch.setattr(pipeline, "BATCH_TOKENS", 130)
    made, threads = [], []
    for held in (0, 2, 100):
        monkeypatch.setattr(pipeline, "held_batches", lambda network, batches, held=held: held)
        made.append(quantize(model, CalibrationSet(ROWS), bits=3, group_size=16))
        threads.append(threading.active_count())
    for other, receipt in made[1:]:
        assert receipt["layers"] == made[0][1]["layers"]
        for name, layer in made[0][0].quantized.items():
            assert torch.equal(layer.codes, other.quantized[name].codes)
    assert max(threads) == threads[0], "a pass that waited did not end"


def test_a_waiting_pass_uses_the_weights_that_were_put_in_while_it_waited(tiny_model: Model) -> None:
    network = tiny_model.copy().network
    stream = Stream(network, batches(ROWS, 200), held=2)
    prefix, block = find_blocks(network)[0]
    layers = linears(block, prefix)
    with stream.hold():
        for name, *_ in stream.stages(prefix):
            stream.hessians({name: layers[name]})
            set_weight(layers[name], weight_of(layers[name]) * 0.5)
        stream.advance()
    fresh = Stream(network, batches(ROWS, 200))
    fresh.advance()
    assert all(torch.equal(one, two) for one, two in zip(stream.hidden, fresh.hidden))  # type: ignore[arg-type]


def test_no_pass_ends_early_where_a_layer_is_not_always_called(tiny_model: Model) -> None:
    network = tiny_model.copy().network
    mlp = network.model.layers[0].mlp
    # Like an expert without tokens in the single row that is looked at first.
    mlp.forward = lambda x: mlp.down_proj(mlp.up_proj(x) if x.shape[0] > 1 else mlp.gate_proj(x) * mlp.gate_proj(x))
    stream = Stream(network, batches(probe_rows(300, 256, 6, 25), 50), held=2)
    prefix, block = find_blocks(network)[0]
    layers = linears(block, prefix)
    stages = stream.stages(prefix)
    assert stages[-1] == [f"{prefix}.mlp.up_proj"]
    with stream.hold():
        found = stream.hessians({stage[0]: layers[stage[0]] for stage in stages if "gate" not in stage[0]})
        assert {hessian.tokens for hessian in found.values()} == {150}
        stream.advance()


def test_a_pass_that_fails_raises_at_the_caller_and_leaves_no_thread() -> None:
    def run() -> torch.Tensor:
        raise ModelError("broken")

    walk, waiting = Walk(run), Walk(lambda: torch.zeros(1))
    with pytest.raises(ModelError, match="broken"):
        walk.resume()
    waiting.cancel()
    assert not walk._thread.is_alive() and not waiting._thread.is_alive()


def test_an_error_while_passes_wait_ends_them(tiny_model: Model) -> None:
    before = threading.active_count()
    stream = Stream(tiny_model.network, batches(ROWS, 200), held=100)
    prefix, block = find_blocks(tiny_model.network)[0]
    name = stream.stages(prefix)[1][0]
    with pytest.raises(ModelError, match="stop here"), stream.hold():
        stream.hessians({name: linears(block, prefix)[name]})
        raise ModelError("stop here")
    assert threading.active_count() == before
    assert "forward" not in block.__dict__


def test_as_many_batches_wait_as_a_share_of_the_free_memory_holds(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches(ROWS, 200)
    each = (4 * 64 + 128) * 4 * made[0].numel()
    one = round(each / memory.HELD_SHARE)
    for free, expected in ((None, len(made)), (0, 0), (one, 1), (2 * one - 4, 1)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert memory.held_batches(tiny_model.network, made) == expected
