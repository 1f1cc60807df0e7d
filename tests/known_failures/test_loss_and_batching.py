"""Known failures of other tools: the loss under gradient accumulation, packing, another DPO, number formats."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

import whet
from whet import parts
from whet.data.example import Example
from whet.data.packing import count, pack
from whet.data.schedules.sequential import sequential
from whet.model import Model
from whet.run.check import check_recipe
from whet.train.invariants import check_accumulation, check_packing
from whet.train.objectives.dpo import DPO
from whet.train.policy import HFPolicy
from whet.train.rollouts import RolloutProvider, RolloutSettings

PROMPT = 3


def ids(length: int, seed: int) -> list[int]:
    return torch.randint(5, 290, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def row(length: int, unit: int, seed: int, **more: Any) -> Example:
    tokens = [*ids(PROMPT, unit), *ids(length - PROMPT, 1000 + seed)]
    return Example(tokens, [k >= PROMPT for k in range(length)], unit, **more)


def chats() -> list[Example]:
    """Eight rows of very different lengths: a mean of per-row means is far from the mean over tokens."""
    return [row(length, unit, unit) for unit, length in enumerate((30, 4, 5, 25, 4, 12, 5, 6))]


def pairs(reference: float = -5.0) -> list[Example]:
    def side(unit: int, chosen: float, length: int) -> Example:
        logps = [0.0] * PROMPT + [reference + 0.3 * k for k in range(length - PROMPT)]
        return row(length, unit, 2 * unit + int(chosen), values={"chosen": chosen}, token_values={"reference_logps": logps})

    return [side(unit, c, 5 + 3 * unit + 4 * int(c)) for unit in range(4) for c in (1.0, 0.0)]


def rollouts(model: Model, objective: Any) -> list[Example]:
    def reward(rows: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [float(len(text) % 3) / 2 for text in completions]

    data = [{"prompt": f"What is {i} plus 4?", "completion": str(i + 4), "answer": str(i + 4)} for i in range(4)]
    plan = RolloutSettings(prompts=4, group_size=4, max_new_tokens=9)
    provider = RolloutProvider(data, reward, objective, plan, schedule=sequential)
    provider.bind(reference_logps=lambda examples: [[-5.0] * len(e) for e in examples])
    return provider.examples(0, model)


@pytest.mark.parametrize("name", [*parts.parts("objective")])
def test_the_gradient_does_not_depend_on_the_batch_split(name: str, tiny_model: Model) -> None:
    """huggingface/transformers#34191 (with #35438, #37766): the loss is summed wrongly under gradient accumulation."""
    try:
        objective = parts.build("objective", name)
    except whet.errors.RecipeError as error:
        pytest.skip(f"needs settings of its own: {error}")
    if "values" in objective.needs:
        pytest.skip("needs a value head: the loop's own test trains it")
    if name == "compat-distill":
        pytest.skip("needs a second model: tests/train/test_compat_distill.py splits its batches")
    if "rollouts" in objective.needs:
        examples = rollouts(tiny_model, objective)
    else:
        examples = pairs() if "pairs" in objective.needs else chats()
    found = check_accumulation(tiny_model, examples, objective, step=3, steps=4)
    assert found["micro_batches"] > 1
    assert found["gradient"] < 1e-4


def test_nor_does_that_of_a_value_head(tiny_model: Model) -> None:
    """huggingface/transformers#34191: the same for an objective with a value head, through the loop."""
    data = [{"prompt": f"What is {i} plus 4?", "answer": str(i + 4)} for i in range(4)]
    plan = {"prompts": 4, "group_size": 2, "max_new_tokens": 8}
    fields = {"objective": "ppo", "reward": {"name": "pattern", "pattern": "[aeiou]"}, "rollouts": plan, "precision": "float32"}
    made = [whet.train(tiny_model, data, steps=2, micro_tokens=m, **fields).lineage["step"]["receipt"] for m in (1, 1 << 20)]
    assert made[0]["micro_batches"] > made[1]["micro_batches"]
    first, second = ([entry["gradient_norm"] for entry in receipt["curve"]] for receipt in made)
    assert first == pytest.approx(second, rel=1e-4)


def test_check_measures_it_on_the_users_own_rows() -> None:
    """axolotl-ai-cloud/axolotl#1100: the user cannot find out on his own model and data."""
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "key_value_heads": 1, "intermediate_size": 32}
    rows = {"name": "nanoworld", "rows": 16, "form": "plain", "skills": ["variables"]}
    found = check_recipe(
        {
            "name": "tiny",
            "model": {"name": "llama", "vocab_size": 300, "context": 256, **shape},
            "tokenizer_data": "text",
            "data": [{"name": "text", "source": rows}],
            "train": [{"name": "first", "data": "text", "format": "plain", "steps": 1, "batch_size": 4}],
        }
    )
    lines = found.text().splitlines()
    assert any("first: accumulation" in line and "against" in line for line in lines)
    assert any("first: packing" in line for line in lines)
    assert found.passed


def test_accumulating_more_gives_the_same_curve(tiny_model: Model) -> None:
    """axolotl-ai-cloud/axolotl#1100: a loss of 3.8 or of over 8, by how one batch of 16 is split."""
    data = [{"prompt": f"What is {i} plus 4?", "completion": "The answer is 19. " * (1 + i % 5)} for i in range(16)]
    settings = {"steps": 2, "batch_size": 16, "lr": 1e-3, "precision": "float32"}
    made = [whet.train(tiny_model, data, micro_tokens=m, **settings).lineage["step"]["receipt"] for m in (1, 1 << 20)]
    assert made[0]["micro_batches"] == 32 and made[1]["micro_batches"] == 2
    first, second = ([entry["loss"] for entry in receipt["curve"]] for receipt in made)
    assert first == pytest.approx(second, rel=1e-5)


def test_packed_rows_give_the_loss_of_separate_rows(tiny_model: Model) -> None:
    """huggingface/trl#3067 (with #805, #1235): packed samples attend to each other."""
    examples = chats()
    policy = HFPolicy(tiny_model.network)
    assert policy.shares_packs
    objective = parts.build("objective", "sft")

    def total(share: bool, micro_tokens: int) -> float:
        packs = pack(examples, totals=count(examples), micro_tokens=micro_tokens, share=share)
        assert share is (sum(len(b.input_ids) for b in packs) < len(examples))
        return sum(float(objective(policy, batch).total) for batch in packs)

    assert total(True, 1 << 20) == pytest.approx(total(False, 1), rel=1e-5)
    assert check_packing(tiny_model, examples)["logps"] < 1e-4


def test_a_network_whose_rows_would_mix_is_not_packed(tiny_model: Model) -> None:
    """huggingface/trl#3067: where positions alone do not keep rows apart, they are not packed, instead of trusted to EOS."""
    network = tiny_model.network
    plain = network.model.forward

    def leaking(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        hidden = output.last_hidden_state
        output.last_hidden_state = hidden + hidden.cumsum(1) * 0.1
        return output

    network.model.forward = leaking
    try:
        found = check_packing(tiny_model, chats())
    finally:
        network.model.forward = plain
    assert found["packed"] is False and found["logps"] < 1e-3


def test_dpo_is_the_papers_dpo_term_by_term(tiny_model: Model) -> None:
    """hiyouga/LlamaFactory#6577: DPO differs from TRL's DPO (tests/train/test_preference.py compares with TRL itself)."""
    examples = pairs()
    other = copy.deepcopy(tiny_model.network)
    loss = sum(DPO(beta=0.1)(HFPolicy(tiny_model.network), b).total for b in pack(examples, totals=count(examples)))
    assert isinstance(loss, torch.Tensor)
    loss.backward()

    def ratio(example: Example) -> torch.Tensor:
        tokens = torch.tensor([example.input_ids])
        logps = other(tokens).logits.log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])[:, 0]
        return (logps - torch.tensor(example.token_values["reference_logps"][1:]))[PROMPT - 1 :].sum()

    margins = [ratio(examples[2 * u]) - ratio(examples[2 * u + 1]) for u in range(4)]
    expected = -logsigmoid(0.1 * torch.stack(margins)).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for (name, ours), theirs in zip(tiny_model.network.named_parameters(), other.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_four_formats_are_named_and_the_checkpoints_is_kept(precision: str, tiny_model: Model) -> None:
    """huggingface/trl#5138 (with #6005, huggingface/transformers#34743): a model loads in another format than it computes in."""
    start = replace(tiny_model, network=tiny_model.copy().network.to(torch.bfloat16))
    data = [{"prompt": "What is 3 plus 4?", "completion": "7"}] * 4
    made = whet.train(start, data, steps=1, batch_size=4, precision=precision)
    receipt = made.lineage["step"]["receipt"]
    assert receipt["dtypes"] == {
        "weights": "float32",
        "frozen_weights": "none",
        "compute": precision,
        "optimizer": "float32",
        "reduction": "float32",
        "result": "bfloat16",
    }
    assert receipt["precision_reason"] == "asked for"
    assert made.network.dtype is torch.bfloat16
