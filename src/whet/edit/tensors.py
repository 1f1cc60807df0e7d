"""Safetensors folders, read and written one tensor at a time.

The files are read by position, not mapped into memory, and written as a stream (the header is known before the first
tensor is computed), so that neither side ever holds more than the tensor in hand, whatever the shard size. Stretches of a
tensor can be read and written too. A thread writes and hashes one piece while the next is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from whet.errors import ModelError
from whet.model import hash_label
from whet.weight_files import INDEX, read_header, weight_files

SINGLE = "model.safetensors"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
PIECE = 1 << 20
"""Bytes that are read and hashed at a time."""
_TIED_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its dtype, its shape, its file, and its first and last byte there."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a model folder by name; each access reads one tensor from disk.

    ``tied`` maps a stored or implied name to the tensor that it shares (``lm_head.weight`` to the embedding): such a name
    is not listed, so that shared weights are worked on once. ``dropped`` lists those of them that the files hold a copy of.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the headers.

        Raises:
            ModelError: no safetensors files, a shard named in the index is missing, or a file is damaged.
        """
        self.folder = folder
        config = folder / "config.json"
        self.config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        self.entries = {name: entry for file in weight_files(folder) for name, entry in _header(file)}
        self.tied = self._find_tied()
        self.dropped = [name for name in self.tied if self.entries.pop(name, None)]

    def __getitem__(self, name: str) -> Tensor:
        return _read(self.entries[name])

    def stretch(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a tensor in the order that they are stored in, as a vector."""
        entry = self.entries[name]
        width = entry.dtype.itemsize
        first, last = entry.start + start * width, entry.start + min(stop, entry.numel) * width
        return _read(Entry(entry.dtype, ((last - first) // width,), entry.file, first, last))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype that most parameters are stored in."""
        counts: dict[torch.dtype, int] = {}
        for entry in self.entries.values():
            if entry.dtype.is_floating_point:
                counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.numel
        return max(counts, key=lambda d: counts[d], default=torch.float32)

    def _find_tied(self) -> dict[str, str]:
        """The output head, if the configuration ties it to the embedding and no different head is stored."""
        settings = {**self.config, **(self.config.get("text_config") or {})}
        embedding = next((n for n in self.entries if n.endswith(_EMBEDDINGS)), None)
        if not settings.get("tie_word_embeddings") or embedding is None:
            return {}
        head = next((n for n in self.entries if n.endswith(_TIED_HEAD)), _TIED_HEAD)
        if head in self.entries and not torch.equal(_read(self.entries[head]), _read(self.entries[embedding])):
            return {}
        return {head: embedding}


def hash_of(checkpoint: Checkpoint) -> str:
    """What ``weights_hash`` gives for the loaded network's ``state_dict``, tied names included, without holding a tensor."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE))
    for name in sorted([*checkpoint.entries, *checkpoint.tied]):
        entry = checkpoint.entries[checkpoint.tied.get(name, name)]
        digest.update(hash_label(name, entry.dtype, entry.shape))
        with entry.file.open("rb", buffering=0) as stream:
            stream.seek(entry.start)
            for start in range(entry.start, entry.end, PIECE):
                part = piece[: entry.end - start]
                _fill(stream, part, entry.file)
                digest.update(part)
    return digest.hexdigest()[:16]


def _header(file: Path) -> Iterator[tuple[str, Entry]]:
    for name, found in read_header(file).items():
        if found.dtype not in DTYPES:
            raise ModelError(f"{file}: tensor {name!r} has dtype {found.dtype}, known are {', '.join(DTYPES)}")
        yield name, Entry(DTYPES[found.dtype], found.shape, file, found.start, found.end)


def _read(entry: Entry) -> Tensor:
    raw = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    with entry.file.open("rb", buffering=0) as stream:
        stream.seek(entry.start)
        _fill(stream, raw.numpy().data, entry.file)
    return raw.view(entry.dtype).reshape(entry.shape)


def _fill(stream: FileIO, view: memoryview, file: Path) -> None:
    got = 0
    while got < len(view):
        count = stream.readinto(view[got:])
        if not count:
            raise ModelError(f"{file}: ended while a tensor was read; it changed or the disk failed")
        got += count


def write_checkpoint(
    folder: Path,
    layout: Mapping[str, Entry],
    compute: Callable[[str], Tensor | Iterable[Tensor]],
    shard_bytes: int = 5_000_000_000,
) -> tuple[dict[str, int], str | None]:
    """Writes tensors as safetensors shards with their index, computing one at a time.

    Args:
        folder: an existing folder.
        layout: name -> dtype and shape (the file and offsets are not read); its order decides the shards.
        compute: gives the tensor of that name, in the layout's dtype and shape, or its elements as pieces in their order.
        shard_bytes: largest size of a shard's tensors; a single larger tensor gets a shard of its own.

    Returns:
        ``bytes``, ``shards`` and ``tensors`` that were written; and their weight hash, ``None`` if they were not written in
        the order of their names, which the hash needs.
    """
    shards = _shards(layout, shard_bytes)
    single = len(shards) == 1
    weight_map: dict[str, str] = {}
    digest = hashlib.sha256()
    for number, names in enumerate(shards, 1):
        file = SINGLE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / file).open("wb") as stream:
            _write_shard(stream, {name: layout[name] for name in names}, compute, digest)
        weight_map.update(dict.fromkeys(names, file))
    total = sum(_bytes(entry) for entry in layout.values())
    if not single:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    in_order = list(weight_map) == sorted(layout)
    return {"bytes": total, "shards": len(shards), "tensors": len(layout)}, digest.hexdigest()[:16] if in_order else None


def _bytes(entry: Entry) -> int:
    return entry.numel * entry.dtype.itemsize


def _shards(layout: Mapping[str, Entry], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, entry in layout.items():
        if shards[-1] and filled + _bytes(entry) > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _bytes(entry)
    # Wider dtypes first, so that every tensor starts at a multiple of its item size.
    return [sorted(names, key=lambda n: -layout[n].dtype.itemsize) for names in shards]


def _write_shard(
    stream: BinaryIO, layout: Mapping[str, Entry], compute: Callable[[str], Tensor | Iterable[Tensor]], digest: Any
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, entry in layout.items():
        header[name] = {
            "dtype": _CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, position + _bytes(entry)],
        }
        position += _bytes(entry)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)

    def put(data: Any) -> None:
        digest.update(data)
        stream.write(data)

    with ThreadPoolExecutor(1) as writer:
        under_way: Future[None] | None = None
        for name, entry in layout.items():
            digest_label = hash_label(name, entry.dtype, entry.shape)
            for number, piece in enumerate(_pieces(name, entry, compute(name))):
                if under_way is not None:
                    under_way.result()
                if not number:
                    digest.update(digest_label)
                under_way = writer.submit(put, piece.reshape(-1).view(torch.uint8).numpy().data)
        if under_way is not None:
            under_way.result()


def _pieces(name: str, entry: Entry, computed: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """The pieces in the planned dtype; refuses what has not the planned size."""
    if isinstance(computed, Tensor):
        if tuple(computed.shape) != entry.shape:
            raise ModelError(f"tensor {name!r}: computed with shape {tuple(computed.shape)} where {entry.shape} was planned")
        computed = [computed]
    count = 0
    for piece in computed:
        count += piece.numel()
        yield piece.to(entry.dtype).contiguous()
    if count != entry.numel:
        raise ModelError(f"tensor {name!r}: computed with {count} elements where {entry.numel} were planned")
