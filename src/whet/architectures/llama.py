"""A Llama-shaped network from scratch, with a byte-level BPE tokenizer trained on the recipe's text.

For tests, demos and small studies. Digits are single tokens, so that arithmetic has one spelling; the chat template marks
the assistant's turns with ``{% generation %}``. Weights are drawn from N(0, 0.02), residual outputs from
N(0, 0.02 / sqrt(2 layers)).

``activation``, ``normalization`` and ``embedding_scale`` make variants of one network, as a test of whether what trains it well
trains its like well: ``layer`` takes LayerNorm (with weight and bias, StableLM's network) for RMSNorm; the embedding's initial
weights are multiplied by ``embedding_scale``, and where embeddings are tied so are the output's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt

from whet.architectures.tokenizer import train_tokenizer
from whet.errors import RecipeError
from whet.model import Model

NORM_EPS = 1e-6
"""Added to the variance in every norm."""


@dataclass(frozen=True)
class Llama:
    """Sizes of the network; the defaults are those of the bundled model ``nano`` (about 1.8 M weights)."""

    hidden_size: Annotated[int, Gt(0)] = 192
    layers: Annotated[int, Gt(0)] = 4
    heads: Annotated[int, Gt(0)] = 6
    key_value_heads: Annotated[int, Gt(0)] = 2
    intermediate_size: Annotated[int, Gt(0)] = 512
    vocab_size: Annotated[int, Gt(260)] = 1024
    context: Annotated[int, Gt(0)] = 512
    rope_theta: Annotated[float, Gt(0)] = 10_000.0
    tie_embeddings: bool = True
    activation: Literal["silu", "gelu", "relu"] = "silu"
    normalization: Literal["rms", "layer"] = "rms"
    embedding_scale: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise RecipeError(
                f"model: hidden_size {self.hidden_size} must be a multiple of heads {self.heads}, "
                f"and heads a multiple of key_value_heads {self.key_value_heads}"
            )

    def __call__(self, texts: Iterable[str], seed: int) -> Model:
        """A randomly initialised float32 model whose tokenizer is trained on ``texts``."""
        import torch
        from transformers import AutoModelForCausalLM

        tokenizer = train_tokenizer(texts, self.vocab_size)
        config = self._config(
            vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = AutoModelForCausalLM.from_config(config)
            for name, parameter in network.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.layers))
            with torch.no_grad():
                network.get_input_embeddings().weight.mul_(self.embedding_scale)
        return Model(network.eval(), tokenizer, "scratch")

    def _config(self, **tokens: Any) -> Any:
        """The network's configuration, with what the tokenizer decides."""
        from transformers import LlamaConfig, StableLmConfig

        rope: Any = {"rope_type": "default", "rope_theta": self.rope_theta}
        sizes: Any = {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": self.activation,
        }
        if self.normalization == "layer":
            rope["partial_rotary_factor"] = 1.0
            return StableLmConfig(**sizes, **tokens, rope_parameters=rope, layer_norm_eps=NORM_EPS)
        return LlamaConfig(**sizes, **tokens, rope_parameters=rope, rms_norm_eps=NORM_EPS)
