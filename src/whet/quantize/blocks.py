"""Finds the decoder blocks of a causal language model and runs them one at a time on streamed hidden states.

Running block i on a batch means running the network on the batch's token ids with every earlier block replaced by the
identity, the stored hidden state put in at block i, and an exit after it. Embeddings, masks and position embeddings are
recomputed by the network itself, so that nothing about an architecture has to be known and nothing but one hidden state
per token has to be kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from whet.errors import ModelError
from whet.nonfinite import first_nonfinite
from whet.quantize.hessian import Hessian
from whet.quantize.walk import Leave, Walk

STREAM_TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit, between the streamed network and the network run as a whole."""


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


@dataclass
class Stream:
    """The hidden states of a calibration set on their way through a network's blocks.

    ``batches``: int64 [b, S] token ids, rows of one length each, so that no padding exists. ``hidden[i]`` [b, S, d] is the
    state of batch i at the entrance of block ``depth`` (``None`` before the first block: the network makes it).
    ``check`` makes sure, on one row, that going block by block gives the whole network's logits (ModelError if not).
    ``held``: how many batches' passes may wait inside a block (:meth:`hold`); the results do not depend on it.
    """

    network: Any
    batches: Sequence[Tensor]
    check: bool = True
    held: int = 0

    def __post_init__(self) -> None:
        self.blocks = [block for _, block in find_blocks(self.network)]
        self.depth = 0
        self.hidden: list[Tensor | None] = [None] * len(self.batches)
        self._tuples: set[int] = set()
        self._now = threading.local()
        self._patches, self._users = ExitStack(), 0
        self._walks: dict[int, Walk] = {}
        self._stages: dict[tuple[str, ...], list[list[str]]] = {}
        self._straight = True
        if self.check and self.batches:
            self._check()

    @property
    def bytes(self) -> int:
        """Memory of the stored hidden states."""
        return sum(state.numel() * state.element_size() for state in self.hidden if state is not None)

    def run(self, batch: int) -> Tensor:
        """Output [b, S, d] of the current block on a batch; the stored states stay as they are."""
        return self._enter(self.batches[batch], self.hidden[batch])

    def _enter(self, ids: Tensor, state: Tensor | None) -> Tensor:
        with self._patched(state), torch.no_grad():
            try:
                self.network(input_ids=ids.to(self.network.device), use_cache=False)
            except Leave:
                output: Tensor | None = self._now.output
                if output is not None:
                    return output
                raise
        raise ModelError(f"{type(self.network).__name__}: block {self.depth} is not run in a forward pass")

    def advance(self) -> None:
        """Replaces every stored state by the current block's output and goes on to the next block.

        Raises:
            ModelError: an output is NaN or infinite; names the block.
        """
        for batch in range(len(self.batches)):
            state = self._walks[batch].finish() if batch in self._walks else self.run(batch)
            self._walks.pop(batch, None)
            if not bool(state.isfinite().all()):
                raise ModelError(f"block {self.depth} puts out NaN or Inf on calibration batch {batch}; try dtype float32")
            self.hidden[batch] = state
        self.depth += 1

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Inside it :meth:`hessians` of one layer leaves the passes of up to ``held`` batches waiting at that layer.

        Layers before it may not be changed any more then, those from it on may: the next call, and :meth:`advance`, go on from
        there. Batches that are not held are run from the block's entrance each time.
        """

        def run(batch: int) -> Tensor:
            self._now.walk = self._walks[batch]
            return self.run(batch)

        held = min(self.held, len(self.batches)) if self._straight else 0
        self._walks = {batch: Walk(partial(run, batch)) for batch in range(held)}
        try:
            yield
        finally:
            for walk in self._walks.values():
                walk.cancel()
            self._walks = {}

    @torch.no_grad()
    def logits(self, batch: int) -> Tensor:
        """Logits [b, S, V] that the rest of the network makes of the states after the last block."""
        with self._patched(self.hidden[batch]):
            return self.network(input_ids=self.batches[batch].to(self.network.device), use_cache=False).logits

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

    def hessians(self, groups: Mapping[str, Any], run: Callable[[int], Any] | None = None) -> dict[str, Hessian]:
        """``H`` of the input of each given layer (name -> module), collected in one pass over the batches.

        A pass ends at the last of the layers, or waits there inside :meth:`hold`; it goes to its end if ``run`` is given, or if
        not every layer of the block is called exactly once (experts), as none is surely the last then.
        """
        found = {name: Hessian(weight_of(layer).shape[1], name, layer.weight.device) for name, layer in groups.items()}
        last = list(groups)[-1] if run is None and self._straight else None

        def collect(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                found[name].add(args[0])
                if name == last:
                    self._reached()

            return hook

        with _hooks({layer: collect(name) for name, layer in groups.items()}):
            for batch in range(len(self.batches)):
                self._collect(batch, run)
        return found

    def _collect(self, batch: int, run: Callable[[int], Any] | None) -> None:
        if run is not None:
            run(batch)
            return
        if batch in self._walks:
            if self._walks[batch].resume():
                return
            del self._walks[batch]
        try:
            self.run(batch)
        except Leave:
            return

    def _reached(self) -> None:
        """Waits, if this is the thread of a held pass, else leaves."""
        walk = getattr(self._now, "walk", None)
        if walk is None:
            raise Leave
        walk.stop()

    @contextmanager
    def _patched(self, state: Tensor | None) -> Iterator[None]:
        """Blocks before ``depth`` pass through; block ``depth`` gets this thread's state, and its output is taken."""
        self._now.state, self._now.output = state, None
        if not self._users:
            for index, block in enumerate(self.blocks[: self.depth + 1]):
                last = index == len(self.blocks) - 1 and self.depth == len(self.blocks)
                self._patches.enter_context(
                    _forward(block, self._take(block) if index == self.depth else self._pass(block, last))
                )
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._patches.close()

    def _take(self, block: nn.Module) -> Callable[..., Any]:
        original = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden, rest, named = _split(args, kwargs)
            state = self._now.state
            output = original(hidden if state is None else state, *rest, **named)
            self._now.output = output[0] if isinstance(output, tuple) else output
            raise Leave

        return forward

    def _pass(self, block: nn.Module, last: bool) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = self._now.state if last else _split(args, kwargs)[0]
            return (hidden, None) if id(block) in self._tuples else hidden

        return forward

    @torch.no_grad()
    def _check(self) -> None:
        """Learns which blocks return tuples, and makes sure that block by block gives what the whole network gives."""
        probe = self.batches[0][:1].to(self.network.device)

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple):
                self._tuples.add(id(module))

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
        gap, size = float((small.logits(0) - whole).abs().max()), float(whole.abs().max())
        if gap > STREAM_TOLERANCE * max(size, 1e-6):
            raise ModelError(
                f"{type(self.network).__name__}: run block by block it gives other logits (off by {gap:.3g} of {size:.3g}); "
                "its blocks share state beyond the hidden state, which layer-by-layer quantization cannot follow"
            )


def _split(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], dict(kwargs)
    return kwargs["hidden_states"], (), {k: v for k, v in kwargs.items() if k != "hidden_states"}


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
