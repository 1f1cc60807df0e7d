"""Claims: the rule of the verdict, files read and refused, settings fixed before they run, and one tiny comparison for real."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from whet.cli import main
from whet.errors import RecipeError
from whet.run import claims_command
from whet.run.claims import (
    CONTRADICTED,
    NOT_SEEN,
    REPRODUCED,
    RESULT,
    SCRIPTED,
    Judge,
    append_result,
    read_claim,
    read_claims,
    standing_commit,
)
from whet.run.claims_command import claims_command as whet_claims
from whet.run.claims_command import plan_of, run_claim
from whet.run.claims_show import full, markdown, ours
from whet.run.claims_verdict import decide, turned
from whet.run.compare.spending import Spending
from whet.run.compare.verdicts import Verdict

ROOT = Path(__file__).parents[2]
FILES = read_claims(ROOT / "claims")
JUDGE = Judge(better="new", than="old", smallest=0.01)
ARMS = {"old": (0.5, 0.45, 0.55), "new": (0.55, 0.5, 0.6)}


def verdict(effect=0.05, low=0.02, high=0.08, p=0.001, **changes):
    fields = {
        "task": "answers", "metric": "accuracy", "first": "old", "second": "new", "first_value": 0.5, "second_value": 0.5 + effect,
        "raw_p": p, "test": "crossed t", "note": "", "detectable": 0.03, "equal_p": 1.0, "margin": 0.01, "by_seed": {},
        "better_high": True,
    }  # fmt: skip
    return Verdict(**{**fields, "effect": effect, "low": low, "high": high, "p": p, **changes})


def opposite(**changes):
    return verdict(effect=-0.05, low=-0.08, high=-0.02, **changes)


def test_a_clear_effect_of_the_right_sign_reproduces_the_claim():
    found = decide(JUDGE, [verdict()], ARMS)
    assert found.verdict == REPRODUCED and found.against.rival == "old" and "same size" not in found.reason
    larger = Judge(better="new", than="old", smallest=0.01, paper_effect=0.03)
    assert "same size as the paper's" in decide(larger, [verdict()], ARMS).reason


def test_which_variant_stands_first_and_what_the_metric_means_do_not_matter():
    swapped = verdict(effect=-0.05, low=-0.08, high=-0.02, first="new", second="old")
    loss = verdict(effect=-0.05, low=-0.08, high=-0.02, better_high=False, metric="perplexity")
    both = verdict(first="new", second="old", better_high=False, metric="perplexity")
    for given in (swapped, loss, both):
        (against,) = turned(JUDGE, [given], "answers")
        assert (against.effect, against.low, against.high) == (0.05, 0.02, 0.08)
        assert decide(JUDGE, [given], ARMS).verdict == REPRODUCED


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (verdict(p=0.2), "inconclusive: .* 0.03 would have been seen with 80% power; to see 0.01 takes about 9 times"),
        (verdict(effect=0.005, low=0.002, high=0.02), "less than the 0.01 of interest"),
        (verdict(effect=0.001, low=-0.004, high=0.006, p=0.7, equal_p=0.01), "no effect: .*90% interval lies inside ±0.01"),
        (verdict(guard="floor"), "untestable: old and new are both at the floor"),
        (verdict(unmatched="new spent more than 1K tokens"), "untestable: new spent more"),
        (opposite(), "the opposite, -0.05 against old, on one task alone"),
    ],
)
def test_what_is_not_seen_and_why(given, reason):
    found = decide(JUDGE, [given], ARMS)
    assert found.verdict == NOT_SEEN
    assert re.search(reason, found.reason), found.reason


def test_a_contradiction_needs_a_second_task():
    judge = Judge(better="new", than="old", task="answers", also=("harder",))
    assert decide(judge, [opposite(), opposite(task="harder")], ARMS).verdict == CONTRADICTED
    for second in (verdict(task="harder"), opposite(task="harder", guard="floor"), opposite(task="harder", p=0.3)):
        assert decide(judge, [opposite(), second], ARMS).verdict == NOT_SEEN


def test_every_rival_has_to_be_beaten():
    judge = Judge(better="new", than=["old", "older"])
    arms = {**ARMS, "older": (0.4, 0.3, 0.5)}
    won, open_ = verdict(first="older", effect=0.2, low=0.1, high=0.3), verdict(p=0.2)
    assert decide(judge, [verdict(), won], arms).verdict == REPRODUCED
    found = decide(judge, [open_, won], arms)
    assert found.verdict == NOT_SEEN and found.against.rival == "old"
    noisy = verdict(first="older", effect=0.2, low=-0.1, high=0.5, p=0.3)
    assert decide(judge, [verdict(), noisy], arms).against.rival == "older"


def test_preconditions_come_before_the_effect():
    low = decide(Judge(better="new", than="old", at_least={"old": 0.6}), [verdict()], ARMS)
    high = decide(Judge(better="new", than="old", at_most={"old": 0.4}), [verdict()], ARMS)
    assert low.verdict == high.verdict == NOT_SEEN and low.against.effect == 0.05
    assert "old has 0.5, less than the 0.6" in low.reason and "old has 0.5, more than the 0.4" in high.reason
    failed = decide(JUDGE, [verdict(first="third")], ARMS, {"new": "seed 1: no memory"})
    assert failed.verdict == NOT_SEEN and "new lacks results (seed 1: no memory)" in failed.reason


def test_what_has_to_be_kept_must_be_shown_to_be():
    judge = Judge(better="new", than="old", task="answers", keeps={"others": 0.02})
    kept = decide(judge, [verdict(), verdict(task="others", effect=-0.005, low=-0.015, high=0.005)], ARMS)
    assert kept.verdict == REPRODUCED and "kept others -0.005 against old, at worst -0.015" in kept.reason
    likely = decide(judge, [verdict(), verdict(task="others", effect=0.001, low=-0.03, high=0.03)], ARMS)
    assert likely.verdict == NOT_SEEN and likely.against.effect == 0.05
    assert "others +0.001 against old, at worst -0.03, which does not show that it loses less than 0.02" in likely.reason
    flipped = decide(
        Judge(better="new", than="old", task="flips", keeps={"answers": 0.02}),
        [verdict(task="flips", metric="negative_flips", better_high=False, effect=-0.05, low=-0.08, high=-0.02), verdict()],
        ARMS,
    )
    assert flipped.verdict == REPRODUCED and flipped.against.effect == 0.05


COMPARISON = {
    "model": {"name": "llama", "hidden_size": 16, "layers": 1, "heads": 2, "key_value_heads": 2, "intermediate_size": 32,
              "vocab_size": 280, "context": 32},
    "tokenizer_data": "rows",
    "data": [{"name": "rows", "source": {"name": "chain-mod10", "rows": 40}}],
    "train": [{"name": "tuned", "data": "rows", "steps": 1, "batch_size": 4}],
    "measure": [{"name": "scores", "tasks": [{"name": "replies", "data": {"name": "chain-mod10", "rows": 20}}]}],
    "compare": {"variants": {"more": {"train.tuned.steps": 3}, "less": {}}, "seeds": [1, 2, 3]},
}  # fmt: skip
FILE = {
    "paper": "some-paper",
    "title": "Some paper",
    "claim": "More steps are better",
    "paper_figure": "+5",
    "test": "three steps against one",
    "comparison": COMPARISON,
    "judge": {"better": "more", "than": "less", "smallest": 0.001},
    "results": [],
}


def write(folder, **changes):
    path = folder / "some-paper.yaml"
    document = {key: value for key, value in {**FILE, **changes}.items() if value is not None}
    path.write_text("# stated beforehand\n" + yaml.safe_dump(document, sort_keys=False))
    return path


def git(folder, *words):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *words], check=True, capture_output=True
    )


def commit(folder):
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "claims")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"papr": "x"}, "papr: unknown field of a claim 'papr': did you mean 'paper'"),
        ({"claim": None}, "claim: a claim needs this field, as text; got None"),
        ({"paper": "another"}, "'another' is not the file's name"),
        ({"judge": None}, "judge: expected a mapping, got None"),
        ({"comparison": None, "judge": None}, "a claim needs a comparison and a judge, or the result of a script"),
        ({"judge": {"better": "more", "then": "less"}}, "judge.then: unknown field of a judge 'then': did you mean 'than'"),
        ({"judge": {"better": "more", "than": "less", "smallest": 0}}, "smallest"),
        ({"judge": {"better": "more", "than": []}}, "judge.than: expected a variant's name or a list"),
        ({"judge": {"better": "more", "than": 5}}, "judge.than: expected a variant's name or a list of them, got 5"),
        ({"comparison": {**COMPARISON, "compare": None}}, "comparison.compare: expected a mapping"),
        ({"comparison": {**COMPARISON, "compare": {"margin": 0.1}}}, "compare.margin: is judge.smallest"),
        ({"verdict": REPRODUCED}, "verdict: belongs to a script's result"),
        ({"results": [{**dict.fromkeys(RESULT, "x"), "verdict": "won"}]}, "results.0.verdict: unknown verdict 'won'"),
        ({"results": [{"verdict": REPRODUCED}]}, "results.0.date: a result needs this field"),
        ({"results": [{"verdit": REPRODUCED}]}, "results.0.verdit: unknown field of a result 'verdit': did you mean 'verdict'"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_what(tmp_path, changes, message):
    with pytest.raises(RecipeError) as error:
        read_claim(write(tmp_path, **changes))
    assert message in str(error.value) and "some-paper.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": {"better": "mor", "than": "less"}}, "unknown variant 'mor': did you mean 'more'"),
        ({"judge": {"better": "more", "than": "less", "task": "replis"}}, "unknown task 'replis': did you mean 'replies'"),
        ({"comparison": {**COMPARISON, "compare": {**COMPARISON["compare"], "seeds": 2}}}, "give at least 3 seeds"),
        ({"comparison": {**COMPARISON, "trian": []}}, "unknown section 'trian': did you mean 'train'"),
    ],
)
def test_a_comparison_that_cannot_be_run_is_refused_before_it_is(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        plan_of(read_claim(write(tmp_path, **changes)))


def test_settings_are_committed_before_they_are_run(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_command, "plan_of", lambda claim: pytest.fail("ran"))
    git(tmp_path, "init", "-q")
    path = write(tmp_path)
    with pytest.raises(RecipeError, match=r"is not committed.*git add"):
        run_claim(read_claim(path))
    commit(tmp_path)
    standing = standing_commit(read_claim(path))
    assert standing and len(standing) >= 7
    write(tmp_path, judge={**FILE["judge"], "smallest": 0.5})
    with pytest.raises(RecipeError, match="differs from the last commit; restore it"):
        run_claim(read_claim(path))
    write(tmp_path, title="Another title, the same settings")
    assert standing_commit(read_claim(path)) == standing


def test_a_result_is_appended_and_nothing_else_changes(tmp_path):
    entry = dict.fromkeys(RESULT, "x") | {"seeds": [1], "verdict": NOT_SEEN, "reason": "a: b # c"}
    scripted = dict.fromkeys(("test", *SCRIPTED), "x") | {"seeds": [1], "verdict": NOT_SEEN}
    for results in ([], None, [scripted]):
        path = write(tmp_path, results=results)
        text = path.read_text()
        append_result(read_claim(path), entry)
        append_result(read_claim(path), {**entry, "seeds": [2]})
        assert [r["seeds"] for r in read_claim(path).results] == [[1]] * len(results or []) + [[1], [2]]
        assert path.read_text().startswith(text.removesuffix("results: []\n")) and text.startswith("# stated")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_result_does_not_join_other_settings(tmp_path):
    claim = read_claim(write(tmp_path))
    path = write(tmp_path, judge={**FILE["judge"], "smallest": 0.5})
    before = path.read_text()
    with pytest.raises(RecipeError, match="changed while the comparison ran"):
        append_result(claim, {})
    assert path.read_text() == before


def test_a_claim_is_run_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WHET_HOME", str(tmp_path / "home"))
    folder = tmp_path / "claims"
    folder.mkdir()
    path = write(folder)
    commit(folder)
    assert main(["claims", "run", "some-paper", "--folder", str(folder), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out).values()
    claim = read_claim(path)
    (result,) = claim.results
    assert result["seeds"] == [1, 2, 3] and result["verdict"] in (REPRODUCED, NOT_SEEN) and result["reason"] == printed["reason"]
    assert result["fingerprint"] == claim.fingerprint and result["commit"] == standing_commit(claim)
    assert set(result["arms"]) == {"more", "less"} and result["cost"]["tokens"] > 0
    arms = result["arms"]
    assert result["effect"] == pytest.approx(arms["less"][0] - arms["more"][0], abs=2e-4)  # A loss: lower is better.
    with pytest.raises(RecipeError, match=r"are no new evidence.*--again"):
        run_claim(claim)
    _, text = whet_claims(["some-paper"], folder=folder)
    assert "more against less" in text and f"commit {result['commit']}" in text and "three steps against one" in text


def test_without_git_it_says_that_it_cannot_check(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    claim = read_claim(write(tmp_path))
    assert standing_commit(claim) is None
    said = []
    monkeypatch.setattr(claims_command, "plan_of", lambda claim: (_ for _ in ()).throw(RecipeError("stop")))
    with pytest.raises(RecipeError, match="stop"):
        run_claim(claim, say=said.append)
    assert "no git" in said[0]


def test_unknown_claims_and_words(tmp_path):
    write(tmp_path)
    for words, message in (
        (["some-papr"], "did you mean 'some-paper'"),
        (["a", "b"], "with the word 'run' before them"),
        (["run"], "which. some-paper"),
    ):
        with pytest.raises(RecipeError, match=message):
            whet_claims(words, folder=tmp_path)
    for words in ([], ["some-paper"], ["run", "some-paper"]):
        with pytest.raises(RecipeError, match="no claims here"):
            whet_claims(words, folder=tmp_path / "empty")


@pytest.mark.parametrize("claim", FILES, ids=lambda claim: claim.paper)
def test_the_committed_claims_can_be_carried_out(claim):
    assert claim.results or claim.comparison
    if claim.comparison:
        plan_of(claim)
    full(claim)


def test_the_table_in_the_docs_is_current():
    expected = markdown(FILES) + "\n"
    assert (ROOT / "docs" / "claims.md").read_text() == expected, "run: whet claims --table > docs/claims.md"


def test_failed_arms_are_named(tmp_path):
    claim = read_claim(write(tmp_path))
    arm = SimpleNamespace(failed="seed 2: out of memory", done={}, tuning=Spending())
    other = SimpleNamespace(failed="", done={}, tuning=Spending())
    comparison = SimpleNamespace(
        verdicts=[verdict(first="less", second="third")],
        results={"answers": {}},
        arms={"more": arm, "less": other, "third": other},
        plan=SimpleNamespace(seeds=(1, 2, 3)),
    )
    result = claims_command.result_of(claim, comparison, None)
    assert result["verdict"] == NOT_SEEN and "more lacks results (seed 2: out of memory)" in result["reason"]
    assert "not compared" in ours(result)
