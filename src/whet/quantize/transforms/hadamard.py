"""Rotates the residual stream, and what flows inside each block, by Hadamard matrices, so that no channel stands out.

Quantization error follows the largest value of a group. Multiplying activations by an orthogonal matrix with flat entries
spreads every outlier channel over all channels; multiplying the weights by its inverse leaves the network's function
unchanged. Three rotations, each a setting:

``residual``: norm gains are folded into the layers that read the stream (so every gain is 1 afterwards and the norm commutes
with rotations), the output head gets its own weights if it was tied to the embedding, then with one random ``R [d, d]``:
embedding ``E R``; readers (q, k, v, gate, up, head) ``W R``; writers (o, down) ``Rᵀ W`` and ``Rᵀ b``.
``values``: between v and o, one ``R`` per head: rows of v ``Rᵀ W_v``, columns of o ``W_o R``. Costs nothing at run time.
``down``: the input of the down projection, ``W R``. No weight can take the inverse, because a product of two activations
stands before it, so the network rotates that input as it runs. Off by default, since plain exports cannot hold it.

Sizes that are no power of two: see ``whet.hadamard``. Products are taken in float64. Networks with
LayerNorm, gains of the form 1 + w, norms after sub-layers, or fused projections are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import online
from whet.errors import RecipeError
from whet.hadamard import Rotation, is_hadamard, rotation
from whet.quantize.blocks import find_blocks, untie
from whet.quantize.calibration import CalibrationSet

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Norm of a block -> the layers that read it."""
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Hadamard:
    """``residual``, ``values``, ``down``: which rotations are done; the module says what each is."""

    residual: bool = True
    values: bool = True
    down: bool = False
    needs: ClassVar[frozenset[str]] = frozenset()

    def fit(self, network: Any, calibration: CalibrationSet, seed: int = 0) -> FittedHadamard:
        """Draws the signs of the residual rotation; data are not looked at.

        Raises:
            RecipeError: no rotation is asked for, or the architecture cannot be rotated; says why.
        """
        if not (self.residual or self.values or self.down):
            raise RecipeError("transform 'hadamard': residual, values and down are all off; switch one on or use transform: none")
        _check(network)
        return FittedHadamard(self, seed)


@dataclass(frozen=True)
class FittedHadamard:
    """The rotations, decided but not applied yet."""

    settings: Hadamard
    seed: int

    @torch.no_grad()
    def apply(self, network: Any) -> dict[str, Any]:
        """Rotates in place; the report says what was rotated, untied and left to be done online."""
        report: dict[str, Any] = {}
        if self.settings.residual:
            report["parameters_added_by_untying"] = untie(network)
            _fold_gains(network)
            residual = rotation(int(network.config.hidden_size), self.seed)
            _rotate_residual(network, residual)
            report["residual"] = _describe(residual)
        if self.settings.values:
            head = rotation(_head_size(network))
            for _, block in find_blocks(network):
                _rotate_values(block, head)
            report["values"] = _describe(head)
        if self.settings.down:
            for name, block in find_blocks(network):
                down: Any = block.get_submodule("mlp.down_proj")
                _set(down, "weight", rotation(down.in_features).right(down.weight.double()))
                online.add(network, f"{name}.mlp.down_proj")
            report["online"] = online.operations(network)
        return report


def _describe(what: Rotation) -> dict[str, Any]:
    return {"size": what.size, "base": len(what.base), "hadamard": is_hadamard(what.size)}


def _set(module: Any, name: str, value: Tensor) -> None:
    parameter = getattr(module, name)
    parameter.copy_(value.to(parameter.dtype))


def _final_norm(network: Any) -> Any:
    return network.get_decoder().norm


def _norms(network: Any) -> Iterator[tuple[str, Any, list[Any]]]:
    """(name, norm, its readers) for every norm on the residual stream."""
    for name, block in find_blocks(network):
        for norm, readers in READERS.items():
            yield f"{name}.{norm}", block.get_submodule(norm), [block.get_submodule(reader) for reader in readers]
    yield "norm", _final_norm(network), [network.get_output_embeddings()]


def _fold_gains(network: Any) -> None:
    for _, norm, readers in _norms(network):
        for reader in readers:
            _set(reader, "weight", reader.weight.double() * norm.weight.double())
        norm.weight.fill_(1.0)


def _rotate_residual(network: Any, residual: Rotation) -> None:
    embedding = network.get_input_embeddings()
    _set(embedding, "weight", residual.right(embedding.weight.double()))
    for _, _, readers in _norms(network):
        for reader in readers:
            _set(reader, "weight", residual.right(reader.weight.double()))
    for _, block in find_blocks(network):
        for name in WRITERS:
            writer: Any = block.get_submodule(name)
            _set(writer, "weight", residual.right(writer.weight.double().T).T)
            if writer.bias is not None:
                _set(writer, "bias", residual.right(writer.bias.double()))


def _rotate_values(block: Any, head: Rotation) -> None:
    value, output = block.get_submodule("self_attn.v_proj"), block.get_submodule("self_attn.o_proj")
    rows = value.weight.double().unflatten(0, (-1, head.size))
    _set(value, "weight", head.right(rows.transpose(1, 2)).transpose(1, 2).flatten(0, 1))
    if value.bias is not None:
        _set(value, "bias", head.right(value.bias.double().unflatten(0, (-1, head.size))).flatten())
    _set(output, "weight", head.right(output.weight.double().unflatten(1, (-1, head.size))).flatten(1))


def _head_size(network: Any) -> int:
    config = network.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _check(network: Any) -> None:
    """Refuses architectures whose function the rotations would change."""
    kind = type(network).__name__
    for name, block in find_blocks(network):
        wanted = [*READERS, *(r for readers in READERS.values() for r in readers), *WRITERS]
        missing = [path for path in wanted if not _has(block, path)]
        if missing:
            raise RecipeError(
                f"transform 'hadamard' cannot rotate {kind}: {name} has no {missing[0]}; Llama-like blocks are needed"
            )
        extra = [n for n, m in block.named_children() if n not in READERS and n not in ("self_attn", "mlp") and _weights(m)]
        if extra:
            raise RecipeError(f"transform 'hadamard' cannot rotate {kind}: {name}.{extra[0]} also acts on the residual stream")
    if not hasattr(network.get_decoder(), "norm"):
        raise RecipeError(f"transform 'hadamard' cannot rotate {kind}: it has no final norm")
    for name, norm, _ in _norms(network):
        if not _is_plain_rms(norm):
            raise RecipeError(f"transform 'hadamard' cannot rotate {kind}: {name} is no RMSNorm of the form w x / rms(x)")


def _has(module: Any, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _weights(module: Any) -> bool:
    return any(True for _ in module.parameters())


@torch.no_grad()
def _is_plain_rms(norm: Any) -> bool:
    if not hasattr(norm, "weight") or getattr(norm, "bias", None) is not None:
        return False
    weight = norm.weight.float()
    x = torch.linspace(-2, 3, len(weight), device=weight.device).to(norm.weight.dtype)
    expected = weight * x.float() * torch.rsqrt(x.float().square().mean() + 1e-6)
    return bool(torch.allclose(norm(x[None, None])[0, 0].float(), expected, rtol=5e-2, atol=1e-2 * float(weight.abs().max())))
