"""Both sides of bench/gptq.py, each in a process of its own: python _gptq_sides.py whet|llm-compressor, questions on the standard input."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from _environment import serve

Quantized = tuple[float, Any, Callable[[str], torch.Tensor]]
"""Seconds, the network, and the decoded weight of a layer by its name."""


def main() -> None:
    quantize = {"whet": _whet, "llm-compressor": _llm_compressor}[sys.argv[1]]
    loaded: dict[str, Any] = {}

    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        folder = Path(question["folder"])
        rows = json.loads((folder / "rows.json").read_text())["calibration"][: question.get("rows")]
        if question["do"] == "load":
            loaded.update(_load(folder, question["dtype"]))
            return {}
        seconds, network, weight = quantize(loaded.pop("network"), loaded.pop("tokenizer"), rows, question["act_order"])
        if question.get("out"):
            layers = [name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear) and name != "lm_head"]
            torch.save({name: weight(name) for name in layers}, question["out"])
        return {"seconds": seconds}

    serve(answer)


def _load(folder: Path, dtype: str) -> dict[str, Any]:
    from transformers import AutoTokenizer, LlamaForCausalLM

    network = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return {"network": network, "tokenizer": AutoTokenizer.from_pretrained(folder)}


def _whet(network: Any, tokenizer: Any, rows: list[list[int]], act_order: bool) -> Quantized:
    from whet.model import Model
    from whet.quantize.calibration import CalibrationSet
    from whet.quantize.pipeline import quantize

    model = Model(network, tokenizer, "bench")
    started = time.perf_counter()
    feedback = {"name": "gptq", "act_order": act_order, "static_groups": True}
    # The peer keeps scales in the type of the weights.
    scales = str(network.dtype).removeprefix("torch.")
    made, _ = quantize(model, CalibrationSet(rows), compensate=feedback, scale_dtype=scales, in_place=True)
    seconds = time.perf_counter() - started
    return seconds, made.network, lambda name: made.network.get_submodule(name).weight.detach()


def _llm_compressor(network: Any, tokenizer: Any, rows: list[list[int]], act_order: bool) -> Quantized:
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from loguru import logger

    logger.remove()
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 128}
    modifier = GPTQModifier(
        config_groups={"all": {"targets": ["Linear"], "weights": weights}},
        ignore=["lm_head"],
        dampening_frac=0.01,
        block_size=128,
        actorder="static" if act_order else None,
    )
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    started = time.perf_counter()
    made = oneshot(
        model=network,
        tokenizer=tokenizer,
        dataset=data,
        recipe=modifier,
        max_seq_length=max(map(len, rows)),
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
        batch_size=max(1, 8192 // len(rows[0])),
    )
    seconds = time.perf_counter() - started
    return seconds, made, lambda name: made.get_submodule(name).weight.detach()


if __name__ == "__main__":
    main()
