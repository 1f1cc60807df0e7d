"""The two grounds that a store can stand on, with servers started for the tests: the same tests run on both."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from whet.run.ledger import Ledger
from whet.run.store import Store

POSTGRESQL = "PostgreSQL is not tested: apt-get install postgresql, pip install 'whet[postgres]'"
S3 = "S3 is not tested: pip install 's3fs' 'moto[server]'"


def _skip(reason: str) -> None:
    """Skips loudly: the reason also stands among the warnings of a run that does not list its skips."""
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a server on a free port, started for these tests."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    try:
        import psycopg  # noqa: F401
    except ImportError:
        found = []
    if not found:
        _skip(POSTGRESQL)
    binaries = found[-1].parent
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = subprocess.run([*user, "mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data, control = f"{folder}/data", [*user, str(binaries / "pg_ctl"), "-D", f"{folder}/data", "-w"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off -c timezone=Asia/Tokyo"
    init = [*user, str(binaries / "initdb"), "-D", data, "-U", "whet", "--auth=trust", "-E", "UTF8", "--locale=C", "-N"]
    try:
        subprocess.run(init, check=True, capture_output=True, cwd="/")
        subprocess.run([*control, "-l", f"{folder}/log", "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        yield f"postgresql://whet@127.0.0.1:{port}/postgres"
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgresql: str) -> str:
    """The URL of a schema without tables."""
    import psycopg

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgresql}?options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on a free port, started for these tests."""
    try:
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        _skip(S3)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; the environment holds what its clients need."""
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"s3://b{uuid.uuid4().hex[:12]}"
    # File systems are kept per process, and with them the endpoint of an earlier server.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.core.url_to_fs(name)[0].mkdir(name)
    return name


@dataclass(frozen=True)
class Ground:
    """Where the store and its ledger lie, as a user's environment names them."""

    kind: str
    folder: Path
    home: str
    monkeypatch: pytest.MonkeyPatch

    @property
    def remote(self) -> bool:
        return "://" in self.home

    def machine(self, name: str) -> Store:
        """The store as one of several machines sees it, each with a cache folder of its own."""
        self.monkeypatch.setenv("XDG_CACHE_HOME", str(self.folder / f"cache-{name}"))
        return Store.open()

    def ledger(self) -> Ledger:
        return Ledger.beside(Store.open().scratch)

    def content(self, identity: str, file: str) -> tuple[bytes, str]:
        """A file of an artifact where it really lies, and its address there."""
        import fsspec

        if not self.remote:
            path = f"{self.home}/artifacts/{identity}/{file}"
            return Path(path).read_bytes(), path
        files, root = fsspec.core.url_to_fs(self.home)
        files.invalidate_cache()
        (path,) = files.glob(f"{root}/content/{identity}/*/{file}")
        return files.cat_file(path), path

    def overwrite(self, path: str, content: bytes) -> None:
        """Changes a file where it really lies."""
        import fsspec

        if not self.remote:
            Path(path).write_bytes(content)
            return
        files, _ = fsspec.core.url_to_fs(self.home)
        files.pipe_file(path, content)


@pytest.fixture(params=["folder+sqlite", "s3+postgresql"])
def ground(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A store in a folder with SQLite, and one in a bucket with PostgreSQL."""
    home = str(tmp_path / "store")
    if request.param == "s3+postgresql":
        monkeypatch.setenv("WHET_LEDGER", request.getfixturevalue("database"))
        home = f"{request.getfixturevalue('bucket')}/some/prefix"
    monkeypatch.setenv("WHET_HOME", home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Ground(request.param, tmp_path, home, monkeypatch)
