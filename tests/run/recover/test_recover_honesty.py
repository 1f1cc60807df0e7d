"""What a recovery must not claim: bounds at their edge, losses by chance, examples it trained on, settings it does not follow."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from whet.errors import DataError, RecipeError
from whet.measure.estimates import by_groups
from whet.measure.metrics.accuracy import accuracy
from whet.measure.metrics.perplexity import perplexity
from whet.measure.outcome import Outcome, TaskResult
from whet.parts import build
from whet.run.recover.command import recovery
from whet.run.recover.notes import overlap_notes, row_notes, trained_on
from whet.run.recover.page import _group, headline
from whet.run.recover.plan import Recovery, default_tasks, pool_source, recovery_document
from whet.run.recover.proof import CHANGES, STAGES, _flips, _within, prove


def answers(*scores, skills="abc", task="t"):
    """The three stages' results on the same examples, right or wrong."""
    results = {}
    for stage, values in zip(STAGES, scores):
        outcomes = [
            Outcome(str(i), float(v), prompt=f"p{i}", labels={"skill": skills[i % len(skills)]}) for i, v in enumerate(values)
        ]
        estimates = by_groups(outcomes, {"accuracy": accuracy}, ["skill"])
        results[stage] = TaskResult(task, stage, "accuracy", outcomes, {}, estimates)
    return {task: results}


def replies(*losses):
    """The three stages' results in nats per token, one token each."""
    results = {}
    for stage, values in zip(STAGES, losses):
        outcomes = [Outcome(str(i), float(v), scores={"nll": float(v), "tokens": 1.0}) for i, v in enumerate(values)]
        results[stage] = TaskResult("r", stage, "perplexity", outcomes, {}, {"perplexity": perplexity(outcomes)})
    return {"r": results}


def drawn(share, rows=300, seed=0):
    return (np.random.default_rng(seed).random(rows) < share).astype(float)


def test_a_bound_is_not_met_at_exactly_its_edge():
    left = prove(answers(drawn(0.8), drawn(0.5), drawn(0.8))).left[0]
    for better_high, edge in ((True, "low"), (False, "high")):
        sign = -1.0 if better_high else 1.0
        for worst, met in ((0.01, False), (0.0100001, False), (0.0099999, True)):
            # The other end of the interval is far away: it does not matter how much better the repaired model may be.
            ends = {"low": -0.9, "high": 0.9, "effect": 0.0, edge: sign * worst}
            assert _within(replace(left, better_high=better_high, test=replace(left.test, **ends)), 0.01).met is met
    for most, met in ((0.02, False), (0.0200001, False), (0.0199999, True)):
        rate = replace(left.flips.negative, value=0.01, high=most)
        assert _flips(replace(left, flips=replace(left.flips, negative=rate)), 0.02).met is met


def test_a_bound_without_an_interval_is_not_met():
    left = prove(answers(drawn(0.8), drawn(0.5), drawn(0.8))).left[0]
    assert not _within(replace(left, test=replace(left.test, low=None)), 0.5).met


def test_the_rate_of_flips_is_said_in_percent_and_none_can_be_shown_without_answers():
    left = prove(answers(drawn(0.8), drawn(0.5), drawn(0.8))).left[0]
    for high, end in ((0.015, "under 2%, shown"), (0.025, "under 2% is not shown; more examples would settle it")):
        rate = replace(left.flips.negative, value=0.0125, high=high)
        text = _flips(replace(left, flips=replace(left.flips, negative=rate)), 0.02).text
        assert text == f"t: negative flips 1.25%, at most {100 * high:.2f}% (95%): {end}"
    nats = np.random.default_rng(0).random(60) + 0.5
    proof = prove(replies(nats, nats + 0.2, nats), max_negative_flips=0.02)
    assert not proof.met and "there are no flips to bound" in proof.bounds[0].text


def test_why_a_bound_is_not_met_goes_by_the_value():
    left = prove(answers(drawn(0.8), drawn(0.5), drawn(0.8))).left[0]
    for effect, high, word in (
        (0.005, 0.5, "more examples would settle it"),
        (0.01, 0.5, "is not met"),
        (0.4, 0.5, "is not met"),
    ):
        test = replace(left.test, effect=effect, low=-0.5, high=high)
        assert word in _within(replace(left, better_high=False, test=test), 0.01).text
    for value, word in ((0.01, "more examples would settle it"), (0.02, "is not met")):
        rate = replace(left.flips.negative, value=value, high=0.5)
        assert word in _flips(replace(left, flips=replace(left.flips, negative=rate)), 0.02).text


def test_more_nats_than_the_reference_are_written_as_more():
    rng = np.random.default_rng(0)
    before = rng.random(60) + 0.5
    proof = prove(replies(before, before + 0.3, before + 0.1 + 0.01 * rng.random(60)), within=0.01)
    assert not proof.met and "repaired minus reference +0.10" in proof.bounds[0].text
    assert "nats per token, at worst +0.1" in proof.bounds[0].text
    assert prove(replies(before, before + 0.3, before - 0.1 * rng.random(60)), within=0.01).met


def test_what_was_won_back_of_a_loss_by_chance_is_said_to_be_that():
    base = drawn(0.8)
    few, many = base.copy(), base.copy()
    few[np.flatnonzero(base)[:2]], many[np.flatnonzero(base)[:120]] = 0, 0
    some = many.copy()
    some[np.flatnonzero(base)[:1]] = 1
    assert headline(prove(answers(base, few, base))) == "t: 100% of the loss was won back, but the loss itself may be chance"
    assert headline(prove(answers(base, many, some))) == "t: 1% of the loss was won back, which may be chance"
    assert headline(prove(answers(base, many, base))) == "t: 100% of the loss was won back"
    assert headline(prove(answers(base, base, many))) == "t: nothing was lost"
    assert headline(prove(answers(many, base, many))) == "t: nothing was lost"
    assert headline(prove(answers(base, many, many))) == "t: 0% of the loss was won back, which may be chance"
    nats = np.random.default_rng(0).random(60) + 0.5
    assert headline(prove(replies(nats, nats + 0.2, nats + 0.2))) == "r: 0% of the loss was won back, which may be chance"
    assert headline(prove(replies(nats, nats, nats - 0.1))) == "r: nothing was lost"
    assert headline(prove(replies(nats, nats - 0.2, nats))) == "r: nothing was lost"
    assert headline(prove(replies(nats, nats + 0.2, nats + 0.3))) == "r: the repair made it worse, by 50% of the loss"


def test_each_group_is_tested_and_corrected_over_all_groups():
    before, broken, mended = drawn(0.9, 240), drawn(0.6, 240, 1), drawn(0.8, 240, 2)
    proof = prove(answers(before, broken, mended))
    stages = dict(zip(STAGES, (before, broken, mended)))
    own = {}
    for k, skill in enumerate("abc"):
        for number, (a, b) in enumerate(CHANGES):
            first, second = stages[a][k::3], stages[b][k::3]
            lost, won = int((first > second).sum()), int((second > first).sum())
            own[skill, number] = binomtest(min(lost, won), lost + won).pvalue if lost + won < 25 else chi_square(lost, won)
    order, largest, adjusted = sorted(own, key=lambda key: own[key]), 0.0, {}
    for rank, key in enumerate(order):
        largest = max(largest, min(1.0, own[key] * (len(order) - rank)))
        adjusted[key] = largest
    whole, *groups = proof.capabilities["t"]
    assert not whole.changes and len(groups) == 3
    for group in groups:
        k = "abc".index(group.name)
        for number, (change, (a, b)) in enumerate(zip(group.changes, CHANGES)):
            assert change.p == pytest.approx(adjusted[group.name, number], rel=1e-9) and change.comparisons == 9
            assert change.test.effect == pytest.approx(stages[b][k::3].mean() - stages[a][k::3].mean())
    shown = _group(groups[0])["changes"]
    assert [c["kind"] for c in shown] == [c.verdict if c.p < 0.05 else "" for c in groups[0].changes]
    assert groups[0].data()["change"]["p"] == groups[0].changes[0].p


def chi_square(lost, won):
    from scipy.stats import chi2

    return float(chi2.sf((abs(lost - won) - 1) ** 2 / (lost + won), 1))


def test_a_group_of_one_example_is_shown_and_not_tested():
    proof = prove(answers([1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 0, 1, 1], skills="aaaab"))
    assert {c.name: len(c.changes) for c in proof.capabilities["t"]} == {"all": 0, "a": 3, "b": 0}


def test_examples_that_were_trained_on_show_no_bound():
    results = answers(drawn(0.8), drawn(0.3), drawn(0.8))
    seen = trained_on(results, [{"prompt": prompt, "completion": "c"} for prompt in ("p3 ", "p7", "other")])
    assert seen == {"t": 2} and trained_on(results, [{"prompt": "x", "completion": "c"}]) == {}
    chat = [{"role": "user", "content": "p3"}, {"role": "assistant", "content": "c"}]
    assert trained_on(results, [{"messages": chat}]) == {"t": 1}
    assert prove(results, within=0.05, max_negative_flips=0.05).met
    proof = prove(results, within=0.05, max_negative_flips=0.05, trained_on=seen)
    assert not proof.met and not any(bound.met for bound in proof.bounds)
    assert "trained on 2" in proof.bounds[0].text and "trained on 2 of the measured prompts" in overlap_notes(seen)[0]
    other = {**results, **answers(drawn(0.8), drawn(0.3), drawn(0.8), task="u")}
    assert [b.met for b in prove(other, within=0.05, trained_on=seen).bounds] == [False, True]


def test_rows_that_were_not_used_are_told():
    def steps(unusable, chosen):
        drift = {"rows_in": 50, "rows_unusable": unusable}
        receipts = {"diagnosis": {"drift": drift}, "repair": {"paser": chosen} if chosen else {}}
        return {name: SimpleNamespace(receipt=receipt) for name, receipt in receipts.items()}

    assert row_notes(steps(0, {"rows_out": 9, "rows_asked": 9, "rows_refused": 5})) == row_notes(steps(0, None)) == []
    left_out, fewer = row_notes(steps(7, {"rows_out": 9, "rows_asked": 20, "rows_refused": 41}))
    assert left_out.startswith("7 of the pool's 50 rows were left out") and "9 rows of 20 asked for, and refused 41" in fewer


def test_one_task_need_not_be_a_list():
    task = {"name": "replies", "data": {"name": "nanoworld", "rows": 20}}
    for tasks in (task, [task], "nanoworld"):
        document = recovery_document(Recovery("nano", "nano", "nanoworld", tasks=tasks), "full")
        assert document["measure"][0]["tasks"] == ([tasks] if tasks != [task] else [task])
    assert recovery("nano", "nano", "nanoworld", about="mine").about == "mine"


@pytest.mark.parametrize("field", ["name", "data", "model", "reference", "objective", "adapter"])
def test_settings_that_would_make_it_another_repair_are_refused(field):
    with pytest.raises(RecipeError, match=f"settings: '{field}' cannot be set in a recovery"):
        recovery_document(Recovery("nano", "nano", "nanoworld", settings={field: "full", "steps": 2}), "full")


def test_fresh_draws_are_a_schedule_of_their_own():
    with pytest.raises(RecipeError, match="'schedule' cannot be set in a recovery: rs2 is the schedule"):
        recovery_document(Recovery("nano", "nano", "nanoworld", select="rs2", settings={"schedule": "shuffle"}), "full")
    document = recovery_document(Recovery("nano", "nano", "nanoworld", settings={"schedule": "sequential"}), "full")
    assert document["train"][0]["schedule"] == "sequential"


def test_pools_that_the_file_source_reads_are_taken(tmp_path):
    rows = build("source", {"name": "nanoworld", "rows": 60, "seed": 4})("train")
    for name, kept in (("pool.jsonl.gz", ""), ("pool.ndjson", "")):
        path = tmp_path / name
        text = "".join(json.dumps({k: r[k] for k in ("prompt", "completion")} | {"answer": kept}) + "\n" for r in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        assert [task["name"] for task in default_tasks(pool_source(str(path)))] == ["replies"]
    with pytest.raises(RecipeError, match="is no source such as"):
        pool_source("{name: nanoworld")


def test_answers_are_asked_for_if_any_row_has_one(tmp_path):
    path = tmp_path / "pool.jsonl"
    rows = [{"prompt": f"p{i}", "completion": "c", "answer": "a" if i > 40 else None} for i in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert build("source", pool_source(path))("test")[0]["answer"] is None
    assert [task["name"] for task in default_tasks(pool_source(path))] == ["answers", "replies"]


def test_one_held_out_row_measures_nothing(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 5)
    (tmp_path / "test.jsonl").write_text('{"prompt": "q", "completion": "c"}\n')
    with pytest.raises(DataError, match="only 1 row is held out"):
        default_tasks(pool_source(tmp_path))
