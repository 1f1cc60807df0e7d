"""Parts in a Python file of the user's own: ``my_rewards.py:short`` names the object ``short`` of that file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

from whet.errors import RecipeError, unknown

_PREFIX = "whet_own_part_"


def is_file(name: str) -> bool:
    """Whether a part's name is that of a file."""
    return name.partition(":")[0].endswith(".py")


def load_file(name: str) -> Callable[..., Any]:
    """The class or function that ``file.py:object`` names; without an object the one that is called like the file.

    Raises:
        RecipeError: no such file or object, or code that fails when it is imported.
    """
    file, _, wanted = name.partition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise RecipeError(f"{file}: no such file, looked for in {Path.cwd()}")
    module = _imported(path.resolve())
    own = {k: v for k, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__}
    if (wanted or path.stem) not in own:
        raise RecipeError(f"{file}: {unknown('function or class', wanted or path.stem, own)}; write {file}:NAME")
    return own[wanted or path.stem]


def own_name(target: Any) -> str | None:
    """``file.py:object`` of an object from such a file, whatever folder it lies in; else ``None``."""
    module = sys.modules.get(target.__module__)
    if module is None or not module.__name__.startswith(_PREFIX):
        return None
    return f"{Path(str(module.__file__)).name}:{target.__name__}"


def _imported(path: Path) -> ModuleType:
    """The file's module; one that changed is another module."""
    name = _PREFIX + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RecipeError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module
