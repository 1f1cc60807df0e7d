"""Costs that add up exactly, the default rule, the fit over pilot runs, the cold-start probe."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet import parts
from whet.errors import DataError, RecipeError
from whet.forecast.budget_split import BudgetSplit
from whet.forecast.observations import Observation, Observed
from whet.forecast.probe import cold_start
from whet.forecast.splits import default_share, split
from whet.model import Model

NOTHING = Observed(())


@given(
    st.integers(1, 10**6).map(lambda n: n / 100),
    st.integers(0, 1000).map(lambda n: n / 1000),
    st.integers(1, 500).map(lambda n: n / 100),
    st.integers(1, 500).map(lambda n: n / 100),
)
def test_costs_add_up_to_the_budget_exactly(budget: float, share: float, sft: float, pair: float) -> None:
    try:
        found = split(budget, share, sft, pair)
    except RecipeError as error:
        assert "buys no example" in str(error)
        return
    assert found.cost_demonstrations + found.cost_pairs + found.unspent == Fraction(repr(budget))
    assert found.cost_demonstrations == found.demonstrations * Fraction(repr(sft))
    assert found.cost_pairs == found.pairs * Fraction(repr(pair)) <= Fraction(repr(share)) * Fraction(repr(budget))
    assert found.unspent >= 0 and (share == 1 or found.unspent < Fraction(repr(sft)))


def test_a_share_of_nothing_buys_no_pair_and_of_all_no_demonstration() -> None:
    assert (split(400, 0).demonstrations, split(400, 0).pairs) == (400, 0)
    assert (split(400.5, 1).demonstrations, split(400.5, 1).pairs) == (0, 400)
    assert split(100, 0.29).pairs == 29 and split(10, 0.7).pairs == 7, "what a float product would round down"


def test_the_default_rule() -> None:
    shares = [default_share(n) for n in (1, 1000, 1001, 5000, 20_000, 10**6)]
    assert shares[:2] == [0, 0] and shares == sorted(shares) and shares[-2:] == [0.75, 0.75] and 0 < shares[2] < 0.001
    found = BudgetSplit(price_sft=2.0)(NOTHING, [2000, 40_000])
    assert [float(c.split.share) for c in found.choices] == [0, 0.75], "prices count examples, not cost"
    assert "demonstrations alone" in found.text() and "5,000 demonstrations and 30,000 preference pairs" in found.text()


def pilots(best: dict[str, tuple[float, float]], seeds: int = 3, noise: float = 0.0) -> Observed:
    curves = {g: [a - b * c**-0.4 for c in (100.0, 400.0, 1600.0)] for g, (a, b) in best.items()}
    rows = [
        Observation(c, y + noise * (-1) ** seed * (1 + seed), seed, g)
        for g, ys in curves.items()
        for seed in range(seeds)
        for c, y in zip((100.0, 400.0, 1600.0), ys)
    ]
    return Observed(tuple(rows), "accuracy")


def test_the_share_is_fitted_where_curves_cross() -> None:
    observed = pilots({"0": (0.5, 1.0), "0.5": (0.6, 2.2), "0.9": (0.4, 1.0)})
    few, many = BudgetSplit()(observed, [120, 6400]).choices
    assert float(few.split.share) == 0 and float(many.split.share) == 0.5
    assert many.expected["0.5"].value == pytest.approx(0.6 - 2.2 * 6400**-0.4, abs=1e-4)
    assert many.best_in["0.5"] == 1.0 and many.likely == (0.5, 0.5) and many.split.pairs == 3200


def test_the_bootstrap_says_when_shares_cannot_be_told_apart() -> None:
    rows = list(pilots({"0": (0.5, 1.0), "0.5": (0.501, 1.0)}).rows)
    moved = [Observation(o.size, o.score + 0.03 * ((o.seed * 7 + len(o.group)) % 3 - 1), o.seed, o.group) for o in rows]
    (choice,) = BudgetSplit()(Observed(tuple(moved), "accuracy"), [3200]).choices
    assert choice.likely == (0.0, 0.5) and 0.05 < choice.best_in["0"] < 0.95
    assert "95% of them lie in [0, 0.5]" in BudgetSplit()(Observed(tuple(moved)), [3200]).text()


def test_pilot_runs_are_in_examples_and_budgets_in_cost() -> None:
    observed = pilots({"0": (0.4, 1.0), "0.5": (0.6, 1.0)})
    found = BudgetSplit(price_sft=1.0, price_preference=3.0)(observed, [3200])
    (choice,) = found.choices
    assert [e.last[0] for e in found.extrapolations] == [1600, 3200], "half pairs at 3 and half demonstrations at 1 cost 2 each"
    assert float(choice.split.share) == 0.75 and (choice.split.demonstrations, choice.split.pairs) == (800, 800)
    assert choice.expected["0.75"].value == pytest.approx(0.6 - 1600**-0.4, abs=1e-6)


def test_preferences_alone_are_taken_only_where_the_form_is_there() -> None:
    observed = pilots({"0": (0.5, 1.0), "0.9": (0.6, 1.0), "1": (0.8, 1.0)})
    taken = {rate: float(BudgetSplit(format_rate=rate)(observed, [1600]).choices[0].split.share) for rate in (None, 0.01, 0.3)}
    assert taken == {None: 0.9, 0.01: 0.9, 0.3: 1.0}
    assert "demonstrations first" in BudgetSplit(format_rate=0.01)(observed, [1600]).text()


def test_too_far_is_said_of_the_choice() -> None:
    found = BudgetSplit()(pilots({"0": (0.5, 1.0), "0.5": (0.6, 2.2)}), [16_000])
    assert "extrapolates 10 times" in found.choices[0].doubt and "NOT TO BE RELIED ON" in found.text()


def test_an_exact_fit_without_seeds_is_doubted() -> None:
    found = BudgetSplit()(pilots({"0": (0.5, 1.0), "0.5": (0.6, 2.2)}, seeds=1), [3200])
    assert "three budgets at one seed fit any curve exactly" in found.choices[0].doubt
    assert not BudgetSplit()(pilots({"0": (0.5, 1.0), "0.5": (0.6, 2.2)}), [3200]).choices[0].doubt


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="group 'dpo': pilot runs are grouped by the share"):
        BudgetSplit()(pilots({"0": (0.5, 1.0), "dpo": (0.6, 1.0)}), [100])
    with pytest.raises(DataError, match="needs at least 3 sizes, got 2"):
        BudgetSplit()(Observed((Observation(1, 0.1, 0, "0"), Observation(2, 0.2, 0, "0"))), [100])
    with pytest.raises(DataError, match=r"every share observed is above 0\.9"):
        BudgetSplit()(pilots({"0.95": (0.5, 1.0)}), [100])
    with pytest.raises(RecipeError, match=r"0\.5 buys no example"):
        BudgetSplit()(NOTHING, [0.5])
    with pytest.raises(DataError, match="name the budgets"):
        BudgetSplit()(NOTHING, [])
    with pytest.raises(RecipeError, match=r"share 1\.2"):
        split(100, 1.2)
    with pytest.raises(RecipeError, match="both must be positive"):
        split(100, 0.5, 0.0)
    with pytest.raises(RecipeError, match="cap"):
        parts.build("forecast", {"name": "budget-split", "cap": 0})


def test_the_probe_finds_a_cold_start(tiny_model: Model) -> None:
    rows = parts.build("source", {"name": "chain-mod10", "rows": 12, "form": "preference"})("train")
    found = cold_start(tiny_model, rows, limit=8, max_new_tokens=4)
    assert found.cold and found.format_rate.value == 0.0 and found.format_rate.n == 8
    assert found.perplexity.value > 1 and "0.0% [0.0, " in str(found) and "demonstrations first" in str(found)
    plain = rows.remove_columns(["states", "chosen", "rejected", "reason"])
    assert cold_start(tiny_model, plain, limit=4, max_new_tokens=4).format_rate.value == 0.0
