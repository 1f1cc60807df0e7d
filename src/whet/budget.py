"""A budget as a user writes it: ``2M tokens``, ``500-examples``, ``1e15 flops``, ``90 seconds``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from whet.errors import RecipeError

UNITS = ("tokens", "examples", "flops", "seconds")
"""tokens: all that a model reads or writes.  examples: rows trained on.  flops: 2 per weight and token forward, 4 backward.
seconds: of computing; not the same from run to run."""

_SCALE = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_FORM = re.compile(r"(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)(?P<scale>[KMBT]?)[\s_-]*(?P<unit>[a-z]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """``amount`` of ``unit``, one of :data:`UNITS`."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{shown(self.amount)} {self.unit}"

    @classmethod
    def parse(cls, text: str, units: tuple[str, ...] = UNITS, where: str = "budget") -> Budget:
        """Reads a budget.

        Raises:
            RecipeError: no positive number, or an unknown unit.

        >>> Budget.parse("2M-tokens")
        Budget(amount=2000000.0, unit='tokens')
        """
        found = _FORM.fullmatch(str(text).strip())
        unit = found["unit"].lower() if found else ""
        try:
            amount = float(found["number"]) * _SCALE[found["scale"].upper()] if found else 0.0
        except ValueError:
            amount = 0.0
        if not (0 < amount < math.inf) or unit not in units:
            raise RecipeError(
                f"{where}: expected a positive number of {', '.join(units[:-1])} or {units[-1]}, such as '2M {units[0]}', got {text!r}"
            )
        return cls(amount, unit)


def shown(amount: float) -> str:
    """A count in three digits: ``2M``, ``1.25M``, ``950``, ``3.1e+15``.

    >>> shown(2e6), shown(1254000.0), shown(3.14159e15)
    ('2M', '1.25M', '3.14e+15')
    """
    if amount >= 1e13:
        return f"{amount:.3g}"
    for letter, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if amount >= scale:
            return f"{amount / scale:.3g}{letter}"
    return f"{amount:.4g}"
