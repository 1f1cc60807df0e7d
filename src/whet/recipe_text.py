"""Recipes as text: YAML with the line of every field, and overrides from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, unknown

MOST_FIELDS = 100_000
"""Fields that a recipe may have, each alias counted as what it stands for."""
DEEPEST = 30
"""Dots in the path of an override."""


def located(message: str, source: str, lines: Mapping[str, int]) -> str:
    """The message with file and line in front, found by the recipe path that the message begins with."""
    path = message.partition(": ")[0]
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return f"{source}:{lines[path]}: {message}" if path else message


def read_yaml(path: Path, lines: dict[str, int]) -> dict[str, Any]:
    """The document of a recipe file; fills ``lines`` with the line of every path in it.

    Raises:
        RecipeError: no such file, not UTF-8, no YAML, no mapping, a key given twice, or anchors without end.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: {'this is a folder, not a recipe file' if path.is_dir() else 'no such recipe file'}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    document = parse(text, str(path), lines)
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with 'name', 'model' and sections such as 'data' and 'train'")
    return document


def parse(text: str, source: str, lines: dict[str, int] | None = None) -> Any:
    """The value of a YAML text; fills ``lines`` with the line of every path in it.

    Raises:
        RecipeError: no YAML, a key given twice, or anchors that contain themselves or multiply into too much; names ``source``.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _Walk(source, {} if lines is None else lines).into(node, "", ())
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # The last few come from explicit tags on values that do not fit them, such as `!!bool maybe`.
        raise RecipeError(f"{source}: not readable as YAML: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "\\t" in text:
        text += " (YAML is indented with spaces, not with tabs)"
    return text if type(error).__module__.startswith("yaml") else f"{type(error).__name__}: {text}"


@dataclass
class _Walk:
    """Visits every field that a text stands for, aliases followed."""

    source: str
    lines: dict[str, int]
    fields: int = 0

    def into(self, node: Any, prefix: str, above: tuple[int, ...]) -> None:
        """Remembers the lines below ``prefix``; ``above`` are the nodes that this one lies in."""
        import yaml

        self.fields += 1
        if self.fields > MOST_FIELDS:
            raise RecipeError(
                f"{self.source}: aliases (*name) multiply into more than {MOST_FIELDS:,} fields; write fewer of them"
            )
        if id(node) in above:
            raise RecipeError(f"{self.source}:{node.start_mark.line + 1}: {prefix.rstrip('.')}: this anchor contains itself")
        inside = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in seen:
                    raise RecipeError(f"{self.source}:{line}: {prefix}{name} is given twice; keep one")
                seen.add(name)
                self.lines[f"{prefix}{name}"] = line
                self.into(value, f"{prefix}{name}.", inside)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[f"{prefix}{index}"] = value.start_mark.line + 1
                self.into(value, f"{prefix}{index}.", inside)


def apply_override(document: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of the document with one ``path=value`` set; path parts are keys, list positions or names of steps.

    >>> apply_override({"train": [{"name": "sft", "objective": "sft"}]}, "train.sft.objective.p=0.2")
    {'train': [{'name': 'sft', 'objective': {'name': 'sft', 'p': 0.2}}]}
    """
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")) or path.count(".") > DEEPEST:
        raise RecipeError(f"override {override!r}: write path=value, as in train.0.lr=1e-4")
    where = f"override {override[:80]!r}"
    return _set(document, path.split("."), parse(text, where), where)


def set_field(document: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the document with the field at ``path`` set to a value."""
    return _set(document, path.split("."), value, f"field {path!r}")


def _set(node: Any, path: list[str], value: Any, where: str) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(node, Mapping) or node is None:
        inner = dict(node or {})
        inner[key] = _set(inner.get(key), rest, value, where)
        return inner
    if isinstance(node, list):
        position = _position(node, key, where)
        return [_set(item, rest, value, where) if i == position else item for i, item in enumerate(node)]
    if isinstance(node, str):
        return {"name": node, key: _set(None, rest, value, where)}
    raise RecipeError(f"{where}: {key!r} cannot be set inside {node!r}")


def _position(items: list[Any], key: str, where: str) -> int:
    names = [item.get("name") if isinstance(item, Mapping) else item for item in items]
    if key.isdigit() and int(key) < len(items):
        return int(key)
    if key in names:
        return names.index(key)
    raise RecipeError(f"{where}: {unknown('step', key, [str(n) for n in names])} (or 0 to {len(items) - 1})")
