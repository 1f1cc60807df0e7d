"""Small networks on scikit-learn's 1,797 digits (8 x 8 pixels), for claims that need no language model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import Tensor, nn

from whet import parts

torch.set_num_threads(1)


@dataclass(frozen=True)
class Images:
    """``pixels`` float32 [n, 64] in [0, 1], ``labels`` int64 [n]."""

    pixels: Tensor
    labels: Tensor

    def rotated(self, degrees: float) -> Images:
        """The same images turned by an angle, by bilinear interpolation."""
        turned = rotate(self.pixels.reshape(-1, 8, 8).numpy(), degrees, axes=(1, 2), reshape=False, order=1)
        return Images(torch.from_numpy(turned.reshape(-1, 64)), self.labels)

    def noisy(self, deviation: float, seed: int) -> Images:
        """The same images with Gaussian noise added to every pixel."""
        noise = torch.randn(self.pixels.shape, generator=torch.Generator().manual_seed(seed))
        return Images(self.pixels + deviation * noise, self.labels)

    def first(self, count: int) -> Images:
        return Images(self.pixels[:count], self.labels[:count])


def digits(seed: int, *sizes: int) -> list[Images]:
    """Disjoint random sets of the given sizes, and one more with all images that are left."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng([seed, 7]).permutation(len(labels))
    chosen = np.split(order, np.cumsum(sizes))
    return [Images(torch.from_numpy(pixels[c] / 16).float(), torch.from_numpy(labels[c]).long()) for c in chosen]


def mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """A ReLU network with these layer widths."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Embedding, pre-norm residual blocks, and a decoder to pixels that ``forward`` leaves out."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.embed, self.decode = nn.Linear(64, width), nn.Linear(width, 64)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(blocks)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Features: [n, 64] -> [n, width]."""
        hidden = self.embed(pixels)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


def batches(schedule: object, size: int, epochs: int, batch_size: int, seed: int) -> list[Tensor]:
    """The index batches that a whet schedule gives for ``epochs``; the last batch of an epoch may be smaller."""
    order = parts.build("schedule", schedule)
    drawn = [torch.from_numpy(order(size, epoch, seed)) for epoch in range(epochs)]
    return [batch for epoch in drawn for batch in epoch.split(batch_size)]


def fit(
    network: nn.Module,
    data: Images,
    order: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Trains in place on these batches by cross-entropy; the learning rate falls to 0 along a cosine over all of them."""
    generator = torch.Generator().manual_seed(seed)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(order))
    for batch in order:
        pixels = data.pixels[batch]
        if noise:
            pixels = pixels + noise * torch.randn(pixels.shape, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels), data.labels[batch]).backward()
        optimizer.step()
        falling.step()
    return network


@torch.no_grad()
def predictions(network: nn.Module, data: Images) -> Tensor:
    """The class of each image: int64 [n]."""
    return network(data.pixels).argmax(1)


def accuracy(network: nn.Module, data: Images) -> float:
    return float((predictions(network, data) == data.labels).float().mean())


def save(network: nn.Module, folder: Path) -> Path:
    """Writes a folder that whet's edits read: the weights, and a configuration that names the kind of model."""
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": type(network).__name__}))
    return folder


def load(network: nn.Module, folder: Path) -> nn.Module:
    """Puts a folder's weights into the network."""
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network
