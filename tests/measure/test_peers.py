"""The same numbers as lm-eval (multiple choice, rolling perplexity) and scikit-learn (Brier score) on the same requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from whet.generate.likelihood import sequence_logps
from whet.measure.metrics.brier import brier
from whet.measure.outcome import Outcome
from whet.measure.tasks.choices import Choices
from whet.measure.tasks.perplexity import Perplexity
from whet.measure.windows import fit, split_pair
from whet.model import Model

pytestmark = pytest.mark.peer

WORDS = ["seven", "12", "a list", "Tom and Zoe", "été", "Apfelsaft, kalt", "x", "the last answer of all"]


def questions() -> list[dict[str, Any]]:
    rows = []
    for i in range(24):
        choices = [WORDS[(i + k * (1 + i % 3)) % len(WORDS)] for k in range(2 + i % 3)]
        rows.append(
            {
                "prompt": f"Question {i}: what is {i} plus {i * 7}? " + "Think. " * (i % 4),
                "choices": choices,
                "gold": i % len(choices),
            }
        )
    return rows


def texts() -> list[str]:
    return ["".join(f"Line {j}: {j * i} apples, été. " for j in range(1 + 9 * i)) for i in range(1, 7)]


def harness(model: Model) -> Any:
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    return huggingface.HFLM(
        pretrained=model.network, tokenizer=model.tokenizer, device="cpu", batch_size=5, max_length=model.context
    )


def instances(kind: str, arguments: list[tuple[str, ...]]) -> list[Any]:
    api = pytest.importorskip("lm_eval.api.instance")
    return [api.Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]


def test_log_likelihoods_are_lm_evals(tiny_model: Model) -> None:
    requests = [(row["prompt"], " " + choice) for row in questions() for choice in row["choices"]]
    requests += [("", "Alone"), ("word " * 300 + "so", " overlong")]
    theirs = [value for value, _ in harness(tiny_model).loglikelihood(instances("loglikelihood", requests))]
    pairs = [fit(tiny_model, *split_pair(tiny_model, *request)) for request in requests]
    ours = [sum(logps) for logps in sequence_logps(tiny_model, pairs)[0]]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_multiple_choice_scores_are_lm_evals(tiny_model: Model) -> None:
    peer = harness(tiny_model)
    task_api = pytest.importorskip("lm_eval.api.task")
    config = {
        "task": "whet-parity",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(questions())},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_bytes")],
    }
    task = task_api.ConfigurableTask(config=config)
    task.build_all_requests(rank=0, world_size=1)
    answers = iter(peer.loglikelihood(task.instances))
    theirs = [task.process_results(row, [next(answers) for _ in row["choices"]]) for row in questions()]
    result = Choices(data=lambda split: Dataset.from_list(questions()))(tiny_model)
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert [o.scores[name] for o in result.outcomes] == [scores[name] for scores in theirs], name


def test_rolling_perplexity_is_lm_evals(tiny_model: Model) -> None:
    theirs = harness(tiny_model).loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in texts()]))
    result = Perplexity(data=lambda split: Dataset.from_list([{"text": t} for t in texts()]))(tiny_model)
    ours = [-outcome.scores["nll"] for outcome in result.outcomes]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    assert max(outcome.scores["tokens"] for outcome in result.outcomes) > tiny_model.context


def test_brier_score_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    confidence, right = rng.random(200), rng.integers(0, 2, 200)
    outcomes = [
        Outcome(str(i), float(y), scores={"confidence": c, "first": float(y)}) for i, (c, y) in enumerate(zip(confidence, right))
    ]
    assert brier(outcomes).value == pytest.approx(metrics.brier_score_loss(right, confidence), abs=1e-12)
