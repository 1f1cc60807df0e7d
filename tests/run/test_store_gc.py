"""``whet store gc`` removes what no run needs, and nothing else: not even what a run decides to use at that moment."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whet.cli import main
from whet.errors import StoreError
from whet.run import store_gc
from whet.run.alive import alive
from whet.run.ledger import ComparisonRecord, Ledger, Run, StepRecord
from whet.run.runner import run_recipe
from whet.run.show import show_all
from whet.run.store import Store
from whet.run.store_gc import Rules, collect
from whet.run.store_lock import locked
from whet.run.store_remote import Remote
from whet.run.store_tools import verify_store

DELETE = Rules(grace=0, delete=True)


def _write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("one")


def _record(ledger: Ledger, run: str, *identities: str, days: float = 0, status: str = "done") -> None:
    started = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    ledger.save(
        Run(id=run, recipe=run, document={}, seed=0, status=status, started=started, finished=None, versions={}, machine={}, steps=[]),
        *(
            StepRecord(
                run_id=run, position=i, name=f"s{i}", section="train", identity=identity, status="done", why="", inputs={},
                settings={}, receipt={}, cost={},
            )
            for i, identity in enumerate(identities)
        ),
    )  # fmt: skip


@pytest.fixture
def store(ground: Any) -> Store:
    """Two runs, ``old`` and ``new``, that share one artifact; one artifact is in no run."""
    store = ground.machine("one")
    for identity in ("a", "shared", "b", "stranger"):
        store.put(identity, _write)
    _record(ground.ledger(), "old", "a", "shared", days=10)
    _record(ground.ledger(), "new", "shared", "b")
    return store


def _artifacts(store: Store) -> set[str]:
    return set(store.identities()) | (set(store.remote.identities()) if store.remote else set())


def _names(data: dict[str, Any]) -> set[tuple[str, str]]:
    return {(t["kind"].removeprefix("remote "), t["name"]) for t in data["things"]}


def test_without_delete_nothing_goes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "gc", "--keep-runs", "1", "--grace", "0"]) == 0
    text = capsys.readouterr().out
    assert "would forget run old" in text and "artifact a: train s0, of forgotten runs only" in text
    assert "nothing was removed yet; --delete removes" in text
    assert _artifacts(store) == {"a", "shared", "b", "stranger"}
    assert not Ledger.beside(store.scratch).forgotten()


@pytest.mark.parametrize("rule", [["--keep-runs", "1"], ["--older-than", "5"], ["--forget", "old"]])
def test_what_only_forgotten_runs_name_goes(store: Store, rule: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "gc", *rule, "--grace", "0", "--delete"]) == 0
    assert _artifacts(store) == {"shared", "b", "stranger"}
    ledger = Ledger.beside(store.scratch)
    assert ledger.forgotten() == {"old"} and ledger.run("old").steps
    assert "kept" in capsys.readouterr().out
    assert [(row["run"], row["forgotten"]) for row in show_all()[0]] == [("new", False), ("old", True)]
    assert verify_store(store, remote=True)[0] == []
    assert not collect(store, rules=DELETE)[0]["things"]


def test_both_rules_together_forget_what_both_name(store: Store) -> None:
    assert collect(store, rules=Rules(keep_runs=0, older_than=5))[0]["forgotten"] == ["old"]
    assert collect(store, rules=Rules(keep_runs=1, older_than=20))[0]["forgotten"] == []
    assert collect(store, rules=Rules(keep_runs=0))[0]["forgotten"] == ["new", "old"]


def test_what_the_ledger_does_not_know_needs_a_word(store: Store) -> None:
    data, text = collect(store, rules=DELETE)
    assert not data["things"] and "not known to this ledger (--only-ledger" in text
    assert "stranger" in _artifacts(store)
    collect(store, rules=Rules(grace=0, delete=True, only_ledger=True))
    assert _artifacts(store) == {"a", "shared", "b"}


def test_the_page_of_a_comparison_stays_whatever_becomes_of_its_runs(store: Store) -> None:
    now = dt.datetime.now(dt.UTC)
    Ledger.beside(store.scratch).save(
        ComparisonRecord(id="ranks-1", name="ranks", status="done", started=now, finished=now, document={}, result={})
    )
    for name in ("ranks-1", "stray-1"):
        (store.scratch / "runs" / name).mkdir(parents=True)
    collect(store, rules=Rules(keep_runs=0, grace=0, delete=True, only_ledger=True))
    assert [path.name for path in (store.scratch / "runs").iterdir()] == ["ranks-1"]


def test_what_is_young_stays(store: Store) -> None:
    data, text = collect(store, rules=Rules(keep_runs=0, delete=True, only_ledger=True))
    assert not data["things"] and "younger than 24 hours" in text
    assert len(_artifacts(store)) == 4


def test_what_a_process_holds_stays(ground: Any) -> None:
    store = ground.machine("one")
    store.put("a", _write)
    _record(ground.ledger(), "old", "a")
    with locked(store.lock("a")):
        _, text = collect(store, rules=Rules(keep_runs=0, grace=0, delete=True))
    assert "in use at this moment" in text
    assert list(store.identities()) == ["a"]


def test_a_run_under_way_is_not_forgotten(ground: Any) -> None:
    store = ground.machine("one")
    _record(ground.ledger(), "busy", days=100, status="running")
    with alive(store, "busy"):
        assert collect(store, rules=Rules(keep_runs=0))[0]["forgotten"] == []
        with pytest.raises(StoreError, match="run busy is under way and cannot be forgotten"):
            collect(store, rules=Rules(forget=["busy"]))
    assert collect(store, rules=Rules(forget=["busy"]))[0]["forgotten"] == ["busy"]


@pytest.mark.parametrize("rule", ["keep_runs", "older_than", "grace"])
def test_a_rule_below_zero_is_refused(rule: str) -> None:
    with pytest.raises(StoreError, match=f"{rule}: -1 is below 0; nothing was removed"):
        Rules(**{rule: -1})  # type: ignore[arg-type]


def test_leftovers_of_killed_runs_go(ground: Any) -> None:
    store = ground.machine("one")
    store.put("a", _write)
    _record(ground.ledger(), "kept", "a", "unfinished")
    for folder in ("artifacts/.new-b-x1", "artifacts/.gone-c-x1", "artifacts/half", "checkpoints/a", "checkpoints/unfinished"):
        (store.scratch / folder).mkdir()
        (store.scratch / folder / "part").write_text("cut off")
    (store.scratch / "locks" / "b").touch()
    if store.remote:
        pointer_of = Remote.point
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Remote, "point", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.put("d", _write)
        assert Remote.point is pointer_of
    data, _ = collect(store, rules=DELETE)
    found = {("leftover", "b"), ("leftover", "c"), ("leftover", "half"), ("checkpoints", "a"), ("lock", "b")}
    assert _names(data) == found | ({("leftover", "d")} if store.remote else set())
    problems = [row["problem"] for row in verify_store(store, remote=True)[0]]
    assert problems == (["waiting"] if store.remote else [])
    assert (store.scratch / "checkpoints" / "unfinished" / "part").exists(), "a stopped run goes on from it"
    assert store.get("a")


def test_a_run_that_appears_while_its_artifact_is_being_removed_keeps_it(
    ground: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ground.ledger()
    real, hide = store_gc._may_go, Remote.hide

    def local(*arguments: Any) -> bool:
        _record(ledger, "newest", "a")
        return real(*arguments)

    def remote(self: Remote, identity: str) -> None:
        hide(self, identity)
        _record(ledger, "newest", "a")

    monkeypatch.setattr(store_gc, "_may_go", local if not store.remote else real)
    monkeypatch.setattr(Remote, "hide", remote)
    collect(store, rules=Rules(forget=["old"], grace=0, delete=True))
    assert store.claim("a") and (store.get("a") / "inner" / "a.txt").read_text() == "one"
    assert ground.machine("two").claim("a")
    assert verify_store(store, remote=True)[0] == []


def _slow(call: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.03)
        return call(*arguments)

    return slow


def _collector(only: Rules) -> int:
    """A process that collects again and again until it is killed; between its look at the ledger and the removal it dawdles."""
    if (process := os.fork()) == 0:
        try:
            store_gc._remove = _slow(store_gc._remove)
            Remote.hide = _slow(Remote.hide)  # type: ignore[method-assign]
            while True:
                collect(rules=only)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(1)
    return process


def _end(process: int) -> bool:
    """Kills a process; whether it was still at work."""
    working = os.waitpid(process, os.WNOHANG) == (0, 0)
    if working:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return working


def test_a_run_finds_what_it_claimed_while_another_process_collects(ground: Any) -> None:
    store, made = ground.machine("one"), 0
    ledger = ground.ledger()
    store.put("a", _write)
    collector = _collector(Rules(grace=0, delete=True, only_ledger=True))
    turns = 0
    while turns < 40 and (turns < 8 or made < 2):
        turns += 1
        _record(ledger, f"r{turns}", "a")
        if not store.claim("a"):
            made += 1
            store.put("a", _write)
        time.sleep(0.02 * (turns % 3))
        assert (store.get("a") / "inner" / "a.txt").read_text() == "one"
        ledger.forget([f"r{turns}"])
        # On a busy machine a pass of the collector takes seconds; the pauses grow until one fits in.
        time.sleep(0.02 * (turns % 4) * 2 ** (turns // 4))
    assert _end(collector)
    assert made, "the collector never removed it"
    collect(store, rules=DELETE)
    assert verify_store(store, remote=True)[0] == []


def test_whole_runs_succeed_while_another_process_collects(ground: Any) -> None:
    store = ground.machine("one")
    source = {"name": "nanoworld", "rows": 8, "skills": ["variables"]}
    recipe = {"name": "rows", "model": "nano", "data": [{"name": "one", "source": source}, {"name": "two", "data": "one"}]}
    collector = _collector(Rules(keep_runs=0, grace=0, delete=True))
    for _ in range(4):
        result = run_recipe(recipe, quiet=True)
        assert {s.status for s in result.run.steps} <= {"done", "reused"}
    assert _end(collector)
    collect(store, rules=DELETE)
    assert verify_store(store, remote=True)[0] == []


def test_a_bucket_is_left_alone_where_other_machines_have_ledgers_of_their_own(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHET_HOME", bucket)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store.open()
    store.put("a", _write)
    _record(Ledger.beside(store.scratch), "old", "a")
    _, text = collect(store, rules=Rules(keep_runs=0, grace=0, delete=True))
    assert "--only-ledger says that there is no other" in text
    assert not list(store.identities()) and store.claim("a")
    collect(store, rules=Rules(keep_runs=0, grace=0, delete=True, only_ledger=True))
    assert not store.has("a")


def test_the_ledger_in_the_folder_counts_beside_the_one_that_is_named(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open()
    store.put("a", _write)
    _record(Ledger.beside(store.scratch), "here", "a")
    monkeypatch.setenv("WHET_LEDGER", database)
    _record(Ledger.beside(store.scratch), "there", "a")
    collect(store, rules=Rules(keep_runs=0, grace=0, delete=True, only_ledger=True))
    assert store.has("a")
