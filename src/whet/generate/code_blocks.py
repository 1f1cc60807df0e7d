"""Finds the program in a completion; what rewards and tasks on code share.

1. Fenced blocks count if their language is Python's or not given (an unclosed block goes to the end of the text). With an entry
   point the last block that defines it is taken, else the last block.
2. A completion without any fence is code as a whole.
3. Where neither defines the entry point and the row has a prefix (the beginning of the program), the code continues the prefix:
   it is put behind it, up to the first line at the margin that begins something new (not a closing bracket or comment).
4. Otherwise the code stands by itself, behind the prefix where the row has one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EXTRACTOR = "python-block-1"
"""Name and version of the extraction rule, to be kept with every score."""

_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_PYTHON = {"", "python", "python3", "py"}
_SAME = re.compile(r"[\s)\]}#]")


@dataclass(frozen=True)
class Program:
    """``code`` to be run after ``prefix``."""

    prefix: str
    code: str


def program(completion: str, prefix: str = "", entry_point: str = "") -> Program | None:
    """The program of a completion by the rule above; ``None`` if there is no code in it.

    >>> program("Here:\\n```python\\ndef f():\\n    return 1\\n```").code
    'def f():\\n    return 1\\n'
    >>> program("    return 1\\nprint(f())", prefix="def f():\\n", entry_point="f").code
    'def f():\\n    return 1'
    """
    every = list(_BLOCK.finditer(completion))
    blocks = [block["code"] for block in every if block["language"].lower() in _PYTHON]
    if every and not blocks:
        return None
    defining = [block for block in blocks if _defines(block, entry_point)]
    code = (defining or blocks or [completion])[-1]
    if not code.strip():
        return None
    if prefix and entry_point and not _defines(code, entry_point):
        return Program(prefix, prefix + (code if blocks else _continuation(code)))
    return Program(prefix, code)


def _defines(code: str, name: str) -> bool:
    return (
        bool(name)
        and re.search(rf"^(?:(?:async )?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", code, re.MULTILINE) is not None
    )


def _continuation(code: str) -> str:
    lines = code.split("\n")
    end = next((i for i, line in enumerate(lines) if line and not _SAME.match(line)), len(lines))
    return "\n".join(lines[:end])
