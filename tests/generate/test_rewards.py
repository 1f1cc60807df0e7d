"""Rewards judge what they say, in [0, 1]; one completion that breaks a reward costs that completion alone."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet import parts
from whet.errors import DataError, RecipeError
from whet.generate.rewards.noisy import Noisy
from whet.generate.rewards.reasoning_pattern import ReasoningPattern
from whet.generate.scoring import score
from whet.generate.verify import answer_part, final_answer, normal_form, prefix_accuracy, same_answer, states_of

ROW = {"prompt": "What is 3 plus 4?", "answer": "7", "states": ["7"]}


def reward(spec, completion, row=ROW):
    (value,) = parts.build("reward", spec)([row], [completion])
    return value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\nanswer: 7", "7"),
        ("**Answer:** 7", "7"),
        ("**Final Answer: 7**", "7"),
        ("#### Answer: 7", "7"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("answer: \\boxed{7}", "7"),
        ("\\boxed{3}\nanswer: 7", "7"),
        ("answer: 3\nno: answer: 4\nanswer: 7\n", "7"),
        ("work\n#### 1,234", "1,234"),
        ('```json\n{"why": "sum", "answer": 7}\n```', "7"),
        ('answer: {"sum": 7}', '{"sum": 7}'),
        ("It is 7.", None),
        ("answer:", None),
        ("\\boxed{7", None),
        ("the answer is 7", None),
        ("", None),
    ],
)
def test_the_last_mark_is_the_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("$1,234.00", "1234"),
        ("1/2", "0.5"),
        ("Tom ", "tom."),
        ("[3, 1, 2]", "3,1,2"),
        ("\\boxed{7}", "7"),
        ('{"a":1,"b":2}', '{"b": 2, "a": 1}'),
        ("７", "7"),
        ('"red blue"', "red  blue"),
        ("-0", "0"),
        ("+5", "5"),
        ('{"answer": 7}', "7"),
        ("2, 3.0", "2,3"),
    ],
)
def test_same_answers(one, two):
    assert same_answer(one, two)
    assert same_answer(two, one)


@pytest.mark.parametrize(
    ("one", "two"),
    [("7", "8"), ("1/0", "1"), ("3,1", "1,3"), ("7 apples", "7"), ("", "7"), ('{"a": 1}', '{"a": 2}'), (None, "7")],
)
def test_different_answers(one, two):
    assert not same_answer(one, two)


@given(st.text(alphabet='answer: \\boxed{}"#7,.\n$/[]', max_size=60))
def test_extraction_never_fails_and_answers_equal_themselves(text):
    answer = final_answer(text)
    assert answer is None or (answer.strip() == answer and same_answer(answer, answer))
    assert normal_form(normal_form(text)) is not None
    assert isinstance(states_of(text), list)
    assert answer_part(text) in text


@given(st.text(max_size=40).filter(lambda text: text.strip()))
def test_what_is_put_on_an_answer_line_is_found(text):
    line = " ".join(text.split())
    assert same_answer(final_answer(f"some work\nanswer: {line}") or line, line)


@given(st.integers(-(10**9), 10**9))
def test_numbers_survive_every_mark(number):
    marks = [f"answer: {number}", f"\\boxed{{{number:,}}}", f"#### {number:,}", f'{{"answer": {number}}}', f"answer: {number}.0"]
    assert all(same_answer(final_answer(mark), str(number)) for mark in marks)


def test_exact_answer():
    assert reward("exact-answer", "3 + 4 = 7\nanswer: 7.0") == 1.0
    assert reward("exact-answer", "answer: 8") == reward("exact-answer", "7") == 0.0
    with pytest.raises(DataError, match=r"no column 'answer': did you mean 'answers'"):
        reward("exact-answer", "answer: 7", {"answers": "7"})


def test_steps_reward_is_prefix_accuracy():
    row = {"states": ["7", "8", "16"]}
    assert reward("steps", "3 + 4 = 7\n7 + 1 = 8\n8 x 2 = 16\nanswer: 16", row) == 1.0
    assert reward("steps", "3 + 4 = 7\n7 + 1 = 9\n9 x 2 = 18\nanswer: 18", row) == pytest.approx(1 / 3)
    assert reward("steps", "step 1: 7\nstep 2: 8\nfinal: 16", row) == 1.0
    assert reward("steps", "7\n8\n16\n17\nanswer: 18", row) == pytest.approx(3 / 5)
    assert reward("steps", "", row) == 0.0
    assert reward("steps", "6 + 7 = 13\nanswer: \\boxed{13}", {"states": ["13", "\\boxed{13}"]}) == 1.0
    with pytest.raises(DataError, match=r"'states': expected a list"):
        reward("steps", "7", {"states": []})


@given(st.lists(st.sampled_from("123"), max_size=6), st.lists(st.sampled_from("123"), min_size=1, max_size=6))
def test_prefix_accuracy_identities(given_states, reference):
    value = prefix_accuracy(given_states, reference)
    assert 0 <= value <= 1
    assert (value == 1) == (given_states == reference)
    assert prefix_accuracy([*reference, "9"], reference) < 1


def test_pattern():
    assert reward({"name": "pattern", "pattern": r"\d+\s*$"}, "it is 7") == 1.0
    assert reward({"name": "pattern", "pattern": "IT", "ignore_case": True}, "it is 7") == 1.0
    assert reward({"name": "pattern", "pattern": "it", "whole": True}, "it is 7") == 0.0
    with pytest.raises(RecipeError, match=r"pattern '\(' is no regular expression"):
        parts.build("reward", {"name": "pattern", "pattern": "("})


def test_format_from_the_row_or_the_setting():
    box, json_row, words = {"answer": "\\boxed{7}"}, {"answer": '{"sum": 7}'}, {"answer": "red blue"}
    assert reward("format", "3 + 4 = 9\nanswer: \\boxed{9}", box) == 1.0
    assert reward("format", "answer: 7", box) == reward("format", "answer: \\boxed{ }", box) == 0.0
    assert reward("format", 'answer: {"sum": 9}', json_row) == 1.0
    assert reward("format", 'answer: {"difference": 9}', json_row) == reward("format", "answer: {sum: 7}", json_row) == 0.0
    assert reward("format", "word 1 = red\nanswer: red", words) == 1.0
    assert reward("format", "answer: red blue pink", words) == reward("format", "answer:", words) == 0.0
    assert reward("format", "one two three", {"format": "words 3", "answer": "x"}) == 1.0
    assert reward({"name": "format", "require": "words", "words": 2}, "one two three") == 0.0
    with pytest.raises(RecipeError, match=r"give `words`"):
        parts.build("reward", {"name": "format", "require": "words"})
    with pytest.raises(DataError, match=r"expected box, json or words k"):
        reward("format", "x", {"format": "table", "answer": "x"})


def test_math_knows_equal_forms_and_stops_in_time():
    math = parts.build("reward", {"name": "math", "seconds": 2})
    texts = ["answer: \\frac{2}{4}", "so $x = 0.5$", "answer: 1/3", "answer: 9^{9^{9^9}}", "answer: 0.5"]
    scores = score(math, [{"answer": "1/2"}] * len(texts), texts)
    assert scores.values == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert list(scores.failures) == [3]
    assert "not decided within 2 s" in scores.failures[3]
    assert scores.receipt["failures"] == 1
    results = []
    thread = threading.Thread(target=lambda: results.extend(math([{"answer": "1/2"}], ["answer: \\frac{3}{6}"])))
    thread.start()
    thread.join()
    assert results == [1.0]


def test_math_agrees_with_math_verify():
    math_verify = pytest.importorskip("math_verify")
    pairs = [
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("x^2-1", "(x-1)(x+1)"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("(1,2)", "(2,1)"),
        ("50\\%", "0.5"),
        ("3\\pi", "\\pi"),
    ]
    for one, two in pairs:
        expected = math_verify.verify(math_verify.parse(f"\\boxed{{{two}}}"), math_verify.parse(f"\\boxed{{{one}}}"))
        assert reward("math", f"\\boxed{{{one}}}", {"answer": two}) == float(expected), (one, two)


def rows_and_texts(prompts, size):
    rows = [{"prompt": f"p{i}", "answer": "7"} for i in range(prompts) for _ in range(size)]
    return rows, [f"try {i}\nanswer: {7 if i % 3 else 8}" for i in range(prompts * size)]


@pytest.mark.parametrize("level", ["group", "sample"])
def test_noise_flips_its_share_and_repeats_itself(level):
    inner = parts.build("reward", "exact-answer")
    rows, texts = rows_and_texts(300, 4)
    clean = inner(rows, texts)
    assert Noisy(inner, p=0.0, level=level)(rows, texts) == clean
    assert Noisy(inner, p=1.0, level=level)(rows, texts) == [1 - value for value in clean]
    noisy = Noisy(inner, p=0.3, level=level)
    values = noisy(rows, texts)
    assert values == noisy(rows, texts) != Noisy(inner, p=0.3, level=level, seed=1)(rows, texts)
    flipped = [a != b for a, b in zip(clean, values)]
    assert abs(sum(flipped) / len(flipped) - 0.3) < 0.08
    groups = [flipped[i : i + 4] for i in range(0, len(flipped), 4)]
    assert all(len(set(group)) == 1 for group in groups) == (level == "group")


def test_noise_does_not_depend_on_the_rest_of_the_batch():
    noisy = Noisy(parts.build("reward", "exact-answer"), p=0.5)
    rows, texts = rows_and_texts(10, 4)
    assert noisy(rows[8:12], texts[8:12]) == noisy(rows, texts)[8:12]


def test_expected_flipped_advantage():
    inner = parts.build("reward", "exact-answer")
    rows, texts = rows_and_texts(1, 4)
    clean = inner(rows, texts)
    draws = [Noisy(inner, p=0.2, level="sample", seed=seed)(rows, texts) for seed in range(2000)]
    mean = [sum(draw[i] for draw in draws) / len(draws) for i in range(4)]
    assert mean == pytest.approx([0.2 + 0.6 * value for value in clean], abs=0.03)


def test_noise_refuses_a_wrong_share_and_wrong_rewards():
    with pytest.raises(RecipeError, match=r"noisy.p"):
        parts.build("reward", {"name": "noisy", "inner": "exact-answer", "p": 1.5})
    with pytest.raises(RecipeError, match=r"gave 2.0 .* must lie in \[0, 1\]"):
        score(Noisy(lambda rows, texts: [2.0 for _ in texts]), [ROW], ["x"])


def test_reasoning_pattern():
    judge = ReasoningPattern(full=4)
    texts = ["First, we know that 3. Therefore 7. Wait", "seven", "wait wait wait", "wait. user: hi", "a b c " * 30]
    assert judge([ROW] * 5, texts) == [1.0, 0.0, 0.25, 0.0, 0.0]
    short = ReasoningPattern(phrases=("so",), full=1, ngram=2)
    assert short([ROW], ["so a so a so b"]) == [1.0 - 2 / 5]


def break_on_bad(rows, completions):
    if any("bad" in text for text in completions):
        raise ZeroDivisionError("cannot judge")
    return [0.5] * len(completions)


def test_one_broken_completion_is_counted_and_shown():
    scores = score(break_on_bad, [ROW] * 3, ["a", "bad", "c"])
    assert scores.values == [0.5, 0.0, 0.5]
    assert scores.failures == {1: "ZeroDivisionError: cannot judge"}
    assert scores.receipt == {
        "completions": 3,
        "mean": 1 / 3,
        "failures": 1,
        "failed": ["'bad': ZeroDivisionError: cannot judge"],
    }
    wrapped = score(Noisy(break_on_bad, p=0.0), [ROW] * 3, ["a", "bad", "c"])
    assert (wrapped.values, wrapped.failures) == (scores.values, scores.failures)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_values_outside_of_0_and_1_are_refused(value):
    with pytest.raises(RecipeError, match=r"a reward must lie in"):
        score(lambda rows, texts: [value] * len(texts), [ROW], ["x"])


def test_wrong_counts_are_refused_and_user_errors_pass():
    with pytest.raises(RecipeError, match=r"gave 1 numbers for 2"):
        score(lambda rows, texts: [1.0], [ROW] * 2, ["x", "y"])
    with pytest.raises(DataError, match=r"no column 'answer'"):
        score(parts.build("reward", "exact-answer"), [{}], ["x"])
