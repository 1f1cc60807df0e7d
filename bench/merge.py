"""Linear and TIES merges of two models against mergekit: python bench/merge.py

Folders of two randomly initialised Llamas of about 0.5 B weights in bfloat16, moved away from a common start, are merged into a new
folder; time from folders to folder, peak memory of the process. mergekit with lazy_unpickle and low_cpu_memory; whet also hashes what
it read and wrote. The largest difference between the two results is printed. Where mergekit is missing, an environment is made.

The linear results are the same bits. In TIES single entries differ by up to 0.1 of the tensor's largest, because mergekit computes in
the stored bfloat16 and whet in float32. On a 600 x 600 matrix: at 0.6 % of the entries another sign is elected, as rounding the
weights and weighted deltas decides where their sum is nearly zero (up to 0.095); 2 % of the deltas equal the trimming threshold, all
of which whet keeps and mergekit cuts in the order of a sort that is not stable, so that other entries are kept at 2 % (up to 0.036);
elsewhere the results are within 0.003. Elected signs by exact sums are what the method asks for; how to trim equals it leaves open.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _environment import Contender, need
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from whet.model import quiet_transformers

NAMES = ("whet", "mergekit")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--hidden", type=int, default=1280)
    options.add_argument("--layers", type=int, default=24)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    need("mergekit")
    quiet_transformers()
    with tempfile.TemporaryDirectory() as folder:
        weights = write_models(Path(folder), given.hidden, given.layers)
        print(f"merge of two models of {weights / 1e6:.0f} M weights in bfloat16, {torch.get_num_threads()} threads")
        for method in ("linear", "ties"):
            answers = contend(Path(folder), method, given.rounds)
            report(method, answers, difference(Path(folder)))


def write_models(folder: Path, hidden: int, layers: int) -> int:
    """Writes ``base``, ``a`` and ``b``; returns the number of weights of one."""
    torch.manual_seed(0)
    heads = hidden // 64
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    network = LlamaForCausalLM(config).to(torch.bfloat16)
    network.save_pretrained(folder / "base")
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for name in ("a", "b"):
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                parameter.copy_(start[key] + 0.002 * torch.randn_like(parameter))
        network.save_pretrained(folder / name)
    return sum(parameter.numel() for parameter in start.values())


def contend(folder: Path, method: str, count: int) -> dict[str, list[dict[str, Any]]]:
    """Each contender's answers over rounds, after one uncounted call each."""
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("_merge_sides.py")
    whet = Contender(sys.executable, script, ["whet"], **variables)
    with whet, Contender(sys.executable, script, ["mergekit"], **variables) as mergekit:
        contenders = dict(zip(NAMES, (whet, mergekit)))
        for contender in contenders.values():
            contender.ask(folder=str(folder), method=method)
        made: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        for _ in range(count):
            for name, contender in contenders.items():
                made[name].append(contender.ask(folder=str(folder), method=method))
    return made


def difference(folder: Path) -> float:
    """Largest difference of an entry between the two results, in units of the largest entry of its tensor."""
    largest = 0.0
    ours, theirs = (_tensors(folder / name) for name in NAMES)
    for name, file in theirs.items():
        with safe_open(ours[name], "pt") as one, safe_open(file, "pt") as two:
            a, b = one.get_tensor(name).float(), two.get_tensor(name).float()
        largest = max(largest, float((a - b).abs().max() / b.abs().max()))
    return largest


def _tensors(folder: Path) -> dict[str, Path]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found.update(dict.fromkeys(opened.keys(), file))
    return found


def report(method: str, answers: dict[str, list[dict[str, Any]]], gap: float) -> None:
    for name, runs in answers.items():
        seconds = [run["seconds"] for run in runs]
        print(
            f"  {method}, {name}: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), peak memory "
            f"{max(run['peak'] for run in runs) / 1e9:.2f} GB"
        )
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*answers.values())]
    print(
        f"  {method}: mergekit / whet = {median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f}), results within {gap:.1g}"
    )


if __name__ == "__main__":
    main()
