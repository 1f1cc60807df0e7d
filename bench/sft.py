"""SFT throughput against TRL's SFTTrainer, its better of packed and padded, float32 and bfloat16: python bench/sft.py

The same randomly initialised Llama, the same chats, the same rows per optimizer step; tokens of the rows per second of training,
padding not counted. Where TRL is missing, an environment is made for it.
"""

from __future__ import annotations

import tempfile

from _environment import need
from _llama import about, asked
from _rounds import report, rounds

from whet import parts
from whet.architectures.llama import Llama
from whet.data.prepare import prepare
from whet.data.sources.nanoworld import NanoWorld
from whet.model import Model
from whet.train.loop import fit
from whet.train.provider import FixedExamples
from whet.train.settings import TrainSettings


def main() -> None:
    given = asked(__doc__, batch=(32, "rows per optimizer step"), steps=(6, "optimizer steps"))
    need("trl")
    rows = NanoWorld(rows=given.batch * given.steps)("train").select_columns(["prompt", "completion"])
    heads = given.hidden // 32
    model = Llama(given.hidden, given.layers, heads, heads // 2, 4 * given.hidden, 1024)(
        NanoWorld(rows=4000, form="plain")("train")["text"], 0
    )
    units, receipt = prepare(rows, parts.build("format", "chat"), model.tokenizer, max_length=model.context)
    tokens = int(receipt["tokens_out"])
    contenders = {"whet": lambda: ours(model, units, given.batch, given.steps)} | {
        f"TRL {'packed' if packed else 'padded'} {'bfloat16' if half else 'float32'}": (
            lambda packed=packed, half=half: trl(model, rows, given.batch, given.steps, tokens, packed, half)
        )
        for packed in (False, True)
        for half in (False, True)
    }
    if given.only:
        contenders[given.only]()
        return
    figures = rounds(contenders, given.rounds)
    report(f"SFT, {about(model)}, {given.batch} rows of {tokens / len(units):.0f} tokens a step", "tokens/s", "whet", figures)


def ours(model: Model, units: list, batch: int, steps: int) -> float:
    """Tokens per second of whet's loop."""
    settings = TrainSettings(steps=steps, batch_size=batch, lr=1e-4)
    provider = FixedExamples(units, parts.build("schedule", "shuffle"), batch_size=batch)
    cost = fit(model, provider, parts.build("objective", "sft"), settings, progress=False).receipt["cost"]
    return cost["tokens"] / cost["seconds"]


def trl(model: Model, rows: object, batch: int, steps: int, tokens: int, packed: bool, half: bool) -> float:
    """Tokens per second of SFTTrainer over one pass through the rows."""
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch if not packed else max(1, round(tokens / steps / model.context)),
            learning_rate=1e-4,
            packing=packed,
            max_length=model.context,
            bf16=half,
            use_cpu=True,
            gradient_checkpointing=False,
            completion_only_loss=False if packed else None,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(model.copy().network, config, train_dataset=rows, processing_class=model.tokenizer)
        seconds = trainer.train().metrics["train_runtime"]
    return tokens / seconds


if __name__ == "__main__":
    main()
