"""The schedule skill-it against its closed form, its options one by one, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet import parts
from whet.data.mixture import History, influence_matrix, mixture, refuse_unmixable, skill_of
from whet.data.schedules.skill_it import SkillIt
from whet.errors import DataError, RecipeError

NAMES = ("a", "b", "c")
GRAPH = {"a": {"b": 0.5}, "b": {"c": 0.2}}
A = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 1.0]])
LOSSES = np.array([[3.0, 3.1, 2.9], [2.0, 2.5, 2.6], [1.0, 2.4, 2.5], [0.5, 2.0, 2.4], [0.1, 1.0, 2.3]])


def history(count: int = 5, losses: Any = LOSSES, round: int = 1) -> History:
    return History(dict.fromkeys(NAMES, 10), NAMES, round, [dict(zip(NAMES, row)) for row in losses[:count].tolist()])


def shares(count: int = 5, losses: Any = LOSSES, round: int = 1, **settings: Any) -> np.ndarray:
    schedule = SkillIt(**{"influence": GRAPH, "eta": 0.7, **settings})
    return np.array([schedule.weights(history(count, losses, round))[name] for name in NAMES])


def closed(scores: Any) -> np.ndarray:
    raw = np.exp(np.asarray(scores, np.longdouble))
    return np.asarray(raw / raw.sum(), np.float64)


def same(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, atol=1e-12, rtol=0))


def test_it_is_its_closed_form() -> None:
    assert same(shares(0, round=0), closed(0.7 * A.sum(1)))
    assert same(shares(1, round=0), closed(0.7 * A.sum(1)))
    for count in (2, 3, 4, 5):
        window = LOSSES[1:count][-3:]
        assert same(shares(count), closed(0.7 * A @ window.sum(0)))
    assert same(shares(window=1), closed(0.7 * A @ LOSSES[-1]))


def test_identity_and_equal_losses_and_eta_0_give_equal_shares() -> None:
    equal = np.full((4, 3), 1.7)
    assert same(shares(4, equal, influence=None), 1 / 3) and same(shares(0, influence=None), 1 / 3)
    assert same(shares(eta=0.0), 1 / 3)
    assert parts.build("schedule", {"name": "stratified", "by": "topic"}).measuring is None
    assert SkillIt().measuring == 100 and SkillIt(measure_every=20).measuring == 20


@given(st.lists(st.floats(0, 1e4), min_size=3, max_size=3), st.floats(0, 50))
def test_shares_are_a_distribution_however_large_the_losses(losses: list[float], eta: float) -> None:
    found = mixture([losses], A, eta)
    assert found.sum() == pytest.approx(1) and (found >= 0).all() and np.isfinite(found).all()


def test_targets_keep_their_columns_and_take_the_mean() -> None:
    assert same(shares(targets=("c",)), closed(0.7 * A[:, 2] * LOSSES[2:, 2].mean()))
    schedule = SkillIt(influence={"a": {"z": 0.5}}, targets=("z",), eta=1.0)
    outside = History({"a": 5, "b": 5}, ("z",), 1, [{"z": 4.0}, {"z": 2.0}])
    assert same(list(schedule.weights(outside).values()), closed([1.0, 0.0]))


def test_options() -> None:
    window, first = LOSSES[2:], LOSSES[0]
    assert same(shares(relative=True), closed(0.7 * A @ (window / first).sum(0)))
    assert same(shares(adaptive=True), closed(0.7 * first.sum() / LOSSES[-1].sum() * A @ window.sum(0)))
    halved = np.where(np.eye(3) > 0, A, A / 8)
    assert same(shares(halve=True, round=3), closed(0.7 * halved @ window.sum(0)))
    lonely = shares(influence={"a": {"b": 0.5}}, keep_isolated=True)
    assert lonely[2] == pytest.approx(1 / 3) and lonely.sum() == pytest.approx(1)
    free = closed(0.7 * influence_matrix(NAMES, NAMES, {"a": {"b": 0.5}}) @ window.sum(0))
    assert lonely[0] / lonely[1] == pytest.approx(free[0] / free[1])
    assert same(shares(influence=None, keep_isolated=True), 1 / 3)


def test_more_weight_for_what_is_badly_learned_and_for_what_helps_it() -> None:
    assert shares(influence=None).argmax() == 2
    helped = shares(influence={"a": {"c": 1.0}})
    assert helped[0] > shares(influence=None)[0]


def test_refusals() -> None:
    with pytest.raises(RecipeError, match=r"influence of 'a' on 'b': expected 0 or more, got -0.5"):
        parts.build("schedule", {"name": "skill-it", "influence": {"a": {"b": -0.5}}})
    with pytest.raises(RecipeError, match=r"unknown skill 'aa'.*did you mean 'a'"):
        shares(influence={"aa": {"b": 0.5}})
    with pytest.raises(RecipeError, match=r"influence: unknown skill 'd'"):
        shares(influence={"a": {"d": 0.5}})
    with pytest.raises(RecipeError, match=r"targets: unknown skill 'd'"):
        shares(targets=("d",))
    with pytest.raises(RecipeError, match=r"differ \(c\), so that A would not be square; name the skills to learn as 'targets'"):
        SkillIt().weights(History({"a": 5, "b": 5}, NAMES, 0))
    with pytest.raises(RecipeError, match="not both"):
        SkillIt(influence={}, learn="alone")
    with pytest.raises(RecipeError, match="with eta 0 nothing that 'learn: pairs' measures is read"):
        SkillIt(eta=0.0, learn="pairs")
    with pytest.raises(DataError, match="did you mean 'skill'"):
        skill_of({"skill": "a"}, "skil")
    with pytest.raises(DataError, match="column 'skill' names no skill"):
        skill_of({"skill": None}, "skill")
    with pytest.raises(RecipeError, match="the objective learns from rollouts"):
        refuse_unmixable(SkillIt(), frozenset({"rollouts", "reference"}))
    refuse_unmixable(parts.build("schedule", "shuffle"), frozenset({"rollouts"}))
