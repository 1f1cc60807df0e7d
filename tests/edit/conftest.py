"""Tiny model folders for merging: one start and copies of it that were moved at random, as fine-tuning would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from whet.model import Model

Make = Callable[..., Path]


def network(vocabulary: int, *, tied: bool = True, layers: int = 3, hidden: int = 16, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def make(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Make:
    """``make("a", moved=0.01, seed=1)`` writes a folder: the common start plus noise; returns its path."""

    def write(
        name: str, *, moved: float = 0.01, seed: int = 1, dtype: torch.dtype = torch.float32, shard: str = "5GB", **shape: object
    ) -> Path:
        net = network(len(tiny_tokenizer), **shape)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=moved)
        return Model(net.to(dtype), tiny_tokenizer, name).save(tmp_path / "in" / name, max_shard_size=shard)

    return write


@pytest.fixture
def trio(make: Make) -> tuple[Path, Path, Path]:
    """(base, a, b) in float32."""
    return make("base", moved=0.0), make("a", seed=1), make("b", seed=2)
