"""Trains a low-rank addition to each linear layer and leaves the weights themselves alone.

A layer with weight W [out, in] computes ``x W^T + (alpha / r) x A^T B^T`` with A [r, in] random and B [out, r] zero at
first, so training starts at the model itself. Only A and B move: memory for gradients and moments shrinks by the ratio of
ranks, and the difference can be stored, exchanged and merged. The work is done by PEFT, in whose format it is saved.
Defaults: r 16, alpha 32 (the usual ratio of 2), all linear layers but the output layer, no dropout.

Introduced by Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from whet.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoRA:
    """``r``: rank; ``alpha``: the addition is scaled by alpha / r; ``targets``: endings of layer names, or
    ``all-linear``; ``dropout``: of the layer's input on the low-rank path; ``rslora``: scale by alpha / sqrt(r) instead.
    """

    r: Annotated[int, Gt(0)] = 16
    alpha: Annotated[float, Gt(0)] = 32.0
    targets: tuple[str, ...] = ("all-linear",)
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    rslora: bool = False

    def attach(self, network: PreTrainedModel) -> nn.Module:
        """Wraps the network; its weights are frozen, A and B are float32.

        Raises:
            RecipeError: no layer has such a name.
        """
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            target_modules="all-linear" if self.targets == ("all-linear",) else list(self.targets),
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(network, config)
        except ValueError as error:
            layers = sorted(
                {name.rpartition(".")[2] for name, m in network.named_modules() if hasattr(m, "weight") and m.weight.ndim == 2}
            )
            raise RecipeError(
                f"adapter lora, targets {list(self.targets)}: {error}; this model's layers: {', '.join(layers)}"
            ) from error

    def merge(self, network: Any) -> PreTrainedModel:
        """Adds the low-rank products to the weights and gives the plain network back."""
        return network.merge_and_unload()

    def save(self, network: Any, folder: Path) -> None:
        """Writes A and B in PEFT's format, loadable with ``PeftModel.from_pretrained``."""
        for config in network.peft_config.values():
            # A set, whose order would be another one in every process.
            config.target_modules = sorted(config.target_modules)
        network.save_pretrained(folder)
