"""DPO steps per second against TRL's DPOTrainer: python bench/dpo.py

The same randomly initialised Llama, the same pairs, the same pairs per optimizer step; the time holds the reference model's
log-probabilities, however a contender computes them, and not the tokenization. TRL in float32 and bfloat16, with the reference
computed in advance and step by step (its padding-free mode is switched off in this version). Needs the extra ``bench``.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from _environment import need
from _llama import about, asked
from _rounds import peaks, report, rounds
from _rows import joined, llama
from datasets import Dataset

from whet import parts
from whet.data.prepare import prepare
from whet.data.sources.nanoworld import NanoWorld
from whet.model import Model
from whet.train.loop import fit
from whet.train.provider import FixedExamples
from whet.train.reference import with_reference_logps
from whet.train.settings import TrainSettings
from whet.train.setup import precision_of

FORMATS = {"float32": False, "bfloat16": True}


def main() -> None:
    given = asked(__doc__, batch=(8, "pairs per optimizer step"), steps=(3, "optimizer steps"))
    need("trl")
    columns = ["prompt", "chosen", "rejected"]
    short = NanoWorld(rows=9 * given.batch * given.steps, form="preference")("train")
    rows = joined(short, columns, given.batch * given.steps)
    model = llama(given.hidden, given.layers)
    units, receipt = prepare(rows, parts.build("format", "preference"), model.tokenizer, max_length=model.context)
    contenders = {"whet": lambda: ours(model, units, given.batch, given.steps)} | {
        f"TRL {name}, reference {'in advance' if before else 'in each step'}": (
            lambda half=half, before=before: trl(model, rows, given.batch, given.steps, half, before)
        )
        for name, half in FORMATS.items()
        for before in (False, True)
    }
    if given.only:
        contenders[given.only]()
        return
    same_loss(model, rows.select(range(given.batch)), units[: given.batch])
    figures = rounds(contenders, given.rounds)
    tokens = int(receipt["tokens_out"]) / len(units)
    report(f"DPO, {about(model)}, {given.batch} pairs of {tokens:.0f} tokens a step", "steps/s", "whet", figures)
    for name, peak in peaks(contenders).items():
        print(f"  {name}: peak memory {peak:.2f} GB")


def same_loss(model: Model, rows: Dataset, units: list[Any]) -> None:
    """Prints the first step's loss of both in float32, with a reference of other weights (its own would make it ln 2)."""
    other = llama(model.config.hidden_size, model.config.num_hidden_layers, seed=1)
    settings = TrainSettings(steps=1, batch_size=len(units), lr=1e-6, precision="float32")
    provider = FixedExamples(with_reference_logps(other, units), parts.build("schedule", "shuffle"), batch_size=len(units))
    mine = fit(model, provider, parts.build("objective", "dpo"), settings, progress=False).curve[0]["loss"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(model, rows, len(units), 1, folder, False, False, reference=other)
        trainer.train()
        theirs = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    print(f"first step's loss in float32: whet {mine:.6f}, TRL {theirs:.6f}, difference {abs(mine - theirs):.1e}")


def ours(model: Model, units: list[Any], batch: int, steps: int) -> float:
    """Steps per second of whet's loop and of the pass over the rows that caches the reference's log-probabilities."""
    settings = TrainSettings(steps=steps, batch_size=batch, lr=1e-6)
    started = time.perf_counter()
    referenced = with_reference_logps(model, units, precision_of(settings, model).compute)
    provider = FixedExamples(referenced, parts.build("schedule", "shuffle"), batch_size=batch)
    fit(model, provider, parts.build("objective", "dpo"), settings, progress=False)
    return steps / (time.perf_counter() - started)


def trl(model: Model, rows: Dataset, batch: int, steps: int, half: bool, before: bool) -> float:
    """Steps per second of DPOTrainer over one pass through the rows."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(model, rows, batch, steps, folder, half, before)
        seconds = trainer.train().metrics["train_runtime"] + trainer.in_advance
    return steps / seconds


def _trainer(
    model: Model,
    rows: Dataset,
    batch: int,
    steps: int,
    folder: str,
    half: bool,
    before: bool,
    reference: Model | None = None,
) -> Any:
    from trl import DPOConfig, DPOTrainer

    class Timed(DPOTrainer):
        """Knows how long the reference took in advance, and computes it anew in each round."""

        in_advance = 0.0

        def _precompute_ref_logps(self, dataset: Any, *given: Any) -> Any:
            started = time.perf_counter()
            dataset._fingerprint = f"{dataset._fingerprint}-{time.time_ns()}"
            result = super()._precompute_ref_logps(dataset, *given)
            self.in_advance += time.perf_counter() - started
            return result

    config = DPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=1e-6,
        max_length=model.context,
        precompute_ref_log_probs=before,
        bf16=half,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1 if reference else 10_000,
        disable_tqdm=True,
    )
    return Timed(
        model.copy().network,
        (reference or model).copy().network,
        args=config,
        train_dataset=rows.map(_as_messages),
        processing_class=model.tokenizer,
    )


def _as_messages(row: dict[str, str]) -> dict[str, Any]:
    """The row as a conversation, to which TRL applies the chat template."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {column: [{"role": role, "content": row[column]}] for column, role in roles.items()}


if __name__ == "__main__":
    main()
