"""Comparisons: which test is chosen, what is refused, guards, orientation, examples, and results on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from whet.errors import DataError, RecipeError
from whet.measure.compare import compare, corrected
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.results import ResultTable, read_result, write_result


def result(scores: Sequence[float], model: str = "m", metric: str = "accuracy", **fields: object) -> TaskResult:
    outcomes = tuple(
        Outcome(f"q{i}", float(s), f"ask {i}", "right", f"{model} says {s}", labels={"skill": "x"}) for i, s in enumerate(scores)
    )
    base = TaskResult(
        "task", model, metric, outcomes, {"dtype": "float32", "versions": {"torch": "2"}}, {}, {"baselines": {"majority": 0.2}}
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def halves(n: int, wrong_to_right: int, right_to_wrong: int) -> tuple[TaskResult, TaskResult]:
    old = [1.0] * (n // 2) + [0.0] * (n - n // 2)
    new = [0.0] * right_to_wrong + old[right_to_wrong : n - wrong_to_right] + [1.0] * wrong_to_right
    return result(old, "old"), result(new, "new")


def test_right_or_wrong_uses_mcnemar_and_says_better() -> None:
    old, new = halves(100, 20, 3)
    found = compare(old, new)
    assert found.test.name == "mcnemar" and found.verdict == "better"
    assert found.p == pytest.approx(stats.binomtest(3, 23).pvalue)
    assert found.test.effect == pytest.approx(0.17) and (found.test.low or 0) > 0
    assert compare(new, old).verdict == "worse"
    assert found.flips is not None and found.flips.negative.value == pytest.approx(0.03)
    assert [e.kind for e in found.examples] == ["negative"] * 3 + ["positive"] * 3
    text = str(found)
    assert "newly wrong 3.0%" in text and "old says 1.0" in text and "new says 0.0" in text and "majority 0.200" in text


def test_no_discordant_pair_is_not_a_finding_and_equality_needs_its_own_test() -> None:
    old, _ = halves(400, 0, 0)
    same = compare(old, replace(old, model="new"))
    assert (same.p, same.verdict) == (1.0, "equivalent")
    few, _ = halves(100, 0, 0)  # of 100 items without a difference one more would make one point
    assert compare(few, replace(few, model="new")).verdict == "no difference found"
    small_old, small_new = halves(100, 4, 2)
    unsure = compare(small_old, small_new)
    assert unsure.verdict == "no difference found"
    assert 0.05 < unsure.detectable < 0.12


def test_real_scores_use_the_permutation_test() -> None:
    rng = np.random.default_rng(0)
    old = rng.random(60) * 0.5
    found = compare(result(old), result((old + 0.1 + 0.05 * rng.standard_normal(60)).clip(0, 1), "new"))
    assert found.test.name == "paired-permutation" and found.verdict == "better"
    assert found.flips is not None and found.flips.gain > found.flips.regression and found.flips.negative_mc is None
    assert 0 < found.detectable < 0.05


def test_perplexity_is_better_when_lower_and_weighted_by_tokens() -> None:
    weights = [1.0, 3.0] * 20
    outcomes = [Outcome(f"d{i}", 2.0 + 0.01 * i, weight=w) for i, w in enumerate(weights)]
    old = result([], metric="perplexity", outcomes=outcomes)
    new = result(
        [], "new", metric="perplexity", outcomes=[replace(o, score=o.score - (0.2 if o.weight > 1 else 0.1)) for o in outcomes]
    )
    found = compare(old, new)
    assert found.verdict == "better" and found.flips is None
    assert found.test.effect == pytest.approx(-(0.1 * 1 + 0.2 * 3) / 4)


@pytest.mark.parametrize(("share", "guard"), [(0.0, "floor"), (1.0, "ceiling")])
def test_nothing_is_judged_at_floor_or_ceiling(share: float, guard: str) -> None:
    old, new = [share] * 200, [share] * 200
    old[0] = new[1] = 1 - share
    assert compare(result(old), result(new, "new")).verdict == guard
    mid = [1.0, 0.0] * 100
    assert compare(result(old), result(mid, "new")).guard is None


def test_chance_of_a_choice_task_is_its_floor() -> None:
    rng = np.random.default_rng(1)
    old, new = (rng.random(400) < 0.25).astype(float), (rng.random(400) < 0.27).astype(float)
    receipt = {"baselines": {"random": 0.25}}
    assert compare(result(old, receipt=receipt), result(new, "new", receipt=receipt)).verdict == "floor"


def test_other_conditions_are_refused_with_every_difference_named() -> None:
    old = result([1.0, 0.0])
    new = result([1.0, 1.0], "new", conditions={"dtype": "bfloat16", "versions": {"torch": "3"}, "few_shot": 2})
    with pytest.raises(RecipeError) as refusal:
        compare(old, new)
    for part in ("dtype: 'float32' against 'bfloat16'", "versions.torch: '2' against '3'", "few_shot: None against 2", "allow="):
        assert part in str(refusal.value)
    assert "dtype" in str(compare(old, new, allow=("dtype", "versions", "few_shot")))
    with pytest.raises(RecipeError, match="cannot compare"):
        compare(old, result([1.0, 0.0], metric="pass@4"))
    with pytest.raises(DataError, match="one side only"):
        compare(old, result([1.0], "new"))


def test_documents_are_flipped_as_a_whole() -> None:
    old, new = halves(100, 20, 3)
    labelled = [
        replace(r, outcomes=[replace(o, labels={"document": str(i // 5)}) for i, o in enumerate(r.outcomes)]) for r in (old, new)
    ]
    found = compare(*labelled)
    assert found.test.n == 20 and "100 examples come from 20 documents" in str(found)


def test_holm_correction_changes_p_and_verdict() -> None:
    pair = halves(100, 14, 4)
    alone = compare(*pair)
    together = corrected([alone] * 4)
    assert alone.verdict == "better" and together[0].p == pytest.approx(4 * alone.p)
    assert together[0].verdict != "better" and "Holm-corrected over 4" in str(together[0])


def test_results_come_back_from_disk_bit_for_bit(tmp_path: Path) -> None:
    outcome = Outcome(
        "a", 0.1 + 0.2, "frage\n«é»", "r", "c\u2028d", 3.0, {"nll": float("inf"), "x": 1 / 3}, (0.0, 1.0), {"skill": "s"}, "7"
    )
    estimates = {"accuracy": Estimate(0.3, -float("inf"), 0.7, 2, "wilson")}
    written = result([1.0], outcomes=(outcome,), estimates=estimates, conditions={"a": {"b": [1, None, 0.1]}})
    path = write_result(written, tmp_path / "r.jsonl")
    assert read_result(path) == written
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_damaged_results_are_refused_with_the_line(tmp_path: Path) -> None:
    path = write_result(result([1.0, 0.0]), tmp_path / "r.jsonl")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"r\.jsonl, line 3"):
        read_result(path)
    with pytest.raises(DataError, match="cannot read"):
        read_result(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="plain finite data"):
        write_result(result([1.0], conditions={"x": object()}), tmp_path / "bad.jsonl")


def test_the_table_shows_intervals_groups_and_what_is_not_comparable() -> None:
    estimates = {"accuracy[skill=x]": Estimate(0.5, 0.1, 0.9, 2, "wilson"), "accuracy": Estimate(0.5, 0.2, 0.8, 2, "wilson")}
    receipt = {"ended": 0.5, "unparsable": 0, "baselines": {"majority": 0.25}}
    first = result([1.0, 0.0], "base", estimates=estimates, receipt=receipt)
    second = replace(first, model="tuned", conditions={"dtype": "bfloat16", "versions": {"torch": "2"}})
    lines = str(ResultTable([first, second])).splitlines()
    assert lines[2].startswith("accuracy") and "0.500 [0.200, 0.800] n=2" in lines[2]
    assert lines[3].startswith("  skill x")
    assert "50%" in lines[4] and "0" in lines[5]
    assert "not comparable: tuned" in lines[6] and "dtype" in lines[6]
