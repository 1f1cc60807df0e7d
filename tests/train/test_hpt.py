"""Hybrid post-training: its gates against the objectives that it becomes at their ends."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from whet import parts
from whet.errors import DataError
from whet.train.advantages import with_step_counts
from whet.train.objectives.hpt import HPT

GROUPS, SIZE, LONGEST = 3, 4, 6


def preset(name, **settings):
    return parts.build("objective", {"name": name, **settings})


def test_hpt_gates(batch_of, table_policy, rollout):
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


def test_hpt_decides_per_prompt(batch_of, table_policy, rollout):
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


def test_hpt_without_a_demonstration(rollout):
    examples = [e for e in rollout(demo=True, size=5, rewards=[[0] * 5] * 3) if not e.values["is_demo"]]
    examples = [dataclasses.replace(e, values={**e.values, "group_size": 4.0}) for e in examples]
    with pytest.raises(DataError, match="has no demonstration"):
        HPT().prepare(examples)
    assert len(HPT(without_demonstration="rollouts").prepare(examples)) == len(examples)
