"""Folders: what is refused, what is written, and how much memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from whet.edit.run import run_edit
from whet.edit.tensors import Checkpoint
from whet.errors import ModelError, RecipeError
from whet.model import Model, load_model, weights_hash


def rewrite(folder: Path, change: Any) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def edit_config(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_result_loads_everywhere_with_lineage(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, b = trio
    folder, receipt = run_edit([a, b], {"name": "ties", "density": 0.5}, base=base, output=tmp_path / "out")
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    model = load_model(folder)
    assert model.lineage["weights"] == weights_hash(network.state_dict())
    assert [p["name"] for p in model.lineage["parents"]] == ["base", "a", "b"]
    assert model.lineage["parents"][1]["weights"] == weights_hash(load_model(a).network.state_dict())
    assert model.lineage["step"]["edit"]["name"] == "ties" and model.lineage["step"]["formula"] == receipt["formula"]
    assert receipt["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert receipt["changed_keys"] == receipt["changed_shapes"] == receipt["notes"] == []
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_models_in_memory(tiny_model: Model, tmp_path: Path) -> None:
    other = tiny_model.copy("other")
    with torch.no_grad():
        other.network.model.norm.weight.add_(1.0)
    folder, receipt = run_edit([tiny_model, other], "soup", output=tmp_path / "out")
    merged = load_model(folder)
    assert receipt["formula"] == "θ = 0.5·θ[tiny] + 0.5·θ[other]"
    torch.testing.assert_close(merged.network.model.norm.weight, tiny_model.network.model.norm.weight + 0.5)
    ids = torch.arange(12)[None]
    same, _ = run_edit([tiny_model, tiny_model], "soup", output=tmp_path / "same")
    assert torch.equal(load_model(same).network(ids).logits, tiny_model.network(ids).logits)


def test_a_stored_copy_of_tied_weights_is_merged_once(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, b = trio
    rewrite(b, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    folder, receipt = run_edit([a, b], {"name": "dare", "density": 0.5}, base=base, output=tmp_path / "out")
    assert receipt["changed_keys"] == ["lm_head.weight"] and "lm_head.weight" not in Checkpoint(folder)
    network = load_model(folder).network
    assert torch.equal(network.lm_head.weight, network.model.embed_tokens.weight)


def test_untied_heads_are_merged_of_their_own(make: Any, tmp_path: Path) -> None:
    a, b = make("a", tied=False), make("b", seed=2, tied=False)
    folder, receipt = run_edit([a, b], "soup", output=tmp_path / "out")
    assert receipt["tied"] == {} and "lm_head.weight" in Checkpoint(folder)


def test_integer_buffers_are_copied(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    for i, folder in enumerate((a, b)):
        rewrite(folder, lambda t, i=i: t.update({"counter": torch.tensor(i), "mask": torch.tensor([True, False, True])}))
    out, receipt = run_edit([b, a], "soup", output=tmp_path / "out")
    merged = load_file(out / "model.safetensors")
    assert merged["counter"].item() == 1 and merged["mask"].tolist() == [True, False, True]
    assert receipt["tensors_copied"] == ["counter", "mask"] and receipt["buffers_that_differed"] == ["counter"]


def test_stored_dtype_is_the_bases(make: Any, tmp_path: Path) -> None:
    base, a = make("base", moved=0.0, dtype=torch.bfloat16), make("a")
    folder, receipt = run_edit([a], "task-arithmetic", base=base, output=tmp_path / "out")
    assert load_model(folder).network.dtype == torch.bfloat16 and "stored dtypes differ" in receipt["notes"][0]


def refused(message: str, tmp_path: Path, *args: Any, **settings: Any) -> None:
    with pytest.raises(ModelError, match=message):
        run_edit(*args, output=tmp_path / "refused", **settings)
    assert not (tmp_path / "refused").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_differing_keys_and_shapes_are_refused(make: Any, trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    refused(
        r"tensor 'model.embed_tokens.weight' has shape \(300, 16\) in a but \(300, 32\) in wide$",
        tmp_path,
        [a, make("wide", hidden=32)],
        "soup",
    )
    refused(r"9 tensors such as 'model.layers.2", tmp_path, [a, make("short", layers=2)], "soup")
    rewrite(b, lambda t: t.pop("model.norm.weight"))
    refused("'model.norm.weight' are only in a", tmp_path, [a, b], "soup")


def test_differing_configuration_is_refused_or_shown(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    edit_config(b, rms_norm_eps=1e-5)
    _, receipt = run_edit([a, b], "soup", output=tmp_path / "out")
    assert receipt["config_differences"] == {"rms_norm_eps": [1e-6, 1e-5]}
    refused("config num_attention_heads is 2 and 4", tmp_path, [a, edit_config(b, num_attention_heads=4)], "soup")


def test_differing_tokenizers_are_refused(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    file = b / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    x, y = list(vocabulary)[40:42]
    vocabulary[x], vocabulary[y] = vocabulary[y], vocabulary[x]
    file.write_text(json.dumps(content))
    refused("tokenizers differ", tmp_path, [a, b], "soup")
    file.unlink()
    assert run_edit([a, b], "soup", output=tmp_path / "out")[0].is_dir()


def test_differing_templates_are_shown(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    (b / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat templates differ" in run_edit([a, b], "soup", output=tmp_path / "out")[1]["notes"][0]


def test_models_of_another_start_are_refused(make: Any, trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, _ = trio
    generator = torch.Generator().manual_seed(7)
    stranger = rewrite(
        make("stranger"), lambda t: t.update({k: torch.randn(v.shape, generator=generator) * 0.02 for k, v in t.items()})
    )
    refused("not tuned from the same start", tmp_path, [a, stranger], "soup")
    refused("not tuned from the same start", tmp_path, [a], "task-arithmetic", base=stranger)
    assert run_edit([a], "task-arithmetic", base=base, output=tmp_path / "out")[1]["cosines"][0] > 0.8


def test_adapters_and_quantized_folders_are_refused(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    refused("merge it into its base first", tmp_path, [a, adapter], "soup")
    refused("quantized", tmp_path, [a, edit_config(b, quantization_config={"bits": 4})], "soup")


def test_broken_weights_are_refused(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    rewrite(b, lambda t: t["model.norm.weight"].fill_(float("nan")))
    refused(r"b: tensor 'model.norm.weight' holds NaN", tmp_path, [a, b], "soup")
    file = b / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused("damaged", tmp_path, [a, b], "soup")
    file.write_bytes(b"\xff" * 20)
    refused("shorter than its header", tmp_path, [a, b], "soup")


def test_overflow_is_refused(make: Any, tmp_path: Path) -> None:
    base, a = make("base", moved=0.0, dtype=torch.float16), make("a", dtype=torch.float16)
    refused("overflow", tmp_path, [a], {"name": "task-arithmetic", "coefficient": 1e8}, base=base)


def test_missing_pieces_are_named(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    refused("ties adds the models' changes to their common ancestor: give base", tmp_path, [a, b], "ties")
    refused("nothing to merge", tmp_path, [], "soup")
    with pytest.raises(RecipeError, match="did you mean 'ties'"):
        run_edit([a, b], "tie", output=tmp_path / "refused")
    with pytest.raises(RecipeError, match=r"ties.densty.*did you mean 'density'"):
        run_edit([a, b], {"name": "ties", "densty": 0.1}, output=tmp_path / "refused")
    with pytest.raises(ModelError, match="is one of the models being merged"):
        run_edit([a, b], "soup", output=a)
    with pytest.raises(ModelError, match="not empty"):
        run_edit([a, b], "soup", output=a.parent)
    (tmp_path / "empty").mkdir()
    assert run_edit([a, b], "soup", output=tmp_path / "empty")[0].is_dir()


MEMORY = """
    import json, pathlib, resource, sys, threading, time
    import torch
    from whet.edit.run import run_edit
    from whet.edit.tensors import Entry, write_checkpoint
    torch.set_num_threads(1)
    root = pathlib.Path(sys.argv[1])
    def write(folder, tensors):
        layout = {f"model.layers.{i}.w": Entry(torch.bfloat16, (1024, 512), root, 0, 0) for i in range(tensors)}
        (root / folder).mkdir()
        (root / folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 100}))
        noise = torch.randn(1024, 512, generator=torch.Generator().manual_seed(1)) + 0.01 * torch.rand(1024, 512)
        write_checkpoint(root / folder, layout, lambda name: noise.bfloat16())
    def merge(kind):
        models = [root / f"{kind}-a", root / f"{kind}-b"]
        return run_edit(models, {"name": "ties"}, base=root / f"{kind}-base", output=root / f"{kind}-out")[1]
    for role in ("base", "a", "b"):
        write(f"small-{role}", 4)
        write(f"large-{role}", 100)
    merge("small")
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    before, peak, done = resident(), 0.0, threading.Event()
    def watch():
        global peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)
    thread = threading.Thread(target=watch)
    thread.start()
    receipt = merge("large")
    done.set()
    thread.join()
    print(json.dumps({"grown": peak - before, "bytes": receipt["bytes"]}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads resident memory from /proc")
def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """Three models of 100 MiB in one file each, tensors of 1 MiB: after a merge of 4 MiB, memory hardly grows."""
    script = textwrap.dedent(MEMORY)
    # Otherwise glibc decides by chance whether freed tensors go back to the system, and the measure is of that.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["bytes"] == 100 * 2**20 and result["grown"] < 30
