"""The judge against known truths: simulated comparisons without any training."""

import math

import numpy as np
import pytest

from whet.errors import DataError
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.run.compare.jobs import Done, Job
from whet.run.compare.spending import Spending, StepCost, matched, spending, step_cost
from whet.run.compare.target import time_to_target
from whet.run.compare.verdicts import judge, pairs


def result(scores, model="m", task="t"):
    outcomes = [Outcome(id=str(i), score=float(s)) for i, s in enumerate(scores)]
    value = float(np.mean(scores))
    return TaskResult(
        task, model, "accuracy", outcomes, {"prompt": "p"}, {"accuracy": Estimate(value, value, value, len(scores), "")}
    )


def simulated(rng, gains, seeds=5, items=200, seed_spread=0.08, item_spread=0.3):
    """Variants whose latent ability differs by ``gains``; seeds and items both vary."""
    hardness = rng.normal(0, 1, items)
    found = {}
    for number, gain in enumerate(gains):
        # Identical variants have no items of their own at which they are better.
        own = rng.normal(0, item_spread, items) if gain else np.zeros(items)
        latent = hardness + own + gain + rng.normal(0, seed_spread, (seeds, 1)) + rng.normal(0, 1, (seeds, items))
        found[f"v{number}"] = {s: result(row > 0) for s, row in enumerate(latent)}
    return {"t": found}


def test_identical_variants_are_called_different_in_at_most_five_of_a_hundred_comparisons():
    rng = np.random.default_rng(11)
    wrong = sum(any(v.kind in ("better", "worse") for v in judge(simulated(rng, [0.0, 0.0]))) for _ in range(100))
    assert wrong <= 5


def test_three_identical_variants_keep_the_level_together():
    rng = np.random.default_rng(12)
    wrong = sum(any(v.kind in ("better", "worse") for v in judge(simulated(rng, [0.0] * 3))) for _ in range(100))
    assert wrong <= 5


def test_a_difference_of_the_stated_size_is_found_with_the_stated_power():
    rng = np.random.default_rng(13)
    stated = np.median([judge(simulated(rng, [0.0, 1e-9]))[0].detectable for _ in range(60)])
    gain = next(g for g in np.arange(0.05, 1.0, 0.01) if _effect(g) >= stated)
    verdicts = [judge(simulated(rng, [0.0, gain]))[0] for _ in range(100)]
    assert sum(v.kind == "better" for v in verdicts) >= 70 and not any(v.kind == "worse" for v in verdicts)


def _effect(gain):
    """The true difference in accuracy that a latent gain makes."""
    spread = math.sqrt(1 + 1 + 0.3**2 + 0.08**2)
    return 0.5 * math.erf(gain / spread / math.sqrt(2))


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(14)
    truth = _effect(0.3)
    held = sum(v.low <= truth <= v.high for v in (judge(simulated(rng, [0.0, 0.3]))[0] for _ in range(100)))
    assert held >= 90


def test_no_winner_is_named_where_the_budget_was_not_kept():
    results = {
        "t": {"a": {s: result([0] * 50 + [1] * 50) for s in range(3)}, "b": {s: result([1] * 98 + [0] * 2) for s in range(3)}}
    }
    assert judge(results)[0].kind == "better"
    verdict = judge(results, unmatched={("a", "b"): "b spent more"})[0]
    assert verdict.kind == "unmatched" and "no winner named, b spent more" in verdict.sentence()


def test_equal_results_are_the_same_and_near_misses_stay_open():
    scores = [1, 0] * 100
    same = {"t": {"a": {0: result(scores), 1: result(scores)}, "b": {0: result(scores), 1: result(scores)}}}
    assert judge(same)[0].kind == "same"
    few = {"t": {"a": {0: result([1, 0, 1, 0])}, "b": {0: result([1, 1, 1, 0])}}}
    verdict = judge(few)[0]
    assert verdict.kind == "open" and "would have been seen with 80% power" in verdict.sentence()
    assert "these checkpoints only" in verdict.sentence()


def test_floor_and_ceiling_are_not_judged():
    nothing, everything = [0] * 40, [1] * 40
    for scores, guard in ((nothing, "floor"), (everything, "ceiling")):
        verdict = judge({"t": {"a": {0: result(scores), 1: result(scores)}, "b": {0: result(scores), 1: result(scores)}}})[0]
        assert verdict.kind == guard and "not judged" in verdict.sentence()


def test_items_are_paired_by_name_not_by_place():
    first = result([1, 0, 1, 0, 1, 1])
    turned = TaskResult(first.task, "m", "accuracy", list(reversed(first.outcomes)), first.conditions, first.estimates)
    assert judge({"t": {"a": {0: first, 1: first}, "b": {0: turned, 1: turned}}})[0].effect == 0.0


def test_other_items_or_no_common_seed_are_refused():
    with pytest.raises(DataError, match="not measured on the same items"):
        judge({"t": {"a": {0: result([1, 0]), 1: result([1, 0])}, "b": {0: result([1, 0, 1]), 1: result([1, 0, 1])}}})
    with pytest.raises(DataError, match="no seed in common"):
        judge({"t": {"a": {0: result([1, 0])}, "b": {1: result([1, 0])}}})


def test_many_variants_are_each_judged_against_the_first():
    assert len(pairs(list("abcdef"))) == 15 and pairs(list("abcdefg"))[-1] == ("a", "g")


def step(name, section="train", tokens=0, identity=None):
    return StepCost(name, section, identity or name, Spending(tokens=tokens, kinds={"training": tokens}))


def test_shared_steps_and_measuring_cost_a_variant_nothing():
    a = [step("base", tokens=500), step("own", tokens=70), step("scores", "measure", tokens=900)]
    b = [step("base", tokens=500), step("other", tokens=30), step("pairs", "data", tokens=45)]
    shared = {"base"}
    assert spending(a, shared).tokens == 70 and spending(b, shared).tokens == 75
    assert matched(100, 102) and not matched(100, 103)


def watched(points, seed=0, tokens=100):
    curve = [{"tokens": t, "estimates": {"accuracy": [v, v, v]}} for t, v in points]
    done = Done(Job("v", seed, {}), steps=[step("sft", tokens=tokens)], curves={"sft": {"curve": [], "validation": curve}})
    return done, spending(done.steps)


def arms(**by_name):
    return {
        name: ({s: d for s, (d, _) in enumerate(several)}, {s: p for s, (_, p) in enumerate(several)})
        for name, several in by_name.items()
    }


def test_time_to_target_has_the_time_of_selecting_in_it():
    done, _ = watched([(20, 0.5), (40, 0.7)])
    receipt, cost = {"rows": 9}, {"tokens": 100, "seconds": 7.5, "seconds_training": 5.0}
    selecting = step_cost("hard", "data", "h", {"el2n": {}}, {"tokens": 300, "flops": 1.0, "examples": 64, "seconds": 30.0})
    trained = step_cost("sft", "train", "s", receipt, cost)
    assert (selecting.spent.examples, trained.spent.examples, trained.spent.seconds) == (64, 9, 5.0)
    points = [{"tokens": 40, "seconds": 2.0, "examples": 4, "estimates": {"accuracy": [0.7, 0.7, 0.7]}}]
    done = Done(done.job, steps=[selecting, trained], curves={"sft": {"curve": [], "validation": points}})
    arm = ({0: done}, {0: spending(done.steps)})
    for unit, cost_then in (("tokens", 340), ("seconds", 32.0), ("examples", 68)):
        verdict = time_to_target(("accuracy", 0.6), {"a": arm, "b": arm}, unit)[0]
        assert verdict.first_reached[0].cost == cost_then


def test_time_to_target_and_seeds_that_never_reach_it():
    quick = [watched([(20, 0.5), (40, 0.7)], s) for s in range(6)]
    slow = [watched([(20, 0.1), (40, 0.3), (80, 0.61)], s) for s in range(5)] + [watched([(80, 0.2)], 5)]
    verdict = time_to_target(("accuracy", 0.6), arms(quick=quick, slow=slow), "tokens")[0]
    assert verdict.ratio == 2.0 and verdict.censored == 1 and verdict.test == "log-rank" and verdict.p < 0.05
    signs = time_to_target(("accuracy", 0.6), arms(quick=quick[:5], slow=slow[:5]), "tokens")[0]
    assert signs.test == "sign test over 5 seeds" and signs.p == pytest.approx(2 * 0.5**5)
