"""What quantization needs in memory: the forecast before, the peak after."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch

from whet.errors import RecipeError
from whet.quantize.blocks import find_blocks, linears, weight_of

BATCH_TOKENS = 2048
"""Calibration tokens in one forward pass of a block: larger passes were no faster on a processor and take more memory."""


def forecast_memory(network: Any, tokens: int) -> dict[str, int]:
    """Bytes that quantizing will need beside the network, for that many calibration tokens.

    ``activations``: one hidden state per token, twice for the batch under way; ``hessians``: one block's, in float64, one
    for each layer (an upper bound, as layers that share an input share it).
    """
    item = torch.finfo(network.dtype).bits // 8
    _, block = find_blocks(network)[0]
    inputs = [int(weight_of(layer).shape[1]) for layer in linears(block).values()]
    hidden = int(network.config.hidden_size) * item
    return {"activations": hidden * (tokens + min(tokens, BATCH_TOKENS)), "hessians": 8 * sum(n * n for n in inputs)}


def refuse_too_large(network: Any, tokens: int) -> dict[str, int]:
    """The forecast of :func:`forecast_memory`, made before the first block.

    Raises:
        RecipeError: it is more than is free where the network lies; says what to change.
    """
    forecast = forecast_memory(network, tokens)
    needed, free = sum(forecast.values()), free_memory(network.device)
    if free is not None and needed > free:
        raise RecipeError(
            f"quantizing needs about {needed / 2**30:,.2f} GiB beside the network ({forecast['activations'] / 2**30:,.2f} for {tokens:,} "
            f"calibration tokens, {forecast['hessians'] / 2**30:,.2f} for one block's Hessians), and {free / 2**30:,.2f} GiB are free; "
            "give fewer or shorter calibration rows"
        )
    return forecast


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; ``None`` where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def peak_memory(device: torch.device) -> int:
    """Most bytes ever held: on the accelerator, or by this whole process so far on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
