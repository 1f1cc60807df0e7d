"""Races judged: studies, misses, variants, targets; and a tiny race from its file to its page, its record and its refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import whet
from whet.cli import main
from whet.errors import RecipeError, WhetError
from whet.run.compare.arms import Arm
from whet.run.compare.jobs import Done, Job
from whet.run.compare.variants import Variant
from whet.run.ledger import Ledger
from whet.run.race.carry import Race
from whet.run.race.figures import profiles
from whet.run.race.page import lines, summary
from whet.run.race.plan import Plan, make_plan
from whet.run.race.standing import Course, Standing, judge, study_times
from whet.run.race.targets import OPTIMIZERS, Target, set_target
from whet.run.show import show, show_all
from whet.run.store import Store

INF = math.inf
SOURCE = {"name": "chain-mod10", "steps": 2, "rows": 24}
TASK = {"name": "perplexity", "data": SOURCE}
LLAMA = {"name": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "vocab_size": 262, "context": 64}
WORKLOAD = {
    "model": {**LLAMA, "intermediate_size": 32},
    "tokenizer_data": "rows",
    "data": [{"name": "rows", "source": SOURCE}],
    "train": [
        {
            "name": "net",
            "data": "rows",
            "format": "plain",
            "steps": 4,
            "batch_size": 4,
            "validate": {**TASK, "split": "validation"},
            "validations": 4,
        }
    ],
    "measure": [{"name": "test", "tasks": [TASK]}],
}


def document(**changes: Any) -> dict[str, Any]:
    section = {
        "algorithms": {"adamw": {"optimizer": "adamw"}, "sgd": {"optimizer": "sgd"}},
        "tune": {"lr": "1e-2..0.1"},
        "trials": 2,
        "studies": 1,
        "references": {"trials": 1, "reruns": 1},
        "workloads": {
            "chains": {
                "recipe": WORKLOAD,
                "target": "perplexity=150",
                "variants": {"wide": {"model.hidden_size": 32}},
            }
        },
    }
    return {"name": "tiny", "race": {**section, **changes}}


# ---- judging


def course(name: str, studies: Mapping[str, Sequence[float]], variant_of: str = "") -> Course:
    plan = make_plan(document())
    workload = plan.workloads[0]
    changed = type(workload)(**{**vars(workload), "name": name, "variant_of": variant_of})
    return Course(changed, Target("perplexity", 150.0, {}), f"comparison-{name}", studies, {"processor": studies})


def judged(courses: Sequence[Course], **changes: Any) -> tuple[Plan, Standing]:
    algorithms = {name: {} for name in courses[0].studies}
    plan = make_plan(document(algorithms=algorithms, **changes))
    return plan, judge(plan, courses)


def trial(reached: float | None, error: str = "") -> Done:
    values = [9.0 if reached is None or step < reached else 1.0 for step in (1, 2, 3, 4)]
    points = [{"step": n + 1, "tokens": 10 * (n + 1), "estimates": {"perplexity": [v, v, v]}} for n, v in enumerate(values)]
    return Done(Job("a", 0, {}), curves={} if error else {"net": {"curve": [], "validation": points}}, error=error)


def test_a_study_is_as_fast_as_its_best_trial_and_failures_never_get_there() -> None:
    studies = {0: [trial(4), trial(2)], 1: [trial(None), trial(None, "NaN")], 2: [trial(None, "NaN")]}
    arm = Arm(Variant("a", {}, {}), studies=studies)
    target = Target("perplexity", 2.0, {})
    assert study_times([arm], target, (0, 1, 2, 3), "steps") == [2, INF, INF, INF]
    assert study_times([arm], target, (0,), "tokens") == [20]


def test_misses_stay_in_the_median() -> None:
    found = course("chains", {"a": [4, 8, INF], "b": [4, INF, INF]})
    assert found.times == {"a": 8, "b": INF} and found.order == {"a": 1, "b": 2}


def test_scores_speed_ups_and_signs_of_a_hand_made_race() -> None:
    _, standing = judged(
        [course("x", {"a": [10], "b": [20]}), course("y", {"a": [30], "b": [10]}), course("z", {"a": [5], "b": [INF]})]
    )
    assert standing.scores == {"a": pytest.approx((1 + 1 / 3 + 1) / 3), "b": pytest.approx((2 / 3 + 1) / 3)}
    fast = standing.speed_ups["b"]
    assert fast.value == pytest.approx(math.sqrt(10 / 20 * 30 / 10)) and (fast.n, fast.missed) == (2, 1)
    test = standing.tests["a", "b"]
    assert (test.statistic, test.n, test.p) == (2, 3, 1.0)
    assert standing.winners == {"x": ["a"], "y": ["b"], "z": ["a"]}


def test_missing_a_variant_loses_the_workload() -> None:
    courses = [
        course("x", {"a": [10], "b": [20]}),
        course("x, deep", {"a": [INF], "b": [25]}, variant_of="x"),
        course("y", {"a": [10], "b": [10]}),
    ]
    _, strict = judged(courses)
    assert strict.workloads == ["x", "y"] and strict.lost == {"a": ["x"], "b": []}
    assert strict.counted == {"a": [INF, 10], "b": [20, 10]} and strict.scores == {"a": 0.5, "b": 1.0}
    _, lenient = judged(courses, strict_variants=False)
    assert lenient.lost == {"a": [], "b": []} and lenient.scores["a"] == 1.0


def test_the_units_of_a_workload_change_nothing() -> None:
    courses = [course("x", {"a": [10], "b": [20]}), course("y", {"a": [30], "b": [10]})]
    scaled = [course("x", {"a": [10], "b": [20]}), course("y", {"a": [3000], "b": [1000]})]
    assert judged(courses)[1].scores == judged(scaled)[1].scores


def test_what_is_told_of_a_race() -> None:
    courses = [course("x", {"a": [10], "b": [INF]}), course("x, deep", {"a": [INF], "b": [INF]}, variant_of="x")]
    plan, standing = judged(courses)
    told = lines(summary(Race("tiny-1", plan, courses, standing, {}, 1.0)))
    assert any(line.split() == ["x", "perplexity=150", "10", "never"] for line in told)
    assert any("a lost x: it missed the target of a variant" in line for line in told)
    assert any("no workload in common with a" in line for line in told)
    json.dumps(summary(Race("tiny-1", plan, courses, standing, {}, 1.0)), allow_nan=False)


def test_the_figure_has_one_curve_for_each_algorithm() -> None:
    drawn = profiles({"a": [1.0, 1.0], "b <": [2.0, INF], "never": [INF, INF]})
    assert drawn.count("<polyline") == 3 and "b &lt;" in drawn and "nan" not in drawn and "inf" not in drawn


# ---- targets


def reference_runs(values: Mapping[str, float], repeated: Sequence[float]) -> tuple[Any, list[list[Job]]]:
    """A stand-in for running jobs: a best perplexity for each optimizer (infinite: it fails), then those of the repetitions."""
    asked: list[list[Job]] = []

    def done(job: Job, value: float) -> Done:
        points = [{"step": 1, "estimates": {"perplexity": [v, v, v]}} for v in (value + 5, value, value + 1)]
        return Done(job, curves={"net": {"validation": points}}) if math.isfinite(value) else Done(job, error="the loss is NaN")

    def run(jobs: Sequence[Job]) -> list[Done]:
        asked.append(list(jobs))
        again = len(asked) > 1
        return [done(job, repeated[n] if again else values[job.variant]) for n, job in enumerate(jobs)]

    return run, asked


def test_the_target_is_the_median_of_the_winners_repetitions() -> None:
    plan = make_plan(document(references={"trials": 2, "reruns": 3}))
    variant = plan.workloads[1]
    run, asked = reference_runs({"adamw": 30, "nadamw": 20, "nesterov": 25, "heavy-ball": INF}, [21, 40, 23])
    target = set_target(plan, variant, run)
    assert str(target) == "perplexity=23" and target.optimizer == "nadamw" and list(target.repeated) == [21, 40, 23]
    assert target.best == {"adamw": 30, "nadamw": 20, "nesterov": 25, "heavy-ball": INF}
    trials, again = asked
    assert [job.variant for job in trials] == [name for name in OPTIMIZERS for _ in range(2)]
    assert len({job.values["train.net.lr"] for job in trials}) == 2 and len({job.seed for job in trials}) == 1
    assert {job.variant for job in again} == {"nadamw"} and len({job.seed for job in [*again, trials[0]]}) == 4
    assert not {job.seed for job in [*again, *trials]} & set(plan.seeds)
    train = again[0].document["train"][0]
    assert train["optimizer"] == "nadamw" and train["lr"] == again[0].values["train.net.lr"]
    assert "measure" not in again[0].document and again[0].document["model"]["hidden_size"] == 32


def test_references_that_fail_set_no_target() -> None:
    plan = make_plan(document(references={"trials": 1, "reruns": 3}))
    run, _ = reference_runs(dict.fromkeys(OPTIMIZERS, INF), [])
    with pytest.raises(WhetError, match=r"no run of a reference optimizer came to an end; the first: the loss is NaN"):
        set_target(plan, plan.workloads[1], run)
    run, _ = reference_runs(dict.fromkeys(OPTIMIZERS, 20.0), [21, INF, INF])
    with pytest.raises(WhetError, match="most repetitions of it failed"):
        set_target(plan, plan.workloads[1], run)


# ---- the whole


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race by the command line: the folder of its page, and the store."""
    folder = tmp_path_factory.mktemp("race")
    (folder / "race-of-two.yaml").write_text(yaml.safe_dump(document()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHET_HOME", str(folder / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(["race", str(folder / "race-of-two.yaml"), "--out", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def raced(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with its store in use."""
    monkeypatch.setenv("WHET_HOME", str(finished / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return finished


def test_a_race_leaves_a_page_data_and_a_record(raced: Path) -> None:
    page = (raced / "out" / "race.html").read_text()
    data = json.loads((raced / "out" / "race.json").read_text())
    assert "<polyline" in page and "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert [c["workload"] for c in data["courses"]] == ["chains", "chains, wide"]
    chains, wide = data["courses"]
    assert chains["target"] == "perplexity=150" and not chains["set_by"]["optimizer"]
    assert wide["set_by"]["optimizer"] in OPTIMIZERS and wide["target"] != chains["target"]
    assert data["scores"]["adamw"] == 1.0
    assert all(len(studies) == 1 for c in data["courses"] for studies in c["studies"].values())
    ledger = Ledger.beside(Store.open().scratch)
    [record] = ledger.races()
    assert record.status == "done" and record.result["scores"] == data["scores"]
    compared = {c.id: c for c in ledger.comparisons()}
    assert {c["comparison"] for c in data["courses"]} == set(compared)
    assert all(c.document["compare"]["studies"] and c.status == "done" for c in compared.values())


def test_a_race_is_shown(raced: Path) -> None:
    listed, text = show_all()
    [entry] = [row for row in listed if "race" in row]
    assert entry["race"] in text
    data, told = show(entry["race"])
    assert data["id"] == entry["race"] and "median steps to the target" in told and "race.html" in told


def test_the_same_race_again_gives_the_same_and_a_moved_target_is_refused(raced: Path) -> None:
    first = json.loads((raced / "out" / "race.json").read_text())
    again = whet.race(raced / "out" / "race.yaml")
    assert again.data()["courses"][0]["studies"] == first["courses"][0]["studies"]
    assert again.scores == first["scores"] and again.machine["threads"] >= 1
    with pytest.raises(RecipeError, match="tiny-chains: the target perplexity=140 was chosen after results were seen"):
        whet.race(document(), ["race.workloads.chains.target=perplexity=140"])
