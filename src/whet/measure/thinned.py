"""Dropout views of a language model: the same model with a share of the channels that enter each linear layer left out.

Which channels is drawn once for each layer and then fixed, for all tokens and batches: one view is one thinned network, and
what it says of an item does not depend on what else is in the batch. The remaining channels are scaled up by 1 / (1 - share).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import ModelError
from whet.model import Model


@dataclass(frozen=True)
class _Mask:
    """A hook that multiplies a layer's input by fixed factors, one for each channel."""

    factors: Tensor

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        first, *rest = inputs
        return (first * self.factors.to(first), *rest)


@contextmanager
def thinned(model: Model, share: float, seed: int) -> Iterator[Model]:
    """The model with dropout, while inside; the output head reads all channels.

    Args:
        model: its network gets hooks meanwhile.
        share: of the channels, in (0, 1).
        seed: of the draw.

    Raises:
        ModelError: the network has no linear layers.
    """
    layers = [layer for layer in model.network.modules() if isinstance(layer, nn.Linear)]
    layers = [layer for layer in layers if layer is not model.network.get_output_embeddings()]
    if not layers:
        raise ModelError(f"model {model.name!r} has no linear layers to drop channels of; use other prompts as views")
    generator = torch.Generator().manual_seed(seed)
    masks = [(torch.rand(layer.in_features, generator=generator) >= share) / (1 - share) for layer in layers]
    handles = [layer.register_forward_pre_hook(_Mask(mask)) for layer, mask in zip(layers, masks)]
    try:
        # Completions are kept under the weights' name, and these are other weights.
        name = f"{model.lineage.get('weights')} without {share:g} of the channels, seed {seed}"
        yield replace(model, lineage={**model.lineage, "weights": name})
    finally:
        for handle in handles:
            handle.remove()
