"""What quantization needs in memory: the forecast before, the peak after."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from whet.quantize.blocks import find_blocks, linears, weight_of

BATCH_TOKENS = 8192
"""Calibration tokens in one forward pass of a block."""


def forecast_memory(network: Any, tokens: int) -> dict[str, int]:
    """Bytes that quantizing will need beside the network and its copy, for that many calibration tokens.

    ``activations``: one hidden state per token, twice for the batch under way; ``hessians``: one block's, in float64, one
    for each layer (an upper bound, as layers that share an input share it).
    """
    item = torch.finfo(network.dtype).bits // 8
    _, block = find_blocks(network)[0]
    inputs = [int(weight_of(layer).shape[1]) for layer in linears(block).values()]
    hidden = int(network.config.hidden_size) * item
    return {"activations": hidden * (tokens + min(tokens, BATCH_TOKENS)), "hessians": 8 * sum(n * n for n in inputs)}


def peak_memory(device: torch.device) -> int:
    """Most bytes ever held: on the accelerator, or by this whole process so far on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
