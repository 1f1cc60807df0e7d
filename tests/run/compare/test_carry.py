"""Comparisons carried out on a tiny model: budgets, failures, early stopping, tuning, targets, going on, pools, the page."""

from __future__ import annotations

import datetime as dt
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whet
from tiny import llama
from whet.cli import main
from whet.errors import RecipeError, WhetError
from whet.run.check import check_recipe
from whet.run.compare import carry, jobs
from whet.run.compare import page as pages
from whet.run.compare import summary as summaries
from whet.run.compare.arms import Comparison
from whet.run.compare.carry import compare_recipe
from whet.run.compare.command import compare_and_show
from whet.run.compare.jobs import Done, Job
from whet.run.compare.spending import Spending
from whet.run.ledger import ComparisonRecord, Ledger
from whet.run.show import show, show_all
from whet.run.store import Store

EASY = {"name": "nanoworld", "skills": ["variables"], "difficulty": [1, 1]}
TASK = {"name": "answers", "data": {**EASY, "rows": 8, "seed": 3}, "max_new_tokens": 4}
LLAMA = llama(hidden_size=16)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def recipe(**changes: Any) -> dict[str, Any]:
    document = {
        "name": "tiny",
        "model": LLAMA,
        "tokenizer_data": "text",
        "data": [
            {"name": "text", "source": {**EASY, "rows": 40, "form": "plain"}},
            {"name": "chats", "source": {**EASY, "rows": 32}},
            {"name": "pairs", "source": {**EASY, "rows": 32, "form": "preference"}},
            {"name": "chosen", "data": "chats", "select": [{"name": "perplexity", "share": 0.5}]},
        ],
        "train": [{"name": "one", "data": "chats", "steps": 2, "batch_size": 4, "lr": 1e-3}],
        "measure": [{"name": "scores", "tasks": [TASK]}],
    }
    return {**document, **changes}


def compared(document: dict[str, Any], **asked: Any) -> Comparison:
    return compare_recipe(document, say=lambda _: None, **asked)


def spent(comparison: Comparison) -> dict[str, list[float]]:
    unit = comparison.plan.budget.unit if comparison.plan.budget else "tokens"
    return {name: [s.of(unit) for s in arm.spent.values()] for name, arm in comparison.arms.items()}


# ---- budgets


@pytest.mark.parametrize("budget", ["12K tokens", "600M flops"])
def test_variants_of_different_cost_end_at_the_same_budget(budget: str) -> None:
    variants = {
        "sft": {},
        "dpo": {"train.0.objective": "dpo", "train.0.data": "pairs"},
        "selected": {"train.0.data": "chosen"},
    }
    comparison = compare_recipe(recipe(), ["train.0.batch_size=2"], variants=variants, seeds=1, budget=budget, say=lambda _: None)
    assert comparison.plan.budget
    for name, amounts in spent(comparison).items():
        assert amounts == pytest.approx([comparison.plan.budget.amount], rel=0.02), name
    kinds = {name: dict(arm.spent[0].kinds) for name, arm in comparison.arms.items()}
    assert kinds["dpo"]["reference model"] > 0 and kinds["selected"]["data passes"] > 0
    assert all(not v.unmatched for v in comparison.verdicts)


def test_a_variant_whose_earlier_steps_need_more_than_the_budget_is_refused() -> None:
    variants = {"plain": {}, "other": {"train.0.lr": 1e-4}, "selected": {"train.0.data": "chosen"}}
    comparison = compared(recipe(), variants=variants, seeds=1, budget="500 tokens")
    assert "its steps before 'one' need" in comparison.arms["selected"].failed
    assert "the budget is 500 tokens" in comparison.arms["selected"].failed
    assert list(comparison.results["answers"]) == ["plain", "other"]


def test_no_winner_is_named_where_the_budget_was_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _simulate(monkeypatch, {"a": 0.2, "b": 0.9}, tokens={"a": 100, "b": 100})
    asked = {"variants": {"a": {}, "b": {"train.0.lr": 1e-4}}, "seeds": 3}
    assert [v.kind for v in compared(recipe(), **asked, budget="100 tokens").verdicts] == ["better"]
    _simulate(monkeypatch, {"a": 0.2, "b": 0.9}, tokens={"a": 60, "b": 100})
    verdict = compared(recipe(), **asked, budget="100 tokens").verdicts[0]
    assert (
        verdict.kind == "unmatched" and "the budget is not matched: a and b spent 60 tokens and 100 tokens" in verdict.sentence()
    )


def test_calibration_and_selecting_count() -> None:
    quantize = [{"name": "small", "bits": 4, "group_size": 16, "data": "text", "rows": 8}]
    train = [*recipe()["train"], {"name": "two", "data": "chats", "steps": 1, "model": "base"}]
    edit = [{"name": "soup", "models": ["one", "two"], "method": {"name": "soup", "mode": "greedy"}, "score": TASK}]
    document = recipe(quantize=quantize, train=train, edit=edit)
    variants = {"nearest": {"quantize.0.compensate": "none"}, "soup": {}}
    comparison = compared(document, variants=variants, stage={"soup": "soup"}, seeds=1)
    kinds = {name: comparison.arms[name].spent[0].kinds for name in variants}
    assert kinds["nearest"]["calibration"] > 0 and kinds["soup"]["selecting"] > 0
    assert comparison.arms["soup"].spent[0].flops > 0


# ---- failures and stopping


def test_flips_against_a_reference_are_judged_and_what_the_reference_took_is_not_counted() -> None:
    train = [
        {"name": "old", "data": "chats", "model": "base", "steps": 5, "batch_size": 4},
        recipe()["train"][0] | {"model": "base"},
    ]
    measure = [{"name": "scores", "tasks": [TASK], "reference": "old"}]
    variants = {"old": {}, "new": {}, "slow": {"train.one.lr": 1e-4}}
    stage = {"old": "old", "new": "one", "slow": "one"}
    comparison = compared(recipe(train=train, measure=measure), variants=variants, seeds=2, stage=stage)
    assert {v.task for v in comparison.verdicts} == {"answers", "negative flips in answers"}
    flips = comparison.results["negative flips in answers"]
    assert not any(o.score for result in flips["old"].values() for o in result.outcomes)
    assert all(r.model == name for name, by_seed in flips.items() for r in by_seed.values())
    assert all(not v.better_high for v in comparison.verdicts if v.task.startswith("negative"))
    assert spent(comparison)["new"] == spent(comparison)["slow"] and spent(comparison)["old"][0] > spent(comparison)["new"][0]


def test_a_reference_without_a_task_that_has_flips_is_refused() -> None:
    replies = {"name": "replies", "data": TASK["data"]}
    measure = [{"name": "scores", "tasks": [replies], "reference": "base"}]
    with pytest.raises(WhetError, match="reference 'base': flips are counted where more is better"):
        compared(recipe(measure=measure), variants={"a": {}, "b": {"train.one.lr": 1e-4}}, seeds=1)


def test_a_variant_that_fails_leaves_the_others_judged() -> None:
    variants = {"plain": {}, "slow": {"train.0.lr": 1e-4}, "broken": {"train.0.data": "gone"}}
    data = [*recipe()["data"], {"name": "gone", "source": {"name": "file", "path": "absent.jsonl"}}]
    comparison = compared(recipe(data=data), variants=variants, seeds=2)
    assert "absent.jsonl: no such file" in comparison.arms["broken"].failed
    assert [(v.first, v.second) for v in comparison.verdicts] == [("plain", "slow")]


def test_a_variant_that_fails_at_one_seed_wins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _simulate(monkeypatch, {"a": 0.2, "b": 0.9}, failing={("b", 1): "the loss is NaN"})
    comparison = compared(recipe(), variants={"a": {}, "b": {"train.0.lr": 1e-4}}, seeds=4)
    verdict = comparison.verdicts[0]
    assert comparison.arms["b"].failed == "seed 1: the loss is NaN"
    assert verdict.kind == "unmatched" and "no winner named, b failed (seed 1)" in verdict.sentence()
    assert list(verdict.by_seed) == [0, 2, 3]


def test_variants_that_failed_at_different_seeds_leave_the_others_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    _simulate(monkeypatch, dict.fromkeys("abcd", 0.5), failing={("c", 0): "no", ("d", 1): "no"})
    variants = {name: {"train.0.lr": lr} for name, lr in zip("abcd", (1e-3, 1e-4, 1e-5, 1e-6))}
    assert [(v.first, v.second) for v in compared(recipe(), variants=variants, seeds=2).verdicts] == [("a", "b")]


def test_nothing_is_left_to_compare() -> None:
    with pytest.raises(WhetError, match="fewer than two variants gave a result"):
        compared(recipe(data=recipe()["data"][:2]), variants={"a": {}, "b": {"train.0.lr": 1e30}}, seeds=1)
    record = Ledger.beside(Store.open().scratch).comparison("tiny")
    assert record.status == "failed" and "fewer than two" in record.result["error"]


def _simulate(
    monkeypatch: pytest.MonkeyPatch,
    ability: dict[str, float],
    *,
    tokens: dict[str, int] | None = None,
    failing: dict[tuple[str, int], str] | None = None,
    items: int = 60,
    draw: int = 0,
) -> list[tuple[str, int]]:
    """Jobs give drawn results instead of running; returns the list of what is run."""
    from whet.measure.outcome import Estimate, Outcome, TaskResult

    run: list[tuple[str, int]] = []
    hardness = np.random.default_rng(draw).normal(0, 1, items)

    def carry_out(job: Job, store: str, cwd: str = ".") -> Done:
        run.append((job.variant, job.seed))
        if why := (failing or {}).get((job.variant, job.seed)):
            return Done(job, error=why)
        cost = jobs.StepCost("one", "train", "x", Spending(tokens=(tokens or {}).get(job.variant, 100)))
        return Done(job, run=f"{job.variant}-{job.seed}", steps=[cost])

    def read_results(done: Done, store: Store, step: str | None = None) -> dict[str, Any]:
        rng = np.random.default_rng([draw, *map(ord, done.job.variant), done.job.seed])
        scores = hardness + rng.normal(0, 0.1) + rng.normal(0, 1, items) + 4 * (ability[done.job.variant] - 0.5) > 0
        outcomes = [Outcome(id=str(i), score=float(s)) for i, s in enumerate(scores)]
        value = float(scores.mean())
        estimates = {"accuracy": Estimate(value, value, value, items, "")}
        return {"t": TaskResult("t", "m", "accuracy", outcomes, {"prompt": "p"}, estimates)}

    monkeypatch.setattr(jobs, "carry_out", carry_out)
    monkeypatch.setattr(jobs, "read_results", read_results)
    return run


def _without_records(monkeypatch: pytest.MonkeyPatch, **asked: Any) -> None:
    """Two hundred comparisons need no ledger, no page, and one plan."""
    from contextlib import nullcontext
    from types import SimpleNamespace

    monkeypatch.setattr(carry, "recorded", lambda *_: nullcontext(SimpleNamespace()))
    monkeypatch.setattr(pages, "write_page", lambda *_: None)
    monkeypatch.setattr(summaries, "summary", lambda *_: {})
    plan = carry.make_plan(recipe(), **asked)
    monkeypatch.setattr(carry, "make_plan", lambda *_, **__: plan)
    monkeypatch.setattr(jobs, "document_for", lambda *_, **__: {})


def test_early_stopping_keeps_the_level_and_saves_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"variants": {"a": {}, "b": {"train.0.lr": 1e-4}}, "seeds": 6, "stop_lost": True}
    _without_records(monkeypatch, **asked)
    wrong = 0
    for draw in range(200):
        _simulate(monkeypatch, {"a": 0.5, "b": 0.5}, draw=draw)
        wrong += any(v.kind in ("better", "worse") for v in compared(recipe(), **asked).verdicts)
    assert wrong <= 10
    run = _simulate(monkeypatch, {"a": 0.2, "b": 0.9})
    comparison = compared(recipe(), **asked)
    assert len(run) == 9 and comparison.arms["a"].stopped.startswith("stopped early: lost to b after 3 seeds")
    assert [v.kind for v in comparison.verdicts] == ["better"] and "half of the level" in comparison.notes[0]


# ---- tuning and targets


def test_every_variant_is_tuned_at_the_same_points_on_validation() -> None:
    document = recipe()
    document["measure"] = [
        *document["measure"],
        {"name": "validation", "tasks": [{**TASK, "data": {**EASY, "rows": 4, "seed": 9}}]},
    ]
    comparison = compared(
        document, variants={"a": {}, "b": {"train.0.objective": "masked-thought"}}, seeds=1, tune={"lr": "1e-4..1e-2"}, trials=2
    )
    arms = comparison.arms.values()
    tried = [[trial["values"] for trial in arm.trials] for arm in arms]
    assert tried[0] == tried[1] and len(tried[0]) == 2
    for arm in arms:
        best = max(arm.trials, key=lambda trial: trial["score"])
        assert arm.values == best["values"] and arm.tuning.tokens > 0
        assert arm.done[0].job.document["train"][0]["lr"] == arm.values["train.one.lr"]
    assert set(comparison.results) == {"answers"}


def test_the_budget_to_a_target_and_seeds_that_never_reach_it() -> None:
    train = [
        {"name": "one", "data": "chats", "batch_size": 4, "validations": 3, "validate": {"name": "replies", "data": TASK["data"]}}
    ]
    document = recipe(train=train)
    comparison = compared(
        document,
        variants={"slow": {"train.0.lr": 1e-6}, "quick": {"train.0.lr": 2e-2}},
        seeds=2,
        budget="20K tokens",
        target="perplexity=100",
    )
    target = comparison.targets[0]
    assert target.censored == 2 and all(math.isinf(r.cost) for r in target.first_reached)
    assert all(0 < r.cost < r.budget for r in target.second_reached)
    page = next(Store.open().scratch.glob("runs/*/compare.html")).read_text()
    assert "(never)" in page and "Budget to reach" in page
    kept = json.loads(next(Store.open().scratch.glob("runs/*/comparison.json")).read_text(), parse_constant=pytest.fail)
    assert kept["targets"][0]["ratio"] == 0 and "(never)" in kept["targets"][0]["first_costs"] and kept["unit"] == "tokens"


def test_a_target_that_is_not_watched_for_is_said_before_anything_runs() -> None:
    with pytest.raises(RecipeError, match="is not watched while it trains"):
        compared(recipe(), vary={"train.0.lr": [1e-3, 1e-4]}, target="accuracy=0.5")
    watched = [
        {"name": "one", "data": "chats", "steps": 2, "batch_size": 4, "validate": {"name": "replies", "data": TASK["data"]}}
    ]
    with pytest.raises(RecipeError, match=r"target: unknown metric 'accuracy': .*Known: perplexity .*'one' is watched by"):
        compared(recipe(train=watched), vary={"train.0.lr": [1e-3, 1e-4]}, target="accuracy=0.5")
    assert show_all()[0] == []


# ---- going on, pools, records


def test_finished_variants_are_reused_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"vary": {"train.0.lr": [1e-3, 1e-4]}, "seeds": 1}
    real, begun = jobs.carry_out, []

    def stopped_in_the_second(job: Job, store: str, cwd: str = ".") -> Done:
        begun.append(job.variant)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(job, store, cwd)

    monkeypatch.setattr(jobs, "carry_out", stopped_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        compared(recipe(), **asked)
    ledger = Ledger.beside(Store.open().scratch)
    assert ledger.comparison("tiny").status == "stopped" and ledger.comparison("tiny").finished
    monkeypatch.setattr(jobs, "carry_out", real)
    comparison = compared(recipe(), **asked)
    runs = [ledger.run(arm.done[0].run) for arm in comparison.arms.values()]
    status = [{s.name: s.status for s in run.steps} for run in runs]
    assert status[0]["one"] == "reused" and status[1]["one"] == "done"
    assert ledger.comparison("last").status == "done" and ledger.comparison("last").result["verdicts"]
    text = show(comparison.id)[1]
    assert "lr=0.0001 against lr=0.001" in text and "page: " in text and comparison.id in show_all()[1]


def test_a_comparison_whose_process_is_gone_is_shown_as_interrupted() -> None:
    store = Store.open()
    store.prepare()
    now = dt.datetime.now(dt.UTC)
    record = ComparisonRecord(id="tiny-1", name="tiny", status="running", started=now, finished=None, document={}, result={})
    Ledger.beside(store.scratch).save(record)
    (store.scratch / "locks" / "run-tiny-1").write_text(platform.node())
    assert "interrupted (its process is gone; the same command goes on where it was)" in show("tiny")[1]


def test_check_forecasts_all_runs() -> None:
    measure = [{"name": "scores", "tasks": [{**TASK, "data": {**EASY, "rows": 60, "seed": 3}}]}]
    document = recipe(model="nano", tokenizer_data=None, measure=measure)
    variants = {"plain": {}, "longer": {"train.0.batch_size": 8}}
    result = check_recipe({**document, "compare": {"variants": variants, "seeds": 4, "budget": "2K tokens"}})
    assert {check.name.partition(",")[0] for check in result.checks} == {"plain", "longer"}
    trained = [step.tokens for step in result.forecast.steps if step.name.endswith(", one")]
    assert trained == [8000, 8000] and "2 variants at 4 seeds" in result.text()


def test_processes_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.set_num_threads(1)
    found = []
    for on in ("local", "processes:2"):
        monkeypatch.setenv("WHET_HOME", str(tmp_path / on[:5]))
        result = compare_and_show(
            recipe(), on=on, say=lambda _: None, vary={"train.0.lr": [1e-3, 1e-2]}, seeds=2, budget="3K tokens"
        )
        data = result.data()
        found.append(
            ([v.effect for v in result.verdicts], data["by_seed"], [v["spent"]["tokens"] for v in data["variants"].values()])
        )
    assert found[0] == found[1]


def test_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="instead of torchrun use --on"):
        compare_and_show(recipe(), vary={"train.0.lr": [1e-3, 1e-4]})


def test_the_page_escapes_and_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = {"<script>a</script>": {}, "b & c": {"train.0.lr": 1e-2}}
    result = compare_and_show(recipe(about="<i>x</i>"), say=lambda _: None, variants=variants, seeds=2, out=tmp_path / "out")
    page = result.page.read_text()
    assert "<script" not in page and "<i>x" not in page and "&lt;script&gt;a" in page and "b &amp; c" in page
    assert "src=" not in page and "href=" not in page and "@import" not in page and "url(" not in page
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["verdicts"]
    again = whet.compare(tmp_path / "out" / "comparison.yaml", say=lambda _: None)
    assert again.data()["by_seed"] == result.data()["by_seed"]
    again.print()
    assert str(again.page) in capsys.readouterr().out and again.verdicts


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(recipe(compare={"variants": {"x": {}, "y": {"train.0.lr": 1e-2}}})))
    assert main(["run", str(file)]) == 2 and "carry it out by 'whet compare'" in capsys.readouterr().err
    assert main(["compare", str(file), "--vary", "train.0.lr=1e-3,1e-4", "--seeds", "3,5", "--margin", "0.2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["variants"]) == ["lr=0.001", "lr=0.0001"] and list(data["by_seed"]["answers"]["lr=0.001"]) == ["3", "5"]
    assert main(["show", data["id"]]) == 0 and "against lr=0.001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "compare.seeds: expected how many"),
        (["--seeds", "2", "--alpha", "0"], "alpha"),
        (["--seeds", "2", "--trials", "0"], "trials"),
        (["--vary", "train.0.lr=3e-3,4e-3"], "--vary train.0.lr: is given twice"),
        (["--tune", "lr=1e-4..1e-2", "--tune", "lr=1e-3..1e-2"], "--tune lr: is given twice"),
    ],
)
def test_what_is_written_on_the_command_line_is_never_passed_over(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(recipe()))
    assert main(["compare", str(file), "--vary", "train.0.lr=1e-3,1e-4", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", [",", "", "a"])
def test_seeds_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "demo", "--seeds", text])
    assert "expected how many, such as 5, or which ones" in capsys.readouterr().err


def test_the_pages_command_repeats_it_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import html
    import shlex

    here, elsewhere = tmp_path / "it's here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    rows = [{"prompt": f"{n} + 1?", "completion": str(n + 1), "answer": str(n + 1)} for n in range(40)]
    (here / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(here)
    data = [recipe()["data"][0], {"name": "chats", "source": {"name": "file", "path": "sums.jsonl"}}]
    first = compare_and_show(recipe(data=data), say=lambda _: None, vary={"train.0.lr": [1e-3, 1e-2]}, seeds=1, out=elsewhere)
    monkeypatch.chdir(elsewhere)
    written = html.unescape(first.page.read_text().partition("<h2>Reproduce</h2>\n<pre>")[2].partition("</pre>")[0])
    word, folder, *rest = shlex.split(written)
    assert (word, rest[:3]) == ("cd", ["&&", "whet", "compare"])
    monkeypatch.chdir(folder)
    again = compare_and_show(rest[3], say=lambda _: None)
    assert again.data()["by_seed"] == first.data()["by_seed"]


def test_variants_that_made_one_and_the_same_model_are_noted() -> None:
    same = {"short": {"train.0.optimizer": "adamw"}, "long": {"train.0.optimizer": {"name": "adamw", "eps": 1e-8}}}
    comparison = compared(recipe(), variants={**same, "other": {"train.0.lr": 1e-2}}, seeds=1)
    assert comparison.notes == [
        "short and long made the same model at every seed: what is written differently in them changed nothing."
    ]


def test_what_comes_after_the_watched_step_is_not_part_of_the_time_to_target() -> None:
    train = [{**recipe()["train"][0], "validations": 2, "validate": {"name": "replies", "data": TASK["data"]}}]
    quantize = [{"name": "small", "bits": 4, "group_size": 16, "data": "text", "rows": 8}]
    asked: dict[str, Any] = {"vary": {"train.0.lr": [1e-3, 1e-2]}, "seeds": 1, "target": "perplexity=1e9"}
    reached = [
        [(r.cost, r.budget) for t in compared(recipe(train=train, quantize=q), **asked).targets for r in t.first_reached]
        for q in ([], quantize)
    ]
    assert reached[0][0][0] == reached[1][0][0] < reached[0][0][1] < reached[1][0][1]
