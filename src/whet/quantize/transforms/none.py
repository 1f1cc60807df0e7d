"""Leaves the network as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from whet.quantize.calibration import CalibrationSet


@dataclass(frozen=True)
class None_:
    """No settings."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, network: nn.Module, calibration: CalibrationSet, seed: int = 0) -> None_:
        """Nothing is fitted."""
        return self

    def apply(self, network: nn.Module) -> dict[str, Any]:
        """Changes nothing; the report is empty."""
        return {}
