"""What the documentation shows is what works."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import whet
from whet.model import Model
from whet.recipe import read
from whet.run.check import rows_of
from whet.run.compare.plan import make_plan
from whet.run.models import outline
from whet.run.preflight import preflight
from whet.run.race.plan import make_plan as make_race
from whet.run.seen import seen_notes

ROOT = Path(__file__).parents[1]


def test_the_example_of_a_new_objective_trains(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-method.md").read_text(), re.DOTALL)
    assert code
    module = types.ModuleType("hard_rows")
    monkeypatch.setitem(sys.modules, "hard_rows", module)
    exec(compile(code[1], "hard_rows.py", "exec"), module.__dict__)
    rows = [{"prompt": "What is 3 plus 4?", "completion": "The answer is 7."}] * 4
    tuned = whet.train(tiny_model, rows, objective=module.HardRows(floor=0.0), steps=2)
    curve = tuned.lineage["step"]["receipt"]["curve"]
    assert curve[0]["terms"]["kept"] == 1.0 and curve[1]["loss"] < curve[0]["loss"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_bundled_recipe_is_valid(path: Path) -> None:
    kinds: dict[str, Callable[[Path], Any]] = {"compare": make_plan, "race": make_race}
    written = yaml.safe_load(path.read_text())
    assert next((make for key, make in kinds.items() if key in written), read)(path).name == path.stem


def test_the_recipe_of_the_guide_can_be_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.search(r"```yaml\n(whet: 1.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    assert text
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {i} plus 1?", "solution": f"{i} + 1 = {i + 1}", "answer": str(i + 1)} for i in range(99)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "guide.yaml").write_text(text[1])
    recipe, model = read(tmp_path / "guide.yaml"), outline("nano")
    preflight(recipe, model, lambda name: rows_of(recipe, name))
    assert seen_notes(recipe, lambda name: rows_of(recipe, name)) == []


def test_every_command_of_the_readme_exists() -> None:
    from whet.cli import parser

    known = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr, index]
    for command in re.findall(r"^whet (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert command in known
