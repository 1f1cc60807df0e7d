"""What identifies a step: its inputs, its effective settings, its seed, and the code of the parts and rooms that it uses."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from whet import parts
from whet.recipe import Recipe, objectives, settings_class
from whet.recipe_order import references
from whet.recipe_steps import BASE, MODEL_SECTIONS, Step, TrainStep

_HERE = Path(__file__).parents[1]

_ROOMS_OF = {
    "base": ("architectures/*.py", "model.py"),
    "data": ("data/**/*.py", "generate/*.py"),
    "train": ("data/*.py", "train/*.py", "model.py"),
    "edit": ("edit/*.py", "model.py"),
    "quantize": ("data/*.py", "quantize/*.py", "hadamard.py", "online.py", "model.py"),
    "measure": ("data/**/*.py", "generate/*.py", "measure/**/*.py", "model.py", "run/comparisons.py"),
    "export": ("quantize/*.py", "hadamard.py", "online.py", "model.py"),
}
"""Section -> the shared files whose change re-runs its steps; the files of the parts used come on top."""


def effective_settings(section: str, step: Step) -> dict[str, Any]:
    """Every setting of a step with its value, defaults included, as plain data."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(step):
        value = getattr(step, field.name)
        if field.name == "objective" and isinstance(step, TrainStep):
            values["objective"] = [{"weight": w, **parts.effective(o)} for w, o in objectives(value)]
        elif field.name == "settings":
            target = settings_class(section)
            given = parts.validate(parts.settings_of(target), value, section, section) if target else {}
            built = target(**given) if target else None
            values.update({f.name: plain(getattr(built, f.name)) for f in dataclasses.fields(built)} if built else {})
        else:
            values[field.name] = plain(value)
    return values


def plain(value: Any) -> Any:
    """A setting as plain data: parts with all their settings, the rest as JSON can hold it."""
    if (
        dataclasses.is_dataclass(value)
        or isinstance(value, functools.partial)
        or (callable(value) and not isinstance(value, type))
    ):
        return parts.effective(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def identity(section: str, settings: Mapping[str, Any], inputs: Mapping[str, str], seed: int, code: str) -> str:
    """The step's identity: 20 hex digits of sha256 over everything that decides its result."""
    kept = {k: v for k, v in settings.items() if k != "name"}
    text = json.dumps([section, kept, dict(inputs), seed, code], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def inputs(recipe: Recipe, section: str, step: Any, of: Callable[[str], str]) -> dict[str, str]:
    """What a step reads, by the names of its fields -> its identity; ``of`` gives that of a step before or of a model."""
    if section == "base":
        return {"tokenizer_data": of(recipe.tokenizer_data)} if recipe.tokenizer_data else {}
    found = {field: of(target) for field, target in references(section, step).items()}
    if section == "measure":
        found |= {f"stage.{name}": of(name) for name in stages(recipe, step)}
    if _uses_base(section, step) or BASE in getattr(step, "models", ()):
        found[BASE] = of(BASE)
    return found


def stages(recipe: Recipe, step: Any) -> list[str]:
    """The stages that a measuring step measures: those that it names, else the recipe's model and all."""
    every = [BASE, *(s.name for section, s in recipe.steps if section in MODEL_SECTIONS)]
    return list(step.models) or every


def _uses_base(section: str, step: Any) -> bool:
    fields = {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    if section == "data":
        uses = bool(fields["synthesize"] or fields["label"] or fields["select"]) and fields["model"] in (None, BASE)
        return uses or fields["reference"] == BASE
    if section == "edit":
        return fields["base"] in (None, BASE)
    return section in ("train", "quantize", "export") and fields["model"] in (None, BASE)


def model_identity(model: Any) -> str:
    """Identity of a model that no step made: its weights, tokenizer, chat template and configuration as they are now."""
    from whet.model import template_hash, weights_hash

    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    described = [
        weights_hash(model.network.state_dict()),
        template_hash(model.tokenizer),
        fast.to_str() if fast is not None else sorted(model.tokenizer.get_vocab().items()),
        {k: str(v) for k, v in model.tokenizer.special_tokens_map.items()},
        config,
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_hash(section: str, step: Any) -> str:
    """Hash of the source of the parts that the step uses and of the shared files of its room."""
    sampling = ("generate/*.py",) if getattr(step, "reward", None) is not None else ()
    measuring = _ROOMS_OF["measure"] if getattr(step, "validate", None) is not None else ()
    files = {path for pattern in (*_ROOMS_OF[section], *sampling, *measuring) for path in _HERE.glob(pattern)}
    rooms = {_HERE / room.replace(".", "/") for room in parts.ROOMS.values()}
    shared = {f for f in files if f.parent not in rooms or section == "edit"}
    digest = hashlib.sha256()
    for path in sorted(shared | set(_part_files(step))):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _part_files(value: Any) -> Iterator[Path]:
    """Source files of the parts inside a step, nested ones included."""
    if isinstance(value, functools.partial):
        yield Path(inspect.getfile(value.func))
        value = value.keywords
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, TrainStep):
            yield from (file for _, o in objectives(value.objective) for file in _part_files(o))
        yield Path(inspect.getfile(type(value)))
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _part_files(item)


def fingerprints(step: Any) -> dict[str, str]:
    """Content hashes of the files and folders that the parts of a step read (their ``path``), so that changed data is seen."""
    found: dict[str, str] = {}
    for name, value in ((f.name, getattr(step, f.name)) for f in dataclasses.fields(step)):
        if name == "path" and isinstance(value, str):
            found[name] = content_hash(Path(value).expanduser())
        for index, item in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if dataclasses.is_dataclass(item) and not isinstance(item, type):
                found.update({f"{name}.{index}.{k}": v for k, v in fingerprints(item).items()})
    return found


LARGE = 1 << 30
"""Bytes from which a file counts as changed by its size and time, not its content."""


def content_hash(path: Path) -> str:
    """Hash of a file's content, or of all files below a folder; ``absent`` if there is none."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        about = file.stat()
        digest.update(file.name.encode())
        if about.st_size >= LARGE:
            digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
            continue
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16] if files else "absent"
