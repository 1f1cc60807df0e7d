import copy
import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from whet.errors import DataError, ModelError, RecipeError
from whet.model import Model
from whet.quantize.calibrate.rows import Rows
from whet.quantize.calibrate.windows import Windows
from whet.quantize.calibration import CalibrationSet
from whet.quantize.fidelity import Predictions, compare, probe_rows
from whet.quantize.hessian import output_error
from whet.quantize.memory import forecast_memory
from whet.quantize.pipeline import quantize
from whet.quantize.rounding.nearest import Nearest

ROWS = [*probe_rows(300, 256, 30, 40), *probe_rows(300, 256, 10, 25)]
PLAN = {"bits": 3, "group_size": 32}


def deep(layers, tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return Model(LlamaForCausalLM(config).eval(), tokenizer, "deep")


@pytest.mark.parametrize(
    "compensate",
    ["none", "gptq", {"name": "gptq", "act_order": True}, {"name": "gptq", "act_order": True, "static_groups": True}],
)
@pytest.mark.parametrize("grid, bits", [("uniform", 3), ({"name": "uniform", "shrink": True}, 2), ("ternary", 2)])
@pytest.mark.parametrize("transform", ["none", "hadamard"])
def test_every_combination_runs_and_its_network_holds_what_the_codes_say(tiny_model, transform, grid, bits, compensate):
    small, receipt = quantize(tiny_model, ROWS, transform=transform, grid=grid, bits=bits, group_size=32, compensate=compensate)
    assert len(small.quantized) == 14
    for name, layer in small.quantized.items():
        assert torch.equal(small.network.get_submodule(name).weight, layer.decode())
        assert layer.codes.unique().numel() <= 2**bits
    assert 0 < receipt["mean_error"] < 0.5
    assert not tiny_model.quantized
    assert json.dumps(receipt)


@pytest.mark.parametrize("group_size", ["tensor", "channel", 16, 48, 1000])
@pytest.mark.parametrize("symmetric", [False, True])
def test_bits_per_weight_is_the_stated_formula(tiny_model, group_size, symmetric):
    small, receipt = quantize(tiny_model, ROWS, bits=4, group_size=group_size, symmetric=symmetric)
    layer = small.quantized["model.layers.0.mlp.down_proj"]
    groups = {"tensor": 1, "channel": 64, 16: 64 * 8, 48: 64 * 3, 1000: 64}[group_size]
    assert layer.bits_per_weight == pytest.approx(4 + groups * (16 + (0 if symmetric else 4)) / (64 * 128))
    total = sum(q.storage_bits for q in small.quantized.values())
    assert receipt["bits_per_weight"] == pytest.approx(total / receipt["parameters_quantized"])


def test_fewer_bits_are_further_from_the_float_model(tiny_model):
    found = [quantize(tiny_model, ROWS, bits=bits, group_size=32)[1] for bits in (8, 4, 3, 2)]
    kl = [receipt["fidelity"]["kl"] for receipt in found]
    assert kl == sorted(kl) and kl[0] < 1e-3
    top1 = [receipt["fidelity"]["top1"] for receipt in found]
    assert top1[0] > 0.95 and top1 == sorted(top1, reverse=True)


@pytest.mark.parametrize("bits", [2, 3])
def test_gptq_is_nearer_to_the_float_model_than_nearest(tiny_model, bits):
    gptq, nearest = (quantize(tiny_model, ROWS, bits=bits, group_size=32, compensate=name)[1] for name in ("gptq", "none"))
    assert gptq["mean_error"] < 0.9 * nearest["mean_error"]
    assert gptq["fidelity"]["kl"] < nearest["fidelity"]["kl"]


def test_a_transform_without_rounding_changes_nothing(tiny_model):
    skip = ["*"]
    plain = CalibrationSet(ROWS[:8], ROWS[8:12])
    small, receipt = quantize(tiny_model, plain, transform="hadamard", skip=skip)
    assert not small.quantized
    assert receipt["transform"]["logit_difference"] < 1e-5
    assert compare(tiny_model.network, small.network, ROWS).kl < 1e-8


def test_the_reported_error_is_the_layers_output_error(tiny_model):
    small, receipt = quantize(tiny_model, CalibrationSet(ROWS), compensate="none", **PLAN)
    name = "model.layers.0.self_attn.q_proj"
    layer, seen = tiny_model.network.get_submodule(name), []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(-1, 64)))
    with torch.no_grad():
        for row in ROWS:
            tiny_model.network(input_ids=torch.tensor([row]))
    handle.remove()
    x, weight = torch.cat(seen).double(), layer.weight.detach().double()
    change = small.quantized[name].decode().double() - weight
    expected = (x @ change.T).square().sum() / (x @ weight.T).square().sum()
    assert receipt["layers"][name]["error"] == pytest.approx(float(expected), rel=1e-4)


def test_later_blocks_see_the_quantized_earlier_ones(tiny_model):
    rows = CalibrationSet(ROWS)
    skipped = quantize(tiny_model, rows, skip=["model.layers.0.*"], compensate="none", bits=2)[1]
    both = quantize(tiny_model, rows, compensate="none", bits=2)[1]
    name = "model.layers.1.mlp.up_proj"
    assert skipped["layers"][name]["error"] != both["layers"][name]["error"]


def test_without_calibration_nearest_runs_and_says_what_its_error_is(tiny_model):
    small, receipt = quantize(tiny_model, compensate="none", **PLAN)
    layer = small.quantized["model.layers.0.mlp.up_proj"]
    weight = tiny_model.network.model.layers[0].mlp.up_proj.weight.detach()
    assert receipt["error_of"] == "weights (no calibration rows)" and receipt["fidelity"] is None
    assert receipt["layers"]["model.layers.0.mlp.up_proj"]["error"] == pytest.approx(output_error(weight, layer.decode(), None))


def test_memory_does_not_grow_with_depth(tiny_tokenizer):
    shallow, tall = (quantize(deep(n, tiny_tokenizer), ROWS, **PLAN)[1] for n in (1, 5))
    for key in ("activation_bytes", "hessian_bytes"):
        assert shallow[key] == tall[key] > 0
    forecast = forecast_memory(deep(5, tiny_tokenizer).network, tall["calibration"]["tokens"])
    assert tall["activation_bytes"] <= forecast["activations"]
    assert tall["hessian_bytes"] <= forecast["hessians"]


def test_the_same_seed_gives_the_same_codes(tiny_model):
    a, b, c = (
        quantize(tiny_model, ROWS, transform="hadamard", seed=seed, calibrate={"name": "rows", "count": 8}, **PLAN)[0]
        for seed in (1, 1, 2)
    )
    name = "model.layers.1.mlp.down_proj"
    assert torch.equal(a.quantized[name].codes, b.quantized[name].codes)
    assert not torch.equal(a.quantized[name].codes, c.quantized[name].codes)


def test_the_head_is_left_alone_unless_asked_for(tiny_model):
    plain = quantize(tiny_model, ROWS, **PLAN)[0]
    assert plain.network.lm_head.weight is plain.network.model.embed_tokens.weight
    full, receipt = quantize(tiny_model, ROWS, lm_head=True, **PLAN)
    assert "lm_head" in full.quantized and receipt["layers"]["lm_head"]["error"] < 0.2
    assert torch.equal(full.network.model.embed_tokens.weight, tiny_model.network.model.embed_tokens.weight)


def test_true_sequential_uses_the_quantized_layers_of_the_same_block(tiny_model):
    codes = []
    for flag in (True, False):
        small, _ = quantize(tiny_model, ROWS, compensate={"name": "gptq", "true_sequential": flag}, **PLAN)
        codes.append({name: layer.codes for name, layer in small.quantized.items()})
    first = "model.layers.0.self_attn."
    assert torch.equal(codes[0][first + "q_proj"], codes[1][first + "q_proj"])
    assert not torch.equal(codes[0][first + "o_proj"], codes[1][first + "o_proj"])


def test_gpt2_with_its_transposed_layers(tiny_tokenizer):
    torch.manual_seed(0)
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=1)
    ).eval()
    small, receipt = quantize(Model(network, tiny_tokenizer, "gpt2"), ROWS, **PLAN)
    layer = small.quantized["transformer.h.0.attn.c_attn"]
    assert layer.codes.shape == (96, 32)
    assert torch.equal(small.network.transformer.h[0].attn.c_attn.weight, layer.decode().T)
    assert receipt["mean_error"] < 0.2


def test_overrides_change_only_the_layers_they_match(tiny_model):
    small, _ = quantize(tiny_model, ROWS, allocate={"name": "same", "overrides": {"*.down_proj": {"bits": 8}}}, **PLAN)
    assert {name: q.bits for name, q in small.quantized.items() if q.bits != 3} == {
        f"model.layers.{i}.mlp.down_proj": 8 for i in (0, 1)
    }


def test_the_receipt_says_which_settings_are_defaults(tiny_model):
    _, receipt = quantize(tiny_model, ROWS, compensate={"name": "gptq", "act_order": True}, bits=4, group_size=32)
    assert "bits" in receipt["defaults"] and "grid" in receipt["defaults"]
    assert "compensate" not in receipt["defaults"] and "group_size" not in receipt["defaults"]
    assert receipt["settings"]["compensate"]["damping"] == 0.01
    assert receipt["dtypes"]["scales"] == "torch.float16"
    assert receipt["seconds"] > 0 and receipt["peak_memory_bytes"] > 0


def test_bfloat16_weights_get_bfloat16_scales_and_stay_bfloat16(tiny_model):
    model = replace(tiny_model, network=tiny_model.network.to(torch.bfloat16))
    small, receipt = quantize(model, ROWS, **PLAN)
    layer = small.quantized["model.layers.0.mlp.up_proj"]
    assert layer.scales.dtype == layer.decode().dtype == small.network.dtype == torch.bfloat16
    assert receipt["dtypes"]["scales"] == "torch.bfloat16"


@dataclass(frozen=True)
class Joint(Nearest):
    kind: ClassVar[str] = "joint"


@dataclass(frozen=True)
class Post:
    kind: ClassVar[str] = "post"
    needs: ClassVar[frozenset[str]] = frozenset()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rounding": Joint()}, "joint rounding .* leaves no columns for error feedback; set compensate: none"),
        ({"compensate": Post()}, "compensate: kind 'post' cannot be run here"),
        ({"grid": "ternary"}, "three levels take 2 bits"),
        ({"bits": 1}, "quantize.bits: Input should be greater than or equal to 2; got 1"),
        ({"grid": "unifrom"}, "did you mean 'uniform'"),
        ({"compensate": {"name": "gptq", "dampign": 0.1}}, "did you mean 'damping'"),
        ({"compensate": {"name": "gptq", "damping": 0}}, r"compensate.damping"),
        ({"skip": ["*.w1"]}, r"skip: no layer matches '\*.w1'; layers look like 'model.layers.0.self_attn.q_proj'"),
        ({"allocate": {"name": "same", "overrides": {"*.w1": {"bits": 2}}}}, r"no layer matches '\*.w1'"),
        ({"allocate": {"name": "same", "overrides": {"*": {"bit": 2}}}}, "did you mean 'bits'"),
        ({"scale_dtype": "float8"}, "quantize.scale_dtype: .*'auto', 'float32', .*; got 'float8'"),
        ({"bit": 4}, "did you mean 'bits'"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(tiny_model, settings, message):
    with pytest.raises(RecipeError, match=message):
        quantize(tiny_model, ROWS, **settings)


def test_gptq_without_calibration_is_refused(tiny_model):
    with pytest.raises(RecipeError, match="compensate: 'gptq' needs calibration rows and none were given"):
        quantize(tiny_model)


def test_a_quantized_model_is_not_quantized_again(tiny_model):
    small, _ = quantize(tiny_model, compensate="none", **PLAN)
    with pytest.raises(RecipeError, match="is quantized already; start from the float model"):
        quantize(small, compensate="none", **PLAN)


def test_broken_weights_are_named(tiny_model):
    with torch.no_grad():
        tiny_model.network.model.layers[1].mlp.up_proj.weight[3, 3] = float("inf")
    with pytest.raises(ModelError, match=r"tensor 'model.layers.1.mlp.up_proj.weight' holds NaN or Inf"):
        quantize(tiny_model, ROWS, **PLAN)


def test_tokens_of_another_vocabulary_are_refused(tiny_model):
    with pytest.raises(DataError, match=r"calibration row 1: token id 5000 is not in \[0, 300\)"):
        quantize(tiny_model, [[1, 2], [3, 5000]], **PLAN)


def test_rows_are_cut_and_counted(tiny_model):
    rows = [[1] * 50, [2] * 10, [3], [4] * 10]
    found = Rows(count=8, length=20, held_out=0)(tiny_model, rows)
    assert sorted(len(row) for row in found.rows) == [10, 10, 20]
    assert found.receipt["rows_too_short"] == 1
    assert (found.receipt["rows_cut"], found.receipt["tokens_cut"]) == (1, 30)


def test_held_out_rows_are_not_calibrated_on(tiny_model):
    found = Rows(count=20, held_out=4)(tiny_model, ROWS)
    assert len(found.rows) == 20 and len(found.held_out) == 4
    assert not {tuple(row) for row in found.rows} & {tuple(row) for row in found.held_out}


def test_windows_are_cut_side_by_side_and_the_tail_is_counted(tiny_model):
    rows = [[5] * 30, [6] * 31]
    found = Windows(length=20, held_out=0)(tiny_model, rows)
    assert sorted(found.rows) == sorted([[5] * 20, [5] * 10 + [1] + [6] * 9, [6] * 20])
    assert found.receipt["tokens_in_tail"] == 3
    with pytest.raises(DataError, match="less than one window of 200; set a shorter length"):
        Windows(length=200)(tiny_model, rows)


def test_fidelity_of_a_model_with_itself_is_perfect(tiny_model):
    found = compare(tiny_model.network, tiny_model.network, ROWS)
    assert (found.kl, found.top1, found.max_logit_difference) == (0, 1, 0)
    assert found.tokens == sum(len(row) for row in ROWS)


@pytest.mark.parametrize(
    "settings", [{}, {"transform": "hadamard"}, {"transform": {"name": "hadamard", "down": True}, "lm_head": True}]
)
def test_in_place_gives_the_same_without_a_second_network(tiny_model, settings):
    beside, expected = quantize(tiny_model, ROWS, **PLAN, **settings)
    within, receipt = quantize(tiny_model, ROWS, in_place=True, **PLAN, **settings)
    assert within.network is tiny_model.network and beside.network is not tiny_model.network
    for one, two in zip(beside.network.state_dict().values(), within.network.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert receipt["fidelity"] == expected["fidelity"] and receipt["transform"] == expected["transform"]
    assert receipt["bytes_before"] == expected["bytes_before"]


@pytest.mark.parametrize("kind", ["llama", "capped"])
def test_predictions_outlive_a_change_of_the_network(tiny_model, kind):
    network = tiny_model.network
    if kind == "capped":  # The network goes on with what its head puts out.
        config = Gemma2Config(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.1,
        )  # fmt: skip
        network = Gemma2ForCausalLM(config).eval()
    before, original = Predictions(network, ROWS), copy.deepcopy(network)
    assert before.compare().max_logit_difference == 0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    assert before.compare() == compare(original, network, ROWS)
    assert before.compare().kl > 0
