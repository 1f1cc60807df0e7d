"""Small forwards that find out what may be done with a network, instead of trusting its name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet.generate.cache import takes_full_mask
from whet.generate.evaluation import evaluation


def inner(network: Any) -> Any:
    """The ``transformers`` module itself, out of a PEFT wrapper whose layers were replaced in place."""
    return network.get_base_model() if hasattr(network, "peft_config") else network


def backbone_and_head(network: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The part up to the last hidden states and the output layer, if the logits are exactly ``head(backbone(x))``.

    The full network is run once with its last hidden states made 1000 times larger: soft caps and scales of the logits,
    which small numbers would hide, show. ``None`` if there is no such split or it would change the logits.
    """
    model = inner(network)
    backbone, head = getattr(model, "base_model", None), model.get_output_embeddings()
    if backbone is None or backbone is model or head is None or _prompt_tuned(network):
        return None
    kept: list[Tensor] = []

    def enlarge(module: nn.Module, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * 1000
        kept.append(output.last_hidden_state)
        return output

    handle = backbone.register_forward_hook(enlarge)
    try:
        with evaluation(network):
            logits = network(input_ids=_tokens(network, 1, 6), use_cache=False).logits
            same = len(kept) == 1 and torch.allclose(head(kept[0]).float(), logits.float(), rtol=1e-5, atol=1e-3)
    finally:
        handle.remove()
    return (backbone, head) if same else None


def keeps_rows_apart(network: nn.Module) -> bool:
    """Whether rows packed one after another, told apart by their positions alone, are as good as separate.

    The second row must not notice a change of the first, and must come out as it does alone. Networks with
    recurrent state or their own attention may fail; their rows are then padded instead of packed.
    """
    rows = _tokens(network, 2, 5)
    other = torch.cat([rows[1, :5], rows[1, :5]]).view(2, 5)
    positions = torch.arange(5, device=rows.device).repeat(2)[None]
    with evaluation(network):
        packed, changed = (
            network(input_ids=ids.reshape(1, 10), position_ids=positions, use_cache=False).logits[0, 5:].float()
            for ids in (rows, other)
        )
        alone = network(input_ids=rows[1:], position_ids=positions[:, :5], use_cache=False).logits[0].float()
    tolerance = 1e-4 if next(network.parameters()).dtype is torch.float32 else 3e-2
    scale = float(alone.abs().max())
    return bool((packed - changed).abs().max() <= 1e-6 * scale and (packed - alone).abs().max() <= tolerance * scale)


def shares_stems(network: nn.Module) -> bool:
    """Whether rows may share their beginning, told apart by a mask: each must come out as it does alone."""
    if not takes_full_mask(inner(network)):
        return False
    stem, ends = _tokens(network, 1, 3)[0], _tokens(network, 3, 3)[1:]
    ids = torch.cat([stem, ends[0], ends[1]])[None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 5]], device=ids.device)
    row = torch.tensor([[-1, -1, -1, 0, 0, 0, 1, 1, 1]], device=ids.device)
    dtype = next(network.parameters()).dtype
    with evaluation(network):
        mask = tree_mask(row, torch.zeros_like(row), dtype)
        shared = network(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits[0, 6:].float()
        alone = network(input_ids=torch.cat([stem, ends[1]])[None], use_cache=False).logits[0, 3:].float()
    tolerance = 1e-4 if dtype is torch.float32 else 3e-2
    return bool((shared - alone).abs().max() <= tolerance * float(alone.abs().max()))


def tree_mask(row: Tensor, stem: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [N, 1, S, S] of a batch whose rows share beginnings; see :class:`whet.data.example.Batch`.

    A position sees what stands before it in its own row, and the beginning that its tree shares.
    """
    same_tree = stem[:, :, None] == stem[:, None, :]
    seen = same_tree & ((row[:, :, None] == row[:, None, :]) | (row[:, None, :] < 0))
    return torch.zeros(seen.shape, dtype=dtype, device=row.device).masked_fill_(~seen.tril_(), -torch.inf)[:, None]


def _prompt_tuned(network: Any) -> bool:
    return any(getattr(config, "is_prompt_learning", False) for config in getattr(network, "peft_config", {}).values())


def _tokens(network: Any, rows: int, length: int) -> Tensor:
    model = inner(network)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(rows * length) * 7919 + 13) % vocabulary
    return ids.view(rows, length).to(model.device)
