"""A network put into evaluation mode for as long as it is only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, so that two forward passes agree; a network in training goes back to it."""
    training = network.training
    if training:
        network.eval()
    try:
        yield
    finally:
        if training:
            network.train()


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients."""
    with without_dropout(network), torch.no_grad():
        yield
