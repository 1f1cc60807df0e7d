"""Rows that share their beginning in one tree: the same numbers and gradients as without, for fewer positions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from whet import parts
from whet.data.example import Example
from whet.data.packing import pack, token_rows
from whet.model import Model
from whet.train.loop import fit
from whet.train.policy import HFPolicy
from whet.train.provider import FixedExamples
from whet.train.reference import with_reference_logps
from whet.train.settings import TrainSettings
from whet.train.token_values import reader


def group(unit: int, prompt: int, replies: list[int], seed: int = 0) -> list[Example]:
    """Rows of one prompt; the values say which reply of a pair is the chosen one."""
    generator = torch.Generator().manual_seed(1000 * seed + unit)
    ids = torch.randint(5, 200, (prompt,), generator=generator).tolist()
    rows = []
    for number, length in enumerate(replies):
        reply = torch.randint(5, 200, (length,), generator=generator).tolist()
        old = [0.0] * prompt + [-float(t) / 100 for t in reply]
        trained = [False] * prompt + [True] * length
        rows.append(Example([*ids, *reply], trained, unit, {"chosen": float(number == 0)}, {"old": old}))
    return rows


PAIRS = [*group(0, 20, [7, 3]), *group(1, 9, [1, 12]), *group(2, 1, [4, 5]), *group(3, 30, [2, 2]), *group(4, 2, [6, 1])]
GROUPS = [*group(0, 25, [7, 3, 9, 1, 5]), *group(1, 14, [4, 4, 12]), *group(2, 40, [3])]


@pytest.mark.parametrize("rows", [PAIRS, GROUPS])
@pytest.mark.parametrize("micro_tokens", [1, 100, 4096])
def test_log_probabilities_are_those_without_sharing(tiny_model: Model, rows: list[Example], micro_tokens: int) -> None:
    policy = HFPolicy(tiny_model.network)
    assert policy.shares_stems
    shared = reader(policy.logps, micro_tokens=micro_tokens, stems=True)(rows)
    alone = reader(policy.logps, share=False, micro_tokens=1)(rows)
    assert [len(numbers) for numbers in shared] == [len(row) for row in rows]
    worst = max(abs(a - b) for left, right in zip(shared, alone) for a, b in zip(left, right))
    assert worst < 2e-6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_are_those_without_sharing(tiny_model: Model, attention: str) -> None:
    tiny_model.network.set_attn_implementation(attention)
    units = with_reference_logps(tiny_model, [PAIRS[i : i + 2] for i in range(0, len(PAIRS), 2)])
    rows = [replace(e, unit=k) for k, unit in enumerate(units) for e in unit]
    objective = parts.build("objective", "dpo")
    gradients, losses, positions = [], [], []
    for stems in (False, True):
        policy = HFPolicy(tiny_model.network)
        tiny_model.network.zero_grad()
        batches = pack(rows, stems=stems)
        total = sum(objective(policy, batch).total for batch in batches)
        total.backward()
        losses.append(float(total.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in tiny_model.network.parameters() if p.grad is not None]))
        positions.append(sum(batch.filled for batch in batches))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-6 * max(1.0, float(gradients[0].abs().max()))
    assert positions[1] < positions[0] == sum(map(len, rows))


def test_the_loop_shares_and_says_so(tiny_model: Model) -> None:
    units = with_reference_logps(tiny_model, [PAIRS[i : i + 2] for i in range(0, len(PAIRS), 2)])
    provider = FixedExamples(units, parts.build("schedule", "shuffle"), batch_size=len(units))
    receipt = fit(tiny_model, provider, parts.build("objective", "dpo"), TrainSettings(steps=1), progress=False).receipt
    assert receipt["curve"][0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert receipt["shared_tokens"] == 19 + 8 + 29 + 1
    assert 0 <= receipt["padding_share"] < 1


def test_every_token_and_every_number_is_in_the_tree_once() -> None:
    batches = pack(GROUPS, stems=True, micro_tokens=64)
    seen: dict[int, list[int]] = {}
    for batch in batches:
        assert batch.stem is not None or batch.rows == 1
        assert batch.index is not None
        old = token_rows(batch, torch.where(batch.mask, batch.token_values["old"], 0.0))
        for row, index in enumerate(batch.index.tolist()):
            example = GROUPS[index]
            own = batch.input_ids[batch.row == row].tolist()
            shared = len(example) - len(own)
            assert own == list(example.input_ids[shared:])
            assert batch.position_ids[batch.row == row].tolist() == list(range(shared, len(example)))
            assert old[row] == pytest.approx(example.token_values["old"])
            assert int(batch.labels[batch.row == row].ne(-100).sum()) == example.trained_tokens
            seen.setdefault(example.unit, []).append(index)
    assert sorted(i for rows in seen.values() for i in rows) == list(range(len(GROUPS)))
    assert sum(batch.filled for batch in batches) == (24 + 25 + 5) + (13 + 20 + 3) + 43


def test_a_short_beginning_of_long_rows_is_not_shared() -> None:
    """A tree of long rows is wide, and every position would pay for the width."""
    rows = group(0, 10, [1500, 1500])
    assert all(batch.stem is None for batch in pack(rows, stems=True))
    assert any(batch.stem is not None for batch in pack(group(0, 1500, [10, 10]), stems=True))


def test_beginnings_that_differ_or_are_trained_stay_apart() -> None:
    a, b = group(0, 12, [4, 4])
    other = replace(b, input_ids=[*b.input_ids[:6], 4, *b.input_ids[7:]])
    (batch,) = pack([a, other], stems=True)
    assert batch.stem is not None and batch.filled == len(a) + len(b) - 5
    trained = replace(b, trained=[False, *[True] * (len(b) - 1)])
    (batch,) = pack([a, trained], stems=True)
    assert batch.stem is None and batch.filled == len(a) + len(b)
