"""Damage and leftovers in the store are found; two writers and a killed one leave it whole."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from whet.cli import main
from whet.errors import StoreError
from whet.run.manifest import MANIFEST
from whet.run.store import Store
from whet.run.store_tools import store_sizes, verify_store


def _write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("one")
    (folder / "inner" / MANIFEST).write_text("a file of the artifact's own")


def _child(store: Store, pause: float, text: str) -> int:
    """A process that writes artifact ``abc``, pausing while it does."""

    def write(folder: Path) -> None:
        (folder / "begun").write_text(text)
        time.sleep(pause)

    if (process := os.fork()) == 0:
        try:
            store.put("abc", write)
            os._exit(0)
        finally:
            os._exit(1)
    return process


def _begun(store: Store) -> bool:
    return any((store.scratch / "artifacts").glob(".new-*/new/begun"))


def _wait_until_begun(store: Store) -> None:
    limit = time.monotonic() + 120
    while not _begun(store):
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.fixture
def store(ground: Any) -> Store:
    return ground.machine("one")


def test_every_flipped_bit_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open()
    folder = store.put("abc", _write)
    assert main(["store", "verify"]) == 0
    for file in (folder / "inner" / "a.txt", folder / MANIFEST):
        content = file.read_bytes()
        for bit in range(len(content) * 8):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            assert verify_store(store)[0], f"bit {bit} of {file.name}"
        file.write_bytes(content)
    (folder / "inner" / "a.txt").write_text("onf")
    assert main(["store", "verify"]) == 1
    assert "damaged: artifact abc: inner/a.txt" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["inner/a.txt", MANIFEST])
def test_a_bit_flipped_where_the_artifact_lies_is_found_and_never_used(
    ground: Any, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ground.machine("one").put("abc", _write)
    assert main(["store", "verify", "--remote"]) == 0
    content, path = ground.content("abc", file)
    ground.overwrite(path, bytes([content[0] ^ 1]) + content[1:])
    assert main(["store", "verify", "--remote"]) == 1
    assert "damaged: artifact abc" in capsys.readouterr().out
    if ground.remote:
        with pytest.raises(StoreError, match=r"abc is not what was written: s3://.*run the recipe again"):
            ground.machine("two").get("abc")
        assert not list(Store.open().identities())


def test_missing_and_extra_files_are_named(store: Store) -> None:
    folder = store.put("abc", _write)
    (folder / "inner" / "a.txt").rename(folder / "b.txt")
    assert {(r["problem"], r["file"]) for r in verify_store(store)[0]} == {("missing", "inner/a.txt"), ("extra", "b.txt")}


def test_a_killed_writer_is_seen_and_its_leftovers_go_with_the_next_try(store: Store) -> None:
    store.put("earlier", _write)
    child = _child(store, 60, "killed")
    _wait_until_begun(store)
    assert not verify_store(store)[0], "a folder that is being written is no leftover"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert [r["problem"] for r in verify_store(store)[0]] == ["leftover"]
    store.put("abc", _write)
    assert (store.get("abc") / "inner" / "a.txt").read_text() == "one"
    assert not verify_store(store)[0]


def test_checkpoints_of_a_finished_step_are_leftovers_and_go_when_it_is_used(store: Store) -> None:
    store.put("abc", _write)
    store.checkpoints("abc").mkdir()
    assert [r["problem"] for r in verify_store(store)[0]] == ["leftover"]
    store.get("abc")
    assert not verify_store(store)[0]


def test_the_second_of_two_writers_takes_what_the_first_made(store: Store) -> None:
    first = _child(store, 0.5, "first")
    _wait_until_begun(store)
    second = _child(store, 0.0, "second")
    assert [os.waitpid(p, 0)[1] for p in (first, second)] == [0, 0]
    assert (store.get("abc") / "begun").read_text() == "first"
    assert not verify_store(store)[0]


def test_sizes_count_every_artifact(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store.put("abc", _write)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    sizes = store_sizes(store)[0]
    assert sizes["kinds"] == {"in no run": size}
    assert sizes["remote"] == (size if store.remote else None)
    assert main(["store", "du"]) == 0
    assert "in no run" in capsys.readouterr().out
