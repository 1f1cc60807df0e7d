"""The identities of the policy-gradient family, against losses written out on padded [B, T] tensors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from whet import parts
from whet.data.example import Totals
from whet.errors import DataError, RecipeError
from whet.train.advantages import with_step_counts
from whet.train.objectives.upge import PRESETS, UPGE

GROUPS, SIZE, LONGEST = 3, 4, 6


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
    "grpo": lambda p: p.z("seq", p.clipped(0.2, 0.2) + 0.04 * p.k3()),
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
def test_identity_1_named_loss_and_its_gradient_equal_the_estimator(name, seed, batch_of, table_policy, rollout):
    objective = preset(name)
    examples = objective.prepare(rollout(seed, drift=0.8, demo=name in ("luffy", "srft")))
    batch = batch_of(examples)
    policy = table_policy(batch, seed)
    loss = objective(policy, batch)
    expected = NAMED[name](Padded(batch, policy))
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(loss.total, expected, rtol=1e-8, atol=1e-12)


def test_identity_1_with_kl_and_entropy(batch_of, table_policy, rollout):
    objective = preset("grpo", kl=0.1, entropy=0.01)
    batch = batch_of(objective.prepare(rollout(3)))
    policy = table_policy(batch)
    padded = Padded(batch, policy)
    expected = padded.z("seq", padded.clipped(0.2, 0.2) + 0.1 * padded.k3()) - 0.01 * padded.z("token", padded.entropy)
    loss = objective(policy, batch)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected), rtol=1e-8, atol=1e-12)


def test_identity_1_dual_clip(batch_of, table_policy, rollout):
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
def test_identity_2_on_fresh_samples_the_clipped_family_is_reinforce(aggregation, pieces, batch_of, table_policy, rollout):
    batch = batch_of(UPGE().prepare(rollout()))
    policy = table_policy(batch)
    fresh = batch.replace(token_values={**batch.token_values, "old_logps": policy.logps(batch).detach()})
    clipped = UPGE(aggregation=aggregation, **pieces)(policy, fresh)
    plain = UPGE(stable="none", denominator="policy", aggregation=aggregation)(policy, fresh)
    torch.testing.assert_close(policy.gradient(clipped.total), policy.gradient(plain.total), rtol=1e-8, atol=1e-12)
    assert clipped.terms["ratio"] == pytest.approx(1.0, abs=1e-12)
    assert clipped.terms["clip_share"] == 0


def test_identity_4_gspo_on_one_token_completions_is_grpo(batch_of, table_policy, rollout):
    batch = batch_of(UPGE().prepare(rollout(longest=1)))
    policy = table_policy(batch)
    settings = {"clip_low": 0.1, "clip_high": 0.15}
    torch.testing.assert_close(
        policy.gradient(preset("gspo", **settings)(policy, batch).total),
        policy.gradient(preset("grpo", kl=0.0, **settings)(policy, batch).total),
    )


def test_identity_6_equal_rewards_give_no_gradient(batch_of, table_policy, rollout):
    noise = [[0.3 + 1e-10 * j for j in range(SIZE)] for _ in range(GROUPS)]
    for name in ("grpo", "dr-grpo", "rloo", "dapo", "gspo", "cispo"):
        objective = preset(name, kl=0.0)
        batch = batch_of(objective.prepare(rollout(rewards=noise)))
        policy = table_policy(batch)
        assert policy.gradient(objective(policy, batch).total).abs().max() == 0, name


def test_identity_7_luffy_weight_tends_to_the_plain_off_policy_weight(batch_of, table_policy, rollout):
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
def test_identity_8_padding_changes_nothing(name, batch_of, table_policy, rollout):
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
def test_micro_batches_add_up_to_the_step(name, batch_of, table_policy, rollout):
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


def test_sft_preset_is_the_token_mean_of_the_nll(batch_of, table_policy, rollout):
    batch = batch_of(rollout())
    policy = table_policy(batch)
    loss = preset("upge-sft")(policy, batch)
    expected = -policy.logps(batch)[batch.mask].mean()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(policy.gradient(loss.total), policy.gradient(expected))


def test_ppo_trains_policy_and_value_head(batch_of, table_policy, rollout):
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


def test_refusals(batch_of, table_policy, rollout):
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


def test_totals_come_from_the_step(batch_of, table_policy, rollout):
    batch = batch_of(preset("grpo").prepare(rollout()))
    policy = table_policy(batch)
    doubled = batch.replace(totals=Totals(batch.totals.tokens * 2, batch.totals.rows * 2, batch.totals.units * 2))
    for name in ("grpo", "dr-grpo", "dapo", "rloo"):
        objective = preset(name, kl=0.0)
        torch.testing.assert_close(objective(policy, doubled).total * 2, objective(policy, batch).total)
