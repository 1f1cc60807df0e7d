"""Code that wants out, or wants a verdict that it does not deserve, gets neither; what the weaker sandbox does not hold is shown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whet.errors import WhetError
from whet.generate import sandbox
from whet.generate.sandbox import Job, Limits, choose, run, run_all

TROUBLE = sandbox._bubblewrap_trouble()
STRONG = pytest.param("bubblewrap", marks=pytest.mark.skipif(bool(TROUBLE), reason=f"bubblewrap: {TROUBLE}"))
BOTH = pytest.mark.parametrize("mode", [STRONG, "subprocess"])
LIMITS = Limits(seconds=3.0, memory=256)
ESCAPED = "assert f() == 'escaped'"


def attempt(code: str, mode: str, limits: Limits = LIMITS, tests: str = ESCAPED) -> sandbox.Verdict:
    verdict = run(Job(code, tests), limits, mode)  # type: ignore[arg-type]
    assert verdict.status != "passed", code
    assert verdict.status != "broken", verdict.why
    return verdict


def escapes_outside(code: str, **environment: str) -> None:
    """The attempt works where nothing stops it; else it would prove nothing."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(f())"], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.stdout.strip().endswith("escaped"), done.stderr


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text("escaped")
    for folder in (path, *list(path.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    return path


@BOTH
def test_right_code_passes_and_wrong_code_fails(mode: str) -> None:
    code = "def f(x):\n    return [x, (1.5, 'ä'), {b'a': {2}}, None, True, 10 ** 400]"
    tests = "def check(candidate):\n    assert candidate(3) == [3, (1.5, 'ä'), {b'a': {2}}, None, True, 10 ** 400]"
    assert run(Job(code, tests, entry_point="f"), LIMITS, mode).status == "passed"  # type: ignore[arg-type]
    assert attempt(code.replace("1.5", "1.25"), mode, tests=f"{tests}\ncheck(f)").why.startswith("AssertionError")


@BOTH
def test_fork_bomb(mode: str) -> None:
    code = "import os\ndef f():\n    while True:\n        os.fork()"
    attempt(code, mode)
    attempt(
        "import os, time\ndef f():\n    if os.fork() == 0:\n        time.sleep(2)\n        os._exit(0)\n    return 'escaped'",
        mode,
    )
    attempt("import subprocess\ndef f():\n    return subprocess.run(['true']) and 'escaped'", mode)
    attempt("import os\ndef f():\n    os.posix_spawn('/bin/true', ['true'], {})\n    return 'escaped'", mode)


@BOTH
def test_huge_output_is_neither_kept_nor_waited_for(mode: str) -> None:
    printing = "import sys\ndef f():\n    while True:\n        print('x' * 10**6)\n        sys.stderr.write('y' * 10**6)"
    assert attempt(printing, mode, Limits(seconds=1.0)).status in ("timeout", "ended")
    assert attempt("def f():\n    return 'escaped' * 10**7", mode).why == "a reply is too long"
    assert len(attempt("def f():\n    raise ValueError('x' * 10**7)", mode).why) <= 300


@BOTH
def test_reads_outside(mode: str, canary: Path) -> None:
    code = f"def f():\n    return open({str(canary)!r}).read()"
    escapes_outside(code)
    attempt(code, mode)
    attempt(f"import os\ndef f():\n    return os.read(os.open({str(canary)!r}, 0), 99).decode()", mode)
    attempt(f"import os\ndef f():\n    return 'escaped' if 'secret.txt' in os.listdir({str(canary.parent)!r}) else ''", mode)


@BOTH
def test_symlinks(mode: str, canary: Path) -> None:
    code = f"import os, tempfile\ndef f():\n    os.symlink({str(canary)!r}, 'link')\n    return open('link').read()"
    escapes_outside(code.replace("'link'", "tempfile.gettempdir() + '/whet-test-link-' + str(os.getpid())"))
    for link in Path(sandbox.tempfile.gettempdir()).glob("whet-test-link-*"):
        link.unlink()
    attempt(code.replace(", tempfile", ""), mode)
    attempt(f"import os\ndef f():\n    os.chdir('/')\n    return open({str(canary)[1:]!r}).read()", mode)


@BOTH
def test_writes_outside(mode: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    target = tmp_path / "written"
    code = f"def f():\n    with open({str(target)!r}, 'w') as file:\n        file.write('x')\n    return 'escaped'"
    escapes_outside(code)
    target.unlink()
    attempt(code, mode)
    attempt(f"import os\ndef f():\n    os.mkdir({str(target)!r})\n    return 'escaped'", mode)
    attempt(f"import os\ndef f():\n    os.mkfifo({str(target)!r})\n    return 'escaped'", mode)
    attempt(f"import os\ndef f():\n    os.system('touch {target}')", mode)
    assert not target.exists()


@BOTH
def test_network(mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"import socket\ndef f():\n    socket.create_connection(('127.0.0.1', {port}), 2).close()\n    return 'escaped'"
        escapes_outside(code)
        server.accept()[0].close()
        attempt(code, mode)
        with pytest.raises(TimeoutError):
            server.accept()


@BOTH
def test_signals_to_the_parent(mode: str) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        for pid in ("os.getppid()", str(os.getpid()), "-1", "0"):
            name = "SIGUSR1" if pid != "0" else "SIGTERM"
            attempt(f"import os, signal\ndef f():\n    os.kill({pid}, signal.{name})\n    return ''", mode)
        time.sleep(0.05)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not received


@BOTH
def test_secrets_of_the_environment(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHET_TEST_SECRET", "escaped")
    code = "import os\ndef f():\n    return os.environ.get('WHET_TEST_SECRET')"
    escapes_outside(code)
    attempt(code, mode)
    for pid in ("self", str(os.getpid())):
        reading = f"open('/proc/{pid}/environ', 'rb').read()"
        attempt(f"def f():\n    return 'escaped' if b'WHET_TEST_SECRET' in {reading} else ''", mode)


@BOTH
@pytest.mark.parametrize(
    "code", ["import time\ntime.sleep(1e6)", "import time\ndef f():\n    time.sleep(1e6)", "while True: pass"]
)
def test_sleeping_forever_ends_with_nothing_left(mode: str, code: str) -> None:
    start = time.monotonic()
    assert attempt(code, mode, Limits(seconds=0.53125)).status == "timeout"
    assert time.monotonic() - start < 20
    while _left() and time.monotonic() - start < 20:  # the kernel ends a namespace's processes a moment later
        time.sleep(0.02)
    assert not _left()


def _left() -> list[Path]:
    return [p for p in Path("/proc").glob("[0-9]*/cmdline") if b'"seconds": 0.53125' in _read(p)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@BOTH
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_allocating(mode: str) -> None:
    assert "MemoryError" in attempt("def f():\n    return bytearray(4 * 2**30) and 'escaped'", mode).why
    attempt("def f():\n    held = []\n    while True:\n        held.append(' ' * 2**20)", mode)
    attempt("import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    return f()", mode, Limits(seconds=1.0, memory=256))
    raised = "import resource\ndef f():\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return 'escaped'"
    attempt(raised, mode)


@BOTH
def test_large_files(mode: str) -> None:
    attempt("def f():\n    open('a', 'wb').write(bytes(64 * 2**20))\n    return 'escaped'", mode)


FORGED = '{"status": "passed", "why": "", "passed": 9, "total": 9}\\n'
INJECTED = '{"names": {"f": {"function": true}, "abs": {"function": true}, "__builtins__": {"value": {}}}}\\n{"value": 0}\\n'


@BOTH
@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit(0)",
        "import os\ndef f():\n    os._exit(0)",
        "import os, atexit\natexit.register(lambda: os._exit(0))\ndef f():\n    raise SystemExit(0)",
        "import os\nos.closerange(0, 64)",
        f"import os\nfor d in range(64):\n    try: os.write(d, b'{FORGED}')\n    except OSError: pass\nos._exit(0)",
        f"import os\ndef f():\n    for d in range(64):\n        try: os.write(d, b'{FORGED}')\n        except OSError: pass",
        f"import os\nfor d in range(3, 64):\n    try: os.write(d, b'{INJECTED}')\n    except OSError: pass",
        "class Same(str):\n    __eq__ = lambda *_: True\n    __sub__ = __rsub__ = lambda *_: 0\ndef f():\n    return Same()",
        "import builtins\nbuiltins.abs = lambda *_: 0\nbuiltins.AssertionError = ValueError\ndef f():\n    return 1",
        "import gc\ndef f():\n    return next((o for o in gc.get_objects() if type(o) is str and 'assert' in o), 0) and 3",
        "import sys\ndef f():\n    frame = sys._getframe()\n    while frame.f_back: frame = frame.f_back\n"
        "    return 3 if 'tests' in str(frame.f_locals.get('job', '')) else 0",
        "import signal\ndef f():\n    signal.raise_signal(signal.SIGKILL)",
    ],
)
def test_no_verdict_can_be_forged(mode: str, code: str) -> None:
    attempt(code, mode, tests="assert abs(f() - 3) < 1e-6")
    attempt(code, mode, tests="try:\n    f('no', 'such', 'argument')\nexcept TypeError:\n    assert f() == 3\nassert f() == 3")


@BOTH
def test_a_dead_process_is_no_exception_that_a_test_may_expect(mode: str) -> None:
    tests = "try:\n    f()\nexcept Exception:\n    pass"
    assert attempt("import os\ndef f():\n    os._exit(0)", mode, tests=tests).status == "ended"
    assert run(Job("def f():\n    raise KeyError('x')", tests), LIMITS, mode).status == "passed"  # type: ignore[arg-type]


@pytest.mark.skipif(bool(TROUBLE), reason=f"bubblewrap: {TROUBLE}")
def test_what_only_bubblewrap_holds(canary: Path) -> None:
    """The weaker sandbox is stopped by the interpreter alone: code that changes what the hook uses reads files, attributes of
    files are visible, and the sum of files has no limit. None of this works in bubblewrap."""
    fooled = f"import os, posixpath\nposixpath._joinrealpath = lambda *_: (os.getcwd(), True)\ndef f():\n    return open({str(canary)!r}).read()"
    seen = f"import os\ndef f():\n    return 'escaped' if os.stat({str(canary)!r}).st_size else ''"
    full = "def f():\n    for name in 'abc':\n        open(name, 'wb').write(bytes(12 * 2**20))\n    return 'escaped'"
    for code in (fooled, seen, full):
        attempt(code, "bubblewrap")
    for code in (seen, full):
        assert run(Job(code, ESCAPED), LIMITS, "subprocess").status == "passed"
    assert "weaker" in sandbox.NOTES["subprocess"]


def test_the_weaker_sandbox_is_announced_once_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox._warn_once.cache_clear()
    monkeypatch.setattr(sandbox, "_bubblewrap_trouble", lambda: "the program bwrap was not found")
    with pytest.warns(UserWarning, match=r"weaker.*bwrap was not found") as caught:
        assert [choose("auto"), choose("auto")] == ["subprocess"] * 2
    assert len(caught) == 1
    with pytest.raises(WhetError, match=r"bubblewrap does not work here: the program bwrap was not found. Way out"):
        choose("bubblewrap")


def test_a_sandbox_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_HARNESS", Path(sandbox.__file__).with_name("__init__.py"))
    with pytest.raises(WhetError, match=r"sandbox subprocess could not be started"):
        run(Job("", "assert True"), LIMITS, "subprocess")


@BOTH
def test_many_jobs_keep_their_order(mode: str) -> None:
    jobs = [Job(f"def f():\n    return {i % 3}", "assert f() == 1") for i in range(12)]
    statuses = [verdict.status for verdict in run_all(jobs, LIMITS, mode)]  # type: ignore[arg-type]
    assert statuses == ["passed" if i % 3 == 1 else "failed" for i in range(12)]
