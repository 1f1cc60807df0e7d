"""The closed loop: the recipe it writes, what counts as shown, and the whole of it on a pruned model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

import whet
from whet.cli import main
from whet.data.messages import prompt_text
from whet.errors import RecipeError
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.parts import build, effective
from whet.recipe import read
from whet.run.models import open_model
from whet.run.recover.figures import Group, _range, drifts, loop
from whet.run.recover.groups import grouped
from whet.run.recover.notes import adapter_notes
from whet.run.recover.page import headline
from whet.run.recover.plan import Recovery, pool_source, recovery_document, share_of
from whet.run.recover.proof import STAGES, Capability, prove


def result(scores, skills=("a", "b")):
    outcomes = [Outcome(id=str(i), score=float(s), labels={"skill": skills[i % len(skills)]}) for i, s in enumerate(scores)]
    estimates = {}
    for key, chosen in [("accuracy", outcomes)] + [
        (f"accuracy[skill={k}]", [o for o in outcomes if o.labels["skill"] == k]) for k in skills
    ]:
        value = float(np.mean([o.score for o in chosen]))
        estimates[key] = Estimate(value, max(0, value - 0.1), min(1, value + 0.1), len(chosen), "")
    return TaskResult("t", "m", "accuracy", outcomes, {}, estimates)


def three(before, broken, mended):
    return {"t": {"reference": result(before), "base": result(broken), "repaired": result(mended)}}


GOOD = [1] * 1800 + [0] * 200
BROKEN = [1] * 800 + [0] * 1200
MENDED = [1] * 1400 + [0] * 600


def test_it_says_what_was_lost_and_how_much_came_back():
    proof = prove(three(GOOD, BROKEN, MENDED))
    assert (
        proof.recovered == {"t": pytest.approx(0.6)}
        and proof.broke[0].verdict == "worse"
        and proof.repaired[0].verdict == "better"
    )
    assert headline(proof) == "t: 60% of the loss was won back" and proof.met
    assert prove(three(GOOD, GOOD, GOOD)).recovered == {"t": None}


def test_capabilities_that_lost_most_come_first():
    broken = [s if i % 2 == 0 else 0 for i, s in enumerate(GOOD)]
    names = [c.name for c in prove(three(GOOD, broken, broken)).capabilities["t"]]
    assert names == ["all", "b", "a"]


def test_a_bound_counts_only_if_it_is_shown():
    equal = prove(three(GOOD, BROKEN, GOOD), within=0.01, max_negative_flips=0.02)
    assert equal.met and all("shown" in b.text for b in equal.bounds)
    nearly = [1] * 1785 + [0] * 215
    likely = prove(three(GOOD, BROKEN, nearly), within=0.01, max_negative_flips=0.02)
    assert not likely.met and "not shown; more examples would settle it" in likely.bounds[0].text
    missed = prove(three(GOOD, BROKEN, MENDED), within=0.01, max_negative_flips=0.02)
    assert not missed.met and all("is not met" in b.text for b in missed.bounds)


def test_the_recipe_is_one_that_runs():
    recipe = read(recovery_document(Recovery("nano", "nano", "nanoworld", by="skill"), "full"))
    assert [s.name for _, s in recipe.steps][-1] == "proof" and recipe.models == {"reference": "nano"}
    assert recipe.step("repair").select[0].share == 0.04 and recipe.step("repair").select[0].by == "group"
    assert recipe.step("diagnosis").label[0].by == "skill"


def test_other_selections_take_the_budget():
    recipe = read(recovery_document(Recovery("nano", "nano", "nanoworld", select="random", budget=0.2), "full"))
    assert recipe.step("repair").select[0].share == 0.2


def test_pools_may_be_named_in_several_ways(tmp_path):
    assert pool_source("rows.jsonl") == {"name": "file", "path": str(Path("rows.jsonl").absolute()), "test": 0.1}
    assert pool_source("{name: nanoworld, rows: 5}") == {"name": "nanoworld", "rows": 5}
    assert pool_source(str(tmp_path)) == {"name": "file", "path": str(tmp_path)}
    with pytest.raises(RecipeError, match="expected a data file"):
        pool_source("rows.txt")


@pytest.mark.parametrize("text", ["0%", "101%", "four", "-1", "%"])
def test_shares_that_are_none(text):
    with pytest.raises(RecipeError, match=r"within: expected a share such as 4%.*got '"):
        share_of(text, "within")


def test_figures_escape_what_names_hold():
    proof = prove(three(GOOD, BROKEN, MENDED))
    assert "before the change" in loop(proof.capabilities["t"], {}, "accuracy")
    assert "<script>" not in drifts([Group("<script>", 0.1, 0.05, 10, 2)])


def test_selections_that_are_none_are_named():
    with pytest.raises(RecipeError, match="unknown selection 'pasr': did you mean 'paser'"):
        recovery_document(Recovery("nano", "nano", "nanoworld", select="pasr"), "full")


def test_rs2_trains_as_many_steps_on_all_of_the_pool():
    recipe = read(recovery_document(Recovery("nano", "nano", "nanoworld", select="rs2", budget=0.2), "full"))
    assert not recipe.step("repair").select and not recipe.step("repair").model
    assert effective(recipe.step("repaired").schedule)["ratio"] == 0.2
    paser = read(recovery_document(Recovery("nano", "nano", "nanoworld", budget=0.2), "full"))
    drawn = recipe.step("repaired").schedule(1000, 0, 0)
    assert len(drawn) == 200 and paser.step("repair").select[0].share == 0.2


def test_the_flip_aware_term_comes_with_its_reference():
    recipe = read(recovery_document(Recovery("nano", "nano", "nanoworld", flip_aware=True), "full"))
    step = recipe.step("repaired")
    assert [item if isinstance(item, str) else item["name"] for item in step.objective] == ["sft", "compat-distill"]
    assert step.reference == "reference"
    assert read(recovery_document(Recovery("nano", "nano", "nanoworld"), "full")).step("repaired").reference is None


def test_flips_are_bound_where_scores_are_right_or_wrong():
    both = three(GOOD, BROKEN, GOOD)
    surprise = {
        stage: replace(r, task="s", outcomes=[replace(o, score=o.score + 0.5) for o in r.outcomes])
        for stage, r in both["t"].items()
    }
    proof = prove({**both, "s": surprise}, max_negative_flips=0.02)
    assert [bound.text.split(":")[0] for bound in proof.bounds] == ["t"] and proof.met


def test_an_interval_of_two_examples_does_not_hide_the_rest():
    few = Capability("few", 2, dict.fromkeys(STAGES, (1.2, 0.1, 900.0)))
    many = Capability("many", 50, {"reference": (1.0, 0.9, 1.1), "base": (1.5, 1.4, 1.6), "repaired": (1.2, 1.1, 1.3)})
    low, high = _range([few, many])
    assert low < 0.9 and 1.6 < high < 2.1


def test_examples_are_grouped_by_what_they_say_of_themselves():
    def never():
        raise AssertionError("no model is needed")

    pool = Dataset.from_list([{"prompt": "p", "group": "g"}])
    results, how = grouped(three(GOOD, BROKEN, MENDED), pool, never)
    assert {c.name for c in prove(results).capabilities["t"]} == {"all", "a", "b"} and "each skill" in how["t"]
    rows = [{"prompt": f"p{i}", "topic": "xy"[i % 2]} for i in range(len(GOOD))]
    shown = {
        stage: replace(r, outcomes=[replace(o, prompt=f"p{i}") for i, o in enumerate(r.outcomes)])
        for stage, r in three(GOOD, BROKEN, MENDED)["t"].items()
    }
    results, how = grouped({"t": shown}, pool, never, "topic", rows)
    assert {c.name for c in prove(results).capabilities["t"]} == {"all", "x", "y"} and "column topic" in how["t"]


def test_chats_are_grouped_by_the_column_that_was_named():
    rows = [{"messages": [{"role": "user", "content": f"p{i}"}, {"role": "assistant", "content": "c"}]} for i in range(40)]
    found = {
        stage: replace(r, outcomes=[replace(o, prompt=prompt_text(row), labels={}) for o, row in zip(r.outcomes, rows)])
        for stage, r in three(GOOD[-40:], BROKEN[-40:], MENDED[-40:])["t"].items()
    }
    held_out = [{**row, "topic": "xy"[i % 2]} for i, row in enumerate(rows)]
    results, how = grouped({"t": found}, Dataset.from_list(rows), lambda: None, "topic", held_out)
    assert "column topic" in how["t"] and results["t"]["base"].outcomes[1].labels["group"] == "y"


def test_why_examples_are_not_grouped_is_said():
    bare = {
        stage: replace(r, outcomes=[replace(o, labels={}) for o in r.outcomes], estimates={"accuracy": r.estimates["accuracy"]})
        for stage, r in three(GOOD, BROKEN, MENDED)["t"].items()
    }
    results, how = grouped({"t": bare}, Dataset.from_list([{"prompt": "p", "group": "g"}]), lambda: None)
    assert "they have no prompt" in how["t"] and [c.name for c in prove(results).capabilities["t"]] == ["all"]
    other = {stage: replace(r, metric="prefix_accuracy") for stage, r in bare.items()}
    assert "not averaged by group" in grouped({"t": other}, Dataset.from_list([{"prompt": "p"}]), lambda: None)[1]["t"]


def test_an_adapter_that_undoes_the_change_is_told():
    assert adapter_notes(None, "sparse") == adapter_notes("sparse", "sparse") == adapter_notes("lora", "full") == []
    assert "fills its zeros again" in adapter_notes("lora", "sparse")[0]


POOL = "{name: nanoworld, rows: 60, seed: 3}"
TASK = "{name: nanoworld, data: {name: nanoworld, rows: 30}, max_new_tokens: 40}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store with the models to repair: a run ``small`` of the bundled model."""
    folder = tmp_path_factory.mktemp("recover")
    rows = {"name": "nanoworld", "rows": 64}
    document = {
        "name": "small",
        "data": [{"name": "rows", "source": rows}, {"name": "others", "source": {**rows, "seed": 8}}],
        "train": [
            {"name": "tuned", "data": "rows", "steps": 4, "batch_size": 16, "lr": 1e-3},
            {"name": "version-2", "data": "others", "model": "base", "steps": 4, "batch_size": 16, "lr": 1e-3},
        ],
        "edit": [
            {"name": "pruned", "models": ["tuned"], "method": {"name": "magnitude", "sparsity": 0.3}},
            {"name": "2-of-4", "models": ["tuned"], "method": {"name": "magnitude", "pattern": "2:4"}},
            {"name": "merged", "models": ["tuned", "version-2"], "method": "soup"},
        ],
        "quantize": [{"name": "w3", "model": "tuned", "bits": 3, "group_size": 32, "compensate": "none"}],
    }
    (folder / "recipe.yaml").write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHET_HOME", str(folder / "home"))
        assert main(["run", str(folder / "recipe.yaml")]) == 0
    return folder / "home"


@pytest.fixture
def store(home, monkeypatch):
    monkeypatch.setenv("WHET_HOME", str(home))


def command(stage, out, *more):
    words = ["recover", "--model", f"small:{stage}", "--reference", "small:tuned", "--budget", "50%", "--data", POOL]
    return [*words, "--task", TASK, "--set", "steps=2", "--out", str(out), *more]


def before_and_after(stage, out):
    from whet.run.show import find_model_folder

    return open_model(find_model_folder(f"small:{stage}") / "model"), open_model(out / "model")


def matrices(model):
    return {n: p for n, p in model.network.named_parameters() if "layers" in n and p.dim() == 2}


def test_a_pruned_model_is_repaired_and_the_exit_code_says_whether_enough(store, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(command("pruned", out, "--by", "skill", "--within", "0.1%")) == 1
    assert "NOT MET: nanoworld: repaired minus reference" in capsys.readouterr().out
    assert main(command("pruned", out, "--by", "skill")) == 0
    page = (out / "recover.html").read_text()
    assert "rows trained on" in page and "One line for each skill" in page and "built-in" not in page
    assert "left after the repair</th>" in page and "such tests of this page" in page
    written = json.loads((out / "model" / "whet.json").read_text())
    assert written["step"]["receipt"]["adapter"]["name"] == "sparse"
    before, after = map(matrices, before_and_after("pruned", out))
    assert all(torch.equal(before[n] == 0, after[n] == 0) for n in before)
    assert any(not torch.equal(before[n], after[n]) for n in before)
    monkeypatch.chdir(out)
    assert main(["run", "recover.yaml"]) == 0
    assert "[train] repaired: reused" in capsys.readouterr().out


def test_the_pattern_of_a_pruned_model_is_kept_by_a_flip_aware_repair(store, tmp_path):
    out = tmp_path / "out"
    assert main(command("2-of-4", out, "--by", "skill", "--flip-aware", "--select", "skill-it")) == 0
    _, after = before_and_after("2-of-4", out)
    for weight in matrices(after).values():
        assert int((weight.reshape(-1, 4) != 0).sum(1).max()) <= 2
    receipt = json.loads((out / "model" / "whet.json").read_text())["step"]["receipt"]
    assert [o["name"] for o in receipt["objective"]] == ["sft", "compat-distill"]


def test_a_quantized_model_stays_quantized(store, tmp_path):
    out = tmp_path / "out"
    assert main(command("w3", out, "--by", "skill", "--select", "perplexity", "--max-negative-flips", "100%")) == 0
    before, after = before_and_after("w3", out)
    assert before.quantized and before.quantized.keys() == after.quantized.keys()
    assert all(torch.equal(layer.codes, after.quantized[n].codes) for n, layer in before.quantized.items())
    assert any(not torch.equal(layer.scales, after.quantized[n].scales) for n, layer in before.quantized.items())


def test_a_merged_model_is_repaired_by_fresh_draws(store, tmp_path):
    out = tmp_path / "out"
    assert main(command("merged", out, "--by", "skill", "--select", "rs2")) == 0
    page = (out / "recover.html").read_text()
    assert "Every epoch of the repair drew 50% of the pool anew" in page and "rows trained on" not in page
    assert any(not torch.equal(a, b) for a, b in zip(*(matrices(m).values() for m in before_and_after("merged", out))))


def test_a_new_version_from_python_with_a_file_without_columns_for_capabilities(store, tmp_path):
    from whet.run.show import find_model_folder

    rows = build("source", {"name": "nanoworld", "rows": 90, "seed": 4})("train")
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({k: r[k] for k in ("prompt", "completion", "answer")}) + "\n" for r in rows))
    result = whet.recover(
        "small:version-2",
        find_model_folder("small:tuned"),
        pool,
        budget="50%",
        out=tmp_path / "out",
        settings={"steps": 2},
        flip_aware=True,
    )
    groups = {c.name for c in result.proof.capabilities["held-out answers"]}
    assert groups > {"all"} and any(name.startswith("1: ") for name in groups)
    assert "most like its own" in result.page.read_text() and (result.model / "config.json").is_file()
    with pytest.raises(RecipeError, match="unknown field 'selct': did you mean 'select'"):
        whet.recover("small:pruned", "small:tuned", pool, selct="random")
