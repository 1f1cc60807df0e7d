"""Metrics: identities, closed forms against brute force, and what they refuse."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import DataError
from whet.measure.estimates import by_groups, is_better_high, key, mean, split_key
from whet.measure.metrics.accuracy import accuracy
from whet.measure.metrics.calibration_error import calibration_error
from whet.measure.metrics.flips import NEGATIVE_FLIPS, flip_rates, flip_result, flips
from whet.measure.metrics.pass_at_k import pass_at_k, unbiased
from whet.measure.metrics.perplexity import bits_per_byte, perplexity
from whet.measure.metrics.steps import step_drift, step_error, step_scores, steps, survival
from whet.measure.outcome import Outcome, TaskResult

right_wrong = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=25
)


def outcome(number: int, score: float, **fields: object) -> Outcome:
    return Outcome(str(number), float(score), **fields)  # type: ignore[arg-type]


@given(right_wrong)
@settings(max_examples=40, deadline=None)
def test_flip_identities(table: list[tuple[bool, bool, str, str]]) -> None:
    old = [outcome(i, a, answer="gold" if a else x) for i, (a, _, x, _) in enumerate(table)]
    new = [outcome(i, b, answer="gold" if b else y) for i, (_, b, _, y) in enumerate(table)]
    rates = flip_rates(old, new)
    assert rates.positive.value - rates.negative.value == pytest.approx(accuracy(new).value - accuracy(old).value)
    assert rates.negative_mc is not None and rates.negative.value <= rates.negative_mc.value <= 1 - accuracy(new).value + 1e-12
    assert flip_rates(old, old).negative.value == flip_rates(old, old).positive.value == 0
    assert flips(old, new, rate="positive").value == flips(new, old, rate="negative").value


def test_flips_of_real_scores_have_a_size() -> None:
    old = [outcome(i, s) for i, s in enumerate([0.2, 0.8, 0.5, 0.5])]
    new = [outcome(i, s) for i, s in enumerate([0.6, 0.5, 0.4, 0.5])]
    rates = flip_rates(old, new)
    assert (rates.positive.value, rates.negative.value) == (0.25, 0.5)
    assert (rates.gain, rates.regression) == (pytest.approx(0.4), pytest.approx(0.2))
    assert rates.negative_mc is None
    with pytest.raises(DataError, match="negative-mc"):
        flips(old, new, rate="negative-mc")


def test_flips_refuse_other_examples() -> None:
    with pytest.raises(DataError, match="one side only"):
        flips([outcome(1, 1)], [outcome(2, 1)])
    with pytest.raises(DataError, match="twice"):
        flips([outcome(1, 1), outcome(1, 0)], [outcome(1, 1), outcome(1, 0)])


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_pass_at_k_is_the_mean_over_all_subsets(samples: list[bool], k: int) -> None:
    if k > len(samples):
        with pytest.raises(DataError, match=f"needs {k} samples"):
            pass_at_k([outcome(0, 0, samples=tuple(map(float, samples)))], k=k)
        return
    chosen = list(combinations(samples, k))
    assert unbiased(len(samples), sum(samples), k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_1_is_accuracy() -> None:
    outcomes = [outcome(i, sum(s) / 4, samples=s) for i, s in enumerate([(1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.0), (0.0,) * 4])]
    assert pass_at_k(outcomes, k=1).value == pytest.approx(accuracy(outcomes).value)
    assert pass_at_k(outcomes, k=4).value == pytest.approx(2 / 3)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), max_size=8))
@settings(max_examples=60, deadline=None)
def test_step_identities(states: list[int], predicted: list[int]) -> None:
    scores = step_scores([str(s) for s in states], predicted)
    assert scores.sequential_match <= scores.final_match
    assert (scores.sequential_match == 1) == (scores.prefix_accuracy == 1)
    assert 0 <= scores.prefix_accuracy <= 1 and scores.prefix_length <= len(states)
    more = step_scores(states, [*states, 9])
    assert more.prefix_accuracy < 1 and more.prefix_length == len(states)


def test_states_compare_by_value() -> None:
    assert step_scores(["[1, 2]", "07", "abc"], [[1, 2], 7, " abc "]).sequential_match == 1
    assert step_scores(["[1, 2]"], ["[1, 2, 3]"]).prefix_length == 0
    assert step_scores(["1"], []) == step_scores(["1"], ["2"])


def test_survival_and_step_error() -> None:
    assert survival([0, 1, 3, 3], [3, 3, 3, 3]) == [(4, 3), (3, 2), (2, 2)]
    assert step_error([0, 1, 3, 3], [3, 3, 3, 3]) == pytest.approx(2 / 9)
    assert step_drift([3] * 5, [3] * 5) == 1.0
    assert step_drift([0] * 30 + [9] * 30, [9] * 60) < 1e-6
    lengths = [outcome(i, 0, scores={"prefix_length": 0.0}) for i in range(40)]
    assert steps(lengths, score="prefix_length").method != "wilson"


def test_the_interval_of_a_perplexity_begins_at_1() -> None:
    outcomes = [
        Outcome(id=str(i), score=nll, scores={"nll": nll, "tokens": 1.0, "bytes": 1.0}) for i, nll in enumerate((0.1, 0.9))
    ]
    assert perplexity(outcomes).low == 1.0 < perplexity(outcomes).value and bits_per_byte(outcomes).low == 0.0


def test_perplexity_weighs_documents_by_their_tokens() -> None:
    outcomes = [
        outcome(i, 0, scores={"nll": nll, "tokens": t, "bytes": 2 * t}) for i, (nll, t) in enumerate([(10.0, 5.0), (90.0, 20.0)])
    ]
    assert perplexity(outcomes).value == pytest.approx(math.exp(100 / 25))
    assert bits_per_byte(outcomes).value == pytest.approx(100 / 50 / math.log(2))


def test_calibration_error_of_an_honest_and_a_boastful_model() -> None:
    def model(confidence: float) -> list[Outcome]:
        return [outcome(i, i % 2, scores={"confidence": confidence, "first": float(i % 2)}) for i in range(40)]

    assert calibration_error(model(0.5)).value == pytest.approx(0)
    assert calibration_error(model(1.0)).value == pytest.approx(0.5)
    with pytest.raises(DataError, match="has no score 'confidence'"):
        calibration_error([outcome(1, 1, scores={"first": 1.0})])


def test_intervals_follow_the_kind_of_value() -> None:
    assert mean([0.0, 1.0, 1.0]).method == "wilson"
    assert mean([0.1 * (i % 7) for i in range(50)]).method == "bca"
    assert mean([0.1, 0.4, 0.9]).method == "t"
    clustered = [outcome(i, i % 2, labels={"document": str(i // 2)}) for i in range(80)]
    assert accuracy(clustered).n == 40


def test_groups_are_named_and_sorted() -> None:
    outcomes = [outcome(i, 1, labels={"difficulty": str(i)}) for i in (10, 2, 1)]
    assert list(by_groups(outcomes, {"accuracy": accuracy}, ["difficulty"])) == [
        "accuracy",
        *(f"accuracy[difficulty={i}]" for i in (1, 2, 10)),
    ]
    assert split_key(key("pass@4", "skill", "a=b]")) == ("pass@4", "skill", "a=b]")
    assert is_better_high("accuracy[skill=x]") and not is_better_high("perplexity[language=en]")
    with pytest.raises(DataError, match="no outcomes"):
        accuracy([])


def result_of(scores: list[float], metric: str = "accuracy", model: str = "new") -> TaskResult:
    outcomes = [Outcome(str(i), score, labels={"skill": "ab"[i % 2]}) for i, score in enumerate(scores)]
    estimates = by_groups(outcomes, {metric: accuracy}, ["skill"])
    return TaskResult("answers", model, metric, outcomes, {"data": "d"}, estimates)


def test_flips_as_a_result_of_their_own() -> None:
    old, new = result_of([1, 1, 0, 0, 1], model="old"), result_of([1, 0, 1, 0, 0])
    found = flip_result(old, new)
    assert found is not None
    assert [o.score for o in found.outcomes] == [0, 1, 0, 0, 1]
    assert (found.task, found.metric, found.model) == ("negative flips in answers", NEGATIVE_FLIPS, "new")
    assert found.estimates[NEGATIVE_FLIPS].value == flips(old.outcomes, new.outcomes).value == 0.4
    assert found.estimates[f"{NEGATIVE_FLIPS}[skill=b]"].value == 0.5 and not is_better_high(found.metric)
    assert found.receipt == {"solved by the reference": 3, "reference": "old"}
    same = flip_result(old, old)
    assert same is not None and same.estimates[NEGATIVE_FLIPS].value == 0 and same.conditions == found.conditions
    other = flip_result(result_of([0, 1, 0, 0, 1]), new)
    assert other is not None and other.conditions != found.conditions
    assert flip_result(result_of([1, 1], "perplexity"), result_of([1, 1], "perplexity")) is None


def test_the_interval_of_a_share_keeps_its_limits():
    """Few documents get Student's t, which knows no limits."""
    outcomes = [Outcome(id=str(i), score=float(i > 0), labels={"document": str(i // 2)}) for i in range(12)]
    found = accuracy(outcomes)
    assert found.value == pytest.approx(11 / 12) and found.low < found.value and found.high == 1.0
