"""How many rows a selection keeps: a share of them, or a number; and how a number is divided."""

from __future__ import annotations

from collections.abc import Sequence

from whet.errors import RecipeError


def refuse_unclear(part: str, share: float | None, rows: int | None) -> None:
    """Raises RecipeError unless exactly one of ``share`` and ``rows`` is given."""
    if (share is None) == (rows is None):
        raise RecipeError(f"{part}: give exactly one of 'share' (of the rows, such as 0.04) and 'rows'")


def kept_rows(part: str, size: int, share: float | None, rows: int | None) -> int:
    """The number of rows to keep of ``size``.

    Raises:
        RecipeError: less than one row, or more than there are.
    """
    count = rows if rows is not None else int((share or 0.0) * size + 1e-9)
    if not 1 <= count <= size:
        asked = f"rows: {rows}" if rows is not None else f"share: {share}"
        raise RecipeError(f"{part}: {asked} is {count} of {size} rows; ask for at least 1 and at most all")
    return count


def largest_remainders(weights: Sequence[float], count: int) -> list[int]:
    """``count`` divided in proportion to the weights, whole numbers: floors, and one more to the largest fractions.

    >>> largest_remainders([1.0, 1.0, 2.0], 5)
    [1, 1, 3]
    """
    whole = float(sum(weights))
    exact = [count * w / whole for w in weights]
    shares = [int(e + 1e-9) for e in exact]
    order = sorted(range(len(weights)), key=lambda i: (shares[i] - exact[i], -i))
    for i in order[: count - sum(shares)]:
        shares[i] += 1
    return shares
