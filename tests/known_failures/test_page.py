"""The page on known failures and the tests say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "known-failures.md"
THREAD = re.compile(r"[\w.-]+/[\w.-]+#\d+ ?")


def written() -> dict[str, str]:
    """``file::test`` -> docstring."""
    found = {}
    for file in sorted(set(HERE.glob("test_*.py")) - {Path(__file__)}):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{file.name}::{node.name}"] = ast.get_docstring(node) or ""
    return found


def rows() -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d", line)]


def test_every_failure_has_a_row_and_every_row_its_tests() -> None:
    assert [row[0] for row in rows()] == [str(number) for number in range(1, 26)]
    known = written()
    for number, threads, _, does, shown in rows():
        named = re.findall(r"`([\w.]+::\w+)`", shown)
        assert named or "not applicable yet" in does, number
        assert set(named) <= known.keys(), number
        repositories = set(re.findall(r"([\w.-]+/[\w.-]+)#", threads))
        assert all(any(repository in known[name] for repository in repositories) for name in named), number


def test_every_test_begins_with_its_thread_and_is_on_the_page() -> None:
    shown = set(re.findall(r"`([\w.]+::\w+)`", PAGE.read_text(encoding="utf-8")))
    assert shown == written().keys()
    for name, text in written().items():
        assert THREAD.match(text), name
