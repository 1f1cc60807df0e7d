"""The policy's log-probabilities are those of the plain network, packed or not, for several architectures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from whet.data.example import Example
from whet.data.packing import pack
from whet.errors import ModelError
from whet.model import Model
from whet.train import policy as policy_module
from whet.train.invariants import check_packing
from whet.train.policy import HFPolicy
from whet.train.probe import backbone_and_head, keeps_rows_apart

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
SMALL |= {"bos_token_id": None, "eos_token_id": 1, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8}
ARCHITECTURES = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": SMALL,
    "mistral": SMALL | {"sliding_window": 6},
    "gemma2": SMALL | {"sliding_window": 6, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gpt2": {
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
    "gpt_neox": {k: v for k, v in SMALL.items() if k not in ("num_key_value_heads", "head_dim")} | {"bos_token_id": 1},
}


def network_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind])).eval()


def examples_of(lengths: tuple[int, ...] = (17, 9, 5, 12, 3, 8)) -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, 97, (n,), generator=generator).tolist() for n in lengths]
    return [Example(ids, [i >= min(3, len(ids) - 1) for i in range(len(ids))], unit) for unit, ids in enumerate(rows)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_rows_are_as_good_as_separate(kind: str, tiny_tokenizer: object) -> None:
    model = Model(network_of(kind), tiny_tokenizer, kind)
    result = check_packing(model, examples_of())
    assert result["packed"], f"{kind} should be packed"
    assert result["logps"] < 2e-5
    assert result["loss"] < 1e-6


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_logps_are_those_of_the_plain_forward(kind: str) -> None:
    network = network_of(kind)
    policy = HFPolicy(network, temperature=0.7)
    (batch,) = pack(examples_of((6, 17)))
    logps, entropy = policy.logps_and_entropy(batch)
    for r in range(batch.rows):
        where = batch.row == r
        logits = network(batch.input_ids[where][None]).logits[0] / 0.7
        expected = logits.log_softmax(-1)
        trained = batch.mask[where]
        picked = expected.gather(-1, batch.labels[where].clamp(min=0)[:, None])[:, 0]
        torch.testing.assert_close(logps[where][trained], picked[trained], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy[where][trained], -(expected.exp() * expected).sum(-1)[trained], rtol=1e-5, atol=1e-5)
        assert not logps[where][~trained].any()
    torch.testing.assert_close(policy.logps(batch), logps, rtol=0, atol=1e-6)


def test_the_split_is_taken_only_where_it_changes_nothing() -> None:
    assert backbone_and_head(network_of("llama")) is not None
    assert backbone_and_head(network_of("gpt2")) is not None
    assert backbone_and_head(network_of("gemma2")) is None, "a soft cap on the logits lies between backbone and logits"


def test_a_network_that_leaks_between_rows_is_not_packed() -> None:
    network = network_of("llama")
    inner = network.model.forward
    network.model.forward = lambda position_ids=None, **inputs: inner(**inputs)  # type: ignore[assignment]
    assert not keeps_rows_apart(network)
    assert all(b.rows == len(b.input_ids) for b in pack(examples_of(), share=HFPolicy(network).shares_packs))


def test_pieces_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("llama")
    (batch,) = pack(examples_of())
    gradients = []
    for limit in (1 << 30, 97 * 4 * 5):
        monkeypatch.setattr(policy_module, "LOGIT_BYTES", limit)
        network.zero_grad()
        HFPolicy(network).logps(batch).sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for whole, pieces in zip(*gradients):
        torch.testing.assert_close(whole, pieces, rtol=1e-5, atol=1e-6)


def test_an_entropy_that_is_only_read_changes_neither_numbers_nor_gradient() -> None:
    network = network_of("llama")
    (batch,) = pack(examples_of())
    found = []
    for entropy_gradient in (True, False):
        network.zero_grad()
        logps, entropy = HFPolicy(network).logps_and_entropy(batch, entropy_gradient)
        logps.sum().backward()
        found.append([logps, entropy, *(p.grad.clone() for p in network.parameters())])
    for differentiable, read in zip(*found):
        torch.testing.assert_close(read, differentiable, rtol=0, atol=0)
    logps, entropy = HFPolicy(network).logps_and_entropy(batch)
    apart = torch.autograd.grad(entropy.sum(), list(network.parameters()))
    assert max(float(gradient.abs().max()) for gradient in apart) > 0


def test_repeated_calls_share_one_forward() -> None:
    policy = HFPolicy(network_of("llama"), value_head=torch.nn.Linear(32, 1))
    (batch,) = pack(examples_of())
    policy.logps(batch), policy.logps_and_entropy(batch), policy.values(batch)
    assert policy.work.forward == batch.input_ids.numel()
    policy.logps(batch.replace(input_ids=batch.input_ids.clone()))
    assert policy.work.forward == 2 * batch.input_ids.numel()


def test_values_come_from_the_last_hidden_state() -> None:
    head = torch.nn.Linear(32, 1)
    (batch,) = pack(examples_of((6, 17)))
    for kind in ("llama", "gemma2"):
        network = network_of(kind)
        hidden = network(batch.input_ids, position_ids=batch.position_ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(HFPolicy(network, value_head=head).values(batch), head(hidden).squeeze(-1))
    with pytest.raises(ModelError, match="must list 'values' in its needs"):
        HFPolicy(network_of("llama")).values(batch)


def test_nothing_trained_gives_zeros() -> None:
    (batch,) = pack([Example([5, 6, 7], [False] * 3)])
    logps = HFPolicy(network_of("llama")).logps(batch)
    assert logps.shape == (1, 3) and not logps.any()


def test_loss_is_that_of_transformers_on_unpacked_rows() -> None:
    network = network_of("qwen2")
    examples = examples_of()
    batches = pack(examples, micro_tokens=20)
    loss = sum(-HFPolicy(network).logps(b).sum() / b.totals.tokens for b in batches)
    total = sum(
        functional.cross_entropy(
            network(torch.tensor([e.input_ids])).logits[0, :-1][e.trained[1:]],
            torch.tensor(e.input_ids)[1:][e.trained[1:]],
            reduction="sum",
        )
        for e in examples
    )
    torch.testing.assert_close(loss, total / sum(e.trained_tokens for e in examples), rtol=1e-5, atol=0)
