"""Finds the decoder blocks of a causal language model, and the linear layers in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from whet.errors import ModelError


def find_blocks(network: Any) -> list[tuple[str, nn.Module]]:
    """(name, module) of each decoder block, in forward order.

    Raises:
        ModelError: no list of ``num_hidden_layers`` modules with linear layers is found.
    """
    depth = getattr(network.config, "num_hidden_layers", None)
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and all(linears(block) for block in module):
            return [(f"{name}.{i}", block) for i, block in enumerate(module)]
    raise ModelError(
        f"{type(network).__name__}: found no list of {depth} decoder blocks with linear layers; "
        "quantization works on decoder-only language models of transformers"
    )


def linears(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Layer name -> module, for every linear layer (``nn.Linear``, or GPT-2's transposed ``Conv1D``) inside a module."""
    found = {name: inner for name, inner in module.named_modules() if isinstance(inner, (nn.Linear, Conv1D))}
    return {f"{prefix}.{name}".strip("."): inner for name, inner in found.items()}


def weight_of(layer: Any) -> Tensor:
    """The layer's weight as [out, in]."""
    weight: Tensor = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight


@torch.no_grad()
def set_weight(layer: Any, weight: Tensor) -> None:
    """Puts an [out, in] weight into the layer."""
    layer.weight.copy_(weight.T if isinstance(layer, Conv1D) else weight)


def untie(network: Any) -> int:
    """Gives the output head its own weights if it shares them with the embedding; returns how many parameters that adds."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head.weight is not embedding.weight:
        return 0
    head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=embedding.weight.requires_grad)
    network.config.tie_word_embeddings = False
    return head.weight.numel()
