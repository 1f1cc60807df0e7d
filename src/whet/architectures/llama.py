"""A Llama-shaped network from scratch, with a byte-level BPE tokenizer trained on the recipe's text.

For tests, demos and small studies. Digits are single tokens, so that arithmetic has one spelling; the chat template marks
the assistant's turns with ``{% generation %}``. Weights are drawn from N(0, 0.02), residual outputs from
N(0, 0.02 / sqrt(2 layers)).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from whet.architectures.tokenizer import train_tokenizer
from whet.errors import RecipeError
from whet.model import Model


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

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise RecipeError(
                f"model: hidden_size {self.hidden_size} must be a multiple of heads {self.heads}, "
                f"and heads a multiple of key_value_heads {self.key_value_heads}"
            )

    def __call__(self, texts: Iterable[str], seed: int) -> Model:
        """A randomly initialised float32 model whose tokenizer is trained on ``texts``."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = train_tokenizer(texts, self.vocab_size)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=self.tie_embeddings,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = LlamaForCausalLM(config)
            for name, parameter in network.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.layers))
        return Model(network.eval(), tokenizer, "scratch")
