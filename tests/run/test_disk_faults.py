"""A disk that is full, read only, gone or without locks: a clear error, and everything earlier intact."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import recipe
from whet.cli import main
from whet.errors import StoreError
from whet.run import runner
from whet.run.ledger import Ledger
from whet.run.runner import run_recipe
from whet.run.store import Store
from whet.run.store_tools import verify_store
from whet.train import checkpoint, loop

RECIPE = recipe(steps=4, checkpoint_every=1)


@dataclass(frozen=True)
class Disk:
    """A small file system of its own."""

    folder: Path

    def fill(self) -> None:
        """Takes all the room that is left."""
        with (self.folder / "filler").open("ab", buffering=0) as handle:
            for block in (1 << 16, 1 << 12, 1):
                try:
                    while handle.write(b"\0" * block) == block:
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def make_room(self) -> None:
        (self.folder / "filler").unlink()

    def make_read_only(self) -> None:
        """Until :meth:`unmount`; files that are open stay writable."""
        subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.folder)], check=True)

    def unmount(self) -> None:
        """Undoes the last mount."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A file system of 4 MB, with the store on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        reason = "full and read-only disks are not tested: mounting a tmpfs needs root"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    monkeypatch.setenv("WHET_HOME", str(folder / "store"))
    yield Disk(folder)
    while os.path.ismount(folder):
        Disk(folder).unmount()


def _write(folder: Path) -> None:
    (folder / "a.txt").write_text("one")


def _statuses(result: runner.RunResult) -> dict[str, str]:
    return {step.name: step.status for step in result.run.steps}


def _before(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int, act: Callable[[], None]) -> None:
    """``act`` happens right before the call of that number."""
    real, calls = getattr(where, name), []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            act()
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, wrapped)


def test_an_artifact_that_does_not_fit(disk: Disk) -> None:
    store = Store.open()
    store.put("earlier", _write)

    def large(folder: Path) -> None:
        (folder / "b").write_bytes(b"1" * (8 << 20))

    with pytest.raises(
        StoreError, match=r"cannot write artifact abc to .*disk/store.*No space left.*earlier artifacts are intact.*make room"
    ):
        store.put("abc", large)
    assert list(store.identities()) == ["earlier"] and verify_store(store)[0] == []
    store.put("abc", _write)


def test_weights_that_do_not_fit(disk: Disk) -> None:
    from safetensors.torch import save_file

    store = Store.open()
    with pytest.raises(StoreError, match=r"artifact abc.*No space left.*make room"):
        store.put("abc", lambda folder: save_file({"w": torch.ones(4 << 20)}, folder / "w.safetensors"))
    assert verify_store(store)[0] == [] and not list((store.scratch / "artifacts").iterdir())


def test_a_full_disk_at_a_checkpoint(disk: Disk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _before(patch, checkpoint, "save", 3, disk.fill)
        with pytest.raises(StoreError, match="No space left") as caught:
            run_recipe(RECIPE, quiet=True)
    assert str(disk.folder) in str(caught.value)
    disk.make_room()
    store = Store.open()
    assert len(list(store.identities())) == 2 and verify_store(store)[0] == []
    again = run_recipe(RECIPE, quiet=True)
    assert _statuses(again) == {"text": "reused", "base": "reused", "first": "done"}
    assert next(s for s in again.run.steps if s.name == "first").receipt["resumed_at"] == 2
    assert verify_store(store)[0] == []


def test_a_full_disk_at_the_ledger(disk: Disk) -> None:
    store = Store.open()
    store.put("earlier", _write)
    ledger = Ledger.beside(store.scratch)
    run_recipe(RECIPE, quiet=True)
    disk.fill()
    with pytest.raises(
        StoreError, match=r"the ledger sqlite:.*ledger\.db cannot be .*: .*(full|disk I/O error).*artifacts are intact"
    ):
        for _ in range(200):
            ledger.forget([ledger.run("last").id])
    with pytest.raises(StoreError, match=r"disk/store.*(full|No space left|disk I/O error)"):
        run_recipe(RECIPE | {"seed": 1}, quiet=True)
    disk.make_room()
    assert verify_store(store)[0] == []
    assert set(_statuses(run_recipe(RECIPE, quiet=True)).values()) == {"reused"}


def test_a_full_disk_at_the_report(disk: Disk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _before(patch, runner, "write_report", 1, disk.fill)
        with pytest.raises(
            StoreError, match=r"every step of run tiny-.* is finished, but its report cannot be written: .*No space"
        ):
            run_recipe(RECIPE, quiet=True)
    disk.make_room()
    assert verify_store()[0] == []
    again = run_recipe(RECIPE, quiet=True)
    assert set(_statuses(again).values()) == {"reused"} and again.report.is_file()


def test_a_read_only_disk(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open()
    run_recipe(RECIPE, quiet=True)
    store.put("abc", _write)
    # While a connection is open, SQLite takes the file for what it was to that one; without, it would hang on garbage collection.
    ledger = Ledger.beside(store.scratch)
    assert ledger.runs()
    disk.make_read_only()
    with pytest.raises(StoreError, match=r"disk/store.*Read-only file system.*set WHET_HOME"):
        run_recipe(RECIPE, quiet=True)
    with pytest.raises(
        StoreError, match=r"cannot write artifact new.*Read-only file system.*set WHET_HOME to a folder you can write"
    ):
        store.put("new", _write)
    assert (store.get("abc") / "a.txt").read_text() == "one"
    assert main(["store", "verify"]) == 0, "what only reads works"
    assert main(["store", "gc", "--keep-runs", "0", "--grace", "0", "--delete"]) == 2
    assert "ledger.db cannot be read or written: attempt to write a readonly database" in capsys.readouterr().err
    disk.unmount()
    assert set(_statuses(run_recipe(RECIPE, quiet=True)).values()) == {"reused"} and len(ledger.runs()) == 2


def test_a_disk_that_is_unmounted_in_the_middle(disk: Disk, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    subprocess.run(["mount", "--bind", str(disk.folder), str(held)], check=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            _before(patch, loop, "train_step", 3, disk.unmount)
            with pytest.raises(StoreError, match=r"disk/store"):
                run_recipe(RECIPE, quiet=True)
        shutil.rmtree(disk.folder / "store", ignore_errors=True)
        subprocess.run(["mount", "--bind", str(held), str(disk.folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(held)], check=True)
    assert {row["problem"] for row in verify_store()[0]} <= {"leftover"}, "what was written aside could not be removed"
    assert _statuses(run_recipe(RECIPE, quiet=True)) == {"text": "reused", "base": "reused", "first": "done"}
    assert verify_store()[0] == []


def test_a_folder_that_is_deleted_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open()
    with pytest.MonkeyPatch.context() as patch:
        _before(patch, loop, "train_step", 3, lambda: shutil.rmtree(store.scratch))
        with pytest.raises(StoreError, match=r"cannot write artifact .*see that .* is there"):
            run_recipe(RECIPE, quiet=True)
    assert set(_statuses(run_recipe(RECIPE, quiet=True)).values()) == {"done"}
    assert verify_store()[0] == []


@pytest.mark.parametrize("kind", ["text", "weights", "ledger"])
def test_a_file_that_may_not_grow(kind: str, tmp_path: Path) -> None:
    """What a quota does; needs no root."""
    from safetensors.torch import save_file

    store, said = Store.open(), tmp_path / "said"
    store.put("earlier", _write)
    ledger = Ledger.beside(store.scratch)
    if (process := os.fork()) == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            try:
                if kind == "ledger":
                    Ledger(f"sqlite:///{tmp_path / 'new.db'}")
                elif kind == "text":
                    store.put("abc", lambda folder: (folder / "b").write_bytes(b"1" * (1 << 20)))
                else:
                    store.put("abc", lambda folder: save_file({"w": torch.ones(1 << 18)}, folder / "w.safetensors"))
            except StoreError as error:
                said.write_text(str(error)[:2000])
        finally:
            os._exit(0)
    os.waitpid(process, 0)
    expected = "cannot be opened" if kind == "ledger" else "cannot write artifact abc"
    assert expected in said.read_text() and "WHET_HOME" in said.read_text()
    assert list(store.identities()) == ["earlier"] and verify_store(store)[0] == [] and ledger.runs() == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(StoreError, match=r"file system of .*locks has no file locks .*set WHET_HOME to a folder of another disk"):
        run_recipe(RECIPE, quiet=True)
    with pytest.raises(StoreError, match="has no file locks"):
        Store.open().put("abc", _write)


def test_a_ledger_file_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open()
    (store.scratch / "ledger.db").write_bytes(b"not a database" * 100)
    assert main(["show"]) == 2
    assert "ledger.db cannot be opened: file is not a database" in capsys.readouterr().err
