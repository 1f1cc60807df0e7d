"""The formulas of docs/scale.md beside what is measured, at two small sizes: python bench/scale.py

Everything is counted in bytes of float32, on the CPU, in one process: tensors that exist, tensors that a forward pass keeps for its
backward pass, and what the quantizer says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from whet import parts
from whet.architectures.tokenizer import train_tokenizer
from whet.model import Model, quiet_transformers
from whet.quantize.calibration import CalibrationSet
from whet.quantize.pipeline import quantize

ITEM = 4
TOKENS = (2, 96)
"""Rows and tokens of a row."""


@dataclass(frozen=True)
class Shape:
    """d hidden, f intermediate, L layers, h heads, k key-value heads, V vocabulary; untied head."""

    d: int
    f: int
    L: int
    h: int
    k: int
    V: int

    @property
    def kv(self) -> int:
        return self.d // self.h * self.k

    @property
    def linear(self) -> int:
        """Weights of one block's linear layers."""
        return 2 * self.d * self.d + 2 * self.d * self.kv + 3 * self.d * self.f

    @property
    def weights(self) -> int:
        return self.L * (self.linear + 2 * self.d) + 2 * self.V * self.d + self.d

    def network(self) -> Any:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.V,
            hidden_size=self.d,
            intermediate_size=self.f,
            num_hidden_layers=self.L,
            num_attention_heads=self.h,
            num_key_value_heads=self.k,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(config)


SHAPES = (Shape(128, 384, 2, 4, 2, 512), Shape(256, 768, 6, 8, 2, 1024))


def main() -> None:
    quiet_transformers()
    for shape in SHAPES:
        print(f"{shape}, {TOKENS[0]} rows of {TOKENS[1]} tokens")
        for name, formula, measured in figures(shape):
            print(f"  {name:52} formula {formula:12,d}  measured {measured:12,d}  {measured / formula:.3f}")


def figures(shape: Shape) -> list[tuple[str, int, int]]:
    """(name, bytes by the formula, bytes measured)."""
    tokens = TOKENS[0] * TOKENS[1]
    network = shape.network()
    found = [("weights: 4 N", ITEM * shape.weights, _bytes(list(network.parameters())))]
    ids = torch.randint(0, shape.V, TOKENS)
    whole = ITEM * tokens * (shape.L * (8 * shape.d + 2 * shape.kv + 4 * shape.f) + 2 * shape.d)
    found.append(("activations: 4 T (L (8 d + 2 kv + 4 f) + 2 d)", whole, kept(network, ids)))
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    network.train()
    found.append(("with checkpointing: 4 T (L + 2) d", ITEM * tokens * (shape.L + 2) * shape.d, kept(network, ids)))
    network.gradient_checkpointing_disable()
    found += _training(shape, network, ids)
    network = network.eval()
    cache = network(input_ids=ids, use_cache=True).past_key_values
    held = _bytes([t for layer in cache.layers for t in (layer.keys, layer.values)])
    found.append(("KV cache: 4 T L 2 kv", ITEM * tokens * shape.L * 2 * shape.kv, held))
    return [*found, *_lora(shape), *_gptq(shape)]


def kept(network: Any, ids: Tensor) -> int:
    """Bytes that the blocks' forward passes keep, each storage counted once, parameters and what all blocks share left out."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters and tensor.is_floating_point():
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network.model(input_ids=ids, use_cache=False).last_hidden_state
    total = sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    del output
    return total


def _training(shape: Shape, network: Any, ids: Tensor) -> list[tuple[str, int, int]]:
    optimizer = torch.optim.AdamW(network.parameters())
    network(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    gradients = _bytes([p.grad for p in network.parameters()])
    state = _bytes([t for held in optimizer.state.values() for t in held.values() if t.ndim])
    return [("gradients: 4 N", ITEM * shape.weights, gradients), ("AdamW: 8 N", 2 * ITEM * shape.weights, state)]


def _lora(shape: Shape, rank: int = 8) -> list[tuple[str, int, int]]:
    adapter = parts.build("adapter", {"name": "lora", "r": rank})
    trained = [p for p in adapter.attach(shape.network()).parameters() if p.requires_grad]
    sizes = 2 * (shape.d + shape.d) + 2 * (shape.d + shape.kv) + 3 * (shape.d + shape.f)
    return [("LoRA: 4 L r sum(in + out)", ITEM * shape.L * rank * sizes, _bytes(trained))]


def _gptq(shape: Shape) -> list[tuple[str, int, int]]:
    rows = torch.randint(0, shape.V, (16, 64)).tolist()
    model = Model(shape.network().eval(), train_tokenizer(["a b c"], 300), "scale")
    receipt = quantize(model, CalibrationSet(rows), group_size=64)[1]
    return [
        ("GPTQ, hidden states: 4 T d", ITEM * 16 * 64 * shape.d, receipt["activation_bytes"]),
        ("GPTQ, widest Hessian: 4 f^2", ITEM * shape.f**2, receipt["hessian_bytes"]),
    ]


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    main()
