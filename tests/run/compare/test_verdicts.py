"""The judge against known truths: simulated comparisons without any training."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from whet.errors import DataError, RecipeError
from whet.measure.compare import compare
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.statistics import crossed_t
from whet.run.compare.headline import headline
from whet.run.compare.jobs import Done, Job
from whet.run.compare.spending import Spending, StepCost, matched, spending, step_cost
from whet.run.compare.stopping import interim_level, lost
from whet.run.compare.target import time_to_target
from whet.run.compare.verdicts import judge, pairs, variant_estimate


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
    scores = [1, 0] * 200
    same = {"t": {"a": {0: result(scores), 1: result(scores)}, "b": {0: result(scores), 1: result(scores)}}}
    assert judge(same)[0].kind == "same"
    few = {"t": {"a": {0: result([1, 0, 1, 0])}, "b": {0: result([1, 1, 1, 0])}}}
    verdict = judge(few)[0]
    assert verdict.kind == "open" and "would have been seen with 80% power" in verdict.sentence()
    assert "these checkpoints only" in verdict.sentence()


def test_an_interval_that_the_correction_takes_back_is_said_to_be_of_its_pair_alone():
    rng = np.random.default_rng(7)
    items = rng.random(200) < 0.5
    scores = {name: {s: result(items ^ (rng.random(200) < 0.1)) for s in range(3)} for name in "abc"}
    scores["d"] = {s: result((items ^ (rng.random(200) < 0.1)) | (rng.random(200) < 0.07)) for s in range(3)}
    verdicts = judge({"t": scores})
    taken_back = [v for v in verdicts if v.low * v.high > 0 and v.kind == "open"]
    assert taken_back and all(("of this pair alone" in v.sentence()) == (v in taken_back) for v in verdicts)


def test_eight_equal_items_show_nothing():
    scores = [1, 0] * 4
    one, three = (judge({"t": {name: {s: result(scores) for s in range(n)} for name in "ab"}})[0] for n in (1, 3))
    assert (one.kind, three.kind) == ("open", "open") and one.high > 0.2 and three.high > 0.3
    assert one.detectable > 0.7 and "could have shown none, however large" in three.sentence() and "inf" not in three.sentence()
    assert headline([three]) == "No difference was seen; of some pairs none could have been, with 80% power."


def step_down(p):
    """Holm's correction, written out."""
    order = sorted(range(len(p)), key=p.__getitem__)
    found = [0.0] * len(p)
    for rank, i in enumerate(order):
        found[i] = max([min(1.0, p[i] * (len(p) - rank)), *(found[j] for j in order[:rank])])
    return found


def test_every_number_of_the_judge_by_hand():
    rng = np.random.default_rng(8)
    weights, documents = rng.integers(1, 9, 30).astype(float), [str(i // 2) for i in range(30)]
    scores = {name: 2 + shift + rng.normal(0, 0.3, (3, 30)) for name, shift in (("a", 0.0), ("b", 0.02), ("c", 0.3))}

    def measured(row):
        outcomes = [
            Outcome(str(i), float(s), weight=w, labels={"document": d})
            for i, (s, w, d) in enumerate(zip(row, weights, documents))
        ]
        return TaskResult("t", "m", "nll", outcomes, {}, {})

    others = [0.001, 0.4]
    found = judge(
        {"t": {name: {s: measured(row) for s, row in enumerate(rows)} for name, rows in scores.items()}},
        margin=0.2,
        corrected_with=others,
    )
    scaled = {name: rows * weights / weights.mean() for name, rows in scores.items()}
    tests = [crossed_t(scaled[v.second], scaled[v.first], documents) for v in found]
    assert [(v.first, v.second) for v in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [v.effect for v in found] == pytest.approx(
        [np.average(scores[v.second] - scores[v.first], axis=1, weights=weights).mean() for v in found]
    )
    assert [v.raw_p for v in found] == pytest.approx([t.test.p for t in tests])
    assert [v.p for v in found] == pytest.approx(step_down([t.test.p for t in tests] + others)[:3])
    assert [v.equal_p for v in found] == pytest.approx(step_down([t.lies_within(0.2) for t in tests]))
    assert [v.detectable for v in found] == pytest.approx([t.detectable(alpha=0.05 / 5) for t in tests])
    assert {v.comparisons for v in found} == {5} and all("15 items" in v.note for v in found)


def test_a_single_seed_by_hand():
    a, b = result([1] * 50 + [0] * 50), result([1] * 58 + [0] * 42)
    verdict = judge({"t": {"a": {0: a}, "b": {0: b}}}, margin=0.3, corrected_with=[0.5] * 4)[0]
    one = compare(a, b, margin=0.3)
    assert verdict.raw_p == one.test.p == pytest.approx(2 * 0.5**8) and verdict.p == pytest.approx(5 * one.test.p)
    assert (
        verdict.equal_p == one.equivalence.p < 0.05
        and verdict.detectable == compare(a, b, alpha=0.01).detectable > one.detectable
    )


def test_chance_is_the_tasks_own():
    rng = np.random.default_rng(1)
    rows = {
        name: {
            s: replace(result(rng.random(200) < 0.25), receipt={"baselines": {"random": 0.25, "majority": 0.9}}) for s in range(2)
        }
        for name in "ab"
    }
    assert judge({"t": rows})[0].kind == "floor"
    below = {
        name: {s: replace(r, receipt={"baselines": {"random": 0.5}}) for s, r in by_seed.items()}
        for name, by_seed in rows.items()
    }
    assert judge({"t": below})[0].kind == "open"


def test_flips_count_what_most_seeds_saw():
    a = {s: result([0, 0, 1, 1]) for s in range(3)}
    b = {s: result([1, s == 0, 0, s > 0]) for s in range(3)}
    assert judge({"t": {"a": a, "b": b}})[0].flips == {"gained": 1, "lost": 1, "items": 4}


def test_a_stopped_variant_is_judged_at_the_level_of_a_look_by_bonferroni():
    a, b = (
        {s: result(rng.random(150) < share) for s in range(3)}
        for rng, share in ((np.random.default_rng(0), 0.5), (np.random.default_rng(1), 0.62))
    )
    verdicts = judge({"t": {"a": a, "b": b, "c": b}}, corrected_with=[1.0] * 2, stopped=["b"], interim=0.01)
    by_pair = {(v.first, v.second): v for v in verdicts}
    early, late = by_pair["a", "b"], by_pair["a", "c"]
    assert early.p == pytest.approx(min(1.0, 5 * early.raw_p)) and (early.alpha, late.alpha) == (0.01, 0.05)
    assert interim_level(0.05, 6) == pytest.approx(0.05 / 2 / 3)


def test_a_variant_has_lost_to_the_one_that_is_better():
    high = [0.8, 0.8, 0.1, 0.1]
    rows = {
        name: {s: result(np.random.default_rng([n, s]).random(300) < p) for s in range(3)}
        for n, (name, p) in enumerate(zip("abcd", high))
    }
    found = lost({"t": rows, "u": rows}, 0.01, {}, ["a", "b", "c"])
    assert set(found) == {"c"} and "lost to" in found["c"] and "after 3 seeds" in found["c"]
    two = {name: rows[name] for name in "ac"}
    p = judge({"t": two})[0].raw_p
    assert lost({"t": two, "u": rows}, 6.9 * p, {}, ["a", "c"]) == {}  # with the six tests of the other task there are seven
    assert set(lost({"t": two, "u": rows}, 7.1 * p, {}, ["a", "c"])) == {"c"}


def test_a_margin_of_zero_is_never_shown():
    scores = [1, 0] * 200
    for seeds in (1, 2):
        assert judge({"t": {name: {s: result(scores) for s in range(seeds)} for name in "ab"}}, margin=0.0)[0].kind == "open"


def test_flips_are_turned_where_less_is_better_and_log_perplexity_is_called_so():
    outcomes = [[Outcome(id=str(i), score=2.0 + gain * (i < 3)) for i in range(9)] for gain in (0.0, 1.0)]
    a, b = (TaskResult("t", "m", "perplexity", some, {}, {}) for some in outcomes)
    verdict = judge({"t": {"a": {0: a, 1: a}, "b": {0: b, 1: b}}})[0]
    assert verdict.flips == {"gained": 0, "lost": 3, "items": 9} and "nats per token, difference" in verdict.sentence()


def test_a_variants_interval_at_the_floor_and_over_documents():
    value, low, high = variant_estimate({s: result([0] * 20) for s in range(3)})
    assert (value, low) == (0.0, 0.0) and high == pytest.approx(stats.binomtest(0, 20).proportion_ci(method="wilson").high)
    rows = {s: result(np.repeat(np.random.default_rng(s).random(10) < 0.5, 6)) for s in range(3)}
    apart = variant_estimate(rows)
    joined = {
        s: replace(r, outcomes=[replace(o, labels={"document": str(i // 6)}) for i, o in enumerate(r.outcomes)])
        for s, r in rows.items()
    }
    together = variant_estimate(joined)
    assert together[0] == pytest.approx(apart[0]) and together[2] - together[1] > 1.5 * (apart[2] - apart[1])


def test_scores_under_other_conditions_are_refused_with_a_way_out_that_there_is():
    a, b = result([1, 0]), replace(result([1, 0]), conditions={"prompt": "q"})
    with pytest.raises(RecipeError, match="the same measure steps") as refused:
        judge({"t": {"a": {0: a}, "b": {0: b}}})
    assert "allow" not in str(refused.value)


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
    assert verdict.ratio == 2.0 and verdict.censored == 1 and verdict.p == pytest.approx(2 / 924)
    assert verdict.test == "log-rank, exact over 924 permutations"
    three = time_to_target(("accuracy", 0.6), arms(quick=quick[:3], slow=[watched([(80, 0.2)], s) for s in range(3)]), "tokens")
    assert three[0].p == pytest.approx(0.1)  # 2 of 20 orders; the normal approximation says 0.025
    signs = time_to_target(("accuracy", 0.6), arms(quick=quick[:5], slow=slow[:5]), "tokens")[0]
    assert signs.test == "sign test over 5 seeds" and signs.p == pytest.approx(2 * 0.5**5)
