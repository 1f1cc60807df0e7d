"""A plain folder that ``AutoModelForCausalLM.from_pretrained`` loads: decoded weights, no codes, full size.

For tools that know nothing of quantization, and to merge or train on. The written folder is read back by ``transformers``
and must give the same logits. A network with online operations is refused, since a plain loader would leave them out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whet.model import Model, OtherTemplate, checked_template
from whet.quantize.export import assert_equal, assert_same_weights, folder_bytes, refuse_online, reload


def transformers(
    model: Model, folder: Path, *, max_shard_size: str = "5GB", other_template: OtherTemplate = "refuse"
) -> dict[str, Any]:
    """Writes the folder and checks it.

    Args:
        max_shard_size: weight files larger than this are split.
        other_template: ``refuse`` or ``allow`` a chat template that is not the one stored with the weights.

    Returns:
        Receipt: bytes written and the comparison with the model in memory.

    Raises:
        RecipeError: the network has online operations.
        ModelError: another chat template, or read back, it predicts something else.
    """
    refuse_online(model, "transformers")
    model = checked_template(model, other_template)
    folder = model.save(folder, max_shard_size)
    reloaded = reload(folder, model.device)
    assert_same_weights(model, reloaded, folder)
    check = assert_equal(model, reloaded, folder)
    return {"to": "transformers", "bytes": folder_bytes(folder), "layers_decoded": len(model.quantized), "reloaded": check}
