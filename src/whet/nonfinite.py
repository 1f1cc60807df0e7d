"""Finds numbers that are none: in weights, and where in a network's computation they come up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whet.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


def refuse_nonfinite(tensors: Mapping[str, Tensor], model: str) -> None:
    """Raises ModelError, which names model and tensor, if a weight is NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"model {model!r}: tensor {name!r} holds NaN or Inf; the checkpoint is broken, take an earlier one")


def first_nonfinite(network: nn.Module, run: Callable[[], Any]) -> str | None:
    """The first module, in the order of computation, whose output holds NaN or Inf; to be asked once a result is known to.

    Args:
        network: whose modules are watched.
        run: repeats the computation; called once, without gradients.

    Returns:
        A sentence such as ``the output of model.layers.1.mlp.up_proj (Linear) holds Inf, 3 of 640 numbers; its inputs are
        finite``, or ``None`` if every module's output is finite.
    """
    import torch

    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            bad = None if found else next((t for t in _tensors(output) if not bool(torch.isfinite(t).all())), None)
            if bad is not None:
                kind = "NaN" if bool(bad.isnan().any()) else "Inf"
                count = int((~bad.isfinite()).sum())
                sound = all(bool(torch.isfinite(t).all()) for t in _tensors(inputs))
                found.append(
                    f"the output of {name or 'the network'} ({type(module).__name__}) holds {kind}, {count:,} of {bad.numel():,} "
                    f"numbers{'; its inputs are finite' if sound else ''}"
                )

        return after

    handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating tensors in a module's inputs or output, caches left out."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _tensors(item)
