"""Finds, describes and builds parts.

A part is a file: ``whet/train/objectives/masked_thought.py`` holds the objective that a recipe calls ``masked-thought``.
Inside, the public object with the file's name (``masked_thought`` or ``MaskedThought``, letters compared) is the part:
a frozen dataclass that is called, or a function whose keyword-only parameters are the settings. A module-level literal
``PRESETS = {"grpo": {...}}`` gives further names, each a set of settings of that part. Listing reads the files as text and
imports nothing; a part is imported when it is built. Third parties add modules through the entry-point group
``whet.parts`` (entry name ``<kind>.<part>``); ``file.py:object`` names a part in a file of one's own.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, unknown
from whet.parts_file import is_file, load_file, own_name
from whet.values import checked

ROOMS: dict[str, str] = {
    "source": "data.sources",
    "format": "data.formats",
    "select": "data.select",
    "synthesize": "data.synthesize",
    "label": "data.label",
    "schedule": "data.schedules",
    "objective": "train.objectives",
    "adapter": "train.adapters",
    "optimizer": "train.optimizers",
    "reward": "generate.rewards",
    "sampler": "generate.samplers",
    "edit": "edit",
    "transform": "quantize.transforms",
    "grid": "quantize.grids",
    "rounding": "quantize.rounding",
    "allocate": "quantize.allocate",
    "compensate": "quantize.compensate",
    "calibrate": "quantize.calibrate",
    "export": "quantize.exports",
    "architecture": "architectures",
    "task": "measure.tasks",
    "metric": "measure.metrics",
    "forecast": "forecast",
    "calibrator": "measure.calibrators",
    "calibrator-loss": "measure.calibrator_losses",
}
"""Kind of part -> the package below ``whet`` whose files are the parts."""

_HERE = Path(__file__).parent
_PAPER = re.compile(r"^Paper: (?P<id>[a-z0-9.-]+) — (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Kind:
    """Marks a setting that is itself a part: ``inner: Annotated[Reward, Kind("reward")]``."""

    name: str


@dataclass(frozen=True)
class Part:
    """What is known of a part without importing it.

    ``preset`` holds the settings that the name stands for when it is another part's preset, else ``None``.
    """

    kind: str
    name: str
    summary: str
    doc: str
    module: str
    preset: Mapping[str, Any] | None = None

    @property
    def papers(self) -> dict[str, str]:
        """Paper id -> title, from the lines ``Paper: <id> — <title>`` of the docstring."""
        return {m["id"]: m["title"] for m in _PAPER.finditer(self.doc)}


def _from_file(kind: str, path: Path, module: str) -> Iterator[Part]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    doc = ast.get_docstring(tree) or ""
    if not _holds_part(tree, path.stem):
        return
    yield Part(kind, path.stem.replace("_", "-"), doc.partition("\n")[0], doc, module)
    for name, settings in _presets(tree).items():
        settings = dict(settings)
        summary = settings.pop("about", f"{path.stem.replace('_', '-')} with {settings}")
        yield Part(kind, name, summary, doc, module, settings)


def _presets(tree: ast.Module) -> dict[str, Mapping[str, Any]]:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "PRESETS" and (value := getattr(node, "value", None)):
            return dict(ast.literal_eval(value))
    return {}


def _holds_part(tree: ast.Module, stem: str) -> bool:
    defined = (n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)))
    return any(_same(name, stem) for name in defined)


def _same(name: str, stem: str) -> bool:
    return name.replace("_", "").lower() == stem.replace("_", "").lower() and not name.startswith("_")


@functools.cache
def parts(kind: str) -> dict[str, Part]:
    """All parts of a kind by name, presets included, sorted. Imports nothing of them.

    Raises:
        RecipeError: the kind is unknown.
    """
    if kind not in ROOMS:
        raise RecipeError(unknown("kind of part", kind, ROOMS))
    package = ROOMS[kind]
    found = {}
    for path in sorted((_HERE / package.replace(".", "/")).glob("*.py")):
        if not path.stem.startswith("_"):
            for part in _from_file(kind, path, f"whet.{package}.{path.stem}"):
                found[part.name] = part
    for entry in metadata.entry_points(group="whet.parts"):
        entry_kind, _, name = entry.name.partition(".")
        if entry_kind == kind:
            found[name] = Part(kind, name, f"from {entry.value}", "", entry.value)
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Part:
    """The part of that kind and name.

    Raises:
        RecipeError: no such part; the message gives the nearest right name.
    """
    known = parts(kind)
    if is_file(name):
        return Part(kind, name, f"from {name}", "", name)
    if name not in known:
        raise RecipeError(unknown(kind, name, known))
    return known[name]


def load(part: Part) -> Callable[..., Any]:
    """Imports the part's module and returns its class or function."""
    if is_file(part.module):
        return load_file(part.module)
    name, _, attribute = part.module.partition(":")
    module = import_module(name)
    if attribute:
        return getattr(module, attribute)
    stem = name.rpartition(".")[2]
    return next(
        value
        for key, value in vars(module).items()
        if _same(key, stem) and callable(value) and getattr(value, "__module__", None) == name
    )


@dataclass(frozen=True)
class Setting:
    """One setting of a part: its annotation and its default (``dataclasses.MISSING`` if it must be given)."""

    name: str
    annotation: Any
    default: Any


def settings_of(target: Callable[..., Any]) -> dict[str, Setting]:
    """The settings of a part: a dataclass's fields, or a function's keyword-only parameters."""
    hints = typing.get_type_hints(target, include_extras=True)
    if dataclasses.is_dataclass(target):
        fields = [f for f in dataclasses.fields(target) if f.init]
        made = [f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in fields]
        found = list(zip((f.name for f in fields), made))
    else:
        parameters = [p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY]
        found = [(p.name, dataclasses.MISSING if p.default is p.empty else p.default) for p in parameters]
    return {name: Setting(name, hints.get(name, Any), default) for name, default in found}


def build(kind: str, spec: Any, where: str = "") -> Any:
    """Builds a part from its recipe form: a name, or a mapping with ``name`` and settings.

    Args:
        kind: the kind of part.
        spec: ``"dpo"`` or ``{"name": "dpo", "beta": 0.5}``; an object that is already a part passes through.
        where: the field's path in the recipe, for messages (``train.0.objective``).

    Returns:
        An instance of the part's dataclass, or its function with the settings bound.

    Raises:
        RecipeError: unknown name or setting, missing setting, or a value of the wrong type; names ``where``.
    """
    if not isinstance(spec, (str, Mapping)):
        if callable(spec) or dataclasses.is_dataclass(spec):
            return spec
        raise RecipeError(f"{where or kind}: expected the name of {_a(kind)} or a mapping with 'name', got {spec!r}")
    name, given = (spec, {}) if isinstance(spec, str) else (spec.get("name"), {k: v for k, v in spec.items() if k != "name"})
    if not isinstance(name, str):
        raise RecipeError(f"{where or kind}: the mapping {dict(spec)!r} needs a 'name', the {kind}'s name")  # type: ignore[arg-type]
    try:
        part = find(kind, name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}" if where else str(error)) from None
    try:
        target = load(part)
    except RecipeError as error:
        raise RecipeError(f"{where or kind}: {error}") from error
    values = validate(settings_of(target), {**(part.preset or {}), **given}, where or name, f"{kind} {name!r}")
    return construct(target, values, where or name) if isinstance(target, type) else functools.partial(target, **values)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def construct(target: Callable[..., Any], values: Mapping[str, Any], where: str) -> Any:
    """``target(**values)``; a refusal of the values gets ``where`` in front, so that it names its place in the recipe."""
    try:
        return target(**values)
    except (RecipeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from None


def effective(built: Any) -> dict[str, Any]:
    """Every setting of a built part with its value, defaults included, as plain data for receipts and step identities."""
    if isinstance(built, functools.partial):
        target = built.func
        values = {s.name: built.keywords.get(s.name, s.default) for s in settings_of(target).values()}
    elif dataclasses.is_dataclass(built):
        target = type(built)
        values = {f.name: getattr(built, f.name) for f in dataclasses.fields(built) if f.init}
    else:
        return {"name": getattr(built, "__name__", type(built).__name__)}
    name = own_name(target) or target.__module__.rpartition(".")[2].replace("_", "-")
    return {"name": name, **{k: _plain(v) for k, v in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value) or isinstance(value, functools.partial):
        return effective(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def validate(settings: Mapping[str, Setting], given: Mapping[str, Any], where: str, what: str) -> dict[str, Any]:
    """Checks given values against settings; builds nested parts; returns the values in their types.

    Raises:
        RecipeError: an unknown field (nearest right name given), a missing one, or a wrong value; names ``where``.
    """
    for key in given:
        if key not in settings:
            raise RecipeError(f"{where}.{key}: {unknown(f'field of {what}', str(key), settings)}")
    values = {}
    for setting in settings.values():
        if setting.name in given:
            values[setting.name] = _value(setting.annotation, given[setting.name], f"{where}.{setting.name}")
        elif setting.default is dataclasses.MISSING:
            raise RecipeError(f"{where}.{setting.name}: {what} needs this field; add '{setting.name}: ...'")
        elif isinstance(setting.default, (str, Mapping, tuple)) and _kind_of(setting.annotation)[0]:
            values[setting.name] = _value(setting.annotation, setting.default, f"{where}.{setting.name}")
    return values


def _value(annotation: Any, value: Any, where: str) -> Any:
    kind, many, optional = _kind_of(annotation)
    if kind is not None:
        if optional and value is None:
            return None
        if many:
            return tuple(
                build(kind, v, f"{where}.{i}") for i, v in enumerate(value if isinstance(value, (list, tuple)) else [value])
            )
        return build(kind, value, where)
    return checked(annotation, value, where)


def _kind_of(annotation: Any) -> tuple[str | None, bool, bool]:
    """(kind, is a sequence of parts, may be None) of an annotation marked with ``Kind``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = annotation.__origin__
        for mark in annotation.__metadata__:
            if isinstance(mark, Kind):
                return mark.name, typing.get_origin(inner) in (tuple, list), types.NoneType in typing.get_args(inner)
    elif origin in (typing.Union, types.UnionType, tuple, list):
        for kind, many, _ in map(_kind_of, arguments):
            if kind:
                return kind, many or origin in (tuple, list), types.NoneType in arguments
    return None, False, False
