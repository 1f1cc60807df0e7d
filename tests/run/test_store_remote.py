"""A store in a bucket: uploads never mix, nothing is lost when the network is, and whole recipes run from several machines."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tiny import recipe
from whet.cli import main
from whet.errors import StoreError
from whet.run.ledger import Ledger
from whet.run.runner import run_recipe
from whet.run.store import Store
from whet.run.store_gc import Rules, collect
from whet.run.store_remote import Remote
from whet.run.store_tools import store_sizes, verify_store

RECIPE = {
    **recipe(),
    "name": "small",
    "quantize": [{"name": "w4", "model": "first", "data": "text", "bits": 4, "group_size": 32}],
}
CLOSED = "http://127.0.0.1:9"


def _write(folder: Path) -> None:
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")


@pytest.fixture
def home(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket as the store; ``_machine`` makes it that of another machine."""
    monkeypatch.setenv("WHET_HOME", f"{bucket}/whet")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return f"{bucket}/whet"


@pytest.fixture
def machine(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(name: str) -> Store:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return Store.open()

    return of


def _unplug(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Clients made from now on see another environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_recipe_runs_is_reused_elsewhere_checked_measured_and_collected(
    ground: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ground.machine("one")
    first = run_recipe(RECIPE, quiet=True)
    assert {s.status for s in first.run.steps} == {"done"} and first.report.is_file()
    store = ground.machine("two")
    second = run_recipe(RECIPE, quiet=True)
    assert {s.status for s in second.run.steps} == {"reused"}
    weights = [(r.folders["first"] / "model" / "model.safetensors").read_bytes() for r in (first, second)]
    assert weights[0] == weights[1]

    identity = next(s.identity for s in first.run.steps if s.name == "first")
    assert main(["store", "verify", "--remote"]) == 0
    content, path = ground.content(identity, "model/model.safetensors")
    ground.overwrite(path, content[:-1] + bytes([content[-1] ^ 16]))
    assert main(["store", "verify", "--remote"]) == 1
    assert f"damaged: artifact {identity}" in capsys.readouterr().out
    ground.overwrite(path, content)
    assert main(["store", "verify", "--remote"]) == 0

    sizes = store_sizes(store)[0]
    shared = len({s.identity for s in first.run.steps} & {s.identity for s in second.run.steps})
    assert shared == 4 and sizes["artifacts"] == max(sizes["runs"].values())

    assert main(["store", "gc", "--keep-runs", "1", "--grace", "0", "--delete"]) == 0
    again = run_recipe(RECIPE, quiet=True)
    assert {s.status for s in again.run.steps} == {"reused"}, [s.why for s in again.run.steps]
    assert main(["store", "gc", "--keep-runs", "0", "--grace", "0", "--delete"]) == 0
    assert not list(store.identities()) and not (store.remote and store.remote.uploads())
    assert {s.status for s in run_recipe(RECIPE, quiet=True).run.steps} == {"done"}
    assert main(["store", "verify", "--remote"]) == 0


def test_the_first_of_two_uploads_is_the_artifact_of_both(machine: Any) -> None:
    one, two = machine("one"), machine("two")

    def later(folder: Path) -> None:
        one.put("abc", _write)
        (folder / "a.txt").write_text("other")
        (folder / "c.txt").write_text("three")

    folder = two.put("abc", later)
    for where in (folder, machine("three").get("abc")):
        assert (where / "a.txt").read_text() == "one" and not (where / "c.txt").exists()
    assert len(one.remote.uploads()) == 1
    assert verify_store(two, remote=True)[0] == []


def test_a_storage_without_exclusive_writes_still_has_one_artifact(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = fsspec.get_filesystem_class("s3")
    real = storage.pipe_file

    def plain(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> Any:
        if mode == "create":
            raise OSError(38, "A header you provided implies functionality that is not implemented")
        return real(self, path, value, **options)

    monkeypatch.setattr(storage, "pipe_file", plain)
    test_the_first_of_two_uploads_is_the_artifact_of_both(machine)


def test_an_upload_that_fails_loses_nothing(machine: Any, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine("one")
    with monkeypatch.context() as patch:
        _unplug(patch, AWS_ENDPOINT_URL=s3_server)
        real = fsspec.get_filesystem_class("s3").put_file

        def fails(self: Any, local: str, path: str, **options: Any) -> Any:
            if path.endswith("b.txt"):
                import botocore.exceptions

                raise botocore.exceptions.ConnectionClosedError(endpoint_url=s3_server)
            return real(self, local, path, **options)

        patch.setattr(fsspec.get_filesystem_class("s3"), "put_file", fails)
        with pytest.raises(
            StoreError, match=r"uploading artifact abc \(which is kept .*\) to s3://.*ConnectionClosed.*AWS_ENDPOINT"
        ):
            store.put("abc", _write)
    assert not store.has("abc") and not machine("two").has("abc")
    store = machine("one")
    assert [row["problem"] for row in verify_store(store)[0]] == ["waiting"]
    assert store.claim("abc"), "the next run uploads it"
    assert (machine("two").get("abc") / "b.txt").read_text() == "two"
    _clean_after_collection(machine("one"))


def test_an_upload_that_is_killed_loses_nothing(machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store, reached = machine("one"), tmp_path / "reached"
    if (process := os.fork()) == 0:
        try:
            monkeypatch.setattr(Remote, "point", lambda *_: (reached.touch(), time.sleep(60)))
            store.put("abc", _write)
        finally:
            os._exit(1)
    limit = time.monotonic() + 120
    while not reached.exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert not store.has("abc")
    store.put("abc", lambda _: pytest.fail("what was made is made again"))
    assert (machine("two").get("abc") / "b.txt").read_text() == "two"
    assert len(store.remote.uploads()) == 2
    _clean_after_collection(machine("one"))


def _clean_after_collection(store: Store) -> None:
    data, _ = collect(store, rules=Rules(grace=0, delete=True))
    assert [t["kind"] for t in data["things"] if t["kind"] != "lock"] == ["remote leftover"]
    assert store.remote and len(store.remote.uploads()) == 1
    assert verify_store(store, remote=True)[0] == []


def _refused(call: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        call()


def test_a_bucket_that_cannot_be_reached_is_named_before_anything_runs(
    machine: Any, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _unplug(patch, AWS_ENDPOINT_URL=CLOSED)
        for call in (lambda: run_recipe(RECIPE, quiet=True), lambda: main(["store", "gc"]), lambda: machine("two").get("abc")):
            try:
                status = call()
            except StoreError as error:
                assert home in str(error) and "EndpointConnectionError" in str(error) and "AWS_ENDPOINT_URL" in str(error)
            else:
                assert status == 2
    _unplug(monkeypatch)
    assert not any(s.status == "done" for run in Ledger.beside(machine("one").scratch).runs() for s in run.steps)


def test_a_bucket_that_does_not_exist_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_HOME", "s3://no-such-bucket/whet")
    _refused(lambda: run_recipe(RECIPE, quiet=True), r"opening s3://no-such-bucket/whet failed.*bucket does not exist")


def test_missing_credentials_are_named(machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    _unplug(monkeypatch)
    _refused(lambda: run_recipe(RECIPE, quiet=True), r"s3://.*NoCredentialsError.*AWS_ACCESS_KEY_ID")


def test_an_unknown_kind_of_address_is_named() -> None:
    _refused(lambda: Store.open("nonsense://x/y").claim("abc"), r"opening nonsense://x/y failed.*nonsense")


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(StoreError) as caught:
        Store.open("nonsense://user:secret@x/y").claim("abc")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "gone", "pointer"])
def test_what_arrives_damaged_does_not_appear(machine: Any, home: str, damage: str) -> None:
    machine("one").put("abc", _write)
    files, root = fsspec.core.url_to_fs(home)
    (path,) = files.glob(f"{root}/content/abc/*/b.txt") if damage != "pointer" else (f"{root}/artifacts/abc.json",)
    files.rm_file(path)
    if damage != "gone":
        files.pipe_file(path, b"tw")
    other = machine("two")
    _refused(lambda: other.get("abc"), r"artifact abc is not what was written: s3://.*(b\.txt|abc\.json).*run the recipe again")
    assert not list((other.scratch / "artifacts").iterdir())
    assert verify_store(other)[0], "names and sizes are compared without --remote"
    kept, _ = collect(other, rules=Rules(grace=0, delete=True))
    assert "remote leftover" not in {t["kind"] for t in kept["things"]}


def test_a_pointer_says_where_its_content_lies(machine: Any, home: str) -> None:
    machine("one").put("abc", _write)
    files, root = fsspec.core.url_to_fs(home)
    pointer = json.loads(files.cat_file(f"{root}/artifacts/abc.json"))
    assert sorted(files.ls(f"{root}/content/abc/{pointer['key']}", detail=False))[0].endswith("a.txt")
