"""Likelihoods against a plain forward pass of each pair alone; independence of batch, padding and order."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from whet.errors import DataError
from whet.generate.completion import Sampling
from whet.generate.engine import generate
from whet.generate.likelihood import Pair, sequence_logps
from whet.model import Model


def some_pairs(count: int = 60, contexts: int = 9) -> list[Pair]:
    generator = random.Random(0)

    def ids(low: int, high: int) -> list[int]:
        return [generator.randrange(5, 290) for _ in range(generator.randint(low, high))]

    stems = [ids(1, 40) for _ in range(contexts)]
    return [(generator.choice(stems), ids(1, 9)) for _ in range(count)]


def alone(model: Model, pair: Pair) -> tuple[torch.Tensor, bool]:
    context, continuation = pair
    with torch.no_grad():
        logps = model.network(torch.tensor([[*context, *continuation]])).logits[0, len(context) - 1 : -1].float().log_softmax(-1)
    targets = torch.tensor(continuation)
    return logps.gather(-1, targets[:, None])[:, 0], logps.argmax(-1).tolist() == list(continuation)


def assert_plain(model: Model, pairs: list[Pair], **settings: Any) -> None:
    logps, greedy = sequence_logps(model, pairs, **settings)
    for pair, got, best in zip(pairs, logps, greedy):
        expected, expected_best = alone(model, pair)
        torch.testing.assert_close(torch.tensor(got), expected, atol=1e-5, rtol=1e-5)
        assert best == expected_best


@pytest.mark.parametrize("batch_tokens", [1, 100, 8192])
def test_logps_are_those_of_each_pair_alone(tiny_model: Model, batch_tokens: int) -> None:
    assert_plain(tiny_model, some_pairs(), batch_tokens=batch_tokens)


def test_eager_attention_takes_the_same_mask(tiny_model: Model) -> None:
    tiny_model.network.set_attn_implementation("eager")
    assert_plain(tiny_model, some_pairs())


@pytest.mark.parametrize("kind", ["window", "state-space"])
def test_networks_that_take_no_mask_score_each_pair_in_its_own_row(kind: str, tiny_tokenizer: Any) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    if kind == "window":
        config = MistralConfig(**sizes, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2, sliding_window=8)
        network: Any = MistralForCausalLM(config)
    else:
        network = MambaForCausalLM(MambaConfig(**sizes, state_size=4))
    assert_plain(Model(network.eval(), tiny_tokenizer, kind), some_pairs(20))


def test_the_greedy_continuation_is_recognized(tiny_model: Model) -> None:
    context = [5, 6, 7]
    ids = list(generate(tiny_model, [context], Sampling(temperature=0, max_new_tokens=6))[0].ids)
    other = [*ids[:-1], (ids[-1] + 1) % 300]
    assert sequence_logps(tiny_model, [(context, ids), (context, other), (context, ids[:1])])[1] == [True, False, True]


def test_a_repeated_context_is_run_once(tiny_model: Model) -> None:
    positions: list[int] = []
    embeddings = tiny_model.network.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda module, args: positions.append(args[0].numel()))
    sequence_logps(tiny_model, [([9] * 100, [i, i]) for i in range(5, 15)])
    assert positions == [100 + 10]


def test_many_continuations_are_spread_over_several_trees(tiny_model: Model) -> None:
    pairs: list[Pair] = [([9, 8, 7], [i % 290 + 5, *[i % 7 + 5] * 20]) for i in range(150)]
    assert_plain(tiny_model, pairs)


def test_a_gradient_is_not_kept_and_training_goes_on(tiny_model: Model) -> None:
    tiny_model.network.train()
    sequence_logps(tiny_model, some_pairs(3))
    assert tiny_model.network.training
    assert not tiny_model.network.lm_head._forward_pre_hooks


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [5]), "pair 1: the context is empty; a beginning-of-text"),
        (([5], []), "pair 1: the continuation is empty"),
        (([5] * 255, [5] * 3), "pair 1:.*need 257 positions, but model 'tiny' has 256.*shorten the context"),
    ],
)
def test_errors_name_the_pair_and_the_way_out(tiny_model: Model, pair: Pair, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sequence_logps(tiny_model, [([5], [6]), pair])


def test_the_last_token_needs_no_position(tiny_model: Model) -> None:
    assert_plain(tiny_model, [([5] * 200, [6] * 56)])
    assert len(sequence_logps(tiny_model, [([5] * 200, [6] * 57)])[0][0]) == 57
