"""Models that are none, or are damaged: refused by the file or tensor, before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import whet
from whet.errors import ModelError
from whet.model import Model

LAYER = "model.layers.1.mlp.up_proj.weight"
Change = Callable[[Path], Any]


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def raw(change: Callable[[bytes], bytes]) -> Change:
    def rewrite(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return rewrite


def config(**changes: Any) -> Change:
    def rewrite(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return rewrite


def sharded(change: Callable[[Path, dict[str, Any]], Any]) -> Change:
    """Splits the weights over two files with an index and changes these."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
            index["weight_map"].update(dict.fromkeys(part, file))
        change(folder, index)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return rewrite


def refused(user: Any, change: Change, *wanted: str) -> None:
    change(user.model)
    user.refused(user.recipe(), *wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(user: Any, value: float) -> None:
    refused(user, weights(lambda t: t[LAYER][3, 4].fill_(value)), f"tensor '{LAYER}' holds NaN or Inf", "take an earlier one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raw(lambda b: b[:-1000]), "model.safetensors: damaged: tensor"),
        (raw(lambda b: b[:50]), "model.safetensors: damaged: shorter than its header (50 bytes)"),
        (raw(lambda b: b""), "model.safetensors: damaged: shorter than its header (0 bytes)"),
        (raw(lambda b: (9).to_bytes(8, "little") + b"not json!" + b[:99]), "model.safetensors: damaged: its header is no JSON"),
        (raw(lambda b: (2).to_bytes(8, "little") + b"[]"), "model.safetensors: damaged: its header is no list of tensors"),
        (raw(lambda b: (9).to_bytes(8, "little") + b'{"a": {}}'), "damaged: its header describes tensor 'a' as {}"),
    ],
)
def test_damaged_weight_file(user: Any, change: Change, message: str) -> None:
    refused(user, change, message, "fetch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder, index: (folder / "model-00002-of-00002.safetensors").unlink(),
            "names the shard 'model-00002-of-00002.safetensors', which is not in the folder",
        ),
        (
            lambda folder, index: index["weight_map"].update({LAYER: "../model.safetensors"}),
            "names the shard '../model.safetensors'",
        ),
        (
            lambda folder, index: index["weight_map"].update({"nope": "model-00001-of-00002.safetensors"}),
            "says that tensor 'nope' is in model-00001-of-00002.safetensors, but it is not",
        ),
        (lambda folder, index: index.pop("weight_map"), "it has no readable 'weight_map'"),
        (lambda folder, index: index.update(weight_map=[1]), "'weight_map' must give the file of each tensor"),
    ],
)
def test_shards_and_index(user: Any, change: Any, message: str) -> None:
    refused(user, sharded(change), "model.safetensors.index.json", message)


def test_weights_without_a_tensor_are_not_filled_up_with_random_numbers(user: Any) -> None:
    refused(
        user, weights(lambda t: t.pop(LAYER)), f"the weights lack 1 tensors of the network, first '{LAYER}'", "random numbers"
    )
    config(num_hidden_layers=3)(user.model)
    user.refused(user.recipe(), "the weights lack 10 tensors")


def test_tensors_that_the_configuration_has_no_place_for_are_told(user: Any, caplog: pytest.LogCaptureFixture) -> None:
    config(num_hidden_layers=1)(user.model)
    assert user.run(user.recipe())[0] == 0
    assert "has no place for 9 tensors of the weights, first 'model.layers.1.input_layernorm.weight'" in caplog.text


def test_weights_and_configuration_of_different_models(user: Any) -> None:
    refused(user, config(intermediate_size=96), "has shape (64, 128) in the weights, but config.json asks for (64, 96)")


def test_pickle_weights(user: Any) -> None:
    torch.save({}, user.model / "pytorch_model.bin")
    refused(
        user,
        lambda folder: (folder / "model.safetensors").unlink(),
        "no *.safetensors weights. It has pickle weights, which can run code; convert them",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "this folder is no model: it has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not a valid JSON file"),
        (lambda folder: (folder / "config.json").write_text("{}"), "Should have a `model_type` key in its config.json"),
        (config(hidden_size="64"), "'hidden_size' expected int, got str (value: '64')"),
        (lambda folder: [f.unlink() for f in folder.glob("token*")], "cannot load model"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot load model"),
        (lambda folder: (folder / "whet.json").write_text("{"), "whet.json: damaged"),
        (lambda folder: (folder / "whet.json").write_text("[1]"), "whet.json: damaged: no lineage of a model; remove this file"),
    ],
)
def test_a_folder_that_is_no_model(user: Any, change: Change, message: str) -> None:
    refused(user, change, message)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nanno", "unknown model 'nanno': did you mean 'nano'?"),
        ("./absent", "./absent: no such folder"),
        ("rows.jsonl", "this is a file; a model is a folder with config.json and *.safetensors weights"),
        ("", "model: expected a model's name, folder or hub id"),
    ],
)
def test_a_model_that_is_not_there(user: Any, model: str, message: str) -> None:
    reference = str(user.folder / model) if model.endswith("jsonl") else model
    user.refused(user.recipe(model=reference), message)


def test_a_changed_tokenizer_is_another_model(user: Any) -> None:
    """The weights' hash alone would give the result of the other template again."""
    assert user.run(user.recipe())[0] == 0
    file = user.model / "chat_template.jinja"
    file.write_text(
        file.read_text().replace("<|user|>", "<|system|>").replace("message['role'] + '|>'", "message['role'] + '|> '")
    )
    _, printed, _ = user.run(user.recipe())
    assert "[train] sft: runs: changed since" in printed and "input base" in printed


def test_tokenizer_without_chat_template(user: Any) -> None:
    refused(
        user,
        lambda folder: (folder / "chat_template.jinja").unlink(),
        "this tokenizer has no chat template",
        "format: plain",
        "BASIC_TEMPLATE",
    )
    (user.model / "whet.json").unlink()
    answers = {"name": "answers", "data": {"name": "nanoworld", "rows": 4}}
    user.refused(
        user.recipe(train=None, measure=[{"name": "m", "tasks": [answers]}]),
        "measure step 'm': answers: this tokenizer has no chat template",
    )
    plain = {"name": "plain", "data": "rows", "format": "plain", "steps": 1, "batch_size": 4}
    user.refused(
        user.recipe(train=[plain, {**plain, "name": "sft", "format": "chat"}]),
        "train step 'sft': row 0: this tokenizer has no chat template",
    )
    assert user.run(user.recipe(train=[plain]))[0] == 0


def test_broken_chat_template(user: Any) -> None:
    refused(
        user,
        lambda folder: (folder / "chat_template.jinja").write_text("{% for x %}"),
        "the chat template refuses a chat with roles (user, assistant)",
    )


def test_tokenizer_larger_than_the_embedding(user: Any) -> None:
    file = user.model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 300, "content": "<|new|>"})
    file.write_text(json.dumps(tokenizer))
    user.file("rows.jsonl", '{"prompt": "a <|new|>", "completion": "b"}\n' * 4)
    user.refused(user.recipe(), "token id 300", "ids 0 to 299")


def test_no_end_token(user: Any) -> None:
    file = user.model / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
    (user.model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    user.refused(
        user.recipe(),
        "this tokenizer has no end-of-sequence token and its template closes replies with none: the model could never stop",
    )
    plain = {"name": "sft", "data": "rows", "format": "plain", "steps": 1}
    user.refused(user.recipe(train=[plain]), "this tokenizer has no end-of-sequence token; set `eos: false` in the format")


def test_float16_on_a_cpu(user: Any) -> None:
    weights(lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))(user.model)
    config(dtype="float16")(user.model)
    model = whet.load(user.model, device="cpu")
    assert model.network.dtype is torch.float16
    tuned = whet.train(model, [{"prompt": "a", "completion": "b"}] * 4, budget="2 steps")
    assert tuned.network.dtype is torch.float16 and tuned.lineage["step"]["receipt"]["dtypes"]["weights"] == "float32"
    table = whet.measure(tuned, {"name": "replies", "data": {"name": "nanoworld", "rows": 4}})
    assert table.results[0].estimates["perplexity"].value < 1e6


def test_unknown_dtype(user: Any) -> None:
    with pytest.raises(ModelError, match="unknown dtype 'flot32': did you mean 'float32'"):
        whet.load(user.model, dtype="flot32")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (config(intermediate_size=96), "has shape"),
        (config(vocab_size=310), "tensor 'model.embed_tokens.weight' has shape"),
    ],
)
def test_merging_models_of_different_shapes(user: Any, tiny_model: Model, other: Change, message: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = tiny_model.config.to_dict()
    changed = user.folder / "settings"
    changed.mkdir()
    (changed / "config.json").write_text(json.dumps(settings))
    other(changed)
    wider = Model(LlamaForCausalLM(LlamaConfig.from_pretrained(changed)), tiny_model.tokenizer, "wider")
    with pytest.raises(ModelError, match=f"cannot merge model and wider: .*{message}"):
        whet.edit([user.model, wider.save(user.folder / "wider")], "soup", out=user.folder / "merged")
    assert not (user.folder / "merged").exists()


def test_merging_models_of_different_tokenizers(user: Any, tiny_model: Model) -> None:
    other = tiny_model.save(user.folder / "other")
    text = (other / "tokenizer.json").read_text()
    vocabulary = json.loads(text)
    words = vocabulary["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError, match=r"cannot merge model and other: their tokenizers differ"):
        whet.edit([user.model, other], "soup", out=user.folder / "merged")
    assert not (user.folder / "merged").exists()


def test_tied_weights_stay_tied_after_an_edit(user: Any, tiny_model: Model) -> None:
    other = tiny_model.copy()
    with torch.no_grad():
        other.network.get_input_embeddings().weight.add_(0.01)
    merged = whet.edit([user.model, other], "soup", out=user.folder / "merged")
    head, embedding = merged.network.get_output_embeddings().weight, merged.network.get_input_embeddings().weight
    assert head is embedding
    torch.testing.assert_close(embedding, tiny_model.network.get_input_embeddings().weight + 0.005)
