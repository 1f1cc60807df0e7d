"""A comparison's outcome in words."""

from itertools import combinations

from whet.run.compare.headline import headline, ranked
from whet.run.compare.verdicts import Verdict


def verdict(first, second, effect, p=0.001):
    return Verdict(
        "t", "accuracy", first, second, 0.5, 0.5 + effect, effect, effect - 0.01, effect + 0.01, p, p, "crossed-t", "", 0.04, 1.0, 0.01, {}, True
    )  # fmt: skip


def of(levels):
    """Every pair's verdict, for variants of the same level without a difference."""
    pairs = combinations(levels, 2)
    return [verdict(a, b, levels[b] - levels[a], p=0.001 if levels[a] != levels[b] else 0.6) for a, b in pairs]


def test_variants_are_put_in_order_where_the_verdicts_give_one():
    verdicts = of({"none": 0.0, "random 4%": 0.1, "paser 4%": 0.1, "whole": 0.3})
    assert ranked(verdicts) == [["whole"], ["random 4%", "paser 4%"], ["none"]]
    assert headline(verdicts) == (
        "whole is best; then random 4% and paser 4%; last none. "
        "Between the others no difference was seen; one of more than 0.04 would have been, with 80% power."
    )


def test_two_groups_are_one_sentence():
    assert headline(of({"a": 0.1, "b": 0.1, "c": 0.0})).startswith("a and b are better than c. Between the others no")


def test_verdicts_that_give_no_order_are_told_one_by_one():
    verdicts = [verdict("a", "b", -0.1), verdict("a", "c", -0.05, p=0.3), verdict("b", "c", 0.05, p=0.3)]
    assert ranked(verdicts) == []
    assert headline(verdicts).startswith("a is better than b. Between the others no difference was seen")


def test_winners_over_the_same_losers_share_a_sentence():
    verdicts = [
        verdict("slow", "middle", 0.0, p=0.6),
        verdict("slow", "fast", -0.1),
        verdict("middle", "fast", -0.1),
        verdict("slow", "soup", 0.01, p=0.4),
        verdict("middle", "soup", 0.05),
        verdict("fast", "soup", 0.15),
    ]
    assert headline(verdicts).startswith("slow and middle are better than fast. soup is better than middle and fast. Between")


def test_nothing_told_apart():
    assert headline(of({"a": 0.1, "b": 0.1})) == "No difference was seen; one of more than 0.04 would have been, with 80% power."
