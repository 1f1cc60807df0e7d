"""Each weight takes the nearest level of its grid, ties to the even code; no data are needed.

The reference that every other rounding is compared with (RTN). With a feedback compensator it chooses the codes of one
column at a time, after the errors of earlier columns have been moved onto it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from whet.quantize.grid import BitPlan, Grid, GridParams


@dataclass(frozen=True)
class Nearest:
    """No settings."""

    kind: ClassVar[str] = "column"
    needs: ClassVar[frozenset[str]] = frozenset()

    def choose(self, values: Tensor, grid: Grid, params: GridParams, plan: BitPlan) -> Tensor:
        """Codes (int16) for ``values`` [rows, groups, g]; one column is ``[rows, 1, 1]``."""
        return grid.encode(values, params, plan)
