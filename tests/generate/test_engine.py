"""The engine against transformers.generate and against a teacher-forced forward pass; independence of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from whet.errors import DataError, ModelError, RecipeError
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.generate.sampling import log_distribution
from whet.model import Model

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
NETWORKS: dict[str, Any] = {
    "llama": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, **SIZES)),
    "qwen2": lambda v: Qwen2ForCausalLM(Qwen2Config(vocab_size=v, **SIZES)),
    "qwen3": lambda v: Qwen3ForCausalLM(Qwen3Config(vocab_size=v, head_dim=8, **SIZES)),
    "mistral-window": lambda v: MistralForCausalLM(MistralConfig(vocab_size=v, sliding_window=12, **SIZES)),
    "qwen2-mixed-windows": lambda v: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=v, use_sliding_window=True, sliding_window=12, max_window_layers=1, **SIZES)
    ),
    "gpt2": lambda v: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=v, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=None, eos_token_id=1, pad_token_id=0
        )
    ),
}


def sharpened(network: Any) -> Any:
    """Larger weights, so that predictions differ from uniform and attention matters."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return network.eval()


@pytest.fixture(params=sorted(NETWORKS))
def any_model(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Iterator[Model]:
    torch.manual_seed(1)
    yield Model(sharpened(NETWORKS[request.param](len(tiny_tokenizer))), tiny_tokenizer, request.param)


def ragged_prompts(vocabulary: int, count: int = 9, longest: int = 30, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    lengths[0] = 1
    return [torch.randint(5, vocabulary, (int(n),), generator=generator).tolist() for n in lengths]


def forced_logps(model: Model, prompt: list[int], ids: list[int], sampling: Sampling) -> torch.Tensor:
    with torch.no_grad():
        logits = model.network(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return log_distribution(logits, sampling).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def test_greedy_is_transformers_greedy(any_model: Model) -> None:
    """Ragged prompts, fewer slots than rows, and more tokens than the first buffer has columns.

    Each token must be the most probable one of a plain forward pass over all of the row, which is what greedy decoding is; of
    the shortest and the longest prompt the row is also decoded by transformers, token by token.
    """
    prompts = ragged_prompts(any_model.config.vocab_size)
    ours = generate(any_model, prompts, Sampling(temperature=0, max_new_tokens=150), batch_tokens=4 * 180)
    for prompt, completion in zip(prompts, ours):
        with torch.no_grad():
            logits = any_model.network(input_ids=torch.tensor([[*prompt, *completion.ids]])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(completion.ids)
        assert 1 not in completion.ids[:-1] and (completion.ids[-1] == 1 or len(completion.ids) == 150)
    by_length = sorted(zip(prompts, ours), key=lambda pair: len(pair[0]))
    for prompt, completion in (by_length[0], by_length[-1]):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        theirs = any_model.network.generate(ids, attention_mask=mask, max_new_tokens=150, do_sample=False)
        assert theirs[0, len(prompt) :].tolist() == list(completion.ids)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, max_new_tokens=40),
        Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, max_new_tokens=40),
        Sampling(temperature=0, max_new_tokens=40),
    ],
    ids=["plain", "filtered", "greedy"],
)
def test_logps_are_those_of_a_forced_forward(any_model: Model, sampling: Sampling) -> None:
    prompts = ragged_prompts(any_model.config.vocab_size)
    for completion in generate(any_model, prompts, sampling, group_size=2, batch_tokens=400):
        expected = forced_logps(any_model, prompts[completion.prompt], list(completion.ids), sampling)
        torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-5, rtol=1e-5)


def test_a_row_is_the_same_whatever_the_batch(tiny_model: Model) -> None:
    prompts = ragged_prompts(tiny_model.config.vocab_size, 12)
    sampling = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=60)
    together = generate(tiny_model, prompts, sampling, group_size=2, seed=7)
    few_slots = generate(tiny_model, prompts, sampling, group_size=2, seed=7, batch_tokens=300)
    assert [c.ids for c in few_slots] == [c.ids for c in together]
    order = [5, 0, 11, 3, 8, 1, 2, 10, 4, 9, 7, 6]
    shuffled = generate(tiny_model, [prompts[i] for i in order], sampling, group_size=2, seed=7, keys=order)
    for place, i in enumerate(order):
        assert [c.ids for c in shuffled[2 * place : 2 * place + 2]] == [c.ids for c in together[2 * i : 2 * i + 2]]
        alone = generate(tiny_model, [prompts[i]], sampling, seed=7, keys=[i])
        assert alone[0].ids == together[2 * i].ids
        assert torch.allclose(torch.tensor(alone[0].logps), torch.tensor(together[2 * i].logps), atol=1e-5)


def test_seed_key_and_sample_each_change_the_row(tiny_model: Model) -> None:
    sampling = Sampling(max_new_tokens=20)
    first, second = generate(tiny_model, [[5, 6]], sampling, group_size=2)
    assert first.ids != second.ids
    assert generate(tiny_model, [[5, 6]], sampling, seed=1)[0].ids != first.ids
    assert generate(tiny_model, [[5, 6]], sampling, keys=[1])[0].ids != first.ids


def test_a_group_runs_its_prompt_once_and_finished_rows_cost_nothing(tiny_model: Model) -> None:
    prompts = [[*range(5, 25)], [*range(30, 41)], [*range(30, 41)], [9]]
    receipt: dict[str, Any] = {}
    completions = generate(tiny_model, prompts, Sampling(max_new_tokens=30), group_size=4, batch_tokens=3 * 50, receipt=receipt)
    assert receipt["slots"] == 3
    assert receipt["prefill_tokens"] == 19 + 10
    assert receipt["shared_tokens"] == 3 * 19 + 7 * 10
    assert receipt["decode_tokens"] == sum(len(c.ids) for c in completions)
    assert sum(receipt["finish"].values()) == receipt["rows"] == 16
    assert [c.prompt for c in completions] == [i for i in range(4) for _ in range(4)]


def test_waiting_rows_take_freed_slots(tiny_model: Model) -> None:
    """Rows of 1 to 40 tokens in 4 slots need little more than a quarter of their tokens in steps."""
    tiny_model.network.generation_config.eos_token_id = list(range(1, 12))
    receipt: dict[str, Any] = {}
    generate(tiny_model, ragged_prompts(300, 40), Sampling(max_new_tokens=40), batch_tokens=4 * 70, receipt=receipt)
    assert receipt["finish"]["eos"] > 20
    assert receipt["steps"] < 1.3 * receipt["decode_tokens"] / 4


def test_every_eos_id_ends_a_row_and_is_kept_out_of_the_text(tiny_model: Model) -> None:
    tiny_model.network.generation_config.eos_token_id = list(range(50, 120))
    completions = generate(tiny_model, [[5, 6, 7]] * 20, Sampling(max_new_tokens=50))
    for completion in completions:
        inner, last = list(completion.ids[:-1]), completion.ids[-1]
        assert not set(inner) & {1, *range(50, 120)}
        assert (completion.finish == "eos") == (last in {1, *range(50, 120)})
        if completion.finish == "eos":
            assert completion.text == tiny_model.tokenizer.decode(inner, skip_special_tokens=True)
    assert len({c.ids[-1] for c in completions if c.finish == "eos"}) > 5


def test_stop_strings_end_a_row_at_their_first_appearance(tiny_model: Model) -> None:
    free = generate(tiny_model, ragged_prompts(300), Sampling(max_new_tokens=60), seed=3)
    texts = [tiny_model.tokenizer.decode(c.ids, skip_special_tokens=False) for c in free]
    stop = tuple(sorted({text[20:23] for text in texts if "\ufffd" not in text[20:23] and len(text) > 23})[:3])
    stopped = generate(tiny_model, ragged_prompts(300), Sampling(max_new_tokens=60, stop=stop), seed=3)
    assert any(c.finish == "stop" for c in stopped)
    for before, after in zip(free, stopped):
        n = len(after.ids)
        assert list(before.ids[:n]) == list(after.ids)
        shorter = tiny_model.tokenizer.decode(after.ids[:-1], skip_special_tokens=False)
        assert not any(s in shorter for s in stop)
        if after.finish == "stop":
            assert any(s in tiny_model.tokenizer.decode(after.ids, skip_special_tokens=False) for s in stop)
            assert not any(s in after.text for s in stop)


def test_a_special_token_can_be_a_stop_string(tiny_model: Model) -> None:
    user = tiny_model.tokenizer.convert_tokens_to_ids("<|user|>")
    with torch.no_grad():
        tiny_model.network.model.embed_tokens.weight[user] *= 3
    completions = generate(tiny_model, [[7]] * 30, Sampling(max_new_tokens=40, stop=("<|user|>",)))
    assert any(c.finish == "stop" for c in completions)
    assert all((c.finish == "stop") == (c.ids[-1] == user) and user not in c.ids[:-1] and "<|" not in c.text for c in completions)


def test_the_budget_is_the_smaller_of_max_new_tokens_and_context(tiny_model: Model) -> None:
    tiny_model.network.generation_config.eos_token_id = None
    tiny_model.config.eos_token_id = None
    prompts = [[5] * 10, [6] * 250, [7] * 255]
    completions = generate(tiny_model, prompts, Sampling(temperature=0, max_new_tokens=12))
    kept = [c for c in completions if 1 not in c.ids]
    assert [len(c.ids) for c in kept] == [{0: 12, 1: 6, 2: 1}[c.prompt] for c in kept]
    assert {c.finish for c in kept} == {"length"}


def test_limits_end_each_prompts_completions_at_their_own_length(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model.network.generation_config.eos_token_id = None
    tiny_model.config.eos_token_id = tiny_model.tokenizer.eos_token = None
    prompts = ragged_prompts(300)
    limits = [1 + 3 * i for i in range(len(prompts))]
    free = generate(tiny_model, prompts, Sampling(max_new_tokens=20), group_size=2)
    limited = generate(tiny_model, prompts, Sampling(max_new_tokens=20), group_size=2, limits=limits, batch_tokens=3 * 50)
    for before, after in zip(free, limited):
        assert list(after.ids) == list(before.ids[: limits[after.prompt]])
        assert after.finish == "length"


def test_training_mode_is_left_and_taken_up_again(tiny_model: Model) -> None:
    network = tiny_model.network.train()
    network.model.layers[0].self_attn.attention_dropout = 0.5
    first = generate(tiny_model, [[5, 6]], Sampling(max_new_tokens=10))
    assert network.training
    assert first == generate(tiny_model, [[5, 6]], Sampling(max_new_tokens=10))


def test_bfloat16_agrees_with_its_forced_forward(tiny_model: Model) -> None:
    tiny_model.network.bfloat16()
    prompts = ragged_prompts(300)
    sampling = Sampling(max_new_tokens=30)
    for completion in generate(tiny_model, prompts, sampling):
        expected = forced_logps(tiny_model, prompts[completion.prompt], list(completion.ids), sampling)
        difference = (torch.tensor(completion.logps) - expected).abs()
        assert float(difference.mean()) < 0.05


def test_no_prompts_no_completions(tiny_model: Model) -> None:
    assert generate(tiny_model, [], Sampling()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompts": [[5], []]}, DataError, "prompt 1 is empty"),
        ({"prompts": [[5] * 256]}, DataError, "256 tokens.*context of model 'tiny' is 256.*shorten the prompt"),
        ({"prompts": [[5, 100000]]}, DataError, "token id 100000.*ids 0 to"),
        ({"prompts": [[5]], "keys": [1, 2]}, DataError, "keys has 2 entries for 1 prompts"),
        ({"prompts": [[5]], "limits": []}, DataError, "limits has 0 entries for 1 prompts"),
        ({"prompts": [[5]], "limits": [0]}, RecipeError, "limits holds 0; a completion has at least 1 token"),
        ({"prompts": [[5]], "group_size": 0}, RecipeError, "group_size is 0"),
        ({"prompts": [[5]], "sampling": Sampling(stop=("a", ""))}, RecipeError, "sampling.stop holds an empty string"),
    ],
)
def test_errors_name_value_and_way_out(
    tiny_model: Model, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(tiny_model, **{"sampling": Sampling(), **arguments})


def test_networks_without_a_key_value_cache_are_refused(tiny_tokenizer: Any) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ModelError, match=r"'mamba' has layers of type linear_attention.*MambaForCausalLM.generate"):
        generate(Model(mamba, tiny_tokenizer, "mamba"), [[5]], Sampling())
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(ModelError, match="'t5' is an encoder-decoder"):
        generate(Model(t5, tiny_tokenizer, "t5"), [[5]], Sampling())


def test_logits_that_are_nan_are_an_error(tiny_model: Model) -> None:
    with torch.no_grad():
        tiny_model.network.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelError, match=r"logits for prompt 0 are NaN after 0 tokens.*float32"):
        generate(tiny_model, [[5, 6]], Sampling())


def test_an_attached_adapter_takes_part(tiny_model: Model) -> None:
    peft = pytest.importorskip("peft")
    plain = generate(tiny_model, [[5, 6, 7]], Sampling(max_new_tokens=20))[0]
    network = peft.get_peft_model(tiny_model.network, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted = Model(network, tiny_model.tokenizer, "adapted")
    completion = generate(adapted, [[5, 6, 7]], Sampling(max_new_tokens=20))[0]
    assert completion.ids != plain.ids
    expected = forced_logps(adapted, [5, 6, 7], list(completion.ids), Sampling())
    torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-5, rtol=1e-5)
