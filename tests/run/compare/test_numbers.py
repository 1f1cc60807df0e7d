"""The smaller numbers of a comparison against the same written out: fronts, ranges, budgets, kinds of tokens, times to a target."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from whet.budget import Budget
from whet.run.compare.arms import Arm, excess, unmatched
from whet.run.compare.figures import Point, pareto
from whet.run.compare.jobs import Done, Job
from whet.run.compare.spending import Spending, StepCost, matched, over, spending, step_cost
from whet.run.compare.target import corrected, time_to_target
from whet.run.compare.tuning import Range
from whet.run.compare.variants import Variant


@pytest.mark.parametrize("better_high", [True, False])
def test_the_front_is_what_no_other_beats_in_both(better_high: bool) -> None:
    rng = np.random.default_rng(3)
    points = [Point(str(i), float(c), float(v), v, v) for i, (c, v) in enumerate(zip(rng.permutation(20) + 1.0, rng.random(20)))]
    better = (lambda a, b: a > b) if better_high else (lambda a, b: a < b)
    kept = [p for p in points if not any(o.cost <= p.cost and better(o.value, p.value) for o in points)]
    assert pareto(points, better_high) == sorted(kept, key=lambda p: p.cost)
    nearly = [Point("a", 100.0, 0.5, 0, 1), Point("b", 101.0, 0.6, 0, 1)]  # one budget, so the better of the two
    assert [p.name for p in pareto(nearly, True)] == ["b"]


def test_a_range_ends_where_it_says() -> None:
    log, line, whole = Range.parse("lr", "1e-4..1e-1"), Range.parse("p", "0.2..1.8"), Range.parse("batch", "1..8")
    assert [log.at(s) for s in (0, 1 / 3, 1)] == [pytest.approx(1e-4), pytest.approx(1e-3), pytest.approx(0.1)]
    assert [line.at(s) for s in (0, 0.5, 1)] == [0.2, 1.0, 1.8] and not line.logarithmic
    assert [whole.at(s) for s in (0, 0.35, 0.5, 1)] == [1, 3, 4, 8]  # 3.45 and 4.5: to the nearest, not down to 3 and 4
    assert whole.at(0.4) == 4 and Range.parse("n", "1..10").logarithmic


def test_budgets_are_kept_up_to_two_in_a_hundred() -> None:
    assert matched(98, 100) and matched(100, 98) and not matched(97.9, 100)
    assert not over(102, Budget(100, "tokens")) and over(102.1, Budget(100, "tokens"))


def test_tokens_are_told_apart_by_what_they_were_for() -> None:
    receipt = {
        "provider": {"prefill_tokens": 10, "decode_tokens": 20, "measured_tokens": 4},
        "data": {"reference_tokens": 5},
        "reference_tokens": 7,
        "skills_graph": {"cost": {"tokens": 2}},
    }
    cost = step_cost("sft", "train", "x", receipt, {"tokens": 100, "flops": 3.0, "examples": 8, "seconds": 9.0})
    assert cost.spent.kinds == {"training": 52, "sampling": 30, "reference model": 12, "deciding the mixture": 6}
    assert sum(cost.spent.kinds.values()) == cost.spent.tokens == 100
    assert step_cost("w4", "quantize", "x", {"reference_tokens": 7}, {"tokens": 50}).spent.kinds == {"calibration": 50}


def arm(name: str, tokens: list[int], failed: str = "") -> Arm:
    done = {seed: Done(Job(name, seed, {})) for seed in range(len(tokens))}
    return Arm(Variant(name, {}, {}), done=done, spent={s: Spending(tokens=t) for s, t in enumerate(tokens)}, failed=failed)


def test_spending_is_compared_by_its_mean_over_the_seeds_that_there_are() -> None:
    arms = {"a": arm("a", [100, 100, 100]), "b": arm("b", [90, 110]), "c": arm("c", [100, 100, 109])}
    found = unmatched(arms, Budget(100, "tokens"))
    assert set(found) == {("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")}
    assert "spent 100 tokens and 103 tokens" in found["a", "c"] and excess(arms, Budget(100, "tokens")).startswith("c spent more")
    assert unmatched(arms, None) == {} and excess(arms, Budget(101, "tokens")) == ""


def reached(costs: list[float], metric: str = "accuracy") -> tuple[dict[int, Done], dict[int, Spending]]:
    """Seeds that see 0.2, then exactly 0.5 when they have spent this much."""
    done = {}
    for seed, cost in enumerate(costs):
        points = [{"tokens": t, "estimates": {metric: [v, v, v]}} for t, v in ((1, 0.2), (cost, 0.5))]
        done[seed] = Done(
            Job("v", seed, {}),
            steps=[StepCost("sft", "train", "x", Spending(tokens=99))],
            curves={"sft": {"curve": [], "validation": points}},
        )
    return done, {seed: spending(d.steps) for seed, d in done.items()}


def test_a_target_counts_when_it_is_met_exactly_and_ties_count_for_none() -> None:
    quick, slow = [10.0, 20.0, 30.0, 40.0, 50.0], [10.0, 25.0, 35.0, 45.0, 60.0]
    found = time_to_target(("accuracy", 0.5), {"quick": reached(quick), "slow": reached(slow)}, "tokens")[0]
    assert [r.cost for r in found.first_reached] == quick and found.ratio == pytest.approx(35 / 30)
    assert found.test == "sign test over 4 seeds" and found.p == pytest.approx(stats.binomtest(4, 4).pvalue)
    lower = time_to_target(("perplexity", 0.2), {n: reached(quick, "perplexity") for n in "ab"}, "tokens")[0]
    assert [r.cost for r in lower.first_reached] == [1] * 5 and lower.test == "sign test, no difference"


def test_times_to_a_target_are_corrected_with_all_other_tests() -> None:
    arms = {name: reached([start + n for n in range(7)]) for name, start in (("a", 2.0), ("b", 20.0), ("c", 50.0))}
    raw = time_to_target(("accuracy", 0.5), arms, "tokens")
    assert [t.p for t in raw] == [pytest.approx(2 / 2**7)] * 3
    assert [t.p for t in corrected(raw, [0.9, 0.9])] == pytest.approx([5 * 2 / 2**7] * 3)
    assert [t.p for t in corrected(raw, [0.001, 0.9])] == pytest.approx([4 * 2 / 2**7] * 3)
    assert all(math.isfinite(a.ratio) and a.ratio > 1 for a in raw) and len(list(itertools.combinations(arms, 2))) == len(raw)
