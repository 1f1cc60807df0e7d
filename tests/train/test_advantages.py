"""From rewards to advantages, and the KL estimates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from whet import parts
from whet.errors import DataError
from whet.train.advantages import advantages_of, gae, group_advantages, returns_to_go, rewards_of, whiten
from whet.train.objectives.upge import UPGE
from whet.train.policy_gradient import kl

GROUPS, SIZE, LONGEST = 3, 4, 6


def preset(name, **settings):
    return parts.build("objective", {"name": name, **settings})


def test_identity_3_leave_one_out_is_scaled_group_advantage():
    rewards, groups = np.random.default_rng(0).normal(size=12), np.repeat(np.arange(3), 4)
    loo, group = group_advantages(rewards, groups, "leave-one-out"), group_advantages(rewards, groups, "group")
    np.testing.assert_allclose(loo, 4 / 3 * group, rtol=1e-12)
    others = [(rewards[groups == g].sum() - rewards[i]) / 3 for i, g in enumerate(groups)]
    np.testing.assert_allclose(loo, rewards - others, rtol=1e-12, atol=1e-12)
    for values in (loo, group):
        np.testing.assert_allclose([values[groups == g].sum() for g in range(3)], 0, atol=1e-12)


def test_scst_compares_with_the_greedy_completion(rollout):
    examples = rollout(size=1)
    greedy = [dataclasses.replace(e, values={**e.values, "reward": 0.25, "is_baseline": 1.0}) for e in examples]
    prepared = preset("scst").prepare(examples + greedy)
    assert len(prepared) == GROUPS
    for before, after in zip(examples, prepared):
        assert after.token_values["advantages"][-1] == pytest.approx(before.values["reward"] - 0.25)
    with pytest.raises(DataError, match="no greedy completion"):
        preset("scst").prepare(examples)


def test_kl_in_the_reward_of_rloo_is_taken_off_before_the_baseline(rollout):
    examples = rollout()
    prepared = preset("rloo", kl=0.5).prepare(examples)
    k1 = [sum(np.subtract(e.token_values["old_logps"], e.token_values["reference_logps"])) for e in examples]
    rewards = np.array([e.values["reward"] for e in examples]) - 0.5 * np.array(k1)
    expected = group_advantages(rewards, np.repeat(np.arange(GROUPS), SIZE), "leave-one-out")
    np.testing.assert_allclose([e.token_values["advantages"][-1] for e in prepared], expected, rtol=1e-9)


def test_return_is_the_reward_still_to_come_and_whitening_standardizes_the_rollout(rollout):
    examples = rollout()
    prepared, _ = advantages_of(examples, "return", kl=0.1)
    for e, p in zip(examples, prepared):
        k1 = np.subtract(e.token_values["old_logps"], e.token_values["reference_logps"])[3:]
        expected = [e.values["reward"] - 0.1 * k1[t:].sum() for t in range(k1.size)]
        np.testing.assert_allclose(p.token_values["advantages"][3:], expected, rtol=1e-9, atol=1e-12)
        assert p.token_values["advantages"][:3] == [0.0] * 3
    joined = np.concatenate(whiten([np.array([1.0, 2.0]), np.array([5.0])]))
    assert joined.mean() == pytest.approx(0) and joined.std(ddof=1) == pytest.approx(1, abs=1e-5)
    assert np.concatenate(whiten([np.ones(2), np.ones(1)])).tolist() == [0, 0, 0]


def test_gae_limits():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=5), rng.normal(size=5)
    np.testing.assert_allclose(gae(rewards, values, 1.0, 1.0), returns_to_go(rewards, 1.0) - values, rtol=1e-12)
    np.testing.assert_allclose(gae(rewards, values, 0.9, 0.0), rewards + 0.9 * np.append(values[1:], 0) - values, rtol=1e-12)
    delta = rewards + 0.9 * np.append(values[1:], 0) - values
    direct = [sum((0.9 * 0.7) ** (u - t) * delta[u] for u in range(t, 5)) for t in range(5)]
    np.testing.assert_allclose(gae(rewards, values, 0.9, 0.7), direct, rtol=1e-12)


def test_running_baseline_is_of_earlier_rollouts_and_survives_a_checkpoint(rollout):
    objective = UPGE(stable="none", denominator="policy", advantage="running", aggregation="sum")
    first, second = rollout(0), rollout(1)
    objective.prepare(first)
    mean = np.mean(rewards_of(first))
    state = objective.state_dict()
    after = objective.prepare(second)
    np.testing.assert_allclose([e.token_values["advantages"][-1] for e in after], rewards_of(second) - mean, rtol=1e-12)
    resumed = UPGE(stable="none", denominator="policy", advantage="running", aggregation="sum")
    resumed.load_state_dict(state)
    assert resumed.prepare(second) == after


def test_kl_estimators():
    d = torch.linspace(-1, 1, 9, dtype=torch.float64)
    zero = torch.zeros_like(d)
    assert torch.equal(kl("k1", d, zero), d)
    torch.testing.assert_close(kl("k2", d, zero), d**2 / 2)
    torch.testing.assert_close(kl("k3", d, zero), torch.expm1(-d) + d)
    assert kl("k3", torch.tensor([-1000.0]), torch.zeros(1)).isfinite().all()


def test_only_k2_differentiates_to_the_gradient_of_the_kl():
    logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    logp = logits.log_softmax(-1)
    exact = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits, retain_graph=True)[0]

    def expected_gradient(kind):
        return torch.autograd.grad((logp.exp().detach() * kl(kind, logp, reference)).sum(), logits, retain_graph=True)[0]

    torch.testing.assert_close(expected_gradient("k2"), exact)
    assert not torch.allclose(expected_gradient("k1"), exact, atol=1e-3)
    assert not torch.allclose(expected_gradient("k3"), exact, atol=1e-3)
