"""What the documentation shows is what works."""

from __future__ import annotations

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
from whet.run.compare.plan import make_plan
from whet.run.race.plan import make_plan as make_race

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


def test_every_command_of_the_readme_exists() -> None:
    from whet.cli import parser

    known = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr, index]
    for command in re.findall(r"^whet (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert command in known
