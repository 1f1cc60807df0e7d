"""Environments of the contenders, and processes in them that are spoken to by JSON lines. Standard library only.

A peer that can live beside whet needs one line, ``need("trl")``: where the import is missing, the bench starts itself again in
an environment with whet's extra ``bench``. A peer that cannot gets an environment of its own (:func:`environment`) and a process
in it (:class:`Contender`), so that contenders of different environments are still interleaved in one run.

Environments lie in ``$XDG_CACHE_HOME/whet/bench`` (default ``~/.cache``), are named by their contents, made once and found again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
_AGAIN = "WHET_BENCH_ENVIRONMENT"
_READY = "ready.json"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def need(*modules: str) -> None:
    """Goes on if the modules can be imported; else starts this script again in an environment that has them.

    Raises:
        SystemExit: that environment lacks one too.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if not missing:
        return
    if os.environ.get(_AGAIN):
        raise SystemExit(f"bench: {', '.join(missing)} cannot be imported though the extra 'bench' is installed")
    python = environment("whet", [f"{ROOT}[bench]"], ROOT / "constraints.txt", editable=True)
    os.environ[_AGAIN] = str(python)
    os.execv(python, [str(python), *sys.argv])


def environment(name: str, requirements: Sequence[str], constraints: Path | None = None, *, editable: bool = False) -> Path:
    """The Python of a virtual environment with these packages, made on first use, and with the build of torch that runs here.

    Args:
        name: for the folder's name.
        requirements: what pip is given, versions pinned.
        constraints: a constraints file.
        editable: install the requirements in editable mode.

    Raises:
        SystemExit: pip failed; its messages stand above.
    """
    torch = _torch_version()
    held = constraints.read_text(encoding="utf-8") if constraints else ""
    described = json.dumps([name, list(requirements), held, torch, sys.version_info[:2], editable])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whet" / "bench"
    folder = cache / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:10]}"
    python = folder / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / _READY).is_file():
            print(f"bench: making the environment {folder} (once; some minutes)", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            _install_torch(python, torch)
            _pip(python, [*(["--constraint", str(constraints)] if constraints else []), *_arguments(requirements, editable)])
            (folder / _READY).write_text(described, encoding="utf-8")
    return python


def _torch_version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        return next(line.partition("==")[2] for line in lines if line.startswith("torch=="))


def _install_torch(python: Path, version: str) -> None:
    plain = [str(python), "-m", "pip", "install", "--quiet", f"torch=={version}"]
    if subprocess.run(plain, stderr=subprocess.DEVNULL, check=False).returncode:
        _pip(python, ["--extra-index-url", _TORCH_INDEX, f"torch=={version}"])


def _arguments(requirements: Sequence[str], editable: bool) -> list[str]:
    return [part for requirement in requirements for part in (["--editable", requirement] if editable else [requirement])]


def _pip(python: Path, arguments: Sequence[str]) -> None:
    done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=False)
    if done.returncode:
        raise SystemExit(f"bench: pip install {' '.join(arguments)} failed; the environment was not made")


class Contender:
    """A process that answers one JSON line with one JSON line; its other output goes to the standard error.

    It runs ``script`` with that environment's Python; the script calls :func:`serve`. Use it as a context.
    """

    def __init__(self, python: Path | str, script: Path, arguments: Sequence[str] = (), **variables: str) -> None:
        self.title = f"{script.name} {' '.join(arguments)}".strip()
        self._process = subprocess.Popen(
            [str(python), str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """The process's answer.

        Raises:
            RuntimeError: it ended, or answered with an error.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.title} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.title}: {answer['error']}")
        return answer

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> NoReturn:
    """The other side of :class:`Contender`: answers until the questions end. Whatever else is printed cannot disturb the lines.

    To each answer ``peak`` is added: the most resident memory in bytes during the question, where the system lets a process
    reset its peak (Linux), else since its start; ``before``, the resident memory at its beginning; and ``cpu``, its processor seconds.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            before, cpu = _reset_peak(), time.process_time()
            try:
                reply = {**answer(json.loads(line)), "cpu": time.process_time() - cpu, "before": before, "peak": _peak()}
            except Exception as error:  # the asking side raises it again
                traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {error}"}
            out.write(json.dumps(reply) + "\n")
            out.flush()
    raise SystemExit(0)


def _reset_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status; without it, the peak since the start."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)
