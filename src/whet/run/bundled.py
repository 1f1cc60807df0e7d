"""Recipes by name: a file, or one of those shipped with whet."""

from __future__ import annotations

import sys
from pathlib import Path

from whet.errors import RecipeError, unknown

FOLDERS = (Path(__file__).parents[3] / "recipes", Path(sys.prefix) / "share" / "whet" / "recipes")
"""Where recipes lie in a checkout and in an installed package."""


def find_recipe(reference: str | Path) -> Path:
    """The recipe file of that path, or the bundled one of that name.

    Raises:
        RecipeError: there is neither; names the bundled recipe nearest to what was asked for.
    """
    path = Path(reference)
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{reference}: this is a folder; name the recipe file in it")
    known = {p.stem: p for folder in FOLDERS if folder.is_dir() for p in folder.glob("*.yaml")}
    if path.stem not in known or path.parent != Path():
        raise RecipeError(f"{reference}: no such file; {unknown('bundled recipe', path.stem, known)}")
    return known[path.stem]
