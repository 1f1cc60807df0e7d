"""The reward python-tests: which code of a reply is judged, what it scores, and how it works within RL and measurement."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from whet import parts
from whet.data.sources.humaneval import HumanEval
from whet.errors import DataError, RecipeError, WhetError
from whet.generate.code_blocks import program
from whet.generate.rewards.python_tests import PythonTests
from whet.generate.scoring import score
from whet.train.rollouts import RolloutProvider, RolloutSettings

PREFIX = 'import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef area(r: float) -> float:\n    """Area of a circle."""\n'
TESTS = "def check(candidate):\n    assert candidate(0) == 0\n    assert abs(candidate(2) - 4 * math.pi) < half(1e-6)\n"
ROW = {"prompt": "Complete area", "prefix": PREFIX, "tests": TESTS, "entry_point": "area"}
BODY = "    return math.pi * r * r\n"


def reward(completion: str, row: dict = ROW, **settings: object) -> float:
    (value,) = parts.build("reward", {"name": "python-tests", "sandbox": "subprocess", **settings})([row], [completion])
    return value


pytestmark = pytest.mark.filterwarnings("ignore:code that a model wrote")


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (f"```python\n{PREFIX}{BODY}```", 1.0),
        (f"Sure:\n```python\ndef area(r):\n{BODY}```\nTry it:\n```python\nprint(area(1))\n```", 1.0),
        (f"```\ndef area(r):\n{BODY}", 1.0),
        (f"def area(r):\n{BODY}", 1.0),
        (BODY, 1.0),
        (f"{BODY}\nprint(area(3))\nthat is all", 1.0),
        (f"```python\n{BODY}```", 1.0),
        ("```python\ndef area(r):\n    return 3 * r * r\n```", 0.0),
        ("```bash\necho 1\n```", 0.0),
        ("I do not know.", 0.0),
        ("", 0.0),
        (PREFIX, 0.0),
    ],
)
def test_the_program_of_a_reply(completion: str, value: float) -> None:
    assert reward(completion) == value


def test_of_several_blocks_the_last_that_defines_the_function_counts() -> None:
    reply = "```python\ndef f(): return 1\n```\n```py\ndef f(): return 2\n```\n```python\nf()\n```\n```text\n2\n```"
    assert program(reply, entry_point="f").code == "def f(): return 2\n"
    assert program(reply).code == "f()\n"
    assert program("```bash\nls\n```") is None


def test_partial_is_the_share_of_asserts_that_hold() -> None:
    row = {"tests": "for i in range(4):\n    assert f(i) >= 0\nassert f(2) == 4\nassert f(3) == 10\nassert f(-1) == 1"}
    square = "def f(x):\n    return x * x"
    assert reward(square, row) == 0 and reward(square, row, partial=True) == 0.75
    assert reward("def f(x):\n    return {0: 0, 2: 4}[x]", row, partial=True) == 0.25
    assert reward(square, {"tests": "x = f(2)\nassert x == 4\nx = f()\nassert x == 4"}, partial=True) == 0.5
    assert reward(square, {"tests": "def test_f():\n    assert f(2) == 4"}, partial=True) == 1
    assert reward("x = 1", row, partial=True) == 0
    assert reward("x = 1", {"tests": "try:\n    f()\nexcept Exception:\n    pass"}) == 0


def test_arguments_changed_in_place_and_values_are_seen() -> None:
    row = {"tests": "data = [3, 1]\nassert order(data) is None\nassert data == [1, 3] and SIZE == 2"}
    assert reward("SIZE = 2\ndef order(x):\n    x.sort()", row) == 1


def test_failures_are_counted_and_the_receipt_names_the_sandbox() -> None:
    rows = [{"tests": "assert f() == 1"}] * 4
    codes = ["def f(): return 1", "def f():\n    while True: pass", "import os; os._exit(0)", "def f(): return 2"]
    scores = score(PythonTests(seconds=1.0, sandbox="subprocess"), rows, codes)
    assert scores.values == [1, 0, 0, 0] and set(scores.failures) == {1, 2}
    assert scores.failures[1] == "timeout: not finished within 1 s"
    details = scores.receipt["details"]
    assert "weaker" in details["sandbox"] and details["verdicts"] == {"ended": 1, "failed": 1, "passed": 1, "timeout": 1}
    noisy = parts.build("reward", {"name": "noisy", "inner": {"name": "python-tests", "sandbox": "subprocess"}, "p": 0.0})
    assert score(noisy, rows, codes[:1] * 4).receipt["details"]["verdicts"] == {"passed": 4}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x"}, r"no column 'tests'"),
        ({"tests": "assert ("}, r"column 'tests': the tests 'assert \(' cannot be used: they are no Python"),
        ({"tests": "assert f()\nreturn 1"}, r"SyntaxError: 'return' outside function"),
        ({"tests": "assert f()", "prefix": "import no_such_module"}, r"ModuleNotFoundError: No module named 'no_such_module'"),
        ({"tests": "assert 1 == 1"}, r"they never use the code under test"),
        ({"tests": "assert f(lambda: 1) == 1"}, r"they give f an argument that is no plain data: function"),
    ],
)
def test_rows_that_test_nothing_stop(row: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reward("def f(x=0):\n    return 1", row)


def test_settings_are_checked() -> None:
    with pytest.raises(RecipeError, match=r"seconds"):
        parts.build("reward", {"name": "python-tests", "seconds": 0})
    with pytest.raises(RecipeError, match=r"sandbox"):
        parts.build("reward", {"name": "python-tests", "sandbox": "none"})


def test_rollouts_are_scored_by_tests(tiny_model) -> None:
    rows = [{"prompt": f"Write f that gives {i}", "tests": f"assert f() == {i}"} for i in range(2)]
    settings = RolloutSettings(prompts=2, group_size=2, max_new_tokens=4, patience=1, resample_rounds=0)
    source = RolloutProvider(
        rows,
        PythonTests(sandbox="subprocess"),
        parts.build("objective", {"name": "grpo", "kl": 0.0}),
        settings,
        schedule=lambda size, epoch, seed: list(range(size)),
    )
    with pytest.raises(WhetError, match=r"gave no signal"):  # a random model writes no function
        source.examples(0, tiny_model)
    assert "weaker" in source.receipt["reward_details"]["sandbox"]


@pytest.fixture
def humaneval(tmp_path: Path) -> Path:
    lines = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": PREFIX.replace("area", f"area{i}"),
            "canonical_solution": BODY,
            "test": TESTS,
            "entry_point": f"area{i}",
        }
        for i in range(3)
    ]
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return tmp_path


def test_the_source_humaneval(humaneval: Path) -> None:
    rows = HumanEval(str(humaneval))("test").to_list()
    assert [row["id"] for row in rows] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert rows[1]["prefix"] in rows[1]["prompt"] and rows[1]["entry_point"] == "area1"
    assert score(PythonTests(sandbox="subprocess"), rows, [row["completion"] for row in rows]).values == [1, 1, 1]
    assert HumanEval(str(humaneval), instruction="{code}")("test")[0]["prompt"] == rows[0]["prefix"]
    with pytest.raises(DataError, match=r"there is no train split"):
        HumanEval(str(humaneval))("train")
    with pytest.raises(RecipeError, match=r"must contain \{code\}"):
        HumanEval("x", instruction="code")


def test_the_task_humaneval(humaneval: Path, tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    from whet.generate.completion import Completion
    from whet.measure import generative

    replies = [BODY, "    return r\n", "    return 0\n", BODY, "", "```bash\nls\n```"]

    def generate(model, prompts, sampling, **settings):
        return [Completion(i // 2, [5, 6], [-0.5, -0.5], text, "eos") for i, text in enumerate(replies)]

    monkeypatch.setattr(generative, "generate_in_blocks", generate)
    spec = {"name": "humaneval", "path": str(humaneval), "samples": 2, "temperature": 0.8, "pass_at": [1, 2]}
    result = parts.build("task", {**spec, "reward": {"name": "python-tests", "sandbox": "subprocess"}})(tiny_model)
    assert result.task == "humaneval" and result.conditions["extractor"]["rule"] == "python-block-1"
    assert result.estimates["pass@1"].value == pytest.approx(1 / 3) and result.estimates["pass@2"].value == pytest.approx(2 / 3)
    assert result.receipt["unparsable"] == 2 and result.receipt["baselines"]["reference"] == 1.0
    assert result.outcomes[0].answer.endswith(BODY) and result.outcomes[2].answer == ""
    with pytest.raises(RecipeError, match=r"pass@5 needs at least 5 samples"):
        parts.build("task", {**spec, "pass_at": [5]})
