"""The rollout provider: what its examples hold, that it resumes, and that training on it raises the sampled reward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from whet import parts
from whet.data.packing import pack
from whet.errors import DataError, RecipeError, WhetError
from whet.train.combine import combine
from whet.train.loop import fit
from whet.train.objectives.upge import UPGE
from whet.train.policy import HFPolicy
from whet.train.rollout_groups import overlong_penalty
from whet.train.rollouts import RolloutProvider, RolloutSettings
from whet.train.settings import TrainSettings

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": str(i + 4), "answer": str(i + 4)} for i in range(6)]


def in_order(size, epoch, seed):
    return np.roll(np.arange(size), epoch)


def has_digit(rows: Sequence[Mapping], completions: Sequence[str]) -> list[float]:
    return [float(any(c.isdigit() for c in text)) for text in completions]


def constant(rows, completions):
    return [0.0] * len(completions)


def provider(objective="grpo", reward=has_digit, data=ROWS, seed=0, **settings):
    if isinstance(objective, str):
        objective = parts.build("objective", {"name": objective, "kl": 0.0})
    values = {"prompts": 3, "group_size": 4, "max_new_tokens": 6, **settings}
    return RolloutProvider(data, reward, objective, RolloutSettings(**values), schedule=in_order, seed=seed)


def test_examples_carry_what_the_loss_reads(tiny_model):
    source = provider()
    examples = source.examples(0, tiny_model)
    assert len(examples) == 12
    assert [e.unit for e in examples] == np.repeat(range(3), 4).tolist()
    for e in examples:
        prompt = len(e) - e.trained_tokens
        assert not any(e.trained[:prompt]) and all(e.trained[prompt:])
        assert 1 <= e.trained_tokens <= 6
        assert all(logp < 0 for logp in e.token_values["old_logps"][prompt:])
        assert e.values["group_size"] == 4 and e.values["max_new_tokens"] == 6
        text = tiny_model.tokenizer.decode(e.input_ids[prompt:], skip_special_tokens=True)
        assert e.values["reward"] == has_digit([{}], [text])[0]
    by_unit = [sum(e.token_values["advantages"][-1] for e in examples if e.unit == u) for u in range(3)]
    np.testing.assert_allclose(by_unit, 0, atol=1e-9)


def test_fresh_samples_have_ratio_1(tiny_model):
    examples = provider().examples(0, tiny_model)
    [batch] = pack(examples, micro_tokens=10**6)
    loss = UPGE()(HFPolicy(tiny_model.network), batch)
    assert loss.terms["ratio"].item() == pytest.approx(1, abs=1e-5)
    assert loss.terms["clip_share"] == 0
    assert loss.terms["reward"].item() == pytest.approx(np.mean([e.values["reward"] for e in examples]), abs=1e-6)


def test_prompts_follow_the_schedule_over_epochs(tiny_model):
    source = provider(prompts=4, group_size=2)
    seen = []
    for step in range(3):
        examples = source.examples(step, tiny_model)
        prompts = [tiny_model.tokenizer.decode(e.input_ids[: len(e) - e.trained_tokens]) for e in examples[::2]]
        seen += [int(text.split("What is ")[1].split()[0]) for text in prompts]
    assert seen == [0, 1, 2, 3, 4, 5, 5, 0, 1, 2, 3, 4]


def test_same_prompt_is_sampled_differently_in_the_next_epoch_and_the_same_by_seed(tiny_model):
    one, two, other = provider(prompts=6), provider(prompts=6), provider(prompts=6, seed=1)
    first = one.examples(0, tiny_model)
    assert first == two.examples(0, tiny_model)
    assert first != other.examples(0, tiny_model)
    again = one.examples(1, tiny_model)
    assert {tuple(e.input_ids) for e in first} != {tuple(e.input_ids) for e in again}


def test_epochs_and_minibatches_use_each_group_once_per_epoch_with_fixed_old_logps(tiny_model):
    source = provider(prompts=5, epochs_per_rollout=2, minibatches=2)
    steps = [source.examples(step, tiny_model) for step in range(4)]
    for epoch in (steps[:2], steps[2:]):
        units = [{e.unit for e in part} for part in epoch]
        assert units[0] | units[1] == set(range(5)) and not units[0] & units[1]
    assert source.counts.rollouts == 1
    old = {tuple(e.input_ids): e.token_values["old_logps"] for part in steps[:2] for e in part}
    assert all(old[tuple(e.input_ids)] == e.token_values["old_logps"] for part in steps[2:] for e in part)
    source.examples(4, tiny_model)
    assert source.counts.rollouts == 2


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_goes_on_inside_a_rollout(stop, tiny_model):
    settings = {"epochs_per_rollout": 2, "minibatches": 1}
    whole = provider(**settings)
    expected = [whole.examples(step, tiny_model) for step in range(5)]
    first = provider(**settings)
    for step in range(stop):
        first.examples(step, tiny_model)
    saved = json.loads(json.dumps(first.state()))
    resumed = provider(**settings)
    resumed.restore(saved)
    assert [resumed.examples(step, tiny_model) for step in range(stop, 5)] == expected[stop:]
    assert resumed.receipt == whole.receipt
    with pytest.raises(RecipeError, match=r"rollouts\.minibatches was 1 and is 3"):
        provider(epochs_per_rollout=2, minibatches=3).restore(saved)


def test_receipt(tiny_model):
    source = provider()
    examples = source.examples(0, tiny_model)
    summary = source.receipt
    json.dumps(summary)
    assert summary["completions"] == 12
    assert summary["groups_with_signal"] + summary["groups_without"] == 3
    assert summary["completion_tokens"] == sum(e.trained_tokens for e in examples)
    eos = tiny_model.tokenizer.eos_token_id
    assert summary["completions_ended"] == sum(e.input_ids[-1] == eos for e in examples)
    assert summary["decode_tokens"] > 0
    assert source.counts.last["reward"] == pytest.approx(np.mean([e.values["reward"] for e in examples]))


def test_without_signal_training_stops_after_patience(tiny_model):
    source = provider(reward=constant, patience=3)
    for step in range(2):
        assert all(a == 0 for e in source.examples(step, tiny_model) for a in e.token_values["advantages"])
    with pytest.raises(WhetError, match=r"3 rollouts in a row gave no signal.*Near 0: easier prompts"):
        source.examples(2, tiny_model)
    assert source.counts.groups_without == 9


def test_dapo_replaces_groups_with_equal_rewards(tiny_model):
    def by_prompt(rows, completions):
        """Only the prompts with an odd number give different rewards."""
        odd = [int(row["answer"]) % 2 for row in rows]
        return [float(o and i % 2) for i, o in enumerate(odd)]

    source = provider("dapo", reward=by_prompt)
    examples = source.examples(0, tiny_model)
    assert {e.unit for e in examples} == {0, 1, 2}
    assert all(any(e.token_values["advantages"]) for e in examples)
    assert source.counts.groups_resampled >= 2
    barren = provider("dapo", reward=constant, resample_rounds=1)
    without = barren.examples(0, tiny_model)
    assert len(without) == 24 and not any(any(e.token_values["advantages"]) for e in without)


def test_over_length_and_unfinished():
    assert [overlong_penalty(n, 10, 0.4) for n in (1, 6, 8, 10)] == [0, 0, -0.5, -1]
    assert overlong_penalty(10, 10, 0.0) == 0


def test_unfinished_completions_get_their_own_reward(tiny_model):
    source = provider("reinforce", reward_scale=10.0, unfinished_reward=-10.0, group_size=1)
    for e in source.examples(0, tiny_model):
        ended = e.input_ids[-1] == tiny_model.tokenizer.eos_token_id
        assert e.values["reward"] in ((0.0, 10.0) if ended else (-10.0,))


def test_greedy_baseline_and_demonstrations(tiny_model):
    scst = provider("scst", group_size=1).examples(0, tiny_model)
    assert len(scst) == 3 and not any(e.values["is_baseline"] for e in scst)
    luffy = provider("luffy").examples(0, tiny_model)
    assert len(luffy) == 12
    demos = [e for e in luffy if e.values["is_demo"]]
    assert [e.unit for e in demos] == [0, 1, 2]
    for e, row in zip(demos, ROWS):
        end = e.input_ids[len(e) - e.trained_tokens :]
        assert tiny_model.tokenizer.decode(end) == row["completion"] + "<|eos|>"
        assert e.values["reward"] == 1
    hybrid = provider(parts.build("objective", "hpt"), reward=constant)
    gated = hybrid.examples(0, tiny_model)
    assert [e.values["is_demo"] for e in gated] == [1, 1, 1]
    assert gated[0].values["step_sft_units"] == 3
    assert gated[0].values["step_sft_tokens"] == sum(e.trained_tokens for e in gated)
    assert hybrid.counts.rows_dropped == 12 and hybrid.counts.groups_with_signal == 3
    bare = [{"prompt": row["prompt"]} for row in ROWS]
    with pytest.raises(DataError, match=r"row 0: .*no 'completion'"):
        provider("luffy", data=bare).examples(0, tiny_model)


def test_bound_token_values_are_there_before_advantages(tiny_model):
    source = provider(parts.build("objective", "rloo"))
    source.bind(reference_logps=lambda examples: [[-1.0] * len(e) for e in examples], old_values=None)
    examples = source.examples(0, tiny_model)
    assert all(set(e.token_values["reference_logps"]) == {-1.0} for e in examples)
    with pytest.raises(DataError, match="reference_logps"):
        provider(parts.build("objective", "rloo")).examples(0, tiny_model)


def test_prompts_that_fill_the_context_are_counted_and_passed_over(tiny_model):
    data = [{"prompt": "9" * 400}, *ROWS]
    source = provider(data=data)
    assert len(source.examples(0, tiny_model)) == 12
    assert source.counts.prompts_too_long == 1
    with pytest.raises(DataError, match="no prompt leaves room"):
        provider(data=data[:1]).examples(0, tiny_model)


def test_refusals(tiny_model):
    with pytest.raises(RecipeError, match=r"group_size 1: .* at least 2"):
        provider(group_size=1)
    with pytest.raises(RecipeError, match=r"group_size 2: .* at least 3"):
        provider("luffy", group_size=2)
    with pytest.raises(RecipeError, match="minibatches 9"):
        provider(minibatches=9)
    with pytest.raises(RecipeError, match="cannot be summed with others"):
        provider(combine([(1.0, UPGE()), (0.1, UPGE())]))
    with pytest.raises(DataError, match="no rows"):
        provider(data=[])
    hot = provider(temperature=0.7)
    [batch] = pack(hot.examples(0, tiny_model), micro_tokens=10**6)
    with pytest.raises(DataError, match=r"temperature 0\.7"):
        UPGE()(HFPolicy(tiny_model.network), batch)


def short_with_digit(rows, completions):
    return [float(len(text) <= 6 and any(c.isdigit() for c in text)) for text in completions]


def train(tiny_model, name, steps, folder=None, **settings):
    objective = parts.build("objective", {"name": name, "kl": 0.0})
    source = provider(objective, reward=short_with_digit, prompts=6, group_size=8, **settings)
    how = TrainSettings(steps=25, lr=3e-3, lr_schedule="constant", warmup=0.0, precision="float32", checkpoint_every=2)
    rewards = []

    def watch(entry):
        rewards.append(source.counts.last["reward"])
        if entry.step + 1 == steps:
            raise KeyboardInterrupt

    try:
        result = fit(tiny_model, source, objective, how, checkpoint_folder=folder, on_step=watch, progress=False)
    except KeyboardInterrupt:
        result = None
    return rewards, result


@pytest.mark.parametrize("name", ["grpo", "dapo", "rloo"])
def test_training_raises_the_sampled_reward(name, tiny_model):
    rewards, result = train(tiny_model, name, 0)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:3]) + 0.3
    assert result.receipt["provider"]["rollouts"] == 25
    assert result.curve[0]["terms"]["ratio"] == pytest.approx(1, abs=1e-4)


def test_a_stopped_run_goes_on_with_the_same_bits(tiny_model, tmp_path):
    settings = {"epochs_per_rollout": 2, "minibatches": 2}
    _, whole = train(tiny_model, "grpo", 0, **settings)
    train(tiny_model, "grpo", 11, tmp_path, **settings)
    _, resumed = train(tiny_model, "grpo", 0, tmp_path, **settings)
    assert resumed.receipt["resumed_at"] == 10
    for (name, a), (_, b) in zip(whole.model.network.named_parameters(), resumed.model.network.named_parameters()):
        assert torch.equal(a, b), name
