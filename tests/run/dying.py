"""Runs ``whet`` commands in processes that send themselves signals at chosen moments.

Reads lines ``[home, groups]`` from the standard input. A group is a list of commands ``{"arguments": [...], "moment": {...} or
null}`` that run at the same time on the store ``home``, the groups one after the other. Prints a line with each command's exit
``status`` (negative: the signal that killed it) and what it wrote (``out``, ``err``). Libraries are loaded once; each command has
a forked process.

A moment is the ``count``-th time that something happens: ``what`` is ``rename`` (of a path, described as ``from -> to``), ``text``
(a text file is written) or ``commit`` (of the ledger); ``match`` a regular expression for the paths; ``when`` ``before`` or
``after``; ``signals`` what the process sends itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def arm(moment: dict[str, Any]) -> None:
    """Makes this process send itself the signals at the moment."""
    left = [int(moment.get("count", 1))]

    def hit(description: str) -> bool:
        left[0] -= bool(re.search(moment.get("match", ""), description))
        return left[0] == 0 and bool(re.search(moment.get("match", ""), description))

    def fire() -> None:
        left[0] = -1
        for number in moment["signals"]:
            os.kill(os.getpid(), number)

    def wrapped(original: Callable[..., Any], describe: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            struck = hit(describe(*args))
            if struck and moment["when"] == "before":
                fire()
            result = original(*args, **kwargs)
            if struck and moment["when"] == "after":
                fire()
            return result

        return call

    if moment["what"] == "commit":
        from sqlalchemy import Engine, event

        event.listen(Engine, "commit", lambda connection: fire() if hit("") else None)
    elif moment["what"] == "text":
        Path.write_text = wrapped(Path.write_text, lambda path, *_: str(path))  # type: ignore[method-assign]
    else:
        for name in ("rename", "replace"):
            setattr(Path, name, wrapped(getattr(Path, name), lambda path, target: f"{path} -> {target}"))


def begin(command: dict[str, Any], home: str, folder: Path) -> int:
    """Starts the command in a forked process on the store ``home``, its output in files in the folder; returns its id."""
    process = os.fork()
    if process:
        return process
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = f"{home}/tmp"
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)
    os.environ["WHET_HOME"] = home
    if command.get("moment"):
        arm(command["moment"])
    from whet.cli import main

    status = main(command["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def group(commands: list[dict[str, Any]], home: str) -> list[dict[str, Any]]:
    """Runs commands at the same time to their ends."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(member) for member in range(len(commands))]
        for folder in folders:
            folder.mkdir()
        processes = [begin(command, home, folder) for command, folder in zip(commands, folders)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        texts = [{key: (folder / key).read_text() for key in ("out", "err")} for folder in folders]
    return [{"status": status, **written} for status, written in zip(statuses, texts)]


def main() -> None:
    import torch

    import whet.measure.generative
    import whet.quantize.pipeline
    import whet.run.runner
    import whet.train.run

    torch.set_num_threads(1)
    assert whet
    for line in sys.stdin:
        home, groups = json.loads(line)
        print(json.dumps([ended for commands in groups for ended in group(commands, home)]), flush=True)


if __name__ == "__main__":
    main()
