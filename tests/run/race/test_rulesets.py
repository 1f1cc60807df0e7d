"""The self-tuning ruleset beside external tuning, and processor time beside steps: on tables made by hand, and run once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import whet
from whet.errors import RecipeError, WhetError
from whet.run.compare.arms import Arm
from whet.run.compare.jobs import Done, Job
from whet.run.compare.plan import make_plan as plan_comparison
from whet.run.compare.variants import Variant
from whet.run.ledger import Ledger
from whet.run.race import carry
from whet.run.race.asked import lengthened
from whet.run.race.carry import Race, comparison, race
from whet.run.race.page import lines, summary
from whet.run.race.plan import Plan, make_plan
from whet.run.race.standing import Course, in_turn, judge, times_by
from whet.run.race.targets import Target, set_target
from whet.run.show import show, show_all
from whet.run.store import Store

INF = math.inf
TARGET = Target("perplexity", 2.0, {})
SOURCE = {"name": "chain-mod10", "steps": 2, "rows": 24}
TASK = {"name": "perplexity", "data": SOURCE}
LLAMA = {"name": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "vocab_size": 262, "context": 64}
TRAIN = {"name": "net", "data": "rows", "format": "plain", "steps": 4, "batch_size": 4, "validations": 4} | {
    "validate": {**TASK, "split": "validation"}
}
WORKLOAD = {
    "model": {**LLAMA, "intermediate_size": 32},
    "tokenizer_data": "rows",
    "data": [{"name": "rows", "source": SOURCE}],
    "train": [TRAIN],
    "measure": [{"name": "test", "tasks": [TASK]}],
}


def asked(**changes: Any) -> dict[str, Any]:
    section = {
        "ruleset": "self-tuning",
        "algorithms": {"fixed": {"lr": 0.03}, "tuned": {"optimizer": "sgd", "tune": {"lr": "0.1..1"}}},
        "trials": 2,
        "studies": 2,
        "workloads": {"chains": {"recipe": WORKLOAD, "target": "perplexity=2"}},
    }
    return {"name": "tiny", "race": {**section, **changes}}


def external(**changes: Any) -> dict[str, Any]:
    algorithms = {"fixed": {}, "tuned": {"optimizer": "sgd"}}
    return asked(**{"ruleset": "external-tuning", "algorithms": algorithms, "tune": {"lr": "0.1..1"}, **changes})


def test_every_run_has_half_as_much_time_again_and_attempts_share_it() -> None:
    plan = make_plan(asked())
    document = comparison(plan, plan.workloads[0], TARGET)
    compared = plan_comparison(document)
    changes = {variant.name: dict(variant.changes) for variant in compared.variants}
    assert list(changes) == ["fixed", "tuned, attempt 1", "tuned, attempt 2"]
    assert changes["fixed"] == {"train.net.lr": 0.03, "train.net.steps": 6, "train.net.validations": 6}
    attempts = [changes[name] for name in list(changes)[1:]]
    assert all((a["train.net.steps"], a["train.net.optimizer"]) == (3, "sgd") for a in attempts)
    first, second = (a["train.net.lr"] for a in attempts)
    assert first != second and all(0.1 <= lr <= 1 for lr in (first, second))
    assert not compared.asked.studies and not compared.ranges and compared.seeds == (0, 1)
    outer = comparison(make_plan(external()), plan.workloads[0], TARGET)["compare"]
    assert outer["studies"] and all("train.net.steps" not in fields for fields in outer["variants"].values())


@pytest.mark.parametrize(
    ("length", "longer"),
    [
        ({"steps": 5}, {"steps": 7}),
        ({"tokens": 1001}, {"tokens": 1501}),
        ({"epochs": 0.5}, {"epochs": 0.75}),
        ({"budget": "2M tokens"}, {"budget": "3000000 tokens"}),
        ({"budget": "90 seconds"}, {"budget": "135 seconds"}),
    ],
)
def test_a_length_in_any_unit_is_made_longer(length: dict[str, Any], longer: dict[str, Any]) -> None:
    assert lengthened({**length, "validations": 8}, 1.5, "here") == {**longer, "validations": 12}
    assert lengthened(length, 1.5, "here")["validations"] == 12


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a search space for all": (asked(tune={"lr": "0.1..1"}), "race.tune: under the self-tuning ruleset nothing is tuned for an"),
    "tuning on the clock by the other ruleset": (
        external(algorithms={"a": {}, "b": {"tune": {"lr": "0.1..1"}}}),
        "race.algorithms.b.tune: unknown field of an algorithm 'tune'",
    ),
    "ranges that are none": (asked(algorithms={"a": {}, "b": {"tune": 3}}), "race.algorithms.b.tune: expected a mapping"),
    "another field": (
        asked(algorithms={"a": {}, "b": {"tune": {"steps": "1..9"}}}),
        "race.algorithms.b.tune.steps: unknown field of an algorithm",
    ),
    "too many attempts": (
        asked(trials=7),
        "race.algorithms.tuned: workload 'chains': 0.214 times 4 steps are less than one; give fewer trials, or more steps",
    ),
    "targets from nothing": (
        asked(workloads={"chains": {"recipe": WORKLOAD, "target": "perplexity"}}),
        "race.references.tune: targets are to be set, so give the reference optimizers a search space",
    ),
    "a setting of one workload": (
        asked(
            workloads={
                "chains": {"recipe": WORKLOAD, "target": "perplexity=2"},
                "fast": {
                    "recipe": {**WORKLOAD, "train": [{**TRAIN, "lr": 0.1, "batch_size": 2, "warmup": 0.1}]},
                    "target": "perplexity=2",
                },
            }
        ),
        "race.algorithms.fixed: the workloads' train steps differ in 'warmup', and under the self-tuning ruleset an algorithm has one",
    ),
    "a value that is tuned too": (
        asked(algorithms={"a": {}, "b": {"lr": 0.1, "tune": {"lr": "0.1..1"}}}),
        "race.algorithms.b.lr: it is tuned too, so 0.1 would never be used",
    ),
    "a value that is tuned for all": (
        external(algorithms={"a": {}, "b": {"lr": 0.1}}),
        "race.algorithms.b.lr: it is tuned too, so 0.1 would never be used",
    ),
    "an unknown ruleset": (asked(ruleset="internal"), "race.ruleset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_ruleset_does_not_allow_is_refused(case: str) -> None:
    document, said = REFUSED[case]
    with pytest.raises(RecipeError, match=re.escape(said)):
        make_plan(document)


def test_the_reference_optimizers_have_a_search_space_of_their_own() -> None:
    document = asked(
        workloads={"chains": {"recipe": WORKLOAD, "target": "perplexity"}},
        references={"trials": 3, "reruns": 1, "tune": {"lr": "1e-3..1e-2"}},
    )
    plan, seen = make_plan(document), list[Job]()

    def run(jobs: Sequence[Job]) -> list[Done]:
        seen.extend(jobs)
        return [replace(trial([9.0, 3.0]), job=job) for job in jobs]

    set_target(plan, plan.workloads[0], run)
    assert all(1e-3 <= job.values["train.net.lr"] <= 1e-2 and job.document["train"][0]["steps"] == 4 for job in seen)


# ---- tables made by hand


def trial(values: Sequence[float], error: str = "", per_step: float = 0.5) -> Done:
    """A run that was measured after every step; a step takes so many processor seconds."""
    points = [
        {"step": n, "processor": n * per_step, "estimates": {"perplexity": [value, value, value]}}
        for n, value in enumerate(values, start=1)
    ]
    return Done(Job("a", 0, {}), curves={} if error else {"net": {"curve": [], "validation": points}}, error=error)


def arms(**runs: Mapping[int, Done]) -> dict[str, Arm]:
    return {(label := name.replace("_", ", attempt ")): Arm(Variant(label, {}, {}), done=done) for name, done in runs.items()}


def test_attempts_in_turn_take_the_time_of_those_before_too() -> None:
    assert in_turn([(5.0, 20.0)]) == 5 and in_turn([(INF, 20.0)]) == INF
    assert in_turn([(INF, 20.0), (5.0, 20.0), (1.0, 20.0)]) == 25
    assert in_turn([(INF, 20.0), (INF, 10.0), (7.0, 8.0)]) == 37
    assert in_turn([(INF, INF), (5.0, 20.0)]) == INF  # what failed ends the run: how long it took is not known
    assert in_turn([(5.0, 20.0), (INF, INF)]) == 5


def test_runs_by_both_clocks() -> None:
    plan = make_plan(asked())
    found = arms(
        fixed={0: trial([9, 9, 9, 9, 1, 1]), 1: trial([9] * 6)},
        tuned_1={0: trial([9, 9, 9], per_step=2.0), 1: trial([9, 1, 1], per_step=2.0)},
        tuned_2={0: trial([9, 1, 1], per_step=2.0), 1: trial([1, 1, 1], per_step=2.0)},
    )
    assert times_by("steps", plan, found, TARGET) == {"fixed": [5, INF], "tuned": [5, 2]}
    assert times_by("processor", plan, found, TARGET) == {"fixed": [2.5, INF], "tuned": [10, 4]}
    broken = {**found, **arms(tuned_1={0: trial([], "the loss is NaN")})}
    assert times_by("steps", plan, broken, TARGET)["tuned"] == [INF, INF]


def races(plan: Plan, times: Mapping[str, Mapping[str, Sequence[float]]]) -> Race:
    """A race whose only workload has these times: clock -> algorithm -> by study."""
    others = {clock: times[clock] for clock in plan.asked.other_clocks}
    course = Course(plan.workloads[0], TARGET, "comparison-1", times[plan.asked.clock], others)
    return Race("tiny-1", plan, [course], judge(plan, [course]), {}, 1.0)


@pytest.mark.parametrize("make", [asked, external])
def test_the_clock_that_decides_and_the_other_are_both_told(make: Any) -> None:
    times = {"steps": {"fixed": [10.0, 10.0], "tuned": [20.0, 20.0]}, "processor": {"fixed": [6.0, 6.0], "tuned": [4.0, INF]}}
    by_steps, by_processor = (races(make_plan(make(clock=clock)), times) for clock in ("steps", "processor"))
    assert by_steps.scores == {"fixed": 1.0, "tuned": pytest.approx(2 / 3)} and by_processor.scores == {
        "fixed": 1.0,
        "tuned": 0.0,
    }
    first, second = summary(by_steps), summary(by_processor)
    assert first["scores_by"] == {"processor": second["scores"]} and second["scores_by"] == {"steps": first["scores"]}
    json.dumps([first, second], allow_nan=False)
    for data in (first, second):
        told = "\n".join(lines(data))
        assert re.search(r"median steps to the target .*\n +chains +perplexity=2 +10 +20\n", told)
        assert re.search(r"median processor seconds to the target .*\n +chains +perplexity=2 +6 +never\n", told)
        assert ("self-tuning: 2 runs, each of 1.5 times" in told) == (make is asked)


def test_by_a_third_clock_steps_and_processor_time_are_told_too() -> None:
    times = {clock: {"fixed": [1.0, 1.0], "tuned": [2.0, 2.0]} for clock in ("steps", "processor", "tokens")}
    data = summary(races(make_plan(asked(clock="tokens")), times))
    assert (
        list(data["scores_by"]) == ["steps", "processor"]
        and len(re.findall("median .* to the target", "\n".join(lines(data)))) == 3
    )


# ---- run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = Store.open()
    store.prepare()
    return Ledger.beside(store.scratch)


def test_a_self_tuning_race_by_processor_time(home: Ledger, tmp_path: Path) -> None:
    document = asked(clock="processor", studies=1, workloads={"chains": {"recipe": WORKLOAD, "target": "perplexity=200"}})
    raced = race(document, out=tmp_path / "out", say=lambda _: None)
    [course] = raced.courses
    assert all(0 < time < INF for times in course.studies.values() for time in times)
    assert all(step in range(1, 7) for times in course.others["steps"].values() for step in times)
    page = (tmp_path / "out" / "race.html").read_text()
    assert "Time to the target, in processor seconds" in page and "The same in steps" in page and "on the clock, 2 points" in page

    [record] = home.races()
    [compared] = home.comparisons()
    assert record.status == "done" and home.parts(record.id) == {compared.id}
    runs = {run.id: run for run in home.runs()}
    assert home.parts(compared.id) == set(runs) and len(runs) == 3
    lengths = {run.recipe: next(s.receipt["steps"] for s in run.steps if s.section == "train") for run in runs.values()}
    assert lengths == {"tiny-chains-fixed": 6, "tiny-chains-tuned-attempt-1": 3, "tiny-chains-tuned-attempt-2": 3}
    for run in runs.values():
        [train] = [step for step in run.steps if step.section == "train"]
        measured = [point["processor"] for point in train.receipt["validation"]]
        assert measured == sorted(measured) and 0 < measured[0] < train.cost["processor_training"] + 0.01
    assert "median processor seconds to the target" in show(record.id)[1]


def test_an_algorithm_that_diverges_everywhere_has_lost_and_the_race_goes_on(home: Ledger) -> None:
    algorithms = {"fixed": {"lr": 0.03}, "broken": {"optimizer": "sgd", "lr": 1e38, "clip": 0}}
    workloads = {"chains": {"recipe": WORKLOAD, "target": "perplexity=200"}}
    raced = race(asked(studies=1, algorithms=algorithms, workloads=workloads), say=lambda _: None)
    assert raced.scores == {"fixed": 1.0, "broken": 0.0} and raced.courses[0].studies["broken"] == [INF]
    [compared] = home.comparisons()
    assert compared.status == "done" and "the gradient's norm is nan" in compared.result["variants"]["broken"]["failed"]
    with pytest.raises(RecipeError, match="the target perplexity=100 was chosen after results were seen"):
        race(asked(studies=1, algorithms=algorithms, workloads={"chains": {"recipe": WORKLOAD, "target": "perplexity=100"}}))


@pytest.mark.parametrize(("error", "status"), [(WhetError("no result"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_a_race_is_on_record_from_its_start_and_says_how_it_ended(
    home: Ledger, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def fail(*_: Any, **given: Any) -> Any:
        [record] = home.races()
        assert record.status == "running" and record.result == {"workloads": ["chains"]} and given["part_of"] == record.id
        assert f"{record.id}  running" in show_all()[1] and f"{record.id}  running (on this machine, now)" in show(record.id)[1]
        raise error

    monkeypatch.setattr(carry, "compare_recipe", fail)
    with pytest.raises(type(error)):
        whet.race(asked())
    [record] = home.races()
    told = f"{type(error).__name__}: {error}"
    assert record.status == status and record.result == {"workloads": ["chains"], "error": told}
    assert show(record.id)[1].splitlines() == [f"{record.id}  {status}", told]
