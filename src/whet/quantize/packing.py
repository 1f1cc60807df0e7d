"""Packs codes of 2 to 8 bits into 32-bit words without gaps, and back.

Layout: each row is a little-endian bit stream (code i occupies bits ``i b`` to ``i b + b - 1``), filled up with zeros to a
whole number of int32 words. This is also how compressed-tensors lays out its ``weight_packed``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROWS_AT_ONCE = 1024
"""Rows expanded to single bits at a time, which bounds the memory to ``8 * columns`` times this many bytes."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs codes [rows, columns], whole numbers in ``[0, 2^bits)``, into int32 [rows, ceil(columns * bits / 32)].

    Raises:
        ValueError: a code is out of range.
    """
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < 2**bits):
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())} do not fit {bits} bits")
    return torch.cat([_pack(part, bits) for part in codes.split(ROWS_AT_ONCE)])


def _pack(codes: Tensor, bits: int) -> Tensor:
    values = codes.to(torch.uint8).cpu().numpy()
    stream = np.unpackbits(values[..., None], axis=-1, bitorder="little")[..., :bits].reshape(len(values), -1)
    words = -(-stream.shape[1] // 32)
    packed = np.packbits(np.pad(stream, ((0, 0), (0, words * 32 - stream.shape[1]))), axis=1, bitorder="little")
    return torch.from_numpy(packed.view("<i4").astype(np.int32).reshape(len(values), words))


def unpack(words: Tensor, bits: int, columns: int) -> Tensor:
    """The codes that :func:`pack` was given, uint8 [rows, columns]."""
    return torch.cat([_unpack(part, bits, columns) for part in words.split(ROWS_AT_ONCE)])


def _unpack(words: Tensor, bits: int, columns: int) -> Tensor:
    raw = np.ascontiguousarray(words.cpu().numpy()).astype("<i4").view(np.uint8)
    stream = np.unpackbits(raw, axis=1, bitorder="little")[:, : columns * bits].reshape(len(raw), columns, bits)
    return torch.from_numpy(np.packbits(stream, axis=-1, bitorder="little")[..., 0].copy())
