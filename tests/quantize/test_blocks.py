import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from whet.errors import ModelError
from whet.quantize.blocks import find_blocks, linears, set_weight, untie, weight_of
from whet.quantize.calibration import batches
from whet.quantize.fidelity import probe_rows
from whet.quantize.stream import Stream

STAGES = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=3, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    ).eval()


def sliding():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8, max_position_embeddings=64,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def rows():
    return [*probe_rows(300, 64, 5, 24), *probe_rows(300, 64, 3, 17)]


@pytest.mark.parametrize("make", ["llama", gpt2, sliding])
def test_block_by_block_gives_the_logits_of_the_whole_network(make, tiny_model):
    network = tiny_model.network if make == "llama" else make()
    stream = Stream(network, batches(rows(), 64))
    while stream.depth < len(stream.blocks):
        stream.advance()
    for i, ids in enumerate(stream.batches):
        with torch.no_grad():
            assert torch.allclose(stream.run(i), network(input_ids=ids).logits, atol=1e-5)
    assert all("forward" not in vars(block) for block in stream.blocks)


def test_stages_follow_the_order_of_calls_and_shared_inputs(tiny_model):
    stream = Stream(tiny_model.network, batches(rows(), 64))
    stream.advance()
    stages = stream.stages("model.layers.1")
    assert [[name.rpartition(".")[2] for name in stage] for stage in stages] == STAGES
    assert all(name.startswith("model.layers.1.") for stage in stages for name in stage)


def test_hessians_are_those_of_the_inputs_in_a_plain_forward_pass(tiny_model):
    stream = Stream(tiny_model.network, batches(rows(), 64))
    stream.advance()
    layer = tiny_model.network.model.layers[1].mlp.down_proj
    found = stream.hessians({"down": layer})["down"]
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(-1, args[0].shape[-1]).double()))
    with torch.no_grad():
        for ids in stream.batches:
            tiny_model.network(input_ids=ids)
    handle.remove()
    x = torch.cat(seen)
    assert found.tokens == len(x) == sum(len(row) for row in rows())
    assert torch.allclose(found.matrix(), 2 / len(x) * x.T @ x, atol=1e-4)


def test_the_next_layers_see_what_was_changed_before_them(tiny_model):
    network = tiny_model.network
    stream = Stream(network, batches(rows(), 64))
    layers = linears(stream.blocks[0])
    for stage in stream.stages(""):
        stream.hessians({stage[0]: layers[stage[0]]})
        for name in stage:
            set_weight(layers[name], weight_of(layers[name]) * 0.5)
    stream.advance()
    fresh = Stream(network, batches(rows(), 64))
    fresh.advance()
    assert all(torch.equal(one, two) for one, two in zip(stream.hidden, fresh.hidden, strict=True))


def test_no_pass_ends_early_where_a_layer_is_not_always_called(tiny_model):
    mlp = tiny_model.network.model.layers[0].mlp
    # Like an expert without tokens in the single row that is looked at first.
    mlp.forward = lambda x: mlp.down_proj(mlp.up_proj(x) if x.shape[0] > 1 else mlp.gate_proj(x) * mlp.gate_proj(x))
    stream = Stream(tiny_model.network, batches(probe_rows(300, 256, 6, 25), 50))
    layers, stages = linears(stream.blocks[0]), stream.stages("")
    assert stages[-1] == ["mlp.up_proj"]
    found = stream.hessians({stage[0]: layers[stage[0]] for stage in stages if "gate" not in stage[0]})
    assert {hessian.tokens for hessian in found.values()} == {150}


def test_an_error_in_a_pass_leaves_the_network_as_it_was(tiny_model):
    stream = Stream(tiny_model.network, batches(rows(), 64))
    layer = linears(stream.blocks[0])["mlp.up_proj"]
    with torch.no_grad():
        tiny_model.network.model.embed_tokens.weight[:] = float("nan")
    with pytest.raises(ModelError, match="entering 'up' hold NaN or Inf"):
        stream.hessians({"up": layer})
    assert all("forward" not in vars(block) for block in stream.blocks)
    assert not layer._forward_pre_hooks


def test_only_one_hidden_state_per_token_is_held(tiny_model):
    stream = Stream(tiny_model.network, batches(rows(), 64))
    assert stream.bytes == 0
    for _ in range(2):
        stream.advance()
        assert stream.bytes == sum(len(row) for row in rows()) * 64 * 4


def test_batches_hold_rows_of_one_length_and_lose_none():
    made = batches(rows(), 60)
    assert all(b.numel() <= 60 for b in made)
    assert sorted(row for b in made for row in b.tolist()) == sorted(rows())


def test_transposed_layers_are_seen_as_out_by_in():
    network = gpt2()
    name, block = find_blocks(network)[1]
    assert name == "transformer.h.1"
    layer = linears(block, name)["transformer.h.1.attn.c_attn"]
    assert weight_of(layer).shape == (96, 32)
    new = torch.randn(96, 32)
    set_weight(layer, new)
    assert torch.equal(layer.weight, new.T)


def test_untying_happens_once(tiny_model):
    added = untie(tiny_model.network)
    assert added == tiny_model.network.lm_head.weight.numel()
    assert untie(tiny_model.network) == 0


def test_a_network_without_decoder_blocks_is_refused():
    network = BertLMHeadModel(
        BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, is_decoder=True
        )
    )
    network.bert.encoder.layer = torch.nn.ModuleList([torch.nn.Identity()] * 2)
    with pytest.raises(ModelError, match="found no list of 2 decoder blocks"):
        find_blocks(network)


def test_an_overflow_inside_the_network_is_refused(tiny_model):
    with torch.no_grad():
        tiny_model.network.model.layers[1].mlp.down_proj.weight.fill_(3e38)
    with pytest.raises(ModelError, match="NaN or Inf"):
        Stream(tiny_model.network, batches(rows(), 64))


def test_blocks_that_share_hidden_state_are_refused(tiny_model):
    network = tiny_model.network
    first, memory = network.model.layers[0], []
    first.register_forward_hook(lambda module, args, output: memory.append(1))
    first.register_forward_hook(lambda module, args, output: output + 0.5 if len(memory) == 1 else output)
    with pytest.raises(ModelError, match="share state beyond the hidden state"):
        Stream(network, batches(rows(), 64))
