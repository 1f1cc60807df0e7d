"""Mixtures that react: what is drawn, measured, counted, saved and refused; and graphs of skills from short runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from whet.data.example import Example
from whet.data.mixture import History
from whet.data.schedules.skill_it import SkillIt
from whet.errors import DataError, RecipeError, WhetError
from whet.model import Model, weights_hash
from whet.recipe import objectives, read
from whet.run.preflight import preflight
from whet.train.loop import fit
from whet.train.mixed import MixedExamples, skill_losses
from whet.train.objectives.sft import SFT
from whet.train.provider import FixedExamples
from whet.train.receipt import StepLog
from whet.train.run import train
from whet.train.settings import TrainSettings
from whet.train.skills_graph import FILE, influence_by_runs

KINDS = {
    "add": ("What is {} plus 4?", "The answer is {}."),
    "sort": ("Sort the list: {}, 1, 3.", "abc {} xyz"),
    "copy": ("{}", "{}"),
}


class Stopped(Exception):
    """As if the machine went away."""


def rows(count: int = 60, kinds: Any = KINDS) -> Dataset:
    chosen = [(name, *KINDS[name]) for name in kinds]
    return Dataset.from_list(
        [
            {"skill": name, "prompt": prompt.format(i), "completion": reply.format(i)}
            for i in range(count // len(chosen))
            for name, prompt, reply in chosen
        ]
    )


def trained(model: Model, schedule: Any = None, data: Any = None, folder: Path | None = None, **given: Any) -> Any:
    fields = {"batch_size": 4, "lr": 3e-3, "precision": "float32", **({} if "budget" in given else {"steps": 8})}
    more = {name: given.pop(name) for name in ("adapter", "on_step", "objective") if name in given}
    objective = objectives(more.pop("objective", "sft"))
    schedule = schedule or {"name": "skill-it", "every": 3, "measure_every": 2, "eta": 2.0, "held_out": 4}
    settings = {**fields, **given}
    return train(model, data or rows(), objective=objective, settings=settings, schedule=schedule, checkpoint=folder, **more)


def stop_at(step: int) -> Any:
    def stop(entry: StepLog) -> None:
        if entry.step == step:
            raise Stopped

    return stop


def examples(size: int, first: int) -> list[list[Example]]:
    return [[Example([5, first, 6 + i], [False, True, True])] for i in range(size)]


def provider(**settings: Any) -> MixedExamples:
    units = {"a": examples(5, 3), "b": examples(9, 4)}
    return MixedExamples(units, {"a": [units["a"][0][0]], "b": [units["b"][0][0]]}, SkillIt(**settings), batch_size=4)


def test_the_receipt_says_every_mixture_and_the_losses_that_it_follows(tiny_model: Model) -> None:
    _, receipt = trained(tiny_model)
    found = receipt["provider"]
    rounds, measured = ({int(k[5:]): v for k, v in found[name].items()} for name in ("mixture", "losses"))
    assert list(rounds) == [0, 3, 6] and list(measured) == [0, 2, 4, 6]
    skills = dict.fromkeys(sorted(KINDS), 16)
    for number, (step, shares) in enumerate(rounds.items()):
        seen = [losses for at, losses in measured.items() if at <= step] if number else []
        assert shares == SkillIt(eta=2.0).weights(History(skills, sorted(KINDS), number, seen))
    assert rounds[0] == pytest.approx(dict.fromkeys(skills, 1 / 3))
    assert {skill: entry["rows"] for skill, entry in found["skills"].items()} == skills
    assert sum(entry["drawn"] for entry in found["skills"].values()) == 8 * 4
    assert found["held_out"] == dict.fromkeys(sorted(KINDS), 4)


def test_what_is_measured_counts(tiny_model: Model) -> None:
    _, receipt = trained(tiny_model)
    measured = receipt["provider"]["measured_tokens"]
    assert measured > 0 and receipt["cost"]["tokens"] == receipt["tokens"] + measured
    _, free = trained(tiny_model, {"name": "stratified"})
    assert free["provider"]["measured_tokens"] == 0 and free["cost"]["tokens"] == free["tokens"]
    per_token = {r["cost"]["flops"] / r["tokens"] for r in (receipt, free)}
    assert max(per_token) == receipt["cost"]["flops"] / receipt["tokens"]
    _, bounded = trained(tiny_model, budget="1500 tokens")
    assert bounded["cost"]["tokens"] == pytest.approx(1500, abs=120) and bounded["tokens"] < 1100


@pytest.mark.parametrize("adapter", ["full", {"name": "lora", "r": 2, "dropout": 0.2}])
def test_a_resumed_run_ends_with_the_same_bits(tiny_model: Model, tmp_path: Path, adapter: Any) -> None:
    whole, receipt = trained(tiny_model, adapter=adapter)
    with pytest.raises(Stopped):
        trained(tiny_model, folder=tmp_path, adapter=adapter, checkpoint_every=2, on_step=stop_at(4))
    resumed, again = trained(tiny_model, folder=tmp_path, adapter=adapter, checkpoint_every=2)
    assert again["resumed_at"] == 4
    assert weights_hash(resumed.network.state_dict()) == weights_hash(whole.network.state_dict())
    assert again["provider"] == receipt["provider"]
    assert (again["cost"]["tokens"], again["cost"]["flops"]) == (receipt["cost"]["tokens"], receipt["cost"]["flops"])


def test_another_schedule_cannot_continue(tiny_model: Model, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        trained(tiny_model, folder=tmp_path, checkpoint_every=2, on_step=stop_at(4))
    with pytest.raises(RecipeError, match="cannot resume: the training data's schedule"):
        trained(tiny_model, {"name": "skill-it", "every": 3, "measure_every": 2, "held_out": 4}, folder=tmp_path)


def test_held_out_rows_are_not_trained_on(tiny_model: Model) -> None:
    names = {"add", "copy", "sort"}
    seen: list[MixedExamples] = []
    original = MixedExamples.__init__

    def spy(self: Any, *args: Any, **more: Any) -> None:
        seen.append(self)
        original(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MixedExamples, "__init__", spy)
        trained(tiny_model)
    (made,) = seen
    assert set(made.units) == set(made.held_out) == names
    for name in names:
        kept = {tuple(e.input_ids) for unit in made.units[name] for e in unit}
        aside = {tuple(e.input_ids) for e in made.held_out[name]}
        assert len(aside) == 4 and len(kept) == 16 and not kept & aside


def test_within_a_skill_every_unit_comes_once_before_one_comes_again() -> None:
    made = provider(eta=0.0, every=1000)
    drawn: dict[int, list[int]] = {3: [], 4: []}
    for step in range(40):
        for example in made.examples(step):
            drawn[example.input_ids[1]].append(example.input_ids[2])
    for first, size in ((3, 5), (4, 9)):
        stream = drawn[first]
        assert len(stream) > 5 * size
        for start in range(0, len(stream) - size + 1, size):
            assert len(set(stream[start : start + size])) == size
    assert abs(len(drawn[3]) - 80) < 25


def test_skill_losses_are_means_over_trained_tokens() -> None:
    held = {"a": [Example([1, 2, 3], [False, True, True])], "b": [Example([1, 2], [False, True])] * 2}
    assert skill_losses(held, lambda given: [[0.0, -1.0, -2.0], [0.0, -4.0], [0.0, -2.0]]) == {"a": 1.5, "b": 3.0}


def test_validation_rows_of_another_source_and_targets_without_training_rows(tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(60, ("add", "sort"))))
    source = {"name": "file", "path": str(path), "validation": 0.5}
    schedule = {"name": "skill-it", "every": 3, "validation": source, "held_out": 4}
    with pytest.raises(RecipeError, match=r"differ \(sort\), so that A would not be square"):
        trained(tiny_model, schedule, rows(40, ("add",)))
    _, receipt = trained(tiny_model, {**schedule, "targets": ["sort"]}, rows(40, ("add", "copy")))
    assert set(receipt["provider"]["skills"]) == {"add", "copy"}
    assert receipt["provider"]["skills"]["add"]["rows"] == 20 and set(receipt["provider"]["held_out"]) == {"add", "sort"}


def test_refusals(tiny_model: Model) -> None:
    with pytest.raises(
        DataError, match=r"skill 'add' has 20 rows, and 20 are set aside to measure it; lower the schedule's held_out"
    ):
        trained(tiny_model, {"name": "skill-it", "held_out": 20})
    with pytest.raises(DataError, match=r"row 0: by: no column 'topic'"):
        trained(tiny_model, {"name": "skill-it", "by": "topic"})
    with pytest.raises(DataError, match=r"skill 'a' has no rows to train on"):
        MixedExamples({"a": []}, {}, SkillIt())
    long = Dataset.from_list([*rows(40), *[{"skill": "long", "prompt": "x " * 400, "completion": "y"}] * 9])
    with pytest.raises(DataError, match=r"skill 'long': all its rows were left out"):
        trained(tiny_model, data=long)
    with pytest.raises(RecipeError, match=r"tokens: 500 cannot be turned into steps.*'budget: 500 tokens'"):
        provider().steps_for(tokens=500)
    assert provider().steps_for(epochs=2) == 7
    with pytest.raises(RecipeError, match="nothing tells it any"):
        provider().examples(0)
    with pytest.raises(RecipeError, match="shares for step 0 are no mixture of the skills"):
        MixedExamples({"a": examples(2, 3)}, {}, NoMixture(eta=0.0))
    blind = provider()
    blind.bind_reader(lambda given: [[0.0, float("nan"), 0.0] for _ in given])
    with pytest.raises(WhetError, match="step 0: the loss of skill 'a' on its held-out rows is nan"):
        blind.examples(0)
    with pytest.raises(RecipeError, match=r"train.0.schedule: this schedule reacts .* learns from pairs"):
        read({"name": "r", "data": [{"name": "d", "source": "nanoworld"}], "train": [pairs_step()]})


class NoMixture(SkillIt):
    def weights(self, history: History) -> dict[str, float]:
        return {"a": float("nan")}


def pairs_step() -> dict[str, Any]:
    return {"name": "t", "data": "d", "objective": "dpo", "steps": 1, "schedule": "skill-it"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"influence": {"add": {"sub": 0.5}}}, "train step 't': schedule: skill-it: influence: unknown skill 'sub'"),
        ({"targets": ["sub"]}, "train step 't': schedule: skill-it: targets: unknown skill 'sub'"),
        ({"by": "skil"}, "train step 't': schedule: by: no column 'skil': did you mean 'skill'"),
    ],
)
def test_skills_that_are_not_there_are_refused_before_anything_runs(tiny_model: Model, settings: Any, message: str) -> None:
    step = {"name": "t", "data": "d", "steps": 1, "schedule": {"name": "skill-it", **settings}}
    recipe = read({"name": "r", "data": [{"name": "d", "source": "nanoworld"}], "train": [step]})
    with pytest.raises(WhetError, match=message):
        preflight(recipe, tiny_model, lambda _: rows())


def test_the_graph_is_its_definition() -> None:
    losses = {
        (): {"a": 4.0, "b": 2.0},
        ("a",): {"a": 1.0, "b": 1.5},
        ("b",): {"a": 4.4, "b": 1.0},
        ("a", "b"): {"a": 1.2, "b": 0.4},
    }
    alone = influence_by_runs(["a", "b"], ["a", "b"], losses.__getitem__, "alone")
    assert alone == {"a": {"b": 0.25}}
    pairs = influence_by_runs(["a", "b"], ["a", "b"], losses.__getitem__, "pairs")
    assert pairs == {"a": {"b": pytest.approx(0.6)}}
    with pytest.raises(RecipeError, match="learn: pairs trains on 'z' too, which has no training rows; take 'alone'"):
        influence_by_runs(["a"], ["a", "z"], losses.__getitem__, "pairs")


@pytest.mark.parametrize(("way", "runs"), [("alone", 4), ("pairs", 6)])
def test_a_learned_graph_is_followed_counted_and_kept(tiny_model: Model, tmp_path: Path, way: str, runs: int) -> None:
    schedule = {"name": "skill-it", "every": 3, "held_out": 4, "learn": way, "learn_steps": 4, "eta": 2.0}
    _, receipt = trained(tiny_model, schedule, folder=tmp_path)
    graph, found = receipt["skills_graph"], receipt["provider"]
    assert len(graph["losses"]) == runs and found["schedule"]["influence"] == graph["influence"]
    # Four steps on two skills together are worse for each than four on it alone.
    assert bool(graph["influence"]) == (way == "alone")
    assert all(0 < weight < 1 for helped in graph["influence"].values() for weight in helped.values())
    first = SkillIt(influence=graph["influence"], eta=2.0).weights(History(dict.fromkeys(sorted(KINDS), 16), sorted(KINDS)))
    assert found["mixture"]["step 0"] == first
    trained_tokens = receipt["tokens"] + found["measured_tokens"]
    assert receipt["cost"]["tokens"] == trained_tokens + graph["cost"]["tokens"]
    assert graph["cost"]["examples"] == 4 * 4 * (3 if way == "alone" else 6) and graph["cost"]["flops"] > 0
    kept = (tmp_path / FILE).stat().st_mtime_ns
    _, again = trained(tiny_model, schedule, folder=tmp_path)
    assert (tmp_path / FILE).stat().st_mtime_ns == kept and again["skills_graph"] == graph
    assert again["cost"]["tokens"] == receipt["cost"]["tokens"]


def test_a_learned_graph_finds_the_skills_that_share_what_they_teach(tiny_model: Model) -> None:
    twins = [{**row, "skill": f"add {i % 2}"} for i, row in enumerate(rows(48, ("add",)))]
    data = Dataset.from_list([*twins, *rows(24, ("copy",))])
    schedule = {"name": "skill-it", "held_out": 8, "learn": "alone", "learn_steps": 15}
    influence = trained(tiny_model, schedule, data, steps=1)[1]["skills_graph"]["influence"]
    for one, other in (("add 0", "add 1"), ("add 1", "add 0")):
        assert influence[one][other] > 2 * influence[one].get("copy", 0.0)
        assert influence[one][other] > 2 * influence.get("copy", {}).get(other, 0.0)


def test_a_reacting_schedule_learns_through_the_loop(tiny_model: Model) -> None:
    _, receipt = trained(tiny_model, steps=40)
    first, last = (list(receipt["provider"]["losses"].values())[i] for i in (0, -1))
    assert all(last[name] < 0.7 * first[name] for name in KINDS)


def test_fixed_orders_are_asked_as_before(tiny_model: Model) -> None:
    made = FixedExamples(examples(6, 3), lambda size, epoch, seed: np.arange(size), batch_size=3)
    settings = TrainSettings(steps=2, batch_size=3, precision="float32")
    assert "provider" not in fit(tiny_model, made, SFT(), settings, progress=False).receipt
