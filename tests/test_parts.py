"""Parts are found without importing them, and wrong names and settings give errors that a newcomer can act on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from whet import parts
from whet.errors import RecipeError


@pytest.mark.parametrize("kind", sorted(parts.ROOMS))
def test_every_part_builds_from_its_file(kind: str) -> None:
    for part in parts.parts(kind).values():
        target = parts.load(part)
        assert callable(target)
        assert part.summary, f"{kind} {part.name} has no first line"
        assert part.preset is None or set(part.preset) <= set(parts.settings_of(target))


def test_an_unknown_name_gives_the_nearest_right_one() -> None:
    with pytest.raises(RecipeError, match=r"train\.0\.objective: unknown objective 'sfft': did you mean 'sft'\?"):
        parts.build("objective", "sfft", "train.0.objective")


def test_an_unknown_setting_gives_the_nearest_right_one() -> None:
    with pytest.raises(RecipeError, match=r"o\.betta: unknown field of objective 'dpo' 'betta': did you mean 'beta'\?"):
        parts.build("objective", {"name": "dpo", "betta": 1.0}, "o")


def test_a_wrong_type_names_field_and_value() -> None:
    with pytest.raises(RecipeError, match=r"o\.beta: .*got 'strong'"):
        parts.build("objective", {"name": "dpo", "beta": "strong"}, "o")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown kind of part 'objectiv': did you mean 'objective'"):
        parts.parts("objectiv")


def test_a_nested_part_is_built_and_shown_in_the_effective_settings() -> None:
    built = parts.build("reward", {"name": "noisy", "inner": "exact-answer", "p": 0.2})
    shown = parts.effective(built)
    assert shown["p"] == 0.2
    assert shown["inner"]["name"] == "exact-answer"


def test_a_preset_expands_to_the_pieces() -> None:
    preset = parts.find("objective", "dr-grpo")
    assert preset.preset
    shown = parts.effective(parts.build("objective", "dr-grpo"))
    assert shown["name"] == "upge"
    assert all(shown[k] == v for k, v in preset.preset.items() if isinstance(v, (str, int, bool)))


def test_listing_imports_no_third_party_module() -> None:
    code = (
        "import sys; before = set(sys.modules); import whet, whet.cli; whet.cli.parser(); from whet.catalog import list_parts; list_parts(None);"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(m for m in new if m not in sys.stdlib_module_names and m != 'whet' and not m.startswith('__editable__')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
