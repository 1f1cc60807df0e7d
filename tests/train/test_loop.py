"""The loop: learns, resumes to the bit, stops where it must, counts everything, leaves its input alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whet.data.example import Example
from whet.data.schedules.shuffle import shuffle
from whet.errors import DataError, RecipeError, StoreError, WhetError
from whet.model import Model, weights_hash
from whet.train.adapters.lora import LoRA
from whet.train.loop import FitResult, fit
from whet.train.objective import Loss
from whet.train.objectives.masked_thought import MaskedThought
from whet.train.objectives.sft import SFT
from whet.train.provider import FixedExamples
from whet.train.receipt import StepLog
from whet.train.settings import TrainSettings


class Stopped(Exception):
    """As if the machine went away."""


def units(size: int = 24, longest: int = 30) -> list[list[Example]]:
    generator = np.random.default_rng(5)
    rows = [[int(start + k) % 40 + 5 for k in range(generator.integers(6, longest))] for start in generator.integers(0, 40, size)]
    return [[Example(row, [i > 1 for i in range(len(row))])] for row in rows]


def train(model: Model, objective: Any = None, provider: Any = None, folder: Path | None = None, **settings: Any) -> FitResult:
    on_step, adapter = settings.pop("on_step", None), settings.pop("adapter", "full")
    chosen = TrainSettings(
        **({"steps": 8} if not settings.keys() & {"epochs", "tokens"} else {}) | {"batch_size": 6, "lr": 3e-3} | settings
    )
    provider = provider or FixedExamples(units(), shuffle, seed=chosen.seed, batch_size=chosen.batch_size)
    return fit(
        model, provider, objective or SFT(), chosen, adapter=adapter, checkpoint_folder=folder, on_step=on_step, progress=False
    )


def hash_of(model: Model) -> str:
    return weights_hash(model.network.state_dict())


def test_it_learns_and_leaves_the_given_model_alone(tiny_model: Model) -> None:
    before, generator = hash_of(tiny_model), torch.get_rng_state()
    result = train(tiny_model, steps=40, log_every=5)
    assert result.curve[-1]["loss"] < 0.3 * result.curve[0]["loss"]
    assert hash_of(tiny_model) == before != hash_of(result.model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not result.model.network.training


@pytest.mark.parametrize(
    ("adapter", "objective"),
    [("full", SFT()), (LoRA(r=4, dropout=0.2), SFT()), ("full", [(1.0, SFT()), (0.5, MaskedThought(p=0.3, warmup=0.5))])],
    ids=["full", "lora-with-dropout", "two-objectives"],
)
def test_a_resumed_run_ends_with_the_same_bits(tiny_model: Model, tmp_path: Path, adapter: Any, objective: Any) -> None:
    undisturbed = train(tiny_model, objective, adapter=adapter, precision="bfloat16")

    def stop(entry: StepLog) -> None:
        if entry.step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(tiny_model, objective, folder=tmp_path, adapter=adapter, precision="bfloat16", checkpoint_every=3, on_step=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003"]
    torch.manual_seed(99)
    resumed = train(tiny_model, objective, folder=tmp_path, adapter=adapter, precision="bfloat16", checkpoint_every=3)
    assert resumed.receipt["resumed_at"] == 3
    assert hash_of(resumed.model) == hash_of(undisturbed.model)
    assert [e["loss"] for e in resumed.curve] == [e["loss"] for e in undisturbed.curve]
    assert resumed.receipt["tokens"] == undisturbed.receipt["tokens"]
    assert resumed.receipt["cost"]["flops"] == undisturbed.receipt["cost"]["flops"]


def test_processor_time_is_that_of_the_steps_alone_and_goes_on_after_a_stop(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen = 0.0, list[float]()

    class Slow(FixedExamples):
        def examples(self, *given: Any) -> Any:
            nonlocal now
            now += 1.0
            return super().examples(*given)

    def measure(training: Any) -> None:
        nonlocal now
        now += 100.0
        seen.append(training.spent()["processor"])

    def run(stop_at: int = 0) -> FitResult:
        def stop(entry: StepLog) -> None:
            if entry.step == stop_at:
                raise Stopped

        settings = TrainSettings(steps=5, batch_size=6, checkpoint_every=2)
        provider = Slow(units(), shuffle, seed=0, batch_size=6)
        on_step = stop if stop_at else None
        return fit(
            tiny_model, provider, SFT(), settings, checkpoint_folder=tmp_path, watch=measure, on_step=on_step, progress=False
        )

    monkeypatch.setattr(time, "process_time", lambda: now)
    with pytest.raises(Stopped):
        run(stop_at=2)
    resumed = run()
    assert resumed.receipt["resumed_at"] == 2 and seen == [1.0, 2.0, 3.0, 3.0, 4.0, 5.0]
    assert resumed.receipt["cost"]["processor"] == 5.0


def test_checkpoints_are_whole_few_and_no_pickles(tiny_model: Model, tmp_path: Path) -> None:
    train(tiny_model, folder=tmp_path, checkpoint_every=2, checkpoint_keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]
    files = {p.name for p in (tmp_path / "step-00000008").iterdir()}
    assert files == {"weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}


def test_resuming_something_else_is_refused(tiny_model: Model, tmp_path: Path) -> None:
    train(tiny_model, folder=tmp_path)
    with pytest.raises(RecipeError, match=r"settings.lr was 0.003 and is 0.01. Set it back"):
        train(tiny_model, folder=tmp_path, lr=0.01)
    with pytest.raises(RecipeError, match="cannot resume: the training data's fingerprint"):
        train(tiny_model, folder=tmp_path, provider=FixedExamples(units(20), shuffle, batch_size=6))
    (tmp_path / "step-00000008" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(StoreError, match=r"step-00000008 cannot be read .* delete this folder"):
        train(tiny_model, folder=tmp_path)


def test_the_result_does_not_depend_on_micro_tokens(tiny_model: Model) -> None:
    whole, split = (train(tiny_model, micro_tokens=m, steps=3, precision="float32") for m in (4096, 16))
    assert split.receipt["micro_batches"] > whole.receipt["micro_batches"] == 3
    for a, b in zip(whole.curve, split.curve):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


def test_gradient_checkpointing_changes_nothing_but_the_cost(tiny_model: Model) -> None:
    plain, twice = (train(tiny_model, steps=3, gradient_checkpointing=flag, precision="float32") for flag in (False, True))
    assert [e["loss"] for e in plain.curve] == pytest.approx([e["loss"] for e in twice.curve], rel=1e-5)
    assert twice.receipt["cost"]["flops"] == pytest.approx(plain.receipt["cost"]["flops"] * 8 / 6)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tiny_model: Model, tmp_path: Path) -> None:
    def spoiled(policy: Any, batch: Any) -> Loss:
        loss = SFT()(policy, batch).total
        return Loss(loss * (float("nan") if batch.step == 5 else 1.0))

    spoiled.needs = frozenset()  # type: ignore[attr-defined]
    with pytest.raises(WhetError, match=r"step 6 of 8: the loss is nan; this step was not taken and the last checkpoint is good"):
        train(tiny_model, spoiled, folder=tmp_path, checkpoint_every=1)
    state = json.loads((tmp_path / "step-00000005" / "state.json").read_text())
    assert state["step"] == 5 and len(state["state"]["meter"]["curve"]) == 5


def test_overlong_and_untrained_rows_are_counted_never_cut(tiny_model: Model) -> None:
    data = [*units(10, longest=20), [Example(list(range(5, 45)), [False] + [True] * 39)], [Example([5, 6], [False, False])]]
    pair = [Example([7] * 6, [False] + [True] * 5), Example([7] * 41, [False] + [True] * 40)]
    provider = FixedExamples([*data, pair], shuffle, batch_size=13)
    result = train(tiny_model, provider=provider, epochs=1, max_length=30)
    dropped = result.receipt["dropped"]
    assert (dropped["overlong"], dropped["untrained"], dropped["with_their_unit"], dropped["longest"]) == (2, 1, 1, 41)
    assert {"reason": "untrained", "tokens": 2, "starts": [5, 6]} in dropped["examples"]
    assert result.receipt["rows"] == 10 and result.receipt["tokens"] == sum(len(u[0]) for u in data[:10])
    with pytest.raises(DataError, match="longer than 30; set overlong: drop"):
        train(tiny_model, provider=provider, epochs=1, max_length=30, overlong="error")
    with pytest.raises(RecipeError, match="max_length: 999 is more than the model's context of 256"):
        train(tiny_model, max_length=999)


def test_steps_with_nothing_to_learn_stop_the_run(tiny_model: Model) -> None:
    provider = FixedExamples([[Example([5, 6], [False, False])]], shuffle, batch_size=6)
    with pytest.raises(WhetError, match=r"step 3: 3 steps in a row had nothing to learn from; .* 3 without a trained token"):
        train(tiny_model, provider=provider, max_empty_steps=3)


def test_receipt_says_what_was_done(tiny_model: Model) -> None:
    receipt = train(tiny_model, epochs=2, precision="float32").receipt
    data = units()
    assert receipt["steps"] == 8 and receipt["units"] == 48
    assert receipt["tokens"] == 2 * sum(len(u[0]) for u in data)
    assert receipt["trained_tokens"] == 2 * sum(u[0].trained_tokens for u in data)
    assert set(receipt["dtypes"]) == {"weights", "frozen_weights", "compute", "optimizer", "reduction", "result"}
    assert set(receipt["dtypes"].values()) == {"float32", "none"}
    assert receipt["cost"]["flops"] == 6 * tiny_model.parameters * receipt["positions"]
    assert "warmup" in receipt["defaults"] and "lr" not in receipt["defaults"]
    json.dumps(receipt)


def test_bfloat16_checkpoints_are_trained_in_float32_and_given_back(tiny_model: Model) -> None:
    tiny_model.network.bfloat16()
    result = train(tiny_model, steps=2)
    assert result.receipt["dtypes"]["weights"] == "float32"
    assert result.model.network.dtype is torch.bfloat16


def test_lora_merges_to_the_same_logits_and_saves_in_pefts_format(tiny_model: Model, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    result = train(tiny_model, adapter=LoRA(r=4), folder=tmp_path, precision="float32", lr=1e-2)
    wrapped = peft.PeftModel.from_pretrained(tiny_model.copy().network, tmp_path / "adapter").eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        unmerged, merged, start = (network(ids).logits for network in (wrapped, result.model.network, tiny_model.network))
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-4)
    assert float((merged - start).abs().max()) > 0.1
    adapters = sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
    assert result.receipt["trainable_weights"] == adapters < result.receipt["weights"]
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]


def test_lora_names_the_layers_it_could_have(tiny_model: Model) -> None:
    with pytest.raises(RecipeError, match=r"targets \['qq_proj'\].*this model's layers: .*q_proj"):
        train(tiny_model, adapter=LoRA(targets=("qq_proj",)))


def test_a_value_head_is_trained_along(tiny_model: Model) -> None:
    class Values:
        needs = frozenset({"values"})

        def __call__(self, policy: Any, batch: Any) -> Loss:
            error = ((policy.values(batch) - 1) ** 2 * batch.mask).sum() / batch.totals.tokens
            return Loss(error + SFT()(policy, batch).total, {"value_loss": error.detach()})

    result = train(tiny_model, Values(), steps=30)
    assert result.curve[0]["terms"]["value_loss"] == pytest.approx(1.0)
    assert result.curve[-1]["terms"]["value_loss"] < 0.5
    assert result.receipt["trainable_weights"] == tiny_model.parameters + 65
