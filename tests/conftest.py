"""Fixtures shared by the tests: a tiny tokenizer and a tiny random model, made on the fly."""

from __future__ import annotations

import copy
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from whet.model import Model, quiet_transformers

torch.set_num_threads(1)
quiet_transformers()


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's store."""
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "whet-home"))


TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SENTENCES = [
    "Tom has 12 apples and buys 7 more.",
    "What is 3 plus 4?",
    "The answer is 19.",
    "Sort the list: 4, 1, 3.",
    "abc xyz 0123456789",
]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with 300 entries, special tokens and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|eos|>")
    fast.chat_template = TEMPLATE
    return fast


def tiny_network(vocab_size: int, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """A random Llama with grouped-query attention: hidden 64, 4 heads, 2 key-value heads, context 256."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    network = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return network


@pytest.fixture(scope="session")
def tiny_folder(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model like ``tiny_model``, for processes that load it themselves."""
    model = Model(tiny_network(len(tiny_tokenizer)), tiny_tokenizer, "tiny")
    return model.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> Model:
    """A random two-layer model; larger weights than usual, so that its predictions differ from uniform."""
    return Model(tiny_network(len(tiny_tokenizer)), copy.deepcopy(tiny_tokenizer), "tiny")
