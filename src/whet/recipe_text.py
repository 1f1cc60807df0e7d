"""Recipes as text: YAML with the line of every field, and overrides from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, unknown


def located(message: str, source: str, lines: Mapping[str, int]) -> str:
    """The message with file and line in front, found by the recipe path that the message begins with."""
    path = message.partition(": ")[0]
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return f"{source}:{lines[path]}: {message}" if path else message


def read_yaml(path: Path, lines: dict[str, int]) -> dict[str, Any]:
    """The document of a recipe file; fills ``lines`` with the line of every path in it.

    Raises:
        RecipeError: no such file, no YAML, no mapping, or a key given twice.
    """
    import yaml

    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe file")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}: a recipe is a mapping with 'name', 'model' and sections such as 'data' and 'train'")
    _remember_lines(node, "", lines, path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{path}: not readable as YAML: {error}") from None


def _remember_lines(node: Any, prefix: str, lines: dict[str, int], file: Path) -> None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise RecipeError(f"{file}:{key.start_mark.line + 1}: {prefix}{name} is given twice; keep one")
            seen.add(name)
            lines[f"{prefix}{name}"] = key.start_mark.line + 1
            _remember_lines(value, f"{prefix}{name}.", lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[f"{prefix}{index}"] = value.start_mark.line + 1
            _remember_lines(value, f"{prefix}{index}.", lines, file)


def apply_override(document: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of the document with one ``path=value`` set; path parts are keys, list positions or names of steps.

    >>> apply_override({"train": [{"name": "sft", "objective": "sft"}]}, "train.sft.objective.p=0.2")
    {'train': [{'name': 'sft', 'objective': {'name': 'sft', 'p': 0.2}}]}
    """
    import yaml

    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {override!r}: write path=value, as in train.0.lr=1e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not readable as YAML: {error}") from None
    return _set(document, path.split("."), value, override)


def _set(node: Any, path: list[str], value: Any, override: str) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(node, Mapping) or node is None:
        inner = dict(node or {})
        inner[key] = _set(inner.get(key), rest, value, override)
        return inner
    if isinstance(node, list):
        position = _position(node, key, override)
        return [_set(item, rest, value, override) if i == position else item for i, item in enumerate(node)]
    if isinstance(node, str):
        return {"name": node, key: _set(None, rest, value, override)}
    raise RecipeError(f"override {override!r}: {key!r} cannot be set inside {node!r}")


def _position(items: list[Any], key: str, override: str) -> int:
    names = [item.get("name") if isinstance(item, Mapping) else item for item in items]
    if key.isdigit() and int(key) < len(items):
        return int(key)
    if key in names:
        return names.index(key)
    raise RecipeError(f"override {override!r}: {unknown('step', key, [str(n) for n in names])} (or 0 to {len(items) - 1})")
