"""Magnitude pruning: exact shares, patterns, what stays, and agreement with torch's own pruning."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import prune
from transformers import GPT2Config, GPT2LMHeadModel

from whet.edit.magnitude import Magnitude
from whet.edit.run import run_edit
from whet.errors import ModelError, RecipeError
from whet.model import Model


def weights_in(folder):
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def test_the_share_is_exact_and_only_linear_layers_of_blocks_are_pruned(make, tmp_path):
    start = make("a", moved=0.05)
    folder, receipt = run_edit([start], {"name": "magnitude", "sparsity": 0.25}, output=tmp_path / "out")
    before, after = weights_in(start), weights_in(folder)
    for name, weight in after.items():
        if "layers" in name and weight.dim() == 2:
            assert int((weight == 0).sum()) == round(0.25 * weight.numel()), name
        else:
            assert torch.equal(weight, before[name]), name
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    assert receipt["sparsity"] == pytest.approx(0.25, abs=0.01)


def test_it_prunes_what_torch_prunes():
    layer = torch.nn.Linear(24, 16, bias=False)
    ours = Magnitude(sparsity=0.6).kept(layer.weight.detach())
    prune.l1_unstructured(layer, "weight", amount=0.6)
    assert torch.equal(ours, layer.weight_mask.bool())


def test_two_of_four_stay_and_they_are_the_largest():
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    kept = Magnitude(pattern="2:4").kept(weight).reshape(-1, 4)
    assert bool((kept.sum(1) == 2).all())
    groups = weight.abs().reshape(-1, 4)
    assert bool((groups.masked_fill(~kept, 9.0).amin(1) >= groups.masked_fill(kept, 0.0).amax(1)).all())
    assert bool((Magnitude(pattern="1:4").kept(weight).reshape(-1, 4).sum(1) == 1).all())


def test_rows_are_ranked_by_themselves():
    weight = torch.cat([torch.full((1, 8), 0.01), torch.full((1, 8), 5.0)]) * torch.arange(1, 9)
    assert Magnitude(scope="row").kept(weight).sum(1).tolist() == [4, 4]
    assert Magnitude(scope="tensor").kept(weight).sum(1).tolist() == [0, 8]


def test_weights_that_are_stored_the_other_way_round_are_pruned_along_their_inputs(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=32)
    start = Model(GPT2LMHeadModel(config), tiny_tokenizer, "gpt2").save(tmp_path / "in")
    folder, _ = run_edit([start], {"name": "magnitude", "pattern": "2:4"}, output=tmp_path / "out")
    network = GPT2LMHeadModel.from_pretrained(folder)
    for block in network.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            assert bool(((layer.weight.T.reshape(-1, 4) != 0).sum(1) == 2).all())


def test_pruning_again_changes_nothing(make, tmp_path):
    once, _ = run_edit([make("a")], "magnitude", output=tmp_path / "once")
    twice, receipt = run_edit([once], "magnitude", output=tmp_path / "twice")
    assert receipt["relative_change"] == 0 and all(torch.equal(v, weights_in(twice)[k]) for k, v in weights_in(once).items())


def test_what_cannot_be_pruned_is_said(make, tmp_path):
    with pytest.raises(RecipeError, match="expected 'unstructured', or N:M"):
        Magnitude(pattern="4:2")
    with pytest.raises(RecipeError, match=r"fixes it at 0\.75"):
        Magnitude(pattern="1:4", sparsity=0.3)
    with pytest.raises(ModelError, match=r"'q_proj'.*no multiple of 5"):
        Magnitude(pattern="2:5").kept(torch.zeros(2, 8), "q_proj")
    with pytest.raises(ModelError, match="prunes one model, got 2"):
        run_edit([make("a"), make("b", seed=2)], "magnitude", output=tmp_path / "out")
