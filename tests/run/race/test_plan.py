"""What a race refuses before anything runs, and how its workloads and variants are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from whet.errors import RecipeError, WhetError
from whet.run.compare.plan import make_plan as plan_comparison
from whet.run.ledger import ComparisonRecord, Ledger
from whet.run.race.carry import comparison, one_machine, refuse_moved_target
from whet.run.race.plan import make_plan
from whet.run.race.targets import Target

LLAMA = {"name": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "vocab_size": 262, "context": 64}


def workload(**train: Any) -> dict[str, Any]:
    source = {"name": "chain-mod10", "steps": 2, "rows": 40}
    net = {"name": "net", "data": "rows", "format": "plain", "steps": 4, "batch_size": 4}
    return {
        "model": LLAMA,
        "tokenizer_data": "rows",
        "data": [{"name": "rows", "source": source}],
        "train": [{**net, "validate": {"name": "perplexity", "data": source, "split": "validation"}, **train}],
        "measure": [{"name": "test", "tasks": [{"name": "perplexity", "data": source}]}],
    }


def race(**changes: Any) -> dict[str, Any]:
    section = {
        "algorithms": {"adamw": {"optimizer": "adamw"}, "nesterov": {"optimizer": "nesterov", "lr_schedule": "linear"}},
        "tune": {"lr": "1e-3..1"},
        "workloads": {"chains": {"recipe": workload(), "target": "perplexity=20"}},
    }
    return {"name": "tiny", "race": {**section, **changes}}


def chains(**changes: Any) -> dict[str, Any]:
    return race(workloads={"chains": {"recipe": workload(), "target": "perplexity=20", **changes}})


def test_every_workload_becomes_a_comparison_of_all_algorithms() -> None:
    plan = make_plan(race(seed=4), ["race.studies=2"])
    document = comparison(plan, plan.workloads[0], Target("perplexity", 20.0, {}))
    compared = plan_comparison(document)
    assert compared.asked.studies and compared.seeds == (4, 5) and compared.target == ("perplexity", 20.0)
    assert [v.changes for v in compared.variants] == [
        {"train.net.optimizer": "adamw"},
        {"train.net.optimizer": "nesterov", "train.net.lr_schedule": "linear"},
    ]
    assert [r.path for r in compared.ranges] == ["train.net.lr"] and plan.reference == "adamw"


@pytest.mark.parametrize(
    "change",
    [
        {"model.hidden_size": 32},
        {"model.layers": 2},
        {"model.activation": "gelu"},
        {"model.normalization": "layer"},
        {"model.embedding_scale": 4.0},
    ],
)
def test_a_variant_is_the_workload_with_another_network(change: Mapping[str, Any]) -> None:
    plan = make_plan(chains(variants={"other": change}))
    base, variant = plan.workloads
    assert (variant.name, variant.variant_of, variant.metric, variant.target) == ("chains, other", "chains", "perplexity", None)
    [(path, value)] = change.items()
    key = path.partition(".")[2]
    assert variant.document["model"] == {**base.document["model"], key: value}
    assert {k: v for k, v in variant.document.items() if k != "model"} == {k: v for k, v in base.document.items() if k != "model"}


def test_a_variant_may_have_a_target_that_is_given() -> None:
    plan = make_plan(chains(variants={"deep": {"model.layers": 2, "target": "perplexity=30"}}))
    assert [w.target for w in plan.workloads] == [20.0, 30.0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a search space for one workload": (
        chains(tune={"lr": "1e-3..1"}),
        "race.workloads.chains.tune: a search space for one workload would not be fair; write it once, as race.tune",
    ),
    "a comparison inside": (
        race(workloads={"chains": {"recipe": {**workload(), "compare": {"tune": {}}}, "target": "perplexity"}}),
        "race.workloads.chains.recipe: it has a section 'compare'",
    ),
    "another objective": (
        race(algorithms={"a": {}, "b": {"objective": "masked-thought"}}),
        "an algorithm does not change model, rows, objective, length or evaluation",
    ),
    "another model": (race(algorithms={"a": {}, "b": {"model": "nano"}}), "unknown field of an algorithm 'model'"),
    "longer training": (race(algorithms={"a": {}, "b": {"steps": 100}}), "unknown field of an algorithm 'steps'"),
    "a field of one workload's step": (
        race(tune={"train.net.lr": "1e-3..1"}),
        "it is written without the step, since it is the same for every workload",
    ),
    "no search space": (race(tune={}), "race.tune: give a range to tune"),
    "a range that is none": (race(tune={"lr": "1e-3"}), "tune.lr: expected a range such as 1e-4..1e-2"),
    "one algorithm": (race(algorithms={"a": {}}), "race.algorithms: 1 algorithm; a race needs at least two"),
    "an algorithm that is none": (race(algorithms={"a": {}, "b": "adamw"}), "race.algorithms.b: expected a mapping"),
    "no workload": (race(workloads={}), "race.workloads: none is left to race on"),
    "a variant of the rows": (chains(variants={"v": {"data.rows.source.rows": 80}}), "another network; set fields of it"),
    "a variant of nothing": (chains(variants={"v": {"target": "perplexity=3"}}), "expected fields of the model to change"),
    "a wrong model field": (chains(variants={"v": {"model.depth": 3}}), "race.workloads.chains.variants.v: model.depth: unknown"),
    "a target that is no number": (chains(target="perplexity=low"), "race.workloads.chains.target: write metric=value"),
    "no validation": (chains(recipe=workload(validate=None)), "train step 'net' needs 'validate'"),
    "two train steps": (
        chains(recipe={**workload(), "train": [*workload()["train"], {"name": "more", "data": "rows", "steps": 2}]}),
        "a workload is one train step",
    ),
    "an unknown field": (race(trails=5), "race.trails: unknown field of a race 'trails': did you mean 'trials'"),
    "an unknown clock": (race(clock="minutes"), "race.clock"),
    "an unknown reference": (race(reference="adam"), "race.reference: unknown algorithm 'adam'"),
    "another section": ({**race(), "train": []}, "train: unknown field of a race"),
    "a wrong setting of targets": (race(references={"trial": 3}), "race.references.trial: unknown field"),
    "no section": ({"name": "tiny"}, "race: expected a mapping, got None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_or_unfair_is_refused(case: str) -> None:
    document, said = REFUSED[case]
    with pytest.raises(RecipeError, match=re.escape(said)):
        make_plan(document)


def test_only_an_optional_workload_may_be_missing(tmp_path: Path) -> None:
    gone = {**workload(), "data": [{"name": "rows", "source": {"name": "text", "path": str(tmp_path / "gone.txt")}}]}
    workloads = {**race()["race"]["workloads"], "texts": {"recipe": gone, "target": "perplexity", "optional": True}}
    plan = make_plan(race(workloads=workloads))
    assert [w.name for w in plan.workloads] == ["chains"]
    assert plan.left_out == {"texts": f"data.0.source.path: {tmp_path / 'gone.txt'} is not there"}
    (tmp_path / "gone.txt").write_text("here")
    assert [w.name for w in make_plan(race(workloads=workloads)).workloads] == ["chains", "texts"]
    with pytest.raises(RecipeError, match="none is left to race on"):
        make_plan(race(workloads={"texts": {**workloads["texts"], "recipe": {**gone, "data": [{"name": "rows", "source": {
            "name": "text", "path": str(tmp_path / "other.txt")}}]}}}))  # fmt: skip


def seen(document: Mapping[str, Any], identity: str, ledger: Ledger, **fields: Any) -> None:
    import datetime as dt

    moment = dt.datetime(2026, 1, len(ledger.comparisons()) + 1, tzinfo=dt.UTC)
    given = {"status": "done", "result": {"variants": {}}, **fields}
    ledger.save(ComparisonRecord(id=identity, name="x", started=moment, finished=moment, document=dict(document), **given))


def test_a_target_that_was_moved_after_results_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    plan = make_plan(race())

    def asked(value: float, **changes: Any) -> dict[str, Any]:
        other = make_plan(race(**changes)) if changes else plan
        return comparison(other, other.workloads[0], Target("perplexity", value, {}))

    refuse_moved_target(asked(20.0), ledger)
    seen(asked(25.0), "broken", ledger, status="failed", result={"error": "NaN"})
    seen({**asked(20.0), "name": "another-name"}, "first", ledger)
    refuse_moved_target(asked(20.0), ledger)
    with pytest.raises(RecipeError, match="target perplexity=25 was chosen after results were seen: comparison first ran"):
        refuse_moved_target(asked(25.0), ledger)
    with pytest.raises(RecipeError, match="Keep that target"):
        refuse_moved_target(asked(25.0, algorithms={"a": {}, "b": {"optimizer": "sgd"}}), ledger)
    refuse_moved_target(asked(25.0, seed=3), ledger)
    other = race(workloads={"chains": {"recipe": workload(steps=5), "target": "perplexity=25"}})["race"]["workloads"]
    refuse_moved_target(asked(25.0, workloads=other), ledger)


def test_different_hardware_is_refused() -> None:
    one = {"processor": "A", "accelerators": [], "threads": 1, "system": "Linux", "memory_gib": 4}
    assert one_machine({"x": one, "y": {**one, "memory_gib": 8}})["processor"] == "A"
    with pytest.raises(WhetError, match="times on different hardware are not compared"):
        one_machine({"x": one, "y": {**one, "processor": "B"}})
    with pytest.raises(WhetError, match="different machines"):
        one_machine({"x": one, "y": {**one, "threads": 2}})
    assert one_machine({}) == {}
