"""One tokenized row, and the batch that every objective sees.

Shapes: N packs of S positions; R examples (rows) lie in them one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class Example:
    """One token sequence with its trained positions.

    ``input_ids`` and ``trained`` have the same length L; ``trained[i]`` says that token i is a target (it is predicted
    from the tokens before it; ``trained[0]`` is always ``False``).
    ``values`` holds one number per example (``chosen``, ``advantage``, ``reward``, ``is_demo``, ...), ``token_values``
    lists of L numbers aligned with ``input_ids`` (``reference_logps``, ``old_logps``, ...: the number for token i stands
    at i). ``unit`` numbers the thing it belongs to: the dataset row, the pair, the prompt's group.
    """

    input_ids: Sequence[int]
    trained: Sequence[bool]
    unit: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    token_values: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.input_ids) != len(self.trained):
            raise ValueError(f"input_ids has {len(self.input_ids)} tokens but trained has {len(self.trained)}")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def trained_tokens(self) -> int:
        return sum(self.trained)


@dataclass(frozen=True)
class Totals:
    """Counts over the *whole* optimizer step (all micro-batches, all processes): what objectives divide by.

    ``tokens``: trained tokens; ``rows``: examples; ``units``: pairs, groups or dataset rows; ``root_tokens``: sum over
    rows of the square root of the row's trained tokens.
    """

    tokens: float
    rows: float
    units: float
    root_tokens: float = 0.0


@dataclass(frozen=True)
class Batch:
    """A micro-batch of packed examples.

    ``input_ids``, ``position_ids`` int64 [N, S]; ``row`` int64 [N, S], the example in [0, R) that a position belongs to,
    -1 at padding; attention stays inside one ``row`` and is causal.
    ``stem`` int64 [N, S] or ``None``: rows of one unit that begin alike may stand there as a tree. The shared beginning, with
    ``row`` -1, comes once, then the rest of each row, whose positions go on from it; both have the tree's number in ``stem``.
    A position then also sees the shared beginning of its tree. -1 at padding.
    ``index`` int64 [R]: where each example stood among those that were packed.
    ``labels`` int64 [N, S]: the token to be predicted *at* this position (already shifted by one), ``IGNORE`` elsewhere.
    ``values[name]`` float32 [R]; ``token_values[name]`` float32 [N, S], aligned with ``labels`` (already shifted);
    ``unit`` int64 [R]: examples of one pair or group share it, and are never split over two micro-batches.
    """

    input_ids: Tensor
    position_ids: Tensor
    row: Tensor
    labels: Tensor
    unit: Tensor
    totals: Totals
    values: Mapping[str, Tensor] = field(default_factory=dict)
    token_values: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    steps: int = 1
    seed: int = 0
    stem: Tensor | None = None
    index: Tensor | None = None

    @property
    def filled(self) -> int:
        """Positions that are no padding."""
        return int(((self.row if self.stem is None else self.stem) >= 0).sum())

    @property
    def mask(self) -> Tensor:
        """bool [N, S]: positions whose next token is trained."""
        return self.labels != IGNORE

    @property
    def rows(self) -> int:
        return int(self.unit.numel())

    def replace(self, **changes: Any) -> Batch:
        return replace(self, **changes)

    def row_sum(self, per_token: Tensor) -> Tensor:
        """Sums a [N, S] tensor over the trained positions of each example: [R]."""
        mask = self.mask
        return per_token.new_zeros(self.rows).index_add(0, self.row[mask], per_token[mask])

    def row_tokens(self) -> Tensor:
        """Trained tokens of each example, float32 [R]."""
        import torch

        return torch.bincount(self.row[self.mask], minlength=self.rows).float()

    def of_row(self, per_row: Tensor) -> Tensor:
        """Spreads a [R] tensor over the positions of each example: [N, S], zero at padding."""
        inside = self.row >= 0
        return per_row[self.row.clamp(min=0)] * inside
