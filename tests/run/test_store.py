"""Artifacts appear whole or not at all, in a folder and in a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whet.errors import StoreError
from whet.run.manifest import MANIFEST, from_bytes, manifest
from whet.run.store import Store
from whet.run.store_tools import verify_store


def _write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("one")
    (folder / "empty").write_bytes(b"")


@pytest.fixture
def store(ground: Any) -> Store:
    return ground.machine("one")


def test_an_artifact_comes_back_whole(store: Store) -> None:
    assert not store.has("abc") and not store.claim("abc")
    store.put("abc", _write)
    assert store.has("abc") and store.claim("abc")
    folder = store.get("abc")
    assert (folder / "inner" / "a.txt").read_text() == "one"
    assert set(manifest(folder)) == {"inner/a.txt", "empty"}


def test_another_machine_finds_the_artifact(ground: Any) -> None:
    ground.machine("one").put("abc", _write)
    other = ground.machine("two")
    assert other.has("abc")
    assert (other.get("abc") / "inner" / "a.txt").read_text() == "one" and (other.get("abc") / "empty").read_bytes() == b""
    assert verify_store(other, remote=True)[0] == []


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    def broken(folder: Path) -> None:
        _write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"cannot write artifact abc .*No space left on device.*earlier artifacts are intact"):
        store.put("abc", broken)
    assert not store.has("abc")
    assert not [p for p in (store.scratch / "artifacts").iterdir() if p.name.startswith(".new-")]


def test_a_folder_without_manifest_is_no_artifact(store: Store) -> None:
    folder = store.scratch / "artifacts" / "half"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("cut off")
    assert not store.has("half")
    with pytest.raises(StoreError, match="no artifact half"):
        store.get("half")
    store.put("half", _write)
    assert (store.get("half") / MANIFEST).is_file()


def test_a_store_that_cannot_be_written_says_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match="set WHET_HOME"):
        Store.open(str(blocked))


def test_a_trailing_slash_and_a_file_url_name_the_same_folder(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "store")).put("abc", _write)
    for address in (f"{tmp_path}/store/", f"file://{tmp_path}/store"):
        store = Store.open(address)
        assert store.remote is None and store.has("abc")


def test_a_home_that_is_a_url_keeps_its_copies_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_HOME", f"memory://home-{tmp_path.name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store.open()
    store.put("abc", _write)
    assert store.remote and store.scratch.is_relative_to(tmp_path / "cache")


def test_weights_that_do_not_fit_on_the_disk_give_a_store_error(store: Store) -> None:
    from safetensors import SafetensorError

    def full(folder: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    with pytest.raises(StoreError, match="No space left on device; earlier artifacts are intact"):
        store.put("abc", full)
    assert not store.has("abc")


def test_an_artifact_of_an_earlier_version_is_read(store: Store) -> None:
    folder = store.scratch / "artifacts" / "old"
    _write_old(folder)
    assert store.has("old") and store.claim("old") and store.get("old") == folder
    assert verify_store(store)[0] == []


def _write_old(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    (folder / MANIFEST).write_text('{"a.txt": {"bytes": 3, "sha256": "DIGEST"}}'.replace("DIGEST", digest))


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_a_manifest_that_names_a_file_outside_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="outside its folder"):
        from_bytes(b'{"%s": {"bytes": 1, "sha256": "ab"}}' % name.encode())
