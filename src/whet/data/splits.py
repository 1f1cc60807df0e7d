"""Where the rows of a split come from: a file of their own, or a share of the rows that is held out by hash.

A share is decided for each row by the hash of its text, never by chance or position: the same text always falls in the same
split, so that rows that are added, removed or reordered move no other row, and doubles never stand on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from whet.errors import DataError

SPLITS = ("train", "validation", "test")
_FILE_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval")}

Part = str | float | None
"""A split's file (or the hub's name for it), a share of the training rows in (0, 1), or nothing."""


@dataclass(frozen=True)
class Shares:
    """Shares of the training rows that are held out; 0 if the split has rows of its own or none."""

    validation: float = 0.0
    test: float = 0.0

    def split_of(self, key: str) -> str:
        """The split of the row with this text."""
        draw = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
        if draw < self.test:
            return "test"
        return "validation" if draw < self.test + self.validation else "train"


def check_split(split: str) -> None:
    """Refuses a split that is none of train, validation and test."""
    if split not in SPLITS:
        raise DataError(f"split {split!r}: must be one of {', '.join(SPLITS)}")


def shares(parts: Mapping[str, Part]) -> Shares:
    """The shares among ``validation`` and ``test``.

    Raises:
        DataError: a share outside (0, 1), or both together leave no training rows.
    """
    numbers = {name: float(part) for name, part in parts.items() if isinstance(part, (int, float))}
    if any(not 0 < share < 1 for share in numbers.values()) or sum(numbers.values()) >= 1:
        raise DataError(f"shares held out {numbers}: each must lie in (0, 1), and together they must leave rows to train on")
    return Shares(**numbers)


def no_split(name: str, split: str) -> DataError:
    """The error for a split that a source does not have."""
    return DataError(
        f"{name}: there is no {split} split. Way out: `{split}: 0.1` in the source holds a share out, or name its own rows there"
    )


def split_file(path: Path, split: str, parts: Mapping[str, Part], suffixes: tuple[str, ...]) -> tuple[Path, bool]:
    """The file that holds a split's rows, and whether the shares of :func:`shares` have to be taken from it.

    Args:
        path: the training file, or a folder with one file per split (``train.jsonl``, ``valid.jsonl``, ``test.jsonl``).
        split: train, validation or test.
        parts: ``validation`` and ``test``: a file (also looked for in ``path``'s folder), a share, or None.
        suffixes: endings to look for in a folder.

    Raises:
        DataError: no such folder or file, or no such split.
    """
    check_split(split)
    folder = path if path.is_dir() else path.parent
    part = parts.get(split)
    if isinstance(part, str):
        own = Path(part)
        return (own if own.exists() or own.is_absolute() else folder / part), False
    if part is None and split != "train":
        own_file = _in_folder(path, split, suffixes) if path.is_dir() else None
        if own_file is None:
            raise no_split(str(path), split)
        return own_file, False
    if not path.is_dir():
        return path, True
    train = _in_folder(path, "train", suffixes)
    if train is None:
        found = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        raise DataError(f"{path}: the folder has no file train{' or train'.join(suffixes)}; it holds: {found}")
    return train, True


def _in_folder(folder: Path, split: str, suffixes: tuple[str, ...]) -> Path | None:
    names = [f"{name}{suffix}{packed}" for name in _FILE_NAMES[split] for suffix in suffixes for packed in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)
