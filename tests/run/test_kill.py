"""A run that is killed, stopped or run twice at once ends with the bits of an undisturbed one and leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from whet.run.alive import settle
from whet.run.ledger import Ledger, Run
from whet.run.store import Store
from whet.run.store_tools import verify_store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

kill: Any = importlib.import_module("kill")

WORLD = {"name": "nanoworld", "skills": ["variables"], "difficulty": [1, 1]}
REWARD = {"name": "pattern", "pattern": "[aeiou].*[aeiou]"}
SHAPE = {"hidden_size": 32, "layers": 3, "heads": 2, "key_value_heads": 1, "intermediate_size": 64}
PAIRS = {"name": "on-policy-pairs", "reward": REWARD, "group_size": 8, "max_new_tokens": 24, "stop": ["\n", "t"]}
ROLLOUTS = {"prompts": 4, "group_size": 4, "max_new_tokens": 12, "minibatches": 2}
SFT: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "llama", **SHAPE, "vocab_size": 300, "context": 256},
    "tokenizer_data": "text",
    "data": [
        {"name": "text", "source": {**WORLD, "rows": 40, "form": "plain"}},
        {"name": "chats", "source": {**WORLD, "rows": 32}},
    ],
    "train": [{"name": "sft", "data": "chats", "steps": 6, "batch_size": 8, "checkpoint_every": 2}],
}
WHOLE: dict[str, Any] = {
    **SFT,
    "data": [*SFT["data"], {"name": "pairs", "data": "chats", "model": "sft", "synthesize": PAIRS}],
    "train": [
        *SFT["train"],
        {
            "name": "dpo",
            "data": "pairs",
            "objective": "dpo",
            "adapter": "lora",
            "steps": 4,
            "batch_size": 4,
            "checkpoint_every": 1,
        },
        {
            "name": "rl",
            "data": "chats",
            "model": "sft",
            "objective": "hpt",
            "reward": REWARD,
            "rollouts": ROLLOUTS,
            "steps": 6,
            "checkpoint_every": 1,
        },
    ],
    "edit": [{"name": "soup", "models": ["rl", "dpo"], "method": "soup"}],
    "quantize": [{"name": "w4", "model": "rl", "data": "chats", "bits": 4, "group_size": 32, "checkpoint_seconds": 0}],
    "measure": [
        {"name": "scores", "tasks": [{"name": "answers", "reward": REWARD, "data": {**WORLD, "rows": 12}, "max_new_tokens": 16}]}
    ],
    "export": [{"name": "out", "model": "soup", "to": "transformers"}],
}


def write(folder: Path, document: dict[str, Any]) -> str:
    path = folder / f"{document['name']}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


Carry = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def carry_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carry]:
    """Runs groups of commands on a store, in processes that may signal themselves; see ``dying.py``."""
    program = [str(Path(__file__).with_name("dying.py"))]
    home = tmp_path_factory.mktemp("dying")
    process = kill.start(home, program=program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def carry_out(home: Path, *groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        process.stdin.write(json.dumps([str(home), groups]) + "\n")
        process.stdin.flush()
        ended: list[dict[str, Any]] = json.loads(process.stdout.readline())
        return ended

    yield carry_out
    process.stdin.close()
    assert process.wait() == 0


def at(
    recipe: str, what: str = "", match: str = "", count: int = 1, when: str = "before", signals: tuple[int, ...] = (9,)
) -> Any:
    moment = {"what": what, "match": match, "count": count, "when": when, "signals": signals} if what else None
    return [{"arguments": ["run", recipe], "moment": moment}]


def same(first: Path, second: Path) -> None:
    """Nothing differs, nothing is left over, and every file is as it was written."""
    assert [*kill.differences(first, second), *kill.leftovers(second)] == []
    assert verify_store(Store.open(str(second)))[0] == []


def runs(home: Path) -> list[Run]:
    """The store's runs, newest first."""
    store = Store.open(str(home))
    ledger = Ledger.beside(store.scratch)
    settle(store, ledger)
    return ledger.runs()


def resumed_at(run: Run, name: str) -> int:
    return int(next(step for step in run.steps if step.name == name).receipt["resumed_at"])


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The store of an undisturbed run, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("calm")
    began = time.monotonic()
    kill.finish(folder / "home", "run", write(folder, WHOLE))
    return folder / "home", time.monotonic() - began


MOMENTS: dict[str, dict[str, Any]] = {
    "the ledger is written": {"what": "commit", "count": 8},
    "an artifact is there, the ledger does not know": {"what": "rename", "match": r"/\.new-", "count": 1, "when": "after"},
    "the second checkpoint is half written": {"what": "text", "match": r"\.step-.*state\.json", "count": 2},
    "a checkpoint is written, not in place": {"what": "rename", "match": r"\.step-"},
    "a checkpoint is in place": {"what": "rename", "match": r"\.step-", "when": "after"},
    "completions are kept": {"what": "rename", "match": r"\.part -> .*[0-9]\.json$", "when": "after"},
    "a preference step is under way": {"what": "rename", "match": r"\.step-.*3$", "when": "after"},
    "a rollout is half used": {"what": "rename", "match": r"\.step-.*3$", "when": "after"},
    "a quantized block is written, not in place": {"what": "rename", "match": r"\.blocks-", "count": 2},
    "a quantized block is in place": {"what": "rename", "match": r"\.blocks-", "when": "after"},
    "a stop when the last block is saved": {"what": "rename", "match": r"\.blocks-.*3\.", "when": "after", "signals": (2,)},
    "two stages are measured": {"what": "rename", "match": r"\.part -> .*\.jsonl$", "count": 2, "when": "after"},
    "the report is written, not in place": {"what": "rename", "match": r"report\.html"},
    "the run's end is written": {"what": "commit", "count": 2 * 11 + 2},
}


def test_killed_at_delicate_moments(calm: tuple[Path, float], carry_out: Carry, tmp_path: Path) -> None:
    recipe, home = write(tmp_path, WHOLE), tmp_path / "home"
    *killed, last = carry_out(home, *(at(recipe, **moment) for moment in MOMENTS.values()), at(recipe))
    expected = {name: 130 if "signals" in moment else -signal.SIGKILL for name, moment in MOMENTS.items()}
    assert {name: run["status"] for name, run in zip(MOMENTS, killed)} == expected
    assert last["status"] == 0, last["err"]
    same(calm[0], home)
    ended = ["stopped" if "signals" in moment else "interrupted" for moment in MOMENTS.values()]
    assert [run.status for run in runs(home)] == ["done", *reversed(ended)]


def test_killed_at_each_of_the_first_writes_of_the_ledger(short: Path, carry_out: Carry, tmp_path: Path) -> None:
    """Until one at which the ledger knows the run; its lock, which is there at the one before, goes away too."""
    recipe, count, known, locked = write(tmp_path, SFT), 2, list[str](), False
    while not known:
        before, was_locked = tmp_path / str(count - 1), locked
        home = tmp_path / str(count)
        assert carry_out(home, at(recipe, "commit", count=count))[0]["status"] == -signal.SIGKILL
        locked = any(home.glob("locks/run-*"))
        known = [run.status for run in runs(home)]
        assert kill.leftovers(home) == []
        count += 1
    assert known == ["interrupted"] and was_locked
    assert carry_out(before, at(recipe))[0]["status"] == 0
    same(short, before)


def test_killed_at_random_moments(calm: tuple[Path, float], carry_out: Carry, tmp_path: Path) -> None:
    recipe, moments = write(tmp_path, WHOLE), random.Random(5)
    for _ in range(2):
        process = kill.start(tmp_path / "home", "run", recipe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(0.4, 0.9) * calm[1])
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
    assert carry_out(tmp_path / "home", at(recipe))[0]["status"] == 0
    same(calm[0], tmp_path / "home")


@pytest.fixture(scope="module")
def short(carry_out: Carry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed run of the first steps."""
    folder = tmp_path_factory.mktemp("short")
    assert carry_out(folder / "home", at(write(folder, SFT)))[0]["status"] == 0
    return folder / "home"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_comes_after_the_step_with_a_checkpoint(number: int, short: Path, carry_out: Carry, tmp_path: Path) -> None:
    """The signal comes when step 2 is saved, outside of its checks: step 3 is finished, saved, and the last."""
    recipe, home = write(tmp_path, SFT), tmp_path / "home"
    (stopped,) = carry_out(home, at(recipe, "rename", r"\.step-.*2\.", signals=(number,), when="after"))
    assert stopped["status"] == 128 + number
    assert "stopping after this step and saving; once more stops at once" in stopped["err"]
    assert stopped["err"].strip().splitlines()[-1] == "whet: stopped; the same command goes on where this one was"
    assert "Traceback" not in stopped["err"]
    assert runs(home)[0].status == runs(home)[0].steps[-1].status == "stopped"
    assert carry_out(home, at(recipe))[0]["status"] == 0
    assert resumed_at(runs(home)[0], "sft") == 3
    same(short, home)


def test_a_second_stop_comes_at_once(short: Path, carry_out: Carry, tmp_path: Path) -> None:
    recipe, home = write(tmp_path, SFT), tmp_path / "home"
    stop = at(recipe, "rename", r"\.step-.*2\.", signals=(signal.SIGINT, signal.SIGINT), when="after")
    stopped, resumed = carry_out(home, stop, at(recipe))
    assert stopped["status"] == 130 and "Traceback" not in stopped["err"]
    assert resumed["status"] == 0 and resumed_at(runs(home)[0], "sft") == 2
    same(short, home)


def test_outside_of_training_a_stop_comes_at_once(carry_out: Carry, tmp_path: Path) -> None:
    recipe, home = write(tmp_path, SFT), tmp_path / "home"
    (stopped,) = carry_out(home, at(recipe, "rename", r"/\.new-", signals=(signal.SIGTERM,)))
    assert stopped["status"] == 143
    assert stopped["err"] == "whet: stopped; the same command goes on where this one was\n"
    assert kill.leftovers(home) == []


def test_two_runs_of_one_recipe_at_once_make_each_step_once(short: Path, carry_out: Carry, tmp_path: Path) -> None:
    recipe, home = write(tmp_path, SFT), tmp_path / "home"
    first, second = carry_out(home, [*at(recipe), *at(recipe)])
    assert (first["status"], second["status"]) == (0, 0), first["err"] + second["err"]
    same(short, home)
    ours, theirs = runs(home)
    for a, b in zip(ours.steps, theirs.steps, strict=True):
        assert {a.status, b.status} == {"done", "reused"}, a.name
        assert a.receipt == b.receipt and a.cost == b.cost
    assert len(list(home.glob("runs/*/report.html"))) == 2


def test_two_recipes_that_share_steps_and_one_is_killed(short: Path, carry_out: Carry, tmp_path: Path) -> None:
    """The other, which waits for the shared step, goes on from the killed one's checkpoint."""
    home, more = tmp_path / "home", tmp_path / "more"
    more.mkdir()
    longer = [*SFT["train"], {"name": "next", "data": "chats", "steps": 2, "batch_size": 8}]
    both = [*at(write(tmp_path, SFT), "rename", r"\.step-.*4\.", when="after"), *at(write(more, {**SFT, "train": longer}))]
    killed, other = carry_out(home, both)
    assert other["status"] == 0, other["err"]
    # 0: the other came first and trained, this one waited.
    assert killed["status"] in (-signal.SIGKILL, 0), killed["err"]
    if killed["status"]:
        assert resumed_at(runs(home)[0] if runs(home)[0].status == "done" else runs(home)[1], "sft") == 4
    (found,) = kill.differences(short, home)
    assert "only in" in found and kill.leftovers(home) == []


def test_a_run_on_another_machine_is_not_called_interrupted(carry_out: Carry, tmp_path: Path) -> None:
    recipe, home, show = write(tmp_path, SFT), tmp_path / "home", [{"arguments": ["show", "last"]}]
    (killed,) = carry_out(home, at(recipe, "rename", r"/\.new-"))
    assert killed["status"] == -signal.SIGKILL
    (lock,) = (home / "locks").glob("run-*")
    lock.write_text("another-machine")
    assert "running (started on another machine or with another store folder" in carry_out(home, show)[0]["out"]
    lock.write_text(platform.node())
    (shown,) = carry_out(home, show)
    assert "interrupted (its process is gone; the same command goes on where it was)" in shown["out"].splitlines()[0]
