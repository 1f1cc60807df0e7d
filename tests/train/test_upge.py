"""The identities of the policy-gradient family, against losses written out on padded [B, T] tensors."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from whet import parts
from whet.data.example import Example, Totals
from whet.errors import DataError, RecipeError
from whet.train.advantages import advantages_of, gae, group_advantages, returns_to_go, rewards_of, whiten, with_step_counts
from whet.train.objectives.hpt import HPT
from whet.train.objectives.upge import PRESETS, UPGE
from whet.train.policy_gradient import kl

GROUPS, SIZE, LONGEST = 3, 4, 6


def rollout(seed=0, *, drift=0.4, demo=False, groups=GROUPS, size=SIZE, longest=LONGEST, prompt=3, rewards=None):
    """Random completions with old and reference log-probabilities; with ``demo`` the last row of a group is a demonstration."""
    rng = np.random.default_rng(seed)
    examples = []
    for unit in range(groups):
        for member in range(size):
            length = int(rng.integers(1, longest + 1))
            is_demo = demo and member == size - 1
            reward = 1.0 if is_demo else float(rng.integers(0, 2)) if rewards is None else rewards[unit][member]
            tokens = {
                name: [0.0] * prompt
                + ([0.0] * length if is_demo and name == "old_logps" else (-2.4 + drift * rng.normal(size=length)).tolist())
                for name in ("old_logps", "reference_logps")
            }
            values = {"reward": reward, "is_demo": float(is_demo), "max_new_tokens": float(longest), "group_size": float(size)}
            ids = rng.integers(0, 11, size=prompt + length).tolist()
            examples.append(Example(ids, [False] * prompt + [True] * length, unit, values, tokens))
    return examples


def preset(name, **settings):
    return parts.build("objective", {"name": name, **settings})


class Padded:
    """The batch of one row per line as the formulas of the papers read it: [B, T] tensors and a mask."""

    def __init__(self, batch, policy):
        self.mask = batch.mask.double()
        self.logp, self.entropy = policy.logps_and_entropy(batch)
        self.old = batch.token_values["old_logps"] * self.mask
        self.ref = batch.token_values["reference_logps"] * self.mask
        self.advantage = batch.token_values.get("advantages", torch.zeros_like(self.mask)) * self.mask
        self.demo = batch.values["is_demo"][:, None] > 0
        self.ratio = (self.logp - self.old).exp()
        self.lengths = self.mask.sum(1)

    def z(self, kind, per_token):
        per_token = per_token * self.mask
        if kind == "token":
            return per_token.sum() / self.mask.sum()
        if kind == "seq":
            return (per_token.sum(1) / self.lengths).mean()
        if kind == "sum":
            return per_token.sum(1).mean()
        return per_token.sum() / (len(self.mask) * LONGEST)

    def clipped(self, low, high, ratio=None):
        ratio = self.ratio if ratio is None else ratio
        return -torch.minimum(ratio * self.advantage, ratio.clamp(1 - low, 1 + high) * self.advantage)

    def k3(self):
        return (self.ref - self.logp).exp() - (self.ref - self.logp) - 1

    def s(self):
        return ((self.logp - self.old) * self.mask).sum(1, keepdim=True).div(self.lengths[:, None]).exp().expand_as(self.mask)


def luffy(p):
    chance = p.logp.exp()
    return p.z("const", torch.where(p.demo, -p.advantage * chance / (chance + 0.1), -p.advantage * p.ratio))


def srft(p):
    entropy = (p.entropy.detach().sum(1) / p.lengths)[:, None]
    shown = -p.advantage * p.logp.exp() - 0.5 * (-entropy).exp() * p.logp
    factor = torch.where(p.advantage > 0, 0.1 * entropy.exp(), torch.ones_like(p.advantage))
    return p.z("const", torch.where(p.demo, shown, -factor * p.advantage * p.ratio))


NAMED = {
    "reinforce": lambda p: p.z("sum", -p.advantage * p.logp),
    "grpo": lambda p: p.z("seq", p.clipped(0.2, 0.2)),
    "dr-grpo": lambda p: p.z("const", p.clipped(0.2, 0.2)),
    "dapo": lambda p: p.z("token", p.clipped(0.2, 0.28)),
    "gspo": lambda p: p.z("seq", p.clipped(3e-4, 4e-4, p.s())),
    "cispo": lambda p: p.z("token", -p.ratio.detach().clamp(max=5.0) * p.advantage * p.logp),
    "rloo": lambda p: p.z("sum", -p.advantage * p.logp),
    "reinforce++": lambda p: p.z("token", p.clipped(0.2, 0.2)),
    "reinforce++-baseline": lambda p: p.z("token", p.clipped(0.2, 0.2)) + 0.001 * p.z("token", (p.logp - p.ref) ** 2 / 2),
    "luffy": luffy,
    "srft": srft,
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("seed", [0, 1])
def test_identity_1_named_loss_and_its_gradient_equal_the_estimator(name, seed, batch_of, table_policy):
    objective = preset(name)
    examples = objective.prepare(rollout(seed, drift=0.8, demo=name in ("luffy", "srft")))
    batch = batch_of(examples)
    policy = table_policy(batch, seed)
    loss = objective(policy, batch)
    expected = NAMED[name](Padded(batch, policy))
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(loss.total, expected, rtol=1e-8, atol=1e-12)


def test_identity_1_with_kl_and_entropy(batch_of, table_policy):
    objective = preset("grpo", kl=0.04, entropy=0.01)
    batch = batch_of(objective.prepare(rollout(3)))
    policy = table_policy(batch)
    padded = Padded(batch, policy)
    expected = padded.z("seq", padded.clipped(0.2, 0.2) + 0.04 * padded.k3()) - 0.01 * padded.z("token", padded.entropy)
    loss = objective(policy, batch)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected), rtol=1e-8, atol=1e-12)


def test_identity_1_dual_clip(batch_of, table_policy):
    objective = UPGE(dual_clip=1.5, aggregation="token")
    batch = batch_of(objective.prepare(rollout(4, drift=1.5)))
    policy = table_policy(batch)
    padded = Padded(batch, policy)
    plain = padded.clipped(0.2, 0.2)
    bounded = torch.where(padded.advantage < 0, torch.minimum(plain, -1.5 * padded.advantage), plain)
    expected = padded.z("token", bounded)
    loss = objective(policy, batch)
    assert not torch.allclose(bounded, plain)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("aggregation", ["token", "seq", "const", "sum"])
@pytest.mark.parametrize(
    "pieces", [{}, {"denominator": "clipped", "stable": "none"}, {"stable": "sequence-clip", "denominator": "sequence"}]
)
def test_identity_2_on_fresh_samples_the_clipped_family_is_reinforce(aggregation, pieces, batch_of, table_policy):
    batch = batch_of(UPGE().prepare(rollout()))
    policy = table_policy(batch)
    fresh = batch.replace(token_values={**batch.token_values, "old_logps": policy.logps(batch).detach()})
    clipped = UPGE(aggregation=aggregation, **pieces)(policy, fresh)
    plain = UPGE(stable="none", denominator="policy", aggregation=aggregation)(policy, fresh)
    torch.testing.assert_close(policy.gradient(clipped.total), policy.gradient(plain.total), rtol=1e-8, atol=1e-12)
    assert clipped.terms["ratio"] == pytest.approx(1.0, abs=1e-12)
    assert clipped.terms["clip_share"] == 0


def test_identity_3_leave_one_out_is_scaled_group_advantage():
    rewards, groups = np.random.default_rng(0).normal(size=12), np.repeat(np.arange(3), 4)
    loo, group = group_advantages(rewards, groups, "leave-one-out"), group_advantages(rewards, groups, "group")
    np.testing.assert_allclose(loo, 4 / 3 * group, rtol=1e-12)
    others = [(rewards[groups == g].sum() - rewards[i]) / 3 for i, g in enumerate(groups)]
    np.testing.assert_allclose(loo, rewards - others, rtol=1e-12, atol=1e-12)
    for values in (loo, group):
        np.testing.assert_allclose([values[groups == g].sum() for g in range(3)], 0, atol=1e-12)


def test_identity_4_gspo_on_one_token_completions_is_grpo(batch_of, table_policy):
    batch = batch_of(UPGE().prepare(rollout(longest=1)))
    policy = table_policy(batch)
    settings = {"clip_low": 0.1, "clip_high": 0.15}
    torch.testing.assert_close(
        policy.gradient(preset("gspo", **settings)(policy, batch).total),
        policy.gradient(preset("grpo", **settings)(policy, batch).total),
    )


def test_identity_6_equal_rewards_give_no_gradient(batch_of, table_policy):
    noise = [[0.3 + 1e-10 * j for j in range(SIZE)] for _ in range(GROUPS)]
    for name in ("grpo", "dr-grpo", "rloo", "dapo", "gspo", "cispo"):
        objective = preset(name, **({"kl": 0.0} if name == "rloo" else {}))
        batch = batch_of(objective.prepare(rollout(rewards=noise)))
        policy = table_policy(batch)
        assert policy.gradient(objective(policy, batch).total).abs().max() == 0, name


def test_identity_7_luffy_weight_tends_to_the_plain_off_policy_weight(batch_of, table_policy):
    batch = batch_of(UPGE(rows="both", advantage="group").prepare(rollout(demo=True)))
    policy = table_policy(batch)
    plain = UPGE(rows="both", stable="none", advantage="group")
    demo = batch.of_row(batch.values["is_demo"]) > 0

    def gradient(objective):
        return policy.gradient(objective(policy, batch).total)[demo]

    gaps = []
    for g in (1e2, 1e4, 1e6):
        shaped = dataclasses.replace(plain, shape=g)
        gaps.append((g * gradient(shaped) - gradient(plain)).abs().max().item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-6


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo", "luffy", "srft", "dr-grpo"])
def test_identity_8_padding_changes_nothing(name, batch_of, table_policy):
    objective = preset(name)
    examples = objective.prepare(rollout(demo=name in ("luffy", "srft")))
    batch = batch_of(examples, width=20)
    policy = table_policy(batch)
    garbage = {n: torch.where(batch.mask, v, torch.full_like(v, float("nan"))) for n, v in batch.token_values.items()}
    clean, dirty = objective(policy, batch), objective(policy, batch.replace(token_values=garbage))
    assert clean.total == dirty.total
    assert torch.equal(policy.gradient(clean.total), policy.gradient(dirty.total))
    narrow = batch_of(examples)
    short = table_policy(narrow)
    short.logits = policy.logits[:, : narrow.labels.shape[1]].detach().requires_grad_()
    torch.testing.assert_close(objective(short, narrow).total, clean.total)


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "ppo"] + ["hpt", "hpt-soft"])
def test_micro_batches_add_up_to_the_step(name, batch_of, table_policy):
    objective = preset(name)
    examples = rollout(demo=name in ("luffy", "srft", "hpt", "hpt-soft"))
    if name == "scst":
        examples += [dataclasses.replace(e, values={**e.values, "is_baseline": 1.0}) for e in examples[::SIZE]]
    examples = with_step_counts(examples if name == "upge-sft" else objective.prepare(examples))
    whole = batch_of(examples)
    policy = table_policy(whole)
    full = objective(policy, whole)
    gradient = torch.zeros_like(policy.logits)
    total = 0.0
    for unit in range(GROUPS):
        chosen = [i for i, e in enumerate(examples) if e.unit == unit]
        part = batch_of([examples[i] for i in chosen], totals=whole.totals, width=whole.labels.shape[1])
        small = table_policy(part)
        small.logits = policy.logits[chosen].detach().requires_grad_()
        loss = objective(small, part).total
        gradient[chosen] = small.gradient(loss)
        total += loss.item()
    torch.testing.assert_close(gradient, policy.gradient(full.total), rtol=1e-9, atol=1e-12)
    assert total == pytest.approx(full.total.item(), rel=1e-9)


def test_sft_preset_is_the_token_mean_of_the_nll(batch_of, table_policy):
    batch = batch_of(rollout())
    policy = table_policy(batch)
    loss = preset("upge-sft")(policy, batch)
    expected = -policy.logps(batch)[batch.mask].mean()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected))


def test_scst_compares_with_the_greedy_completion():
    examples = rollout(size=1)
    greedy = [dataclasses.replace(e, values={**e.values, "reward": 0.25, "is_baseline": 1.0}) for e in examples]
    prepared = preset("scst").prepare(examples + greedy)
    assert len(prepared) == GROUPS
    for before, after in zip(examples, prepared):
        assert after.token_values["advantages"][-1] == pytest.approx(before.values["reward"] - 0.25)
    with pytest.raises(DataError, match="no greedy completion"):
        preset("scst").prepare(examples)


def test_kl_in_the_reward_of_rloo_is_taken_off_before_the_baseline():
    examples = rollout()
    prepared = preset("rloo", kl=0.5).prepare(examples)
    k1 = [sum(np.subtract(e.token_values["old_logps"], e.token_values["reference_logps"])) for e in examples]
    rewards = np.array([e.values["reward"] for e in examples]) - 0.5 * np.array(k1)
    expected = group_advantages(rewards, np.repeat(np.arange(GROUPS), SIZE), "leave-one-out")
    np.testing.assert_allclose([e.token_values["advantages"][-1] for e in prepared], expected, rtol=1e-9)


def test_return_is_the_reward_still_to_come_and_whitening_standardizes_the_rollout():
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


def test_ppo_trains_policy_and_value_head(batch_of, table_policy):
    objective = preset("ppo")
    assert objective.needs == {"rollouts", "reference", "values"}
    rng = np.random.default_rng(5)
    examples = [
        dataclasses.replace(e, token_values={**e.token_values, "old_values": rng.normal(size=len(e)).tolist()}) for e in rollout()
    ]
    batch = batch_of(objective.prepare(examples))
    policy = table_policy(batch)
    loss = objective(policy, batch)
    padded = Padded(batch, policy)
    values, old, returns = policy.values(batch), batch.token_values["old_values"], batch.token_values["returns"]
    clipped = old + (values - old).clamp(-0.2, 0.2)
    value_loss = 0.5 * padded.z("token", torch.maximum((values - returns) ** 2, (clipped - returns) ** 2))
    expected = padded.z("token", padded.clipped(0.2, 0.2)) + 0.1 * value_loss
    torch.testing.assert_close(loss.total, expected)
    for table in (policy.logits, policy.value_table):
        gradients = [torch.autograd.grad(total, table, retain_graph=True)[0] for total in (loss.total, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)
    with pytest.raises(DataError, match="old_values"):
        objective.prepare(rollout())


def test_running_baseline_is_of_earlier_rollouts_and_survives_a_checkpoint():
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


def test_hpt_gates(batch_of, table_policy):
    examples = rollout(demo=True, size=SIZE + 1)
    on_only = [dataclasses.replace(e, values={**e.values, "group_size": SIZE}) for e in examples if not e.values["is_demo"]]
    demos = [e for e in examples if e.values["is_demo"]]

    never = HPT(gate=-1, entropy=0.0)
    batch = batch_of(with_step_counts(never.prepare(examples)))
    policy = table_policy(batch)
    fresh = policy.logps(batch).detach()
    batch = batch.replace(token_values={**batch.token_values, "old_logps": fresh})
    dr_grpo = preset("dr-grpo")
    plain = batch_of(dr_grpo.prepare(on_only))
    plain = plain.replace(token_values={**plain.token_values, "old_logps": fresh})
    hybrid, group = never(policy, batch).total, dr_grpo(policy, plain).total
    torch.testing.assert_close(hybrid, group, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(policy.gradient(hybrid), policy.gradient(group), rtol=1e-10, atol=1e-14)

    always = HPT(gate=SIZE, entropy=0.0)
    batch = batch_of(with_step_counts(always.prepare(examples)))
    assert batch.rows == GROUPS
    policy = table_policy(batch)
    supervised = preset("upge-sft")(policy, batch_of(demos))
    loss = always(policy, batch)
    torch.testing.assert_close(loss.total, supervised.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(supervised.total), rtol=1e-10, atol=1e-14)
    assert loss.terms["gated"] == 1


def test_hpt_decides_per_prompt(batch_of, table_policy):
    solved = [[0, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1]]
    examples = rollout(demo=True, size=5, rewards=solved)
    prepared = HPT(gate=0, gate_off=1).prepare(examples)
    kinds = {unit: [(e.values["is_demo"], e.values["sft_weight"]) for e in prepared if e.unit == unit] for unit in range(3)}
    assert kinds == {0: [(1.0, 1.0)], 1: [(1.0, 0.0)], 2: [(0.0, 0.0)] * 4}
    off = next(e for e in prepared if e.unit == 1)
    assert off.token_values["advantages"][-1] == pytest.approx(1 - 2 / 5)
    soft = preset("hpt-soft")
    assert [soft.weights(n, 8) for n in (0, 1, 8)] == [(1, 1, 1), (0, 0, 1), (1, 0, 0)]
    assert soft.weights(2, 4) == (0.5, 0.5, 0.125)
    batch = batch_of(with_step_counts(HPT().prepare(examples)))
    policy = table_policy(batch)
    assert HPT()(policy, batch).terms["gated"] == pytest.approx(1 / 3)


def test_hpt_without_a_demonstration():
    examples = [e for e in rollout(demo=True, size=5, rewards=[[0] * 5] * 3) if not e.values["is_demo"]]
    examples = [dataclasses.replace(e, values={**e.values, "group_size": 4.0}) for e in examples]
    with pytest.raises(DataError, match="has no demonstration"):
        HPT().prepare(examples)
    assert len(HPT(without_demonstration="rollouts").prepare(examples)) == len(examples)


def test_refusals(batch_of, table_policy):
    with pytest.raises(DataError, match="needs at least 2"):
        preset("grpo").prepare(rollout(size=1))
    with pytest.raises(DataError, match="must not be split"):
        preset("grpo").prepare(rollout()[1:])
    broken = rollout()
    broken[5] = dataclasses.replace(broken[5], values={**broken[5].values, "reward": math.nan})
    with pytest.raises(DataError, match=r"1 of 12 rewards are not finite; the first is nan \(unit 1\)"):
        preset("grpo").prepare(broken)
    batch = batch_of(preset("grpo").prepare(rollout(demo=True)))
    with pytest.raises(DataError, match="demonstrations have no old_logps"):
        preset("grpo")(table_policy(batch), batch)
    batch = batch_of(rollout())
    with pytest.raises(DataError, match=r"objective\.prepare"):
        preset("grpo")(table_policy(batch), batch)
    hot = batch.replace(values={**batch.values, "temperature": torch.full((batch.rows,), 0.7)})
    with pytest.raises(DataError, match=r"temperature 0\.7.*the policy's at 1:"):
        preset("grpo")(table_policy(batch), hot)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": "demonstrations"}, "demonstrations have no reward"),
        ({"advantage": "one"}, "ignores the rewards"),
        ({"rows": "both", "advantage": "gae"}, "rows 'both' takes"),
        ({"shape": 0.1}, "shape is read"),
        ({"sft_weight": 0.5}, "sft_weight"),
        ({"dual_clip": 3.0, "stable": "none"}, "dual_clip is read"),
        ({"resample": True, "advantage": "reward"}, "learns from equal rewards too"),
        ({"rows": "both", "advantage": "group", "kl": 0.1, "kl_placement": "reward"}, "kl_placement 'reward'"),
    ],
)
def test_settings_that_contradict_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        UPGE(**settings)


def test_every_row_of_the_family_is_a_preset():
    known = parts.parts("objective")
    for name in PRESETS:
        assert parts.build("objective", name).needs <= {"rollouts", "demonstrations", "reference", "values"}
        assert "{" not in known[name].summary


def test_totals_come_from_the_step(batch_of, table_policy):
    batch = batch_of(preset("grpo").prepare(rollout()))
    policy = table_policy(batch)
    doubled = batch.replace(totals=Totals(batch.totals.tokens * 2, batch.totals.rows * 2, batch.totals.units * 2))
    for name in ("grpo", "dr-grpo", "dapo", "rloo"):
        objective = preset(name, **({"kl": 0.0} if name == "rloo" else {}))
        torch.testing.assert_close(objective(policy, doubled).total * 2, objective(policy, batch).total)


class NetworkPolicy:
    """A network on a batch of one row per line."""

    def __init__(self, network):
        self.network = network

    def logps_and_entropy(self, batch):
        logs = self.network(input_ids=batch.input_ids).logits.log_softmax(-1)
        picked = logs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
        return picked * batch.mask, -(logs.exp() * logs).sum(-1) * batch.mask


@pytest.fixture
def grpo_trainer(tiny_model, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = trl.GRPOConfig(
            str(tmp_path),
            bf16=False,
            use_cpu=True,
            report_to="none",
            gradient_checkpointing=False,
            num_generations=SIZE,
            per_device_train_batch_size=SIZE,
            max_completion_length=LONGEST,
            use_bias_correction_kl=False,
        )
        return trl.GRPOTrainer(
            copy.deepcopy(tiny_model.network),
            lambda completions, **_: [0.0] * len(completions),
            args,
            Dataset.from_list([{"prompt": "a"}] * 2),
            processing_class=tiny_model.tokenizer,
        )


def trl_inputs(examples, batch, prompt):
    width = max(len(e) for e in examples) - prompt

    def completions(tensor):
        return tensor[:, prompt - 1 : prompt - 1 + width]

    mask = completions(batch.mask).long()
    return {
        "prompt_ids": batch.input_ids[:, :prompt],
        "prompt_mask": torch.ones(len(examples), prompt, dtype=torch.long),
        "completion_ids": batch.input_ids[:, prompt : prompt + width],
        "completion_mask": mask,
        "advantages": torch.tensor([e.token_values["advantages"][-1] for e in examples]),
        "old_per_token_logps": completions(batch.token_values["old_logps"]).float(),
        "ref_per_token_logps": completions(batch.token_values["reference_logps"]).float(),
        "num_items_in_batch": mask.sum(),
    }


PARITY = {
    "grpo": ({}, {"loss_type": "grpo"}),
    "grpo with kl": ({"kl": 0.04}, {"loss_type": "grpo", "beta": 0.04}),
    "dr-grpo": ({}, {"loss_type": "dr_grpo"}),
    "dapo": ({}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "cispo": ({}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    "gspo": ({}, {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
}


@pytest.mark.peer
def test_agrees_with_trl(tiny_model, grpo_trainer, batch_of):
    policy, prompt = NetworkPolicy(tiny_model.network), 5
    rng = np.random.default_rng(0)
    examples = rollout(7, prompt=prompt)
    with torch.no_grad():
        current = policy.logps_and_entropy(batch_of(examples))[0]
    for i, e in enumerate(examples):
        near = current[i, prompt - 1 : len(e) - 1].numpy()
        tokens = {
            n: [0.0] * prompt + (near + 0.2 * rng.normal(size=near.size)).tolist() for n in ("old_logps", "reference_logps")
        }
        examples[i] = dataclasses.replace(e, token_values=tokens)
    for name, (settings, theirs) in PARITY.items():
        objective = preset(name.split()[0], **settings)
        prepared = objective.prepare(examples)
        batch = batch_of(prepared)
        defaults = {"beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token"}
        for key, value in {**defaults, **theirs}.items():
            setattr(grpo_trainer, key, value)
        grpo_trainer.model.eval()
        expected = grpo_trainer._compute_loss(grpo_trainer.model, trl_inputs(prepared, batch, prompt))
        loss = objective(policy, batch)
        assert abs(loss.total - expected) < 1e-5 * max(abs(expected), 0.1), name
        gradients = []
        for network, total in ((tiny_model.network, loss.total), (grpo_trainer.model, expected)):
            network.zero_grad()
            total.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        gap = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
        assert gap < 1e-5, f"{name}: {gap}"
