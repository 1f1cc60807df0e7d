"""Several processes train as one does: same losses, one checkpoint format, one message when one of them fails."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file

from whet.run.ledger import Ledger
from whet.run.runner import run_recipe
from whet.run.store import MANIFEST, Store
from whet.train import checkpoint
from whet.train.distributed import World

if not torch.distributed.is_gloo_available():
    pytest.skip("gloo is not there", allow_module_level=True)

PRELOADED = (
    "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama",
    "peft",
    "datasets",
    "whet.train.run",
    "whet.train.objectives.upge",
    "whet.data.schedules.shuffle",
)
EQUAL = (
    "sft",
    "lora",
    "dpo",
    "grpo",
    "ppo",
    "uneven",
    "one row",
    "checkpointing",
    "two objectives",
    "another model",
    "scales",
    "skill-it",
    "nadamw",
    "nesterov",
)
LIMIT = 240
"""Seconds after which a job counts as hanging, also on a busy machine."""


@pytest.fixture(scope="module")
def cases() -> Iterator[Any]:
    """The module with the training runs, which the other processes can import too."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    yield importlib.import_module("several_processes")
    sys.path.remove(folder)


def launch(cases: Any, model: Path, out: Path, names: Sequence[str], killed_at: int = -1) -> tuple[list[int | None], list[str]]:
    """Runs cases in two processes; exit status and what was printed of each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=cases.start, args=(rank, 2, port, model, out, names, killed_at)) for rank in range(2)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(LIMIT)
        return [p.exitcode for p in started], [(out / f"printed{rank}").read_text() for rank in range(2)]
    finally:
        for process in started:
            if process.is_alive():
                process.kill()


@pytest.fixture(scope="module")
def results(
    cases: Any, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    """Of one process, of each of two, and the folder where both left checkpoints."""
    out = tmp_path_factory.mktemp("runs")
    alone = cases.run_cases(tiny_folder, out, [*EQUAL, "sft:by-one:4", "nadamw:n-by-one:4", "nesterov:m-by-one:4", "save=one"])
    status, printed = launch(
        cases,
        tiny_folder,
        out,
        [*EQUAL, "sft:by-two:4", "sft:by-one", "nadamw:n-by-one", "nesterov:m-by-one", "save=two", "load=one"],
    )
    assert status == [0, 0], printed
    return alone, [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)], out


@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_train_as_one(case: str, results: Any) -> None:
    alone, (first, second), _ = results
    one, two = alone[case], first[case]
    assert len(two["curve"]) == 8 and second[case]["hash"] == two["hash"]
    for a, b in zip(one["curve"], two["curve"]):
        # A policy gradient's loss is a sum of advantages that cancel: what is left of it is rounding.
        near_zero = 1e-6 if case in ("grpo", "ppo") else 0.0
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5, abs=near_zero)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-5)
        assert b["terms"] == pytest.approx(a["terms"], rel=1e-5, abs=2e-5)
        assert (a["tokens"], a["trained"]) == (b["tokens"], b["trained"])
    assert two["sums"] == pytest.approx(one["sums"], rel=1e-3, abs=1e-3)


def test_completions_do_not_depend_on_the_number_of_processes(results: Any) -> None:
    alone, (first, second), _ = results
    for case in ("grpo", "ppo"):
        mine, theirs, other = (run[case]["receipt"]["provider"] for run in (alone, first, second))
        engine = {"prefill_tokens", "decode_tokens"}
        assert {k: v for k, v in mine.items() if k not in engine} == {k: v for k, v in theirs.items() if k not in engine}
        assert theirs == other


def test_the_receipt_says_how_the_work_was_shared(results: Any) -> None:
    alone, (first, _), _ = results
    receipt = first["sft"]["receipt"]
    shared = receipt["processes"]
    assert (shared["world_size"], shared["backend"]) == (2, "gloo") and "processes" not in alone["sft"]["receipt"]
    assert sum(shared["tokens_per_rank"]) == receipt["tokens"] == alone["sft"]["receipt"]["tokens"]
    assert min(shared["tokens_per_rank"]) > 0.7 * max(shared["tokens_per_rank"])
    assert first["one row"]["receipt"]["processes"]["tokens_per_rank"][1] == 0
    assert len(shared["peak_memory_bytes_per_rank"]) == 2 and receipt["trainable_weights"] == receipt["weights"]


def test_a_checkpoint_of_two_goes_on_with_one_and_the_other_way_round(
    results: Any, cases: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    alone, (first, _), out = results
    assert {p.name for p in (out / "by-two" / "step-00000004").iterdir()} == {
        *(f"{kind}-{n:05d}-of-00002.safetensors" for kind in ("weights", "optimizer", "random") for n in (1, 2)),
        "state.json",
    }
    one_after_two = cases.run_cases(tiny_folder, out, ["sft:by-two"])["sft:by-two"]
    two_after_one = first["sft:by-one"]
    for resumed in (one_after_two, two_after_one):
        assert resumed["receipt"]["resumed_at"] == 4
        for a, b in zip(alone["sft"]["curve"], resumed["curve"], strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert resumed["receipt"]["cost"]["flops"] == pytest.approx(alone["sft"]["receipt"]["cost"]["flops"], rel=0.1)


@pytest.mark.parametrize("case", ["nadamw:n-by-one", "nesterov:m-by-one"])
def test_other_optimizers_go_on_with_another_number_of_processes(case: str, results: Any) -> None:
    alone, (first, _), _ = results
    assert first[case]["receipt"]["resumed_at"] == 4
    for a, b in zip(alone[case.partition(":")[0]]["curve"], first[case]["curve"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


def test_tensors_are_the_same_bits_after_loading_with_another_number_of_processes(
    results: Any, cases: Any, tiny_folder: Path
) -> None:
    _, _, out = results
    cases.run_cases(tiny_folder, out, ["load=two"])
    for written, read in (("save-two-0", "load-two-0"), ("save-one-0", "load-one-0"), ("save-one-0", "load-one-1")):
        a, b = (load_file(out / f"{name}.safetensors") for name in (written, read))
        assert a.keys() == b.keys() and "value_head.bias" in a and any(name.endswith("exp_avg_sq") for name in a)
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_process_ends_the_job_with_one_message_and_it_goes_on(
    results: Any, cases: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    status, printed = launch(cases, tiny_folder, tmp_path, ["killed:here"], killed_at=5)
    assert status == [2, -signal.SIGKILL] and time.monotonic() - started < 60
    assert printed[0].count("whet:") == 1 and not printed[1]
    assert "rank 1 of 2 is gone" in printed[0] and "at step 6 of 8" in printed[0]
    assert "run the same command again, with any number of processes: training goes on after step 4" in printed[0]
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["step-00000002", "step-00000004"]
    status, printed = launch(cases, tiny_folder, tmp_path, ["killed:here"])
    assert status == [0, 0], printed
    resumed = json.loads((tmp_path / "rank0.json").read_text())["killed:here"]
    undisturbed = results[1][0]["sft"]
    assert resumed["receipt"]["resumed_at"] == 4 and resumed["hash"] == undisturbed["hash"]


@pytest.mark.parametrize(
    ("case", "said"),
    [("wrong", "rank 1: row 17 has no soul"), ("nan", "step 5 of 8: the loss is nan")],
)
def test_an_error_on_one_rank_is_said_once(case: str, said: str, cases: Any, tiny_folder: Path, tmp_path: Path) -> None:
    status, printed = launch(cases, tiny_folder, tmp_path, [case])
    together = "".join(printed)
    assert status == [2, 2] and together.count("whet:") == 1 and said in together


def test_every_piece_counts_once_and_all_ranks_have_as_many() -> None:
    for size in (1, 2, 3, 5):
        for pieces in range(8):
            portions = [World(rank, size).portion(list(range(pieces))) for rank in range(size)]
            assert len({len(portion) for portion in portions}) == 1
            assert sorted(p for portion in portions for p, counts in portion if counts) == list(range(pieces))


RECIPE: dict[str, Any] = {
    "whet": 1,
    "name": "tiny",
    "model": {"name": "llama", "hidden_size": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "intermediate_size": 64}
    | {"vocab_size": 300, "context": 256},
    "tokenizer_data": "text",
    "data": [
        {"name": "text", "source": {"name": "nanoworld", "rows": 40, "form": "plain", "skills": ["variables"]}},
        {"name": "chats", "source": {"name": "nanoworld", "rows": 24, "skills": ["variables"], "difficulty": [1, 1]}},
    ],
    "train": [
        {"name": "first", "data": "text", "format": "plain", "steps": 2, "batch_size": 8},
        {"name": "second", "data": "chats", "steps": 40, "batch_size": 4, "adapter": "lora", "checkpoint_every": 4},
    ],
    "edit": [{"name": "mix", "models": ["first", "second"], "method": "soup"}],
}


def artifacts(home: Path) -> dict[str, list[str]]:
    """Identity -> files of every artifact in a store."""
    store = Store.open(str(home))
    return {i: sorted(json.loads((home / "artifacts" / i / MANIFEST).read_text())) for i in store.identities()}


def torchrun(recipe: Path, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "whet", "run", str(recipe)]
    environment = {**os.environ, "WHET_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def second_of(launcher: int) -> int:
    """The process of rank 1 that a launcher started."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"\0RANK=1\0" in (entry / "environ").read_bytes():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == launcher:
                    return int(entry.name)
        except OSError:
            continue
    raise AssertionError("there is no rank 1")


def test_a_recipe_under_torchrun_killed_and_gone_on_with(tmp_path: Path) -> None:
    recipe, home = tmp_path / "tiny.yaml", tmp_path / "two"
    recipe.write_text(json.dumps(RECIPE))
    job = torchrun(recipe, home)
    try:
        deadline = time.monotonic() + LIMIT
        while not any(int(folder.name[5:]) > 2 for folder in home.glob("checkpoints/*/step-*")):
            assert time.monotonic() < deadline and job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        os.kill(second_of(job.pid), signal.SIGKILL)
        printed, _ = job.communicate(timeout=LIMIT)
    finally:
        job.kill()
    assert job.returncode != 0 and printed.count("whet: ") == 1
    assert re.search(r"whet: rank (1 of 2 is gone|0: ended by SIGTERM, .* of rank 1) .*run the same command again", printed)
    again = torchrun(recipe, home)
    printed, _ = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, printed
    assert printed.count(" done\nreport: ") == 1 and "[train] first: reused" in printed
    run_recipe(RECIPE, store=Store.open(str(tmp_path / "one")), quiet=True)
    assert artifacts(home) == artifacts(tmp_path / "one")


def test_a_stop_of_torchrun_comes_after_one_step_on_all_ranks(tmp_path: Path) -> None:
    recipe, home = tmp_path / "tiny.yaml", tmp_path / "two"
    train = [{**RECIPE["train"][0], "steps": 400, "checkpoint_every": 200}]
    recipe.write_text(json.dumps({**RECIPE, "train": train, "edit": []}))
    job = torchrun(recipe, home)
    try:
        deadline = time.monotonic() + LIMIT
        while not list(home.glob("checkpoints/*/progress.jsonl")):
            assert time.monotonic() < deadline and job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        printed, _ = job.communicate(timeout=LIMIT)
    finally:
        job.kill()
    assert printed.count("whet: stopped; the same command goes on where this one was") == 1
    assert printed.count("stopping after this step and saving") == 1 and "rank 0: " not in printed and "rank 1: " not in printed
    run = Ledger.beside(home).runs()[0]
    assert run.status == run.steps[-1].status == "stopped"
    (saved,) = home.glob("checkpoints/*/step-*")
    assert json.loads((saved / "state.json").read_text()) and int(saved.name[5:]) < 400


def test_shards_are_read_by_rows(tmp_path: Path) -> None:
    tensor = torch.arange(20.0).view(10, 2)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(tensor.clone())])
    folder = checkpoint.save(tmp_path, 3, {"w": tensor}, optimizer, {}, keep=1)
    shards = checkpoint.Shards(folder, "weights", 1)
    assert shards.shapes == {"w": (10, 2)}
    assert torch.equal(shards.rows("w", 2, 7), tensor[2:7]) and shards.rows("w", 4, 4).shape == (0, 2)
