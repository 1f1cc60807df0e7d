"""Runs a network's decoder blocks one at a time on streamed hidden states.

Running block i on a batch means running the network on the batch's token ids with every earlier block replaced by the
stored hidden state, and an exit after it. Embeddings, masks and position embeddings are recomputed by the network itself,
so that nothing about an architecture has to be known and nothing but one hidden state per token has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whet.errors import ModelError
from whet.nonfinite import first_nonfinite
from whet.quantize.blocks import find_blocks, linears, weight_of
from whet.quantize.hessian import Hessian

STREAM_TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, between the streamed network and the network run as a whole."""


class Leave(Exception):
    """Ends a forward pass early, with what it was run for."""

    def __init__(self, output: Any = None) -> None:
        self.output = output


@dataclass
class Stream:
    """The hidden states of a calibration set on their way through a network's blocks.

    ``batches``: int64 [b, S] token ids, rows of one length each, so that no padding exists. ``hidden[i]`` [b, S, d] is the
    state of batch i at the entrance of block ``depth`` (``None`` before the first block: the network makes it).
    ``check`` makes sure, on one row, that going block by block gives the whole network's logits (ModelError if not).
    """

    network: Any
    batches: Sequence[Tensor]
    check: bool = True

    def __post_init__(self) -> None:
        self.blocks = [block for _, block in find_blocks(self.network)]
        self.depth = 0
        self.hidden: list[Tensor | None] = [None] * len(self.batches)
        self._tuples: set[nn.Module] = set()
        self._stages: dict[tuple[str, ...], list[list[str]]] = {}
        self._straight = True
        if self.check and self.batches:
            self._check()

    @property
    def bytes(self) -> int:
        """Memory of the stored hidden states."""
        return sum(state.numel() * state.element_size() for state in self.hidden if state is not None)

    def run(self, batch: int) -> Tensor:
        """Output of the current block on a batch [b, S, d], after the last block the logits [b, S, V]; the states stay."""
        output: Tensor = self._enter(self.batches[batch], self.hidden[batch])
        return output

    def advance(self) -> None:
        """Replaces every stored state by the current block's output and goes on to the next block.

        Raises:
            ModelError: an output is NaN or infinite; names the block.
        """
        for batch in range(len(self.batches)):
            state = self.run(batch)
            if not bool(state.isfinite().all()):
                raise ModelError(f"block {self.depth} puts out NaN or Inf on calibration batch {batch}; try dtype float32")
            self.hidden[batch] = state
        self.depth += 1

    def stages(self, prefix: str) -> list[list[str]]:
        """Names of the current block's linear layers, grouped by shared input, in the order they are called.

        Found on one row, and taken over for blocks with layers of the same names. Layers that the row does not reach (experts
        without tokens) form groups of their own at the end.
        """
        layers = linears(self.blocks[self.depth])
        if tuple(layers) not in self._stages:
            self._stages[tuple(layers)] = self._find_stages(layers)
        return [[f"{prefix}.{name}".strip(".") for name in stage] for stage in self._stages[tuple(layers)]]

    def _find_stages(self, layers: Mapping[str, nn.Module]) -> list[list[str]]:
        inputs: list[Tensor] = []
        groups: dict[int, list[str]] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                inputs.append(args[0])
                if any(name in names for names in groups.values()):
                    self._straight = False
                else:
                    groups.setdefault(id(args[0]), []).append(name)

            return hook

        with _hooks({layer: note(name) for name, layer in layers.items()}):
            state = self.hidden[0]
            self._enter(self.batches[0][:1], None if state is None else state[:1])
        missed = layers.keys() - {name for names in groups.values() for name in names}
        self._straight &= not missed
        return [*groups.values(), *([name] for name in layers if name in missed)]

    def hessians(self, groups: Mapping[str, Any]) -> dict[str, Hessian]:
        """``H`` of the input of each given layer (name -> module), collected in one pass over the batches.

        A pass ends at the last of the layers, unless not every layer of the block is called exactly once (experts), as none
        is surely the last then.
        """
        found = {name: Hessian(weight_of(layer).shape[1], name, layer.weight.device) for name, layer in groups.items()}
        last = list(groups)[-1] if self._straight else None

        def collect(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                found[name].add(args[0])
                if name == last:
                    raise Leave

            return hook

        with _hooks({layer: collect(name) for name, layer in groups.items()}):
            for batch in range(len(self.batches)):
                self.run(batch)
        return found

    @torch.no_grad()
    def _enter(self, ids: Tensor, state: Tensor | None) -> Any:
        """What a pass from the entrance of the current block was left with; of one that came to its end, the logits."""
        with ExitStack() as patches:
            for block in self.blocks[: self.depth]:
                patches.enter_context(_forward(block, _giving((state, None) if block in self._tuples else state)))
            for block in self.blocks[self.depth : self.depth + 1]:
                patches.enter_context(_forward(block, _leaving(block.forward)))
            try:
                logits = self.network(input_ids=ids.to(self.network.device), use_cache=False).logits
            except Leave as leave:
                return leave.output
        if self.depth < len(self.blocks):
            raise ModelError(f"{type(self.network).__name__}: block {self.depth} is not run in a forward pass")
        return logits

    @torch.no_grad()
    def _check(self) -> None:
        """Learns which blocks return tuples, and makes sure that block by block gives what the whole network gives."""
        probe = self.batches[0][:1].to(self.network.device)

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple):
                self._tuples.add(module)

        handles = [block.register_forward_hook(note) for block in self.blocks]
        whole = self.network(input_ids=probe, use_cache=False).logits
        for handle in handles:
            handle.remove()
        if not bool(whole.isfinite().all()):
            where = first_nonfinite(self.network, lambda: self.network(input_ids=probe, use_cache=False))
            raise ModelError(
                f"the network's logits hold NaN or Inf on the first calibration row: {where}; its weights are damaged or overflow "
                f"in {self.network.dtype}"
            )
        small = Stream(self.network, [probe], check=False)
        small._tuples = self._tuples
        while small.depth < len(small.blocks):
            small.advance()
        gap, size = float((small.run(0) - whole).abs().max()), float(whole.abs().max())
        if gap > STREAM_TOLERANCE * max(size, 1e-6):
            raise ModelError(
                f"{type(self.network).__name__}: run block by block it gives other logits (off by {gap:.3g} of {size:.3g}); "
                "its blocks share state beyond the hidden state, which layer-by-layer quantization cannot follow"
            )


def _giving(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: output


def _leaving(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        raise Leave(output[0] if isinstance(output, tuple) else output)

    return forward


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def _hooks(hooks: Mapping[nn.Module, Callable[..., None]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
