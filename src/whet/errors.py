"""The errors that a user can act on: each names the field, the value and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class WhetError(Exception):
    """Anything that the user, not whet, can put right. The command line prints it without a traceback."""


class RecipeError(WhetError):
    """A recipe or a setting that cannot be carried out; raised before any compute is spent."""


class DataError(WhetError):
    """A file or row that cannot be used; names the file and line, or the column."""


class ModelError(WhetError):
    """A model folder or its weights that cannot be used; names the file or the tensor."""


class StoreError(WhetError):
    """An artifact or ledger that cannot be read or written."""


class OtherRank(WhetError):
    """Another of the processes that train together failed, with this reason. It says so itself, so this one is silent."""


def unknown(what: str, value: str, allowed: Iterable[str]) -> str:
    """A sentence for a name that is not known: what it is, what was given, the nearest right spelling, what is allowed.

    >>> unknown("objective", "dop", ["dpo", "sft"])
    "unknown objective 'dop': did you mean 'dpo'? Known: dpo, sft"
    """
    names = sorted(allowed)
    near = get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {value!r}: {hint}Known: {', '.join(names) or 'none'}"
