"""Artifacts appear whole or not at all, in a folder and behind fsspec."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.errors import StoreError
from whet.run.store import MANIFEST, Store, manifest


def _write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("one")


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "home"))
    return Store.open(str(tmp_path / "store") if request.param == "folder" else f"memory://whet-{tmp_path.name}")


def test_an_artifact_comes_back_whole(store: Store) -> None:
    assert not store.has("abc")
    store.put("abc", _write)
    assert store.has("abc")
    folder = store.get("abc")
    assert (folder / "inner" / "a.txt").read_text() == "one"
    assert set(manifest(folder)) == {"inner/a.txt"}


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


def test_a_remote_artifact_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"memory://again-{tmp_path.name}"
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "one"))
    Store.open(address).put("abc", _write)
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "two"))
    other = Store.open(address)
    assert other.has("abc")
    assert (other.get("abc") / "inner" / "a.txt").read_text() == "one"


def test_a_store_that_cannot_be_written_says_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match="set WHET_HOME"):
        Store.open(str(blocked))


def test_a_trailing_slash_and_a_file_url_name_the_same_folder(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "store")).put("abc", _write)
    for address in (f"{tmp_path}/store/", f"file://{tmp_path}/store"):
        store = Store.open(address)
        assert not store.remote and store.has("abc")


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
