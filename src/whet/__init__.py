"""whet: a workbench for everything that happens to a model after its first pre-training.

The public names load on first use, so that ``import whet`` needs no third-party module.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["check", "compare", "edit", "export", "forecast", "load", "measure", "quantize", "race", "recover", "run", "train"]

if TYPE_CHECKING:
    from whet.api import check, compare, edit, export, forecast, load, measure, quantize, race, recover, run, train

# Read when torch is loaded: threads that wait by spinning slow a machine that others use too by ten times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Package(ModuleType):
    """Keeps ``whet.train`` the function: importing the room ``whet.train`` would set the name to the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("whet.api"), name)
    raise AttributeError(f"module 'whet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


sys.modules[__name__].__class__ = _Package
