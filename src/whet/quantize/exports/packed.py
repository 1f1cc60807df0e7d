"""whet's own packed folder: every grid, column order and online operation that the pipeline can make, read back bit for bit.

The written folder is read back at once; codes and decoded weights must be the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from whet.errors import ModelError
from whet.model import Model, OtherTemplate, checked_template
from whet.quantize.export import assert_equal
from whet.quantize.packed import load_packed, save_packed


def packed(model: Model, folder: Path, *, other_template: OtherTemplate = "refuse") -> dict[str, Any]:
    """Writes the folder and checks it.

    Args:
        other_template: ``refuse`` or ``allow`` a chat template that is not the one stored with the weights.

    Returns:
        Receipt: bytes written and the comparison with the model in memory.

    Raises:
        ModelError: the model is not quantized, has another chat template, or what is read back differs.
    """
    model = checked_template(model, other_template)
    sizes = save_packed(model, folder)
    again = load_packed(folder, device=str(model.device))
    for name, tensor in model.network.state_dict().items():
        if not torch.equal(tensor, again.network.state_dict()[name]):
            raise ModelError(f"{folder}: tensor {name!r} is not the same after reading it back; the folder must not be used")
    return {"to": "packed", **sizes, "reloaded": assert_equal(model, again.network, Path(folder))}
