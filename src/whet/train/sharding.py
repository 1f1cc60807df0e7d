"""Spreads a network over the ranks (FSDP2), and gathers it back.

Each decoder layer is one unit, the rest (embedding, last norm, output layer) another. A unit's weights are split along their
first axis; they are gathered when it runs, forward and backward, and its gradients are summed over the ranks as soon as they
are there. So a rank holds 1/size of weights, gradients and optimizer state, and one whole unit at a time. What is trained
stays float32 and so do the sums: the products' format is chosen as in one process (:mod:`whet.train.precision`), gathering is
in the format of the weights.

Every rank loads the whole network before it is split: the machine needs memory for ``size`` copies at that moment, and with
accelerators each must hold the whole network once.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from whet.train.distributed import World
    from whet.train.policy import HFPolicy


def shard(policy: HFPolicy, world: World) -> nn.Module | None:
    """Splits the policy's network and value head over the ranks, in place; all ranks must hold the same weights.

    Returns:
        The network's shape, without weights, from which :func:`whole` builds it again; ``None`` for a single process.
    """
    if world.size == 1:
        return None
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    network: Any = policy.network
    shape = _with_weights(network, lambda _, p: torch.empty_like(p, device="meta"))
    formats = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in _layers(network):
        fully_shard(layer, mesh=world.mesh, mp_policy=formats)
    roots = [network, *([policy.value_head] if policy.value_head is not None else [])]
    for root in roots:
        fully_shard(root, mesh=world.mesh, mp_policy=formats)
    for module in (module for root in roots for module in root.modules()):
        if isinstance(module, FSDPModule):
            # Losses are already divided by the counts of the whole step: gradients are summed, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if (backbone := policy.backbone) is not None:
        # Called past the network's own forward, which is where FSDP would gather the embedding and the output layer.
        network.last_hidden_states = lambda **inputs: (backbone(**inputs)[0],)
        register_fsdp_forward_method(network, "last_hidden_states")
        policy.run_backbone_by(network.last_hidden_states)
    # The value head's output is only read.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    return shape


def whole(policy: HFPolicy, shape: nn.Module, device: torch.device) -> nn.Module:
    """The network with all its weights, on every rank, gathered tensor by tensor: costs the memory of a full copy per rank."""
    network: Any = policy.network
    # After a forward without backward the last unit is still whole, with the weights of that moment.
    network.reshard()
    weights = dict(network.named_parameters())

    def gathered(name: str, _: nn.Parameter) -> Tensor:
        weight = weights[name].detach()
        return (weight.full_tensor() if is_sharded(weight) else weight).to(device)

    return _with_weights(shape, gathered)


def is_sharded(tensor: Tensor) -> bool:
    """Whether other ranks hold other rows of the tensor."""
    return hasattr(tensor, "placements")


def own_rows(tensor: Any) -> tuple[int, int]:
    """[start, end): the rows of a sharded tensor that lie on this rank (none, where it has fewer rows than there are ranks)."""
    mesh, rows = tensor.device_mesh, tensor.shape[0]
    each = -(-rows // mesh.size())
    start = min(mesh.get_local_rank() * each, rows)
    return start, min(start + each, rows)


def as_sharded(rows: Tensor, like: Any) -> Tensor:
    """A tensor of the shape of ``like`` of which this rank holds ``rows``."""
    from torch.distributed.tensor import DTensor

    local = rows.to(like.device)
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float, world: World) -> float:
    """Scales the gradients so that their norm over all parameters and ranks is at most ``largest``; returns the norm before."""
    if world.size == 1:
        return float(nn.utils.clip_grad_norm_(parameters, largest))
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    own = [gradient.to_local() for gradient in gradients]
    norm = math.sqrt(world.sum({"squares": float(nn.utils.get_total_norm(own)) ** 2})["squares"])
    if norm > largest:
        torch._foreach_mul_(own, largest / (norm + 1e-6))
    return norm


def _layers(network: nn.Module) -> list[nn.Module]:
    """The decoder layers: the heaviest list of modules; empty if the network has none."""
    lists: list[nn.Module] = [m for m in network.modules() if isinstance(m, nn.ModuleList)]
    return list(max(lists, key=_weights).children()) if lists else []


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _with_weights(network: nn.Module, weight: Callable[[str, nn.Parameter], Tensor]) -> nn.Module:
    """A copy of the network with other weights; those that were tied stay tied."""
    made = {id(p): nn.Parameter(weight(name, p), requires_grad=p.requires_grad) for name, p in network.named_parameters()}
    return copy.deepcopy(network, made)
