"""Selections by chance, by perplexity and by drift: budgets, order, consistency, and what cannot be asked for."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from whet.data.amount import largest_remainders
from whet.data.context import Context
from whet.data.drift import replies
from whet.data.label.drift import Drift
from whet.data.mixture import mixture
from whet.data.phrases import key_phrases
from whet.data.select.paser import ConceptGraph, Paser, _text, spend_budget
from whet.data.select.perplexity import Perplexity
from whet.data.select.random import Random
from whet.data.select.skill_it import SkillIt, fill
from whet.errors import DataError, RecipeError


def pool(rows=40):
    kinds = [("add", "What is {} plus 4?", "The answer is {}."), ("sort", "Sort the list: {}, 1, 3.", "abc {} xyz")]
    return Dataset.from_list(
        [{"skill": s, "prompt": p.format(i), "completion": c.format(i)} for i in range(rows // 2) for s, p, c in kinds]
    )


def damaged(model, spread=0.05):
    copy = model.copy("damaged")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in copy.network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return copy


def test_random_keeps_the_share_and_the_order_and_depends_on_the_seed_alone():
    data = pool()
    kept = [Random(share=0.25)(data, Context(seed=s))["prompt"] for s in (0, 0, 1)]
    assert len(kept[0]) == 10 and kept[0] == kept[1] != kept[2]
    assert [p for p in data["prompt"] if p in set(kept[0])] == list(kept[0])


def test_random_takes_prefixes_of_one_order_so_that_selections_nest_or_are_disjoint():
    data = pool()
    few, many, rest = (
        set(Random(**r)(data, Context(seed=3))["prompt"]) for r in ({"rows": 8}, {"share": 0.5}, {"rows": 20, "skip": 20})
    )
    assert few < many and not many & rest and len(many | rest) == 40
    with pytest.raises(RecipeError, match=r"random.skip: 30 and 20 more are over the 40 rows"):
        Random(rows=20, skip=30)(data, Context())
    with pytest.raises(RecipeError, match=r"random.skip: 3 rows of one order"):
        Random(rows=20, skip=3, by="skill")


def test_random_by_group_keeps_every_group():
    data = pool(40).select([i for i in range(40) if i % 2 == 0 or i < 8])
    kept = Random(rows=6, by="skill")(data, Context())
    assert sorted(kept["skill"]) == ["add"] * 5 + ["sort"]


def test_perplexity_keeps_the_end_that_is_asked_for(tiny_model):
    data = pool()
    receipts = {}
    for keep in ("low", "middle", "high"):
        context = Context(model=tiny_model)
        assert len(Perplexity(share=0.2, keep=keep)(data, context)) == 8
        receipts[keep] = context.receipt["perplexity_kept"]
        assert context.cost["tokens"] > 0 and context.cost["flops"] == 2 * tiny_model.parameters * context.cost["tokens"]
    assert receipts["low"][1] <= receipts["middle"][1] <= receipts["high"][0] + 1e-9 and receipts["low"][0] <= receipts["high"][0]


def test_paser_gives_more_to_groups_that_drifted_more(tiny_model):
    context = Context(model=damaged(tiny_model), reference=tiny_model)
    kept = Paser(rows=12, by="skill", consistent=False)(pool(), context)
    groups = {g["name"]: g for g in context.receipt["groups"]}
    assert len(kept) == 12 and sum(g["chosen"] for g in groups.values()) == 12
    drifts = [groups[name]["drift"] for name in ("add", "sort")]
    assert [groups[name]["chosen"] for name in ("add", "sort")] == largest_remainders(drifts, 12)
    assert all(0 < d <= math.log(2) for d in drifts)


def test_paser_finds_its_own_groups(tiny_model):
    context = Context(model=damaged(tiny_model), reference=tiny_model)
    kept = Paser(share=0.25)(pool(), context)
    assert len(kept) <= 10 and "clusters of prompt embeddings (eigengap" in context.receipt["grouped_by"]
    assert sum(g["rows"] for g in context.receipt["groups"]) == 40 and context.cost["tokens"] > 0


def test_within_a_group_the_most_efficient_come_first():
    chosen, refused = spend_budget(
        np.array([0, 0, 0, 1, 1]), np.array([2.0, 1.0]), np.array([0.1, 0.9, 0.5, 0.2, 0.3]), [set()] * 5, 3
    )
    assert chosen == [1, 2, 4] and refused == 0


def test_efficiency_is_drift_over_the_logarithm_of_the_squared_length(tiny_model):
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": f"Say {i}", "completion": "x" * int(n), "drift": float(d), "kind": "k"}
        for i, (n, d) in enumerate(zip(rng.integers(1, 200, 40), 0.3 + 0.2 * rng.random(40)))
    ]
    numbers, examples = replies(rows, tiny_model)
    assert numbers == list(range(40))
    own = sorted(range(40), key=lambda i: -rows[i]["drift"] / math.log(len(examples[i].input_ids) ** 2))
    assert set(own[:12]) != set(sorted(range(40), key=lambda i: -rows[i]["drift"])[:12])
    for count in range(1, 40, 3):
        kept = Paser(rows=count, by="kind", drift="drift", consistent=False)(
            Dataset.from_list(rows), Context(reference=tiny_model)
        )
        assert list(kept["prompt"]) == [rows[i]["prompt"] for i in sorted(own[:count])]


def test_budgets_go_by_each_groups_own_drift_and_passes_are_counted(tiny_model):
    rows = [{**row, "drift": 0.3 if row["skill"] == "sort" else 0.1} for row in pool()]
    context = Context(reference=tiny_model)
    kept = Paser(rows=8, by="skill", drift="drift", consistent=False)(Dataset.from_list(rows), context)
    assert sorted(kept["skill"]) == ["add"] * 2 + ["sort"] * 6 and not context.cost
    spent = Context(model=damaged(tiny_model), reference=tiny_model)
    Paser(rows=8, by="skill", consistent=False)(Dataset.from_list(rows), spent)
    assert spent.cost["tokens"] == 2 * sum(len(example) for example in replies(rows, tiny_model)[1])


def test_chats_are_read_as_their_words(tiny_model):
    pairs = [(f"Sort the long list {i}", f"Here is the sorted list {i}") for i in range(12)]
    chat = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
    assert _text({"messages": chat}) == _text({"prompt": "p", "completion": "c"}) == "p. c"
    flat = Dataset.from_list([{"prompt": p, "completion": c} for p, c in pairs])
    chats = Dataset.from_list([{"messages": [{**m, "content": t} for m, t in zip(chat, pair)]} for pair in pairs])
    tables = []
    for data in (flat, chats):
        context = Context(model=damaged(tiny_model), reference=tiny_model)
        Drift(clusters=2)(data, context)
        tables.append(context.receipt["groups"])
    assert tables[0] == tables[1] and tables[0][0]["examples"][0].startswith("Sort the long list")


def test_groups_without_drift_share_what_is_left_evenly():
    labels, efficiency = np.array([0, 1, 1, 1, 2, 2, 2]), np.array([1.0, 0.3, 0.2, 0.1, 0.3, 0.2, 0.1])
    chosen, _ = spend_budget(labels, np.array([1.0, 0.0, 0.0]), efficiency, [set()] * 7, 5)
    assert chosen == [0, 1, 2, 4, 5]


def test_copies_come_after_everything_else(tiny_model):
    rows = [row for row in pool(20) for _ in range(5 if row["prompt"].startswith("What is 3") else 1)]
    context = Context(model=damaged(tiny_model), reference=tiny_model)
    kept = Paser(rows=20, by="skill", consistent=False)(Dataset.from_list(rows), context)
    assert len(set(kept["prompt"])) >= 19
    whole = Paser(rows=24, by="skill", consistent=False)(Dataset.from_list(rows), context)
    assert len(whole) == 24 and len(set(whole["prompt"])) == 20
    chosen, _ = spend_budget(np.zeros(4, int), np.ones(1), np.array([0.9, 0.9, 0.1, 0.2]), [set()] * 4, 3, [0, 1, 0, 0])
    assert chosen == [0, 3, 2]


def test_what_a_group_cannot_use_goes_to_the_others():
    chosen, _ = spend_budget(np.array([0, 1, 1, 1]), np.array([9.0, 1.0]), np.array([1.0, 0.3, 0.2, 0.1]), [set()] * 4, 3)
    assert sorted(chosen) == [0, 1, 2]


def test_rows_that_may_contradict_chosen_ones_are_refused():
    graph = ConceptGraph()
    assert graph.accepts({"a", "b"}) and graph.accepts({"c", "d"})
    assert not graph.accepts({"a", "c"}) and graph.accepts({"a", "b", "e"}) and graph.accepts({"a", "e"})
    chosen, refused = spend_budget(np.zeros(3, int), np.ones(1), np.array([3.0, 2.0, 1.0]), [{"a"}, {"c"}, {"a", "c"}], 3)
    assert chosen == [0, 1] and refused == 1


def test_a_model_that_did_not_change_has_nothing_to_repair(tiny_model):
    with pytest.raises(DataError, match="there is nothing to repair"):
        Paser(share=0.5)(pool(), Context(model=tiny_model, reference=tiny_model))


def test_shares_that_make_no_sense(tiny_model):
    with pytest.raises(RecipeError, match="exactly one of 'share'"):
        Random()
    with pytest.raises(RecipeError, match="rows: 41 is 41 of 40 rows"):
        Random(rows=41)(pool(), Context())
    with pytest.raises(RecipeError, match=r"share: 0\.01 is 0 of 40"):
        Random(share=0.01)(pool(), Context())
    with pytest.raises(DataError, match="did you mean 'skill'"):
        Paser(share=0.5, by="skil")(pool(), Context(model=damaged(tiny_model), reference=tiny_model))
    with pytest.raises(RecipeError, match="`reference`"):
        Paser(share=0.5)(pool(), Context(model=tiny_model))


def test_remainders_and_phrases():
    assert sum(largest_remainders([0.3, 0.3, 0.4], 7)) == 7 and largest_remainders([0.0, 2.0], 3) == [0, 3]
    assert key_phrases("") == set() and key_phrases("the of 12") == set()
    assert "linear regression" in key_phrases("Fit a linear regression, then plot the linear regression.")


def test_drift_labels_every_row_and_paser_reads_the_columns(tiny_model):
    changed = damaged(tiny_model)
    context = Context(model=changed, reference=tiny_model)
    labelled = Drift(by="skill")(pool(), context)
    lines = {line["name"]: line for line in context.receipt["groups"]}
    assert set(labelled.column_names) >= {"drift", "kl", "agreement", "group"} and list(labelled["group"]) == list(
        labelled["skill"]
    )
    mean = np.mean([d for d, g in zip(labelled["drift"], labelled["group"]) if g == "sort"])
    assert lines["sort"]["drift"] == pytest.approx(mean) and lines["sort"]["rows"] == 20
    direct = Paser(rows=8, by="skill")(pool(), Context(model=changed, reference=tiny_model))
    again = Context(reference=tiny_model)
    read = Paser(rows=8, by="group", drift="drift")(labelled, again)
    assert list(read["prompt"]) == list(direct["prompt"]) and not again.cost


def test_rows_without_a_reply_are_not_chosen(tiny_model):
    rows = [{**row, "completion": " \n" if i % 4 == 0 else row["completion"]} for i, row in enumerate(pool())]
    context = Context(model=damaged(tiny_model), reference=tiny_model)
    kept = Paser(rows=20, by="skill", consistent=False)(Dataset.from_list(rows), context)
    assert len(kept) == 20 and all(text.strip() for text in kept["completion"]) and context.receipt["rows_unusable"] == 10
    chats = [{"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": text}]} for text in ("", "yes")]
    assert replies(chats, tiny_model)[0] == [1]
    with pytest.raises(DataError, match="none of 1 rows has a reply"):
        replies(chats[:1], tiny_model)


def test_a_row_that_is_no_chat_is_named(tiny_model):
    rows = [{"prompt": "p", "completion": "c"}, {"messages": [{"role": "user", "content": "p"}]}]
    with pytest.raises(DataError, match="row 1: this chat has no assistant turn"):
        replies(rows, tiny_model)


def test_a_wrong_column_is_told_before_the_models_read_anything(tiny_model, monkeypatch):
    monkeypatch.setattr("whet.data.label.drift.divergences", None)
    with pytest.raises(DataError, match="drift: by: no column 'skil': did you mean 'skill'"):
        Drift(by="skil")(pool(), Context(model=damaged(tiny_model), reference=tiny_model))


def test_a_selection_that_refuses_much_says_what_was_asked_for(tiny_model):
    context = Context(model=damaged(tiny_model), reference=tiny_model)
    words = ["red apple pie", "blue stone wall", "green river bank", "old tower clock"]
    rows = [
        {"prompt": f"Tell me of the {a} or the {b}", "completion": "is it so", "skill": "x"}
        for a in words
        for b in words
        if a != b
    ]
    kept = Paser(rows=10, by="skill")(Dataset.from_list(rows), context)
    assert context.receipt["rows_asked"] == 10 and len(kept) == context.receipt["rows_out"] < 10


def test_drift_finds_groups_and_can_be_repeated(tiny_model):
    context = Context(model=damaged(tiny_model), reference=tiny_model)
    labelled = Drift(clusters=2)(pool(), context)
    assert (
        len(set(labelled["group"])) == 2
        and any(name.startswith("1: ") for name in labelled["group"])
        and "given" in context.receipt["grouped_by"]
    )
    assert sorted(Drift()(labelled, Context(model=tiny_model, reference=tiny_model)).column_names) == sorted(
        labelled.column_names
    )


def test_skill_it_is_its_closed_form():
    losses, matrix = [0.3, 1.1, 2.0], np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 1.0]])
    raw = np.exp(0.7 * matrix @ np.array(losses))
    assert np.allclose(mixture(losses, matrix, 0.7), raw / raw.sum(), atol=1e-12, rtol=0)
    assert np.allclose(mixture([2.0] * 3, np.eye(3), 0.7), 1 / 3, atol=1e-12, rtol=0)
    assert np.allclose(mixture(losses, matrix, 0.0), 1 / 3, atol=1e-12, rtol=0)
    assert np.isfinite(mixture([1e4, 0.0], np.eye(2), 1.0)).all()


def test_what_a_skill_has_too_few_rows_for_goes_to_the_others():
    assert fill(np.array([0.8, 0.1, 0.1]), [2, 10, 10], 8) == [2, 3, 3]
    assert fill(np.array([1.0, 0.0]), [3, 4], 7) == [3, 4]


def test_skill_it_takes_more_of_what_is_badly_learned(tiny_model):
    context = Context(model=tiny_model, seed=3)
    kept = SkillIt(by="skill", rows=20, eta=3.0)(pool(60), context)
    lines = sorted(context.receipt["groups"], key=lambda line: line["loss"])
    assert len(kept) == 20 and lines[0]["chosen"] < lines[1]["chosen"] and context.cost["tokens"] > 0
    assert {line["name"]: line["chosen"] for line in lines} == {s: list(kept["skill"]).count(s) for s in ("add", "sort")}
    easy, hard = (line["name"] for line in lines)
    helping = Context(model=tiny_model, seed=3)
    SkillIt(by="skill", rows=20, eta=3.0, influence={easy: {hard: 1.0}})(pool(60), helping)
    assert {line["name"]: line["chosen"] for line in helping.receipt["groups"]}[easy] > 10
    assert len(set(SkillIt(by="skill", rows=20, eta=0.0)(pool(60), Context(model=tiny_model))["prompt"])) == 20


def test_influence_of_skills_that_are_not_there(tiny_model):
    with pytest.raises(RecipeError, match="unknown skill 'adds': did you mean 'add'"):
        SkillIt(by="skill", rows=4, influence={"adds": {"sort": 0.5}})(pool(), Context(model=tiny_model))
    with pytest.raises(RecipeError, match="expected 0 or more, got -1"):
        SkillIt(by="skill", rows=4, influence={"add": {"sort": -1.0}})(pool(), Context(model=tiny_model))
