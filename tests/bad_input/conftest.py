"""A user at the command line: writes a recipe and its files, runs it, and reads what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaForCausalLM

from whet.cli import main
from whet.model import Model

ROWS = [
    {
        "prompt": f"What is {i} plus 4?",
        "completion": f"The answer is {i + 4}.",
        "answer": str(i + 4),
        "text": f"Tom has {i} apples.",
    }
    for i in range(24)
]


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass
class User:
    """``folder`` is where everything lies, ``model`` a small model in it, ``forwards`` the network's calls so far."""

    folder: Path
    model: Path
    read: Callable[[], Any]
    forwards: list[int] = field(default_factory=list)

    def recipe(self, **sections: Any) -> dict[str, Any]:
        """A recipe with one training step on ``rows.jsonl``; sections replace its own, ``None`` takes one out."""
        self.file("rows.jsonl", jsonl(ROWS), keep=True)
        document = {
            "name": "user",
            "model": str(self.model),
            "data": [self.source(self.folder / "rows.jsonl")],
            "train": [{"name": "sft", "data": "rows", "steps": 1, "batch_size": 4}],
            **sections,
        }
        return {key: value for key, value in document.items() if value is not None}

    def source(self, path: Path | str, **settings: Any) -> dict[str, Any]:
        return {"name": "rows", "source": {"name": "file", "path": str(path), **settings}}

    def file(self, name: str, content: bytes | str, keep: bool = False) -> Path:
        path = self.folder / name
        if not (keep and path.exists()):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def call(self, *words: str) -> tuple[int, str, str]:
        """One command: exit status, what it printed, and its errors; an exception fails the test as a traceback would."""
        self.read()
        status = main(list(words))
        printed = self.read()
        return status, printed.out, printed.err

    def run(self, recipe: Mapping[str, Any] | str | bytes, *overrides: str, command: str = "run") -> tuple[int, str, str]:
        text = yaml.safe_dump(dict(recipe), sort_keys=False) if isinstance(recipe, Mapping) else recipe
        return self.call(command, str(self.file("recipe.yaml", text)), *overrides)

    def refused(
        self,
        recipe: Mapping[str, Any] | str | bytes,
        *wanted: str,
        overrides: tuple[str, ...] = (),
        commands: tuple[str, ...] = ("run",),
    ) -> str:
        """The message of a recipe that must be refused with all ``wanted`` in it before the network is called once."""
        for command in commands:
            status, _, message = self.run(recipe, *overrides, command=command)
            assert status == 2, message
            assert message.startswith("whet: ") and "Traceback" not in message
            for part in wanted:
                assert part in message, message
            assert not self.forwards, "something was computed first"
        return message


@pytest.fixture
def user(
    tiny_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[User]:
    """A user with a saved model; calls of the network are counted."""
    someone = User(tmp_path, tiny_model.save(tmp_path / "model"), capsys.readouterr)
    forward = LlamaForCausalLM.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        someone.forwards.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    yield someone
