"""Finds the stack of residual blocks in tensor names, for edits that act by depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from whet.errors import ModelError

_NUMBERED = re.compile(r"^((?:[^.\d][^.]*\.)*[^.\d][^.]*)\.(\d+)\.")


def block_indices(names: Iterable[str], container: str | None, config: Mapping[str, Any]) -> tuple[str, dict[str, int], int]:
    """Which block each tensor belongs to.

    Only the number right behind the container's name counts, never one deeper inside (an expert, a layer of a small net).

    Args:
        names: tensor names.
        container: name before the block number (``model.layers``); ``None`` takes the outermost numbered container that
            has as many blocks as the configuration's layers, else the one with the most tensors.
        config: the model's configuration.

    Returns:
        The container, tensor name -> block index from 0 (tensors outside blocks are absent), the number of blocks L.

    Raises:
        ModelError: no such container, gaps in the numbers, or fewer than two blocks.
    """
    found: dict[str, dict[str, int]] = {}
    for name in names:
        match = _under(container, name) if container else _NUMBERED.match(name)
        if match:
            found.setdefault(match[1], {})[name] = int(match[2])
    if not found:
        raise ModelError(
            f"no numbered blocks under {container or 'any name'!r} among the tensors; give blocks, such as model.layers"
        )
    layers = config.get("num_hidden_layers") or (config.get("text_config") or {}).get("num_hidden_layers")
    chosen = max(found, key=lambda c: (len(set(found[c].values())) == layers, len(found[c])))
    indices = found[chosen]
    count = max(indices.values()) + 1
    if set(indices.values()) != set(range(count)):
        raise ModelError(
            f"{chosen}: block numbers have gaps ({sorted(set(indices.values()))}), so it is no stack of blocks; give blocks"
        )
    if count < 2:
        raise ModelError(f"{chosen}: scaling by depth needs at least 2 blocks, the model has {count}")
    return chosen, indices, count


def _under(container: str, name: str) -> re.Match[str] | None:
    return re.match(rf"({re.escape(container)})\.(\d+)\.", name)
