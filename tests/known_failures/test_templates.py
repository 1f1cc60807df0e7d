"""Known failures of other tools: end tokens that are masked away, templates written by hand, templates that differ."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import whet
from whet import parts
from whet.cli import main
from whet.data.chat import encode, prompt_ids
from whet.data.example import Example
from whet.errors import DataError, ModelError, RecipeError
from whet.measure.compare import compare
from whet.measure.tasks.answers import Answers
from whet.measure.tasks.choices import Choices
from whet.measure.tasks.replies import Replies
from whet.model import Model, load_model

ROWS = [{"prompt": f"What is {i} plus 4?", "completion": f"{i + 4}", "answer": f"{i + 4}"} for i in range(8)]

GOLDEN_TEXT = "<|user|>What is 3 plus 4?<|assistant|>7<|end|>"
GOLDEN_IDS = [3, 866, 272, 281, 293, 422, 88, 283, 36, 4, 28, 1]
GOLDEN_TRAINED = 2


def source(split: str) -> Dataset:
    return Dataset.from_list(ROWS[:3])


def own_tokenizer(model: Model) -> Model:
    """The model with a tokenizer that a test may change."""
    return replace(model, tokenizer=copy.deepcopy(model.tokenizer))


def test_the_end_token_is_trained_though_it_is_the_padding_token(tiny_model: Model) -> None:
    """huggingface/trl#3091 (with #2059): pad = eos, so the loss mask removes the real end token and the model never stops."""
    model = own_tokenizer(tiny_model)
    model.tokenizer.pad_token = model.tokenizer.eos_token
    example = encode([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}], model.tokenizer)
    assert example.input_ids[-1] == model.tokenizer.eos_token_id == model.tokenizer.pad_token_id
    assert example.trained[-1]
    receipt = whet.train(model, ROWS, steps=1).lineage["step"]["receipt"]
    assert receipt["data"]["replies_ended"] == 1.0
    assert all(text.endswith("<|eos|>⟧") for text in receipt["data"]["rendered"])


def test_after_training_ten_outputs_show_whether_the_model_stops(tiny_model: Model) -> None:
    """huggingface/trl#3091: training ends well and only the user finds out that the model never stops."""
    settings = {"batch_size": 8, "lr": 1e-2, "precision": "float32", "warmup": 0.0}
    made = whet.train(tiny_model, [{"prompt": row["prompt"], "completion": "Yes"} for row in ROWS], steps=40, **settings)
    outputs = made.lineage["step"]["receipt"]["outputs"]
    assert (outputs["sampled"], outputs["ended"], outputs["ended_share"]) == (8, 8, 1.0)
    assert outputs["outputs"][0] == "[eos] 'Yes'"

    def endless(row: Any, tokenizer: Any) -> list[Example]:
        [example] = parts.build("format", "chat")(row, tokenizer)
        return [Example(example.input_ids[:-1], example.trained[:-1])]

    endless_rows = [{"prompt": row["prompt"], "completion": "Yes " * 8} for row in ROWS]
    made = whet.train(tiny_model, endless_rows, steps=40, format=endless, **settings)
    receipt = made.lineage["step"]["receipt"]
    assert receipt["data"]["replies_ended"] == 0.0
    assert receipt["outputs"]["ended"] == 0 and receipt["outputs"]["outputs"][0].startswith("[length] ")


TEMPLATES = {
    "chatml": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "no end": "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_training_shows_the_model_what_inference_will(name: str, tiny_model: Model) -> None:
    """hiyouga/LlamaFactory#10776 (and #10770 to #10784): 124 templates written by hand that differ from the models' own."""
    tokenizer = own_tokenizer(tiny_model).tokenizer
    tokenizer.chat_template = TEMPLATES[name]
    chat = [{"role": "user", "content": "What is 3 plus 4?"}, {"role": "assistant", "content": "The answer is 7."}]
    example = encode(chat, tokenizer)
    prompt = prompt_ids({"prompt": chat[0]["content"]}, tokenizer)
    assert list(example.input_ids[: len(prompt)]) == prompt
    assert list(example.trained) == [False] * len(prompt) + [True] * (len(example) - len(prompt))
    theirs = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
    eos = tokenizer.eos_token_id
    assert list(example.input_ids) == (theirs if theirs[-1] == eos else [*theirs, eos])


def test_a_template_that_rewrites_the_chat_is_refused(tiny_model: Model) -> None:
    """hiyouga/LlamaFactory#10776: training text and inference text are not the same."""
    tokenizer = own_tokenizer(tiny_model).tokenizer
    tokenizer.chat_template = "{{ messages | length }}" + TEMPLATES["chatml"]
    with pytest.raises(DataError, match=r"the trained tokens would not be what the model sees at inference\. Way out"):
        encode([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}], tokenizer)


def test_the_golden_tokens_of_the_bundled_model() -> None:
    """hiyouga/LlamaFactory#10776: a template drifts and no test of tokens notices."""
    tokenizer = load_model("nano").tokenizer
    example = encode([{"role": "user", "content": "What is 3 plus 4?"}, {"role": "assistant", "content": "7"}], tokenizer)
    assert tokenizer.decode(example.input_ids) == GOLDEN_TEXT
    assert (list(example.input_ids), sum(example.trained)) == (GOLDEN_IDS, GOLDEN_TRAINED)


def saved_with_another_template(model: Model, folder: Path) -> Model:
    """A model that was trained under one template and whose folder then got another."""
    whet.train(own_tokenizer(model), ROWS, steps=1, name="tuned").save(folder)
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|", "<| "))
    return load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "task",
    [
        Answers(data=source, max_new_tokens=4),
        Choices(data=lambda split: Dataset.from_list([{"prompt": "a?", "choices": ["b", "c"], "gold": 0}]), form="chat"),
        Replies(data=source),
    ],
    ids=["answers", "choices", "replies"],
)
def test_measuring_under_another_template_is_refused(task: Any, tiny_model: Model, tmp_path: Path) -> None:
    """hiyouga/LlamaFactory#2509 (with #8720): accuracy 26 % or 57 %, by the template at inference."""
    model = saved_with_another_template(tiny_model, tmp_path / "tuned")
    with pytest.raises(
        ModelError, match=r"was trained or saved with chat template .*\. Put the template back, or say other_template: allow"
    ):
        task(model)
    result = replace(task, other_template="allow")(model)
    before = task(load_model(whet.train(tiny_model, ROWS, steps=1).save(tmp_path / "same"), device="cpu"))
    with pytest.raises(RecipeError, match=r"template: .* against"):
        compare(before, result)


@pytest.mark.parametrize("to", ["transformers", "packed"])
def test_exporting_under_another_template_is_refused(to: str, tiny_model: Model, tmp_path: Path) -> None:
    """hiyouga/LlamaFactory#2509: the exported model is served under a template that it was not trained with."""
    model = saved_with_another_template(tiny_model, tmp_path / "tuned")
    if to == "packed":
        model = whet.quantize(model, bits=4, group_size=32, compensate="none", name="w4")
    with pytest.raises(ModelError, match="under a template that its weights do not know"):
        whet.export(model, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    whet.export(model, tmp_path / "out", {"name": to, "other_template": "allow"})
    again = whet.load(tmp_path / "out")
    assert again.lineage["template_before"] != again.lineage["template"]
    Replies(data=source)(again)


def test_the_command_line_refuses_it_too(tiny_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """hiyouga/LlamaFactory#2509: the same by `whet export`, with the same way out."""
    saved_with_another_template(tiny_model, tmp_path / "tuned")
    where = [str(tmp_path / "tuned"), "--out", str(tmp_path / "out"), "--to"]
    assert main(["export", *where, "transformers"]) == 2
    assert "other_template: allow" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["export", *where, "{name: transformers, other_template: allow}"]) == 0
    assert main(["export", *where, "{name: transformers"]) == 2
    assert "is neither a format nor a mapping" in capsys.readouterr().err


def test_training_on_purpose_under_a_new_template_makes_it_the_models_own(tiny_model: Model, tmp_path: Path) -> None:
    """hiyouga/LlamaFactory#2509: a template is changed where it should be, before training, and travels with the weights."""
    model = saved_with_another_template(tiny_model, tmp_path / "tuned")
    tuned = whet.train(model, ROWS, steps=1, name="again")
    again = load_model(tuned.save(tmp_path / "again"), device="cpu")
    assert again.lineage["template"] != model.lineage["template"]
    Replies(data=source)(again)
