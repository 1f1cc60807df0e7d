"""Decides the number formats of training, and says why; makes the machine's allocator and attention fit for training."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]

SMALLEST_WIDTH = 96
"""Hidden size below which, on a CPU, casting to bfloat16 costs more than its faster products save."""

LONGEST_EAGER = 2048
"""Positions up to which plain matrix products beat the CPU's flash attention in bfloat16, whose backward is slow."""


@dataclass(frozen=True)
class Choice:
    """The compute format and the reason for it, which the run prints."""

    compute: torch.dtype
    reason: str


def choose(wanted: Precision, device: torch.device, width: int) -> Choice:
    """The format in which a step's products are computed; weights and sums stay float32.

    The choice is a rule, not a timing, so that the same machine gives the same bits each time.

    Args:
        wanted: the user's setting.
        device: where the network lies.
        width: its hidden size.
    """
    if wanted != "auto":
        return Choice(getattr(torch, wanted), "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(torch.bfloat16, "this accelerator multiplies bfloat16 natively")
        return Choice(torch.float32, "this accelerator has no native bfloat16")
    if not _cpu_multiplies_bfloat16():
        return Choice(torch.float32, "this processor has no bfloat16 instructions")
    if width < SMALLEST_WIDTH:
        return Choice(
            torch.float32, f"hidden size {width} is under {SMALLEST_WIDTH}: casting would cost more than bfloat16 saves"
        )
    return Choice(torch.bfloat16, "this processor multiplies bfloat16 natively, about 5 times faster than float32")


def _cpu_multiplies_bfloat16() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_memory() -> bool:
    """Makes the C library keep freed tensors instead of giving them back after each use; returns whether it could.

    Large tensors are otherwise mapped and zeroed by the kernel anew in every operation, a quarter of a small network's
    step. Only glibc has the switch; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(mmap_threshold, 1 << 30) and libc.mallopt(trim_threshold, (1 << 31) - 1))


@contextmanager
def attention_for(network: Any, compute: torch.dtype, longest: int) -> Iterator[str]:
    """Trains with the attention code that is fastest here; gives its name and restores the network's own after.

    Only networks that use ``sdpa`` are changed: others were configured so for a reason.
    """
    own = network.config._attn_implementation
    slow = network.device.type == "cpu" and compute is torch.bfloat16 and longest <= LONGEST_EAGER
    if own != "sdpa" or not slow:
        yield own
        return
    network.set_attn_implementation("eager")
    try:
        yield "eager"
    finally:
        network.set_attn_implementation(own)
