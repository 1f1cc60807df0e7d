"""The engine's key-value cache: rows end at the same column, so that a step writes one column and reads one window.

A slot holds one row. All rows are aligned at their right end: the next token of every row goes to column ``end``, and a row
of n cached tokens lies in ``[end - n, end)``. That is the layout of a left-padded batch, which every ``transformers`` model
understands (sliding windows included), while a step costs one contiguous write and no gather. Attention reads the columns
``[begin, end]``, where ``begin`` is the start of the longest row. When the columns are used up, the window moves back to
the left, and the buffer grows only if the longest row needs it.

Shapes: S slots, H key-value heads, C columns, D head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from whet.errors import ModelError

SLACK = 64
"""Columns beyond the longest row: the window moves once in so many steps, which costs about as much as one step's reads."""

Prefix = list[tuple[int, Tensor, Tensor]]
"""Cached tokens of one row: for each layer its index, and keys and values ``[H, n, D]``."""


def require_cache(network: PreTrainedModel) -> None:
    """Refuses networks whose past is not keys and values per token.

    Raises:
        ModelError: an encoder-decoder, or a network with recurrent state (state-space, linear attention, convolution).
    """
    config = network.config.get_text_config(decoder=True)
    way_out = f"call {type(network).__name__}.generate of transformers for this model"
    if getattr(network.config, "is_encoder_decoder", False):
        found = f"model type {network.config.model_type!r} is an encoder-decoder"
        raise ModelError(f"{found}, whet generates with causal models; {way_out}")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention", "chunked_attention"}
    if getattr(network, "_is_stateful", False) or kinds:
        found = f"layers of type {', '.join(sorted(kinds))}" if kinds else "a recurrent state"
        raise ModelError(f"model type {config.model_type!r} has {found}, which whet's key-value cache cannot hold; {way_out}")


def takes_full_mask(network: PreTrainedModel) -> bool:
    """Whether the network takes an additive mask ``[B, 1, Q, K]`` as it is: plain attention in every layer, no window."""
    config = network.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    windows = (getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None))
    plain = set(kinds) == {"full_attention"} if kinds else windows == (None, None)
    modern = getattr(network, "_supports_attention_backend", False)
    return bool(modern and plain and config._attn_implementation in ("sdpa", "eager"))


class SlotCache(Cache):
    """Keys and values of the running rows, as ``transformers`` models expect them from a ``Cache``.

    Args:
        slots: S, the most rows at once.
        longest: the most tokens that a row can have.
        device: where the masks lie; keys and values follow the network.
        mask_dtype: the type of the additive mask, or ``None`` for a padding mask ``[B, K]`` of ones and zeros.
    """

    def __init__(self, slots: int, longest: int, device: torch.device, mask_dtype: torch.dtype | None) -> None:
        super().__init__(layers=[])
        self.slots, self.limit = slots, longest + SLACK
        self.columns = min(self.limit, 2 * SLACK)
        self.begin = self.end = 0
        self.starts: list[int] = []
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.device, self.mask_dtype = device, mask_dtype
        self._mask = torch.empty(0)

    @property
    def rows(self) -> int:
        return len(self.starts)

    def place(self, slot: int, count: int) -> None:
        """Gives a slot, one of the running or the next one, to a row of ``count`` cached tokens; :meth:`fill` brings them.

        Rows come the longest first: none is longer than the longest that runs, unless none runs.
        """
        if not self.rows:
            self.begin, self.end = 0, count
            self._reserve(count)
        self.starts[slot : slot + 1] = [self.end - count]

    def fill(self, slots: Sequence[int], prefix: Prefix) -> None:
        """Copies a prefix into placed slots."""
        for layer, keys, values in prefix:
            index = torch.tensor(slots, device=keys.device)
            for store, new in ((self.keys, keys), (self.values, values)):
                self._layer(store, layer, new[None])[index, :, self.end - new.shape[1] : self.end] = new

    def leave(self, slot: int) -> None:
        """Ends a row; the last row takes its slot."""
        last = self.rows - 1
        if slot != last:
            self.starts[slot] = self.starts[last]
            for store in (*self.keys.values(), *self.values.values()):
                store[slot, :, self.starts[slot] : self.end] = store[last, :, self.starts[slot] : self.end]
        self.starts.pop()

    def settle(self) -> None:
        """To be called after rows came or went: finds the window again and builds the mask."""
        self.begin = min(self.starts, default=self.end)
        starts = torch.tensor(self.starts, device=self.device)
        seen = torch.arange(self.columns, device=self.device) >= starts[:, None]
        if self.mask_dtype is None:
            self._mask = seen.long()
        else:
            self._mask = torch.zeros(seen.shape, dtype=self.mask_dtype, device=self.device).masked_fill_(~seen, -torch.inf)

    def open_column(self) -> Tensor:
        """Makes room for one more token per row; returns the mask over the window and the new column."""
        if self.end == self.columns:
            self._to_the_left()
        window = self._mask[:, self.begin : self.end + 1]
        return window if self.mask_dtype is None else window[:, None, None]

    def close_column(self) -> None:
        """To be called after the forward pass that wrote the column."""
        self.end += 1

    def _to_the_left(self) -> None:
        """Moves the window to the first columns, in a larger buffer if there is not enough room behind it."""
        width = self.end - self.begin
        old = [(stores, layer, store) for stores in (self.keys, self.values) for layer, store in stores.items()]
        self._reserve(width)
        for stores, layer, store in old:
            window = store[: self.rows, :, self.begin : self.end]
            if store.shape[2] < self.columns:
                stores[layer] = store.new_zeros((*store.shape[:2], self.columns, store.shape[3]))
            else:
                window = window.clone()
            stores[layer][: self.rows, :, :width] = window
        self.starts = [start - self.begin for start in self.starts]
        self.begin, self.end = 0, width
        self.settle()

    def _reserve(self, count: int) -> None:
        if count + SLACK > self.columns:
            self.columns = max(count + SLACK, min(self.limit, 2 * self.columns))

    def _layer(self, stores: dict[int, Tensor], layer: int, like: Tensor) -> Tensor:
        store = stores.get(layer)
        if store is None or store.shape[2] < self.columns:
            # Zeros, as masked columns take part with weight 0, which only a finite number survives.
            stores[layer] = store = like.new_zeros(self.slots, like.shape[1], self.columns, like.shape[3])
        return store

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes the new token's keys and values ``[B, H, 1, D]``; returns those of the window."""
        keys, values = self._layer(self.keys, layer_idx, key_states), self._layer(self.values, layer_idx, value_states)
        rows = key_states.shape[0]
        keys[:rows, :, self.end] = key_states[:, :, 0]
        values[:rows, :, self.end] = value_states[:, :, 0]
        return keys[:rows, :, self.begin : self.end + 1], values[:rows, :, self.begin : self.end + 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.end - self.begin

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.end - self.begin + query_length, 0


def prefill(network: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
    """Runs the network over prompts, padded at the right (where causal attention needs no mask), and returns their caches.

    Args:
        network: a network that :func:`require_cache` lets pass.
        prompts: token ids, none empty; lengths should be similar, as the batch is padded to the longest.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[*p, *[p[-1]] * (longest - len(p))] for p in prompts], device=network.device)
    cache = DynamicCache()
    positions = torch.arange(longest, device=network.device)[None]
    network(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, **last_logits_only(network))
    held: list[Any] = cache.layers
    layers = [(i, layer.keys, layer.values) for i, layer in enumerate(held) if layer.is_initialized]
    return [[(i, k[j, :, : len(p)], v[j, :, : len(p)]) for i, k, v in layers] for j, p in enumerate(prompts)]


def forward_positions(device: torch.device) -> int:
    """The most positions of one forward pass, padding included.

    An accelerator needs many to be busy. A processor is three times as fast with few: the numbers between two layers stay in
    its cache, and sequences of falling length need less padding.
    """
    return 1024 if device.type == "cpu" else 8192


def last_logits_only(network: PreTrainedModel) -> dict[str, int]:
    """The argument that spares the output head all positions but the last, where the network takes it."""
    inner = getattr(network, "get_base_model", lambda: network)()
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}


def vocabulary_size(network: Any) -> int:
    """Entries of the input embedding, which may be more than the tokenizer's."""
    return int(network.get_input_embeddings().weight.shape[0])
