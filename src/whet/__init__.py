"""whet: a workbench for everything that happens to a model after its first pre-training.

The public names load on first use, so that ``import whet`` needs no third-party module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["check", "edit", "export", "load", "measure", "quantize", "run", "train"]

if TYPE_CHECKING:
    from whet.api import check, edit, export, load, measure, quantize, run, train


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("whet.api"), name)
    raise AttributeError(f"module 'whet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
