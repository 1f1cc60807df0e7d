"""sft and masked-thought: parity with transformers and TRL, averaging, and what is masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whet.data.example import IGNORE, Example
from whet.data.packing import count, pack
from whet.errors import RecipeError
from whet.model import Model
from whet.train.invariants import check_accumulation
from whet.train.objectives.masked_thought import MaskedThought
from whet.train.objectives.sft import SFT
from whet.train.policy import HFPolicy
from whet.train.randomness import row_keys, uniform


def rows(lengths: tuple[int, ...] = (20, 7, 33, 12, 12, 5), prompt: int = 3) -> list[Example]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, 300, (n,), generator=generator).tolist() for n in lengths]
    return [Example(i, [k >= prompt for k in range(len(i))], unit) for unit, i in enumerate(ids)]


def loss_of(model: Model, objective: Any, examples: list[Example], micro_tokens: int = 4096, **place: int) -> torch.Tensor:
    policy = HFPolicy(model.network)
    return sum(objective(policy, b).total for b in pack(examples, totals=count(examples), micro_tokens=micro_tokens, **place))  # type: ignore[return-value]


def gradient(model: Model, loss: torch.Tensor) -> torch.Tensor:
    model.network.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.network.parameters()])


def padded(examples: list[Example]) -> dict[str, torch.Tensor]:
    """The batch as transformers and TRL take it: unpacked, right-padded."""
    width = max(map(len, examples))
    ids = torch.tensor([[*e.input_ids, *[0] * (width - len(e))] for e in examples])
    labels = torch.tensor(
        [[t if m else IGNORE for t, m in zip(e.input_ids, e.trained)] + [IGNORE] * (width - len(e)) for e in examples]
    )
    mask = torch.tensor([[1] * len(e) + [0] * (width - len(e)) for e in examples])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float((a - b).detach().abs().max() / b.detach().abs().max()) < 1e-5


def test_loss_and_gradient_are_those_of_transformers(tiny_model: Model) -> None:
    examples = rows()
    theirs = tiny_model.network(**padded(examples)).loss
    ours = loss_of(tiny_model, SFT(), examples, micro_tokens=40)
    same(ours, theirs)
    same(gradient(tiny_model, ours), gradient(tiny_model, theirs))


@pytest.mark.peer
def test_loss_and_gradient_are_those_of_trl(tiny_model: Model, tmp_path: Any) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    examples = rows()
    config = trl.SFTConfig(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, per_device_train_batch_size=6, max_length=64
    )
    data = datasets.Dataset.from_list([{"input_ids": list(e.input_ids)} for e in examples])
    trainer = trl.SFTTrainer(model=tiny_model.network, args=config, train_dataset=data, processing_class=tiny_model.tokenizer)
    batch = padded(examples)
    trained = torch.tensor(sum(e.trained_tokens for e in examples))
    theirs = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=trained)
    ours = loss_of(tiny_model, SFT(), examples)
    same(ours, theirs)
    same(gradient(tiny_model, ours), gradient(tiny_model, theirs))


@pytest.mark.parametrize("objective", [SFT(), SFT("row"), SFT("square"), MaskedThought(warmup=0)], ids=str)
def test_1x8_is_8x1(tiny_model: Model, objective: Any) -> None:
    result = check_accumulation(tiny_model, rows((20, 7, 33, 12, 12, 5, 9, 40)), objective)
    assert result["micro_batches"] == 8
    assert result["gradient"] < 1e-5
    assert result["loss"] < 1e-6


def test_reductions(tiny_model: Model) -> None:
    examples = rows((20, 7, 33))
    each = [loss_of(tiny_model, SFT(), [e]) for e in examples]
    lengths = [e.trained_tokens for e in examples]
    roots = [n**0.5 for n in lengths]
    same(loss_of(tiny_model, SFT("row"), examples), sum(each) / 3)
    same(loss_of(tiny_model, SFT("token"), examples), sum(x * n for x, n in zip(each, lengths)) / sum(lengths))
    same(loss_of(tiny_model, SFT("square"), examples), sum(x * r for x, r in zip(each, roots)) / sum(roots))
    equal = rows((12, 12, 12))
    same(loss_of(tiny_model, SFT("square"), equal), loss_of(tiny_model, SFT(), equal))


def test_masking_nothing_is_sft_bit_for_bit(tiny_model: Model) -> None:
    examples = rows()
    for objective in (MaskedThought(p=0.0), MaskedThought(p=0.4)):  # the second: at step 0 of the rise
        assert torch.equal(loss_of(tiny_model, objective, examples), loss_of(tiny_model, SFT(), examples))


def test_only_solution_inputs_are_masked_at_the_right_rate(tiny_model: Model) -> None:
    examples = rows(tuple([90] * 60), prompt=30)
    policy = HFPolicy(tiny_model.network)
    objective = MaskedThought(p=0.3, warmup=0.5, mode="mask", token=4)
    masked = possible = 0
    for batch in pack(examples, step=25, steps=100):
        corrupted, where = objective.corrupt(batch, policy)
        assert torch.equal(corrupted.labels, batch.labels)
        assert torch.equal(corrupted.input_ids == 4, where), "ids in these rows are 5 and more"
        assert not where[batch.position_ids < 30].any() and not where[batch.row < 0].any()
        masked, possible = masked + int(where.sum()), possible + 60 * batch.rows
    expected = 0.3 * 25 / 50
    assert abs(masked / possible - expected) < 4 * (expected * (1 - expected) / possible) ** 0.5


def test_masks_depend_on_seed_step_and_row_alone(tiny_model: Model) -> None:
    examples = rows((20, 7, 33, 12, 12, 5))
    policy, objective = HFPolicy(tiny_model.network), MaskedThought(p=0.4, warmup=0)

    def masks(micro_tokens: int, **place: int) -> dict[int, list[int]]:
        found = {}
        for batch in pack(examples, micro_tokens=micro_tokens, **place):
            corrupted, _ = objective.corrupt(batch, policy)
            found |= {int(batch.unit[r]): corrupted.input_ids[batch.row == r].tolist() for r in range(batch.rows)}
        return found

    assert masks(4096) == masks(1) == masks(45)
    assert masks(4096) != masks(4096, step=1)
    assert masks(4096) != masks(4096, seed=1)


def test_random_numbers_are_uniform_and_independent_of_the_stream(batch_of: Callable[..., Any]) -> None:
    keys = row_keys(batch_of([Example([1] * 100, [False] * 100, unit) for unit in range(200)]))
    a, b = uniform(keys, 0).flatten(), uniform(keys, 1).flatten()
    assert float(a.min()) >= 0 and float(a.max()) < 1 and abs(float(a.mean()) - 0.5) < 0.01
    histogram = torch.histc(a.float(), 10, 0, 1) / len(a)
    assert float((histogram - 0.1).abs().max()) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.03
    assert len(set(a.tolist())) == len(a)


@pytest.mark.parametrize("settings", [{"mode": "mask"}, {"mode": "random", "token": 3}])
def test_a_mask_token_goes_with_mode_mask(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="goes with mode 'mask' and only with it"):
        MaskedThought(**settings)


def test_pad_mode_needs_a_pad_token(tiny_model: Model) -> None:
    tiny_model.network.config.pad_token_id = None
    with pytest.raises(RecipeError, match="needs a model with a pad token"):
        loss_of(tiny_model, MaskedThought(mode="pad", warmup=0), rows())
