"""Tasks on a random model and on scripted completions: counting, groups, conditions, windows, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from whet import parts
from whet.errors import DataError, RecipeError
from whet.generate.completion import Completion
from whet.measure import generative
from whet.measure.compare import compare
from whet.measure.invariants import check_all
from whet.measure.rows import draw_rows
from whet.measure.tasks.answers import Answers
from whet.measure.tasks.choices import Choices, choice_scores
from whet.measure.tasks.perplexity import Perplexity
from whet.measure.tasks.procbench import ProcBench
from whet.measure.windows import rolling_windows, split_pair
from whet.model import Model

Source = Callable[[str], Dataset]


def sums(count: int = 12) -> Source:
    """Sums with the answer, by skill; the training split has other numbers."""

    def source(split: str) -> Dataset:
        shift = 100 if split == "train" else 0
        rows = [
            {
                "prompt": f"{shift + i} + 1?",
                "completion": f"{shift + i} + 1 = {shift + i + 1}\nanswer: {shift + i + 1}",
                "answer": str(shift + i + 1),
                "skill": "even" if i % 2 == 0 else "odd",
                "states": [str(shift + i), str(shift + i + 1)],
            }
            for i in range(count)
        ]
        return Dataset.from_list(rows)

    return source


def scripted(monkeypatch: pytest.MonkeyPatch, replies: Sequence[str], finish: str = "eos") -> list[Any]:
    """Makes the model write the replies in turn; returns the calls' keyword arguments."""
    calls: list[Any] = []

    def generate(model: Model, prompts: Sequence[Any], sampling: Any, **settings: Any) -> list[Completion]:
        calls.append({"prompts": prompts, "sampling": sampling, **settings})
        size = len(prompts) * settings["group_size"]
        texts = [replies[i % len(replies)] for i in range(size)]
        return [Completion(i // settings["group_size"], [5, 6], [math.log(0.5)] * 2, t, finish) for i, t in enumerate(texts)]  # type: ignore[arg-type]

    monkeypatch.setattr(generative, "generate_in_blocks", generate)
    return calls


def test_answers_counts_right_unparsable_and_unended(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["answer: 1", "I do not know", "answer: 3"], finish="length")
    result = Answers(data=sums(6))(tiny_model)
    assert [o.score for o in result.outcomes] == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert result.estimates["accuracy"].value == pytest.approx(2 / 6) and result.estimates["accuracy"].method == "wilson"
    assert result.estimates["accuracy[skill=even]"].value == pytest.approx(2 / 3)
    assert (result.receipt["unparsable"], result.receipt["ended"]) == (2, 0.0)
    assert result.receipt["baselines"]["reference"] == 1.0 and result.receipt["baselines"]["majority"] == pytest.approx(2 / 6)
    first = result.outcomes[0]
    assert (first.answer, first.prompt, first.reference) == ("1", "0 + 1?", "1")
    assert first.scores["confidence"] == pytest.approx(0.5)


def test_several_samples_give_pass_at_k(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = scripted(monkeypatch, ["answer: 1", "answer: 0", "answer: 0", "answer: 0"])
    result = Answers(data=sums(4), samples=4, temperature=1.0, pass_at=(1, 2, 4))(tiny_model)
    assert calls[0]["group_size"] == 4 and calls[0]["keys"] == [0, 1, 2, 3]
    assert result.outcomes[0].samples == (1.0, 0.0, 0.0, 0.0) and result.outcomes[0].score == 0.25
    assert [result.estimates[f"pass@{k}"].value for k in (1, 2, 4)] == pytest.approx([1 / 16, 1 / 8, 1 / 4])


def test_overlong_prompts_are_counted_and_score_zero(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["answer: 7"])
    rows = [{"prompt": "x " * 400, "answer": "7"}, {"prompt": "short", "answer": "7"}]
    result = Answers(data=lambda split: Dataset.from_list(rows))(tiny_model)
    assert [o.score for o in result.outcomes] == [0.0, 1.0]
    assert result.receipt["prompts over the context"] == 1 and result.receipt["completions"] == 1


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_worked_examples_come_first_and_never_from_the_test_rows(
    form: Any, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = scripted(monkeypatch, ["answer: 1"])
    Answers(data=sums(3), few_shot=2, form=form)(tiny_model)
    shown = tiny_model.tokenizer.decode(calls[0]["prompts"][0])
    assert shown.count("answer: 10") == 2 and shown.index("0 + 1?") < shown.rindex("0 + 1?")
    assert ("<|assistant|>" in shown) == (form == "chat")
    with pytest.raises(DataError, match="is also measured"):
        Answers(data=sums(3), few_shot=2, few_shot_split="test")(tiny_model)
    with pytest.raises(RecipeError, match="few_shot: 9 rows wanted"):
        Answers(data=sums(3), few_shot=9)(tiny_model)


def test_a_real_model_gives_the_same_result_whatever_the_batch(tiny_model: Model) -> None:
    task = {"temperature": 1.0, "samples": 2, "max_new_tokens": 8, "data": sums(5)}
    one, two = Answers(**task)(tiny_model), Answers(**task, batch_tokens=40)(tiny_model)
    assert [o.completion for o in one.outcomes] == [o.completion for o in two.outcomes]
    assert one.conditions == two.conditions
    limited = Answers(**task, limit=2)(tiny_model)
    same = {o.id: o.completion for o in one.outcomes}
    assert all(same[o.id] == o.completion for o in limited.outcomes)


def test_conditions_name_what_changed(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["answer: 1"])
    base = Answers(data=sums(4))(tiny_model)
    for changed, name in (
        (Answers(data=sums(4), few_shot=1), "prompts"),
        (Answers(data=sums(4), max_new_tokens=9), "sampling.max_new_tokens"),
    ):
        with pytest.raises(RecipeError, match=name):
            compare(base, changed(tiny_model))
    tiny_model.tokenizer.chat_template += " "
    try:
        with pytest.raises(RecipeError, match="template"):
            compare(base, Answers(data=sums(4))(tiny_model))
    finally:
        tiny_model.tokenizer.chat_template = tiny_model.tokenizer.chat_template[:-1]


def test_settings_that_contradict_are_refused_before_any_compute() -> None:
    with pytest.raises(RecipeError, match="temperature above 0"):
        Answers(data=sums(), samples=2)
    with pytest.raises(RecipeError, match="pass@8 needs at least 8"):
        Answers(data=sums(), samples=2, temperature=1.0, pass_at=(8,))
    with pytest.raises(RecipeError, match="did you mean 'few_shot'"):
        parts.build("task", {"name": "answers", "data": sums(), "fewshot": 2})


def test_rows_are_drawn_balanced_and_by_seed() -> None:
    drawn = draw_rows(sums(40), "test", 6, "skill", 0)
    assert [row["skill"] for row in drawn.rows].count("even") == 3 and list(drawn.positions) == sorted(drawn.positions)
    assert drawn.receipt["not drawn"] == 34
    assert draw_rows(sums(40), "test", 6, None, 1).positions != draw_rows(sums(40), "test", 6, None, 2).positions
    with pytest.raises(DataError, match="no column 'colour'"):
        draw_rows(sums(40), "test", 6, "colour", 0)


def test_procbench_scores_steps_by_length(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, ["0\n1\n", "1\n5", ""])
    result = ProcBench(data=sums(3))(tiny_model)
    assert [o.score for o in result.outcomes] == [1.0, 0.5, 0.0]
    assert result.estimates["sequential_match[length=short]"].value == pytest.approx(1 / 3)
    assert result.receipt["unparsable"] == 1
    assert result.receipt["survival"] == [{"step": 1, "reached": 3, "right": 2}, {"step": 2, "reached": 2, "right": 1}]
    with pytest.raises(DataError, match="no 'states'"):
        ProcBench(data=lambda split: Dataset.from_list([{"prompt": "a"}]))(tiny_model)


def test_choices_scores_by_hand() -> None:
    scores = choice_scores([-4.0, -3.0], ["a long one", "é"], gold=0)
    assert (scores["acc"], scores["acc_norm"], scores["acc_bytes"]) == (0.0, 1.0, 1.0)
    assert scores["confidence"] == pytest.approx(1 / (1 + math.exp(-1))) and scores["margin"] == -1.0
    assert scores["nll"] == pytest.approx(math.log(1 + math.e))
    assert scores["brier_choices"] == pytest.approx(2 * (1 / (1 + math.exp(-1))) ** 2)


def test_choices_without_a_column_draw_wrong_answers_from_the_same_skill(tiny_model: Model) -> None:
    result = Choices(data=sums(12), form="chat", prefix="answer:")(tiny_model)
    assert result.receipt["requests"] == 48 and result.receipt["baselines"]["random"] == 0.25
    assert {int(o.answer) % 2 for o in result.outcomes if o.labels["skill"] == "even"} == {1}
    again = Choices(data=sums(12), form="chat", prefix="answer:", batch_tokens=64)(tiny_model)
    assert [o.answer for o in again.outcomes] == [o.answer for o in result.outcomes] and again.conditions == result.conditions


def test_choices_refuse_rows_without_a_right_choice(tiny_model: Model) -> None:
    def task(**row: Any) -> Choices:
        return Choices(data=lambda split: Dataset.from_list([{"prompt": "a", **row}]))

    with pytest.raises(DataError, match="not among the choices"):
        task(choices=["x", "y"], answer="z")(tiny_model)
    with pytest.raises(DataError, match="'gold' is 5"):
        task(choices=["x", "y"], gold=5)(tiny_model)
    with pytest.raises(DataError, match="at least two"):
        task(choices=["x"], gold=0)(tiny_model)
    with pytest.raises(DataError, match="no tokens of its own"):
        split_pair(tiny_model, "abc", "")


@pytest.mark.parametrize(("window", "stride"), [(7, 7), (7, 3), (7, 1), (100, 100)])
def test_windows_predict_every_token_once_within_the_context(window: int, stride: int) -> None:
    ids = list(range(1, 41))
    windows = list(rolling_windows(ids, 0, window, stride))
    assert [i for _, continuation in windows for i in continuation] == ids
    for context, continuation in windows:
        both = [*context, *continuation]
        assert len(both) - 1 <= window and both == list(range(both[0], both[0] + len(both)))
    assert all(len(context) + len(continuation) - 1 == window for context, continuation in windows[1:])
    with pytest.raises(RecipeError, match="at most the window"):
        list(rolling_windows(ids, 0, 4, 5))


def test_a_smaller_stride_costs_more_and_is_another_condition(tiny_model: Model) -> None:
    data = lambda split: Dataset.from_list([{"text": "Tom has 12 apples and buys 7 more. " * 9}, {"text": ""}, {"text": "é"}])  # noqa: E731
    disjoint, sliding = (Perplexity(data=data, window=32, stride=stride)(tiny_model) for stride in (32, 8))
    assert disjoint.receipt["tokens"] == sliding.receipt["tokens"] and disjoint.receipt["rows without tokens"] == 1
    assert sliding.receipt["prompt_tokens"] > 2 * disjoint.receipt["prompt_tokens"]
    total = sum(o.scores["nll"] for o in disjoint.outcomes)
    assert disjoint.estimates["perplexity"].value == pytest.approx(math.exp(total / disjoint.receipt["tokens"]))
    with pytest.raises(RecipeError, match="stride: 32 against 8"):
        compare(disjoint, sliding)
    with pytest.raises(RecipeError, match="the context of model 'tiny' is 256"):
        Perplexity(data=data, window=9999)(tiny_model)


def test_joined_text_is_cut_into_windows_that_hold_all_its_bytes(tiny_model: Model) -> None:
    texts = ["Tom has 12 äpfel. " * 20, "What is 3 plus 4? " * 20]
    result = Perplexity(data=lambda split: Dataset.from_list([{"text": t} for t in texts]), join="\n\n", window=50)(tiny_model)
    joined = "\n\n".join(texts)
    assert sum(o.scores["bytes"] for o in result.outcomes) == len(joined.encode())
    assert sum(o.scores["tokens"] for o in result.outcomes) == len(tiny_model.tokenizer(joined)["input_ids"])


def test_bits_per_byte_do_not_depend_on_the_tokenizer_condition(tiny_model: Model) -> None:
    data = lambda split: Dataset.from_list([{"text": "abc xyz"}, {"text": "0123456789"}])  # noqa: E731
    result = Perplexity(data=data, metric="bits_per_byte")(tiny_model)
    assert "tokenizer" not in result.conditions and "tokenizer" in Perplexity(data=data)(tiny_model).conditions
    mean = sum(o.score * o.weight for o in result.outcomes) / sum(o.weight for o in result.outcomes)
    assert result.estimates["bits_per_byte"].value == pytest.approx(mean)


def test_nanoworld_measures_every_skill(tiny_model: Model) -> None:
    task = parts.build("task", {"name": "nanoworld", "data": {"name": "nanoworld", "rows": 20}, "max_new_tokens": 4})
    result = task(tiny_model)
    assert result.task == "nanoworld" and len([k for k in result.estimates if k.startswith("accuracy[skill=")]) == 10
    assert result.receipt["baselines"]["reference"] == 1.0
    choices = parts.build("task", {"name": "nanoworld-choices", "data": {"name": "nanoworld", "rows": 20}})(tiny_model)
    assert 0 <= choices.estimates["accuracy"].value <= 1


@pytest.mark.parametrize(
    "task",
    [
        {"name": "answers", "max_new_tokens": 2, "pass_at": [1], "errors": True},
        {"name": "procbench", "max_new_tokens": 2},
        {"name": "choices", "data": {"name": "nanoworld", "rows": 20}},
        {"name": "replies"},
        {"name": "perplexity", "data": {"name": "nanoworld", "rows": 4, "form": "plain"}},
    ],
    ids=lambda task: task["name"],
)
def test_a_task_names_what_it_estimates(task: dict[str, Any], tiny_model: Model) -> None:
    built = parts.build("task", {"data": {"name": "nanoworld", "rows": 4}, **task})
    assert sorted(built.metrics) == sorted(name for name in built(tiny_model).estimates if "[" not in name)


def test_gsm8k_reads_its_folder(tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"question": "Tom has 1,199 apples and buys 1 more?", "answer": "1199+1 = <<1199+1=1200>>1200\\n#### 1,200"}\n'
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(line)
    scripted(monkeypatch, ["so it is\n#### 1200"])
    result = parts.build("task", {"name": "gsm8k", "path": str(tmp_path)})(tiny_model)
    assert result.estimates["accuracy"].value == 1.0 and result.outcomes[0].reference == "1200"


def test_invariants_hold_on_a_sound_model_and_show_their_number(tiny_model: Model) -> None:
    prompts = [[7, 8, 9], [10] * 40, [11, 12, 13, 14, 15, 16], [7, 8, 9]]
    checks = check_all(tiny_model, prompts, [[20, 21], [22], [23, 24, 25, 26], [27, 28]])
    assert all(check.holds for check in checks) and len(checks) == 3
    assert all(0 <= check.deviation <= check.limit for check in checks)
    assert "deviation" in str(checks[0]) and str(checks[0]).startswith("holds")
