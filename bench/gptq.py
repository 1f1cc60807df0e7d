"""GPTQ against llm-compressor's oneshot(GPTQModifier): python bench/gptq.py [--size 0.5]

4 bits, groups of 128, asymmetric, columns by falling Hessian diagonal with groups fitted before, damping 0.01, all linear layers
of the decoder blocks; the same randomly initialised Llama with outlier channels, the same calibration rows, threads and number
format. Time and peak memory are those of the quantization alone, without loading and saving. The layer error is that of outputs on
rows that did not calibrate, on the inputs that the layers get in each contender's own network; KL is that of its predictions.
llm-compressor gets an environment of its own, made on the first call.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from _environment import Contender, environment
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from whet.architectures.tokenizer import train_tokenizer
from whet.model import quiet_transformers
from whet.quantize.fidelity import compare

PEER = ["llmcompressor==0.14.0", "transformers==5.17.0"]
SHAPES = {
    "tiny": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4},
    "0.1": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12, "num_attention_heads": 12},
    "0.5": {"hidden_size": 1280, "intermediate_size": 3840, "num_hidden_layers": 24, "num_attention_heads": 20},
}
VOCABULARY = 8192


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", choices=SHAPES, default="0.1", help="weights in billions")
    options.add_argument("--rows", type=int, default=32)
    options.add_argument("--length", type=int, default=512, help="tokens of a row")
    options.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    options.add_argument("--no-act-order", action="store_true", help="code the columns in their own order")
    options.add_argument("--rounds", type=int, help="default: 2, and 1 for the size 0.5")
    given = options.parse_args()
    quiet_transformers()
    logging.disable(logging.WARNING)
    count = given.rounds or (1 if given.size == "0.5" else 2)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), SHAPES[given.size], given.rows, given.length)
        answers = contend(Path(folder), given.dtype, not given.no_act_order, count)
        judged = {name: judge(Path(folder), name, given.dtype) for name in answers}
        weights = sum(t.numel() for t in torch.load(Path(folder) / "whet.pt", mmap=True).values())
    print(
        f"GPTQ of {weights / 1e6:.0f} M weights, {given.rows} rows of {given.length} tokens, {given.dtype}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, runs in answers.items():
        seconds = [run["seconds"] for run in runs]
        print(
            f"  {name}: {median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}; {median(run['cpu'] for run in runs):.1f} of the processor), peak memory "
            f"{max(run['peak'] for run in runs) / 1e9:.2f} GB ({max(run['peak'] - run['before'] for run in runs) / 1e9:.2f} above the "
            f"loaded model), layer error {judged[name]['error']:.3e}, KL {judged[name]['kl']:.4f} +- {judged[name]['stderr']:.4f}"
        )
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*answers.values())]
    print(f"  llm-compressor / whet = {median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})")


def write_model(folder: Path, shape: dict[str, int], rows: int, length: int) -> None:
    """A random Llama whose layers get correlated inputs with outlier channels, and token rows in which tokens repeat as in text."""
    torch.manual_seed(0)
    heads = shape["num_attention_heads"]
    config = LlamaConfig(
        **shape, vocab_size=VOCABULARY, num_key_value_heads=heads // 2, max_position_embeddings=2048, tie_word_embeddings=True
    )
    network = LlamaForCausalLM(config)
    hidden = config.hidden_size
    with torch.no_grad():
        mixed = torch.randn(VOCABULARY, hidden // 8) @ torch.randn(hidden // 8, hidden) / (hidden // 8) ** 0.5
        network.model.embed_tokens.weight.copy_(0.05 * (mixed + 0.5 * torch.randn(VOCABULARY, hidden)))
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.exp(0.5 * torch.randn(hidden)))
                parameter[torch.randperm(hidden)[: hidden // 100]] *= 8
    network.save_pretrained(folder)
    train_tokenizer(["a b c"], 300).save_pretrained(folder)
    held_out = max(4, rows // 4)
    frequency = 1 / torch.arange(1, VOCABULARY + 1).float()
    drawn = torch.multinomial(frequency.expand(rows + held_out, -1), length, replacement=True).tolist()
    (folder / "rows.json").write_text(json.dumps({"calibration": drawn[:rows], "held_out": drawn[rows:]}))


def contend(folder: Path, dtype: str, act_order: bool, count: int) -> dict[str, list[dict[str, Any]]]:
    """Each contender's answers over rounds, after one short uncounted call each."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads())
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    variables = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", **quiet}
    pythons = {"whet": Path(sys.executable), "llm-compressor": environment("llm-compressor", PEER)}
    script = Path(__file__).with_name("_gptq_sides.py")
    with tempfile.TemporaryDirectory() as warm:
        write_model(Path(warm), SHAPES["tiny"], 16, 64)
        made: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for turn in range(count):
            for name, python in pythons.items():
                with Contender(python, script, [name], **variables) as contender:
                    for where, out in ((warm, None), (str(folder), str(folder / f"{name}.pt") if turn == 0 else None)):
                        contender.ask(do="load", folder=where, dtype=dtype)
                        answer = contender.ask(do="run", folder=where, act_order=act_order, out=out)
                made[name].append(answer)
    return made


@torch.no_grad()
def judge(folder: Path, name: str, dtype: str) -> dict[str, float]:
    """Mean relative output error of the layers, and KL of the predictions, on the held-out rows."""
    rows = json.loads((folder / "rows.json").read_text())["held_out"]
    original, changed = (LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval() for _ in range(2))
    errors: dict[str, list[Tensor]] = {}

    def note(layer: str, weight: Tensor, change: Tensor) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0].flatten(0, 1).float()
            errors.setdefault(layer, []).append(
                torch.stack([(inputs @ change.T).square().sum(), (inputs @ weight.T).square().sum()])
            )

        return hook

    handles = []
    for layer, decoded in torch.load(folder / f"{name}.pt").items():
        weight, module = original.get_submodule(layer).weight.float(), changed.get_submodule(layer)
        module.weight.copy_(decoded)
        handles.append(module.register_forward_pre_hook(note(layer, weight, decoded.float() - weight)))
    for row in rows[:2]:
        changed(input_ids=torch.tensor([row]), use_cache=False)
    for handle in handles:
        handle.remove()
    sums = [torch.stack(pieces).sum(0) for pieces in errors.values()]
    fidelity = compare(original, changed, rows)
    return {"error": mean(float(change / size) for change, size in sums), "kl": fidelity.kl, "stderr": fidelity.kl_stderr}


if __name__ == "__main__":
    main()
