r"""Plain text files, cut into documents; every character is in exactly one document.

``path`` is a text file, or a folder with ``train.txt``, ``valid.txt`` and ``test.txt``; ``validation`` and ``test`` are files of
their own, or shares of the documents that are held out by the hash of their text. A row has ``text``, ``document_id`` and
``title``. Documents longer than the model's context are cut into windows later (``overlong: chunk``).

``documents`` says where a new one begins: ``wikitext`` at a heading line `` = Title = `` of the first level, ``markdown`` at a
line ``# Title``, ``blank-line`` after an empty line, ``line`` at every line, ``file`` never.

Default: ``file`` (the whole file is one document).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from whet.data.splits import shares, split_file
from whet.data.tables import decode, read_bytes, to_dataset
from whet.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".txt", ".text", ".md", ".tokens", ".raw")
_BEGINS = {
    "wikitext": re.compile(r"^ = (?!= )(.+) = *$", re.MULTILINE),
    "markdown": re.compile(r"^# (.+)$", re.MULTILINE),
    "blank-line": re.compile(r"(?<=\n)(?:[ \t]*\n)+(?=[^\n]*\S)()"),
    "line": re.compile(r"^()(?=[^\n]*\S)", re.MULTILINE),
}


@dataclass(frozen=True)
class Text:
    """``documents``: where a new document begins."""

    path: str
    documents: Literal["wikitext", "markdown", "blank-line", "line", "file"] = "file"
    validation: str | float | None = None
    test: str | float | None = None

    def __call__(self, split: str) -> Dataset:
        parts = {"validation": self.validation, "test": self.test}
        held_out = shares(parts)
        file, shared = split_file(Path(self.path).expanduser(), split, parts, SUFFIXES)
        content = decode(read_bytes(file), str(file))
        if not content.strip():
            raise DataError(f"{file}: the file is empty")
        rows = [
            {"text": text, "document_id": f"{file.name}#{number}", "title": title}
            for number, (title, text) in enumerate(self._cut(content))
            if not shared or held_out.split_of(text) == split
        ]
        return to_dataset(rows, f"{file} ({split})")

    def _cut(self, content: str) -> Iterator[tuple[str, str]]:
        """(title, text) of each document; blank text at the start or end stays with its neighbour."""
        begins = [] if self.documents == "file" else list(_BEGINS[self.documents].finditer(content))
        titles = {match.end() if self.documents == "blank-line" else match.start(): match[1].strip() for match in begins}
        first = len(content) - len(content.lstrip())
        starts = [0, *(start for start in titles if start > first)]
        titles[0] = next((title for start, title in titles.items() if start <= first), "")
        for start, end in zip(starts, [*starts[1:], len(content)]):
            yield titles[start], content[start:end]
