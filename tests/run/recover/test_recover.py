"""The closed loop: the recipe it writes, what counts as shown, and the whole of it on a pruned model."""

import json

import numpy as np
import pytest

from whet.cli import main
from whet.errors import RecipeError
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.recipe import read
from whet.run.recover.figures import Group, drifts, loop
from whet.run.recover.page import headline
from whet.run.recover.plan import Recovery, pool_source, recovery_document, share_of
from whet.run.recover.proof import prove


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
    assert pool_source("rows.jsonl") == {"name": "file", "path": "rows.jsonl", "test": 0.1}
    assert pool_source("{name: nanoworld, rows: 5}") == {"name": "nanoworld", "rows": 5}
    assert pool_source(str(tmp_path)) == {"name": "file", "path": str(tmp_path)}
    with pytest.raises(RecipeError, match="expected a data file"):
        pool_source("rows.txt")


@pytest.mark.parametrize("text", ["0%", "101%", "four", "-1", "%"])
def test_shares_that_are_none(text):
    with pytest.raises(RecipeError, match="expected a share such as 4%"):
        share_of(text)


def test_figures_escape_what_names_hold():
    proof = prove(three(GOOD, BROKEN, MENDED))
    assert "before the change" in loop(proof.capabilities["t"], {}, "accuracy")
    assert "<script>" not in drifts([Group("<script>", 0.1, 0.05, 10, 2)])


def test_a_pruned_model_is_repaired_and_the_exit_code_says_whether_enough(tmp_path, capsys):
    recipe = tmp_path / "prune.yaml"
    document = {
        "name": "small",
        "data": [{"name": "rows", "source": {"name": "nanoworld", "rows": 64}}],
        "train": [{"name": "tuned", "data": "rows", "steps": 4, "batch_size": 16, "lr": 1e-3}],
        "edit": [{"name": "pruned", "models": ["tuned"], "method": {"name": "magnitude", "sparsity": 0.3}}],
    }
    recipe.write_text(json.dumps(document))
    assert main(["run", str(recipe)]) == 0
    arguments = ["recover", "--model", "small:pruned", "--reference", "small:tuned", "--by", "skill", "--budget", "50%"]
    arguments += ["--data", "{name: nanoworld, rows: 60, seed: 3}", "--set", "steps=2", "--out", str(tmp_path / "out")]
    arguments += ["--task", "{name: nanoworld, data: {name: nanoworld, rows: 30}, max_new_tokens: 40}"]
    capsys.readouterr()
    assert main([*arguments, "--within", "0.1%"]) == 1
    assert "NOT MET: nanoworld: repaired minus reference" in capsys.readouterr().out
    assert main(arguments) == 0
    page = (tmp_path / "out" / "recover.html").read_text()
    assert "rows trained on" in page and (tmp_path / "out" / "model" / "config.json").is_file()
    written = json.loads((tmp_path / "out" / "model" / "whet.json").read_text())
    assert written["step"]["receipt"]["adapter"]["name"] == "sparse"
    assert main(["run", str(tmp_path / "out" / "recover.yaml")]) == 0
    assert "[train] repaired: reused" in capsys.readouterr().out
