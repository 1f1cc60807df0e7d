"""What the benches of a Llama of a chosen size have in common: their arguments, the network, what a title says of it."""

from __future__ import annotations

import argparse
import logging
import warnings

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from whet.model import Model, quiet_transformers


def asked(description: str | None, *, hidden: int = 256, rounds: int = 3, **numbers: tuple[int, str]) -> argparse.Namespace:
    """The command line's arguments (``numbers``: name -> default and what it is); from then on the libraries are quiet."""
    options = argparse.ArgumentParser(description=description)
    shape = {"hidden": (hidden, "width of the model"), "layers": (6, "its layers")}
    for name, (default, what) in {**shape, **numbers, "rounds": (rounds, "rounds that are timed")}.items():
        options.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    options.add_argument("--only", help="run one contender once, for its memory")
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    quiet_transformers()
    return given


def network(hidden: int, layers: int, vocabulary: int, end: int | None = None) -> LlamaForCausalLM:
    """Random weights; ``end`` is the token that ends a text."""
    heads = hidden // 32
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=end,
    )
    return LlamaForCausalLM(config).eval()


def about(model: Model) -> str:
    """The model and the machine in a title."""
    return f"{model.parameters / 1e6:.1f} M weights, {torch.get_num_threads()} threads, torch {torch.__version__}"
