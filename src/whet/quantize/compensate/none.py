"""Leaves every error where rounding made it: no column is adjusted for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class None_:
    """No settings."""

    kind: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset()
    true_sequential: ClassVar[bool] = False
