"""What an edit is called with, and the readings of it that several edits share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.errors import ModelError

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class MergeJob:
    """What an edit is called with.

    ``base`` is the common ancestor, ``models`` the folders to merge, ``weights`` one number per model (what it means is the
    edit's), ``output`` a folder that does not exist or is empty. ``scorer`` gives a folder's held-out score, higher is
    better; only edits that select call it. ``shard_bytes`` is the largest size of a written shard.
    """

    base: Path | None
    models: Sequence[Path]
    weights: Sequence[float] | None
    output: Path
    scorer: Callable[[Path], float] | None = None
    shard_bytes: int = SHARD_BYTES


def need_base(merge: MergeJob, method: str) -> Path:
    """The job's base.

    Raises:
        ModelError: there is none.
    """
    if merge.base is None:
        raise ModelError(f"{method} adds the models' changes to their common ancestor: give base, the model they were tuned from")
    return merge.base


def names_of(merge: MergeJob) -> list[str]:
    """Short names of the models for formulas: their folders' names, numbered if two are equal."""
    names = [Path(m).name for m in merge.models]
    return [f"{n}#{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]


def weights_of(merge: MergeJob, default: float) -> list[float]:
    """One weight per model, ``default`` where none were given.

    Raises:
        ModelError: their number is not that of the models, or one is not finite.
    """
    if merge.weights is None:
        return [default] * len(merge.models)
    if len(merge.weights) != len(merge.models):
        raise ModelError(f"{len(merge.weights)} weights for {len(merge.models)} models: give one weight per model")
    if not all(math.isfinite(w) for w in merge.weights):
        raise ModelError(f"weights {list(merge.weights)}: every weight must be a finite number")
    return [float(w) for w in merge.weights]


def score_candidate(merge: MergeJob, output: Path) -> float:
    """The scorer's value for a folder.

    Raises:
        ModelError: no scorer was given, or its value is not finite.
    """
    if merge.scorer is None:
        raise ModelError("this edit selects on held-out data: give a scorer (in a recipe: score, a held-out task)")
    score = float(merge.scorer(output))
    if not math.isfinite(score):
        raise ModelError(f"the scorer gave {score} for {output.name}; it must give a finite number, higher is better")
    return score
