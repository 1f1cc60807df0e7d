"""Safetensors files of a folder: their headers, read without trusting them, and whether files and index belong together.

Only headers are read, so that a damaged or incomplete folder is refused before its weights are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from whet.errors import ModelError

INDEX = "model.safetensors.index.json"
WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of an element by the format's name for its type; types that are not listed are not checked for their size."""
LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""
_AGAIN = "fetch or write it again"


@dataclass(frozen=True)
class Described:
    """A tensor as the header describes it: type, shape, and its first and last byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: Path) -> dict[str, Described]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: the file cannot be read, is cut off, or its header contradicts it; names the file and the tensor.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise ModelError(f"{file}: damaged: shorter than its header ({size} bytes); {_AGAIN}")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: damaged: its header is no JSON ({error}); {_AGAIN}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file}: damaged: its header is no list of tensors; {_AGAIN}")
    return {name: _described(file, name, about, 8 + length, size) for name, about in header.items() if name != "__metadata__"}


def _described(file: Path, name: str, about: Any, offset: int, size: int) -> Described:
    try:
        dtype, shape, (start, end) = about["dtype"], tuple(about["shape"]), about["data_offsets"]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        dtype, whole = None, False
    if not isinstance(dtype, str) or not whole:
        raise ModelError(f"{file}: damaged: its header describes tensor {name!r} as {str(about)[:80]}; {_AGAIN}")
    fits = start <= end <= size - offset and (dtype not in WIDTHS or end - start == prod(shape) * WIDTHS[dtype])
    if not fits:
        raise ModelError(f"{file}: damaged: tensor {name!r} reaches past the end of the file or has the wrong size; {_AGAIN}")
    return Described(dtype, shape, offset + start, offset + end)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: the shards that its index names, else every safetensors file.

    Raises:
        ModelError: no such files, an index that cannot be read, or a shard that it names and that is not there.
    """
    index = folder / INDEX
    if not index.is_file():
        files = sorted(file for file in folder.glob("*.safetensors") if file.is_file())
        if not files:
            raise ModelError(f"{folder}: no *.safetensors weights")
        return files
    shards = sorted(set(_weight_map(index).values()))
    for shard in shards:
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise ModelError(f"{index}: names the shard {shard!r}, which is not in the folder; fetch it again")
    return [folder / shard for shard in shards]


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        found = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelError(f"{index}: damaged: it has no readable 'weight_map' ({error}); {_AGAIN}") from error
    if not isinstance(found, dict) or not found or not all(isinstance(shard, str) and shard for shard in found.values()):
        raise ModelError(f"{index}: damaged: 'weight_map' must give the file of each tensor; {_AGAIN}")
    return found


def check_weights(folder: Path) -> None:
    """Reads every header and compares the index with the files.

    Raises:
        ModelError: a damaged file, or an index that puts a tensor where it is not.
    """
    held = {file.name: read_header(file) for file in weight_files(folder)}
    index = folder / INDEX
    if index.is_file():
        for tensor, shard in _weight_map(index).items():
            if tensor not in held[shard]:
                raise ModelError(f"{index}: says that tensor {tensor!r} is in {shard}, but it is not; fetch both again")
