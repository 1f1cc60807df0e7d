"""The start of both processes inside the sandbox; given as text to a bare interpreter, which sees no file of whet.

The modules that a role needs come as text, too, and are found under the names by which they import each other. ``worker`` runs
the code under test and answers calls. ``tester`` runs the tests and calls the worker's functions; arguments and results cross as
plain data (JSON), never as objects, so that whatever the code does, it can only answer a call, rightly or wrongly. The tester
alone writes the verdict.
"""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType
from typing import Any


def load(sources: dict[str, str]) -> None:
    """Makes modules of texts, by name; each after those that it imports."""
    for name, source in sources.items():
        module = sys.modules[name] = ModuleType(name)
        exec(compile(source, f"<{name}>", "exec"), vars(module))


def main(role: str, limits: dict[str, Any]) -> None:
    """Takes the channels from descriptors 0 and 1, closes them to everybody else, and plays the role."""
    from whet.generate.sandbox_common import Line
    from whet.generate.sandbox_limits import confine, guard, hide

    channel, parent = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    confine(limits)
    if role == "worker":
        from whet.generate.sandbox_worker import worker

        os.close(parent)
        worker(Line(channel), guard if limits["guard"] else lambda: None)
    else:
        from whet.generate.sandbox_tester import tester

        if limits["guard"]:
            hide()
            guard()
        tester(Line(channel), Line(parent))


if __name__ == "__main__":
    load(json.loads(sys.argv[3]))
    main(sys.argv[1], json.loads(sys.argv[2]))
