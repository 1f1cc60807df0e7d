"""Intervals and tests against scipy, closed forms, brute force and their own coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from whet.errors import DataError
from whet.measure import statistics as s


def answers(both: int, first: int, second: int, neither: int) -> tuple[list[int], list[int]]:
    return [1] * (both + first) + [0] * (second + neither), [1] * both + [0] * first + [1] * second + [0] * neither


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (497, 500)])
def test_proportion_intervals_are_scipys(k: int, n: int) -> None:
    for ours, method in ((s.wilson(k, n), "wilson"), (s.clopper_pearson(k, n), "exact")):
        theirs = stats.binomtest(k, n).proportion_ci(0.95, method=method)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert 0 <= ours.low <= k / n <= ours.high <= 1


def test_wilson_covers_small_shares() -> None:
    n, p = 30, 0.08
    covered = sum(stats.binom.pmf(k, n, p) for k in range(n + 1) if s.wilson(k, n).low <= p <= s.wilson(k, n).high)
    assert 0.92 < covered < 0.99


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(DataError, match="11 successes among 10 items"):
        s.wilson(11, 10)
    with pytest.raises(DataError, match="n is 0"):
        s.wilson(0, 0)


@pytest.mark.parametrize(("b", "c"), [(9, 2), (1, 0), (12, 12)])
def test_mcnemar_is_the_exact_binomial_on_few_discordant_pairs(b: int, c: int) -> None:
    result = s.mcnemar(*answers(40, b, c, 20))
    brute = min(1.0, 2 * sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c))
    assert result.p == pytest.approx(brute) and "exact" in result.note
    assert result.effect == pytest.approx((b - c) / (60 + b + c))


def test_mcnemar_turns_to_corrected_chi_square_at_25_pairs() -> None:
    result = s.mcnemar(*answers(100, 30, 12, 50))
    assert result.statistic == pytest.approx((30 - 12 - 1) ** 2 / 42)
    assert result.p == pytest.approx(stats.chi2.sf(result.statistic, 1)) and "odds ratio 2.5" in result.note


def test_mcnemar_without_discordant_pairs_says_so() -> None:
    result = s.mcnemar([1, 0, 1], [1, 0, 1])
    assert result.p == 1 and "no discordant pair" in result.note and result.effect == 0


def test_unpaired_or_graded_answers_are_refused() -> None:
    with pytest.raises(DataError, match="first arm has 2 units, the second 3"):
        s.mcnemar([1, 0], [1, 0, 1])
    with pytest.raises(DataError, match=r"expected 0 or 1 for every item, got 0\.5"):
        s.mcnemar([0.5, 1], [1, 0])
    with pytest.raises(DataError, match="value 1 is nan"):
        s.paired_permutation([1.0, math.nan], [1.0, 2.0])


def test_newcombe_against_the_formula_written_out() -> None:
    """A 2x2 table worked with plain arithmetic: phi is continuity-corrected, both limits from Wilson's."""
    e, f, g, h = 36, 12, 2, 0
    n = 50
    phi = (e * h - f * g) / math.sqrt(48 * 2 * 38 * 12)
    l1, u1 = stats.binomtest(48, n).proportion_ci(method="wilson")
    l2, u2 = stats.binomtest(38, n).proportion_ci(method="wilson")
    p1, p2 = 48 / n, 38 / n
    low = 0.2 - math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = 0.2 + math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    ours = s.newcombe(*answers(e, f, g, h))
    assert (ours.low, ours.high) == pytest.approx((low, high))
    first, second = answers(e, f, g, h)
    swapped = s.newcombe(second, first)
    assert (-swapped.high, -swapped.low) == pytest.approx((ours.low, ours.high))


def test_newcombe_covers() -> None:
    rng = np.random.default_rng(1)
    cells = rng.multinomial(60, [0.5, 0.2, 0.1, 0.2], size=600)
    intervals = [s.newcombe(*answers(*row)) for row in cells]
    assert 0.92 < np.mean([i.low <= 0.1 <= i.high for i in intervals]) < 0.985


def test_cochran_q_of_two_models_is_mcnemar_without_correction() -> None:
    first, second = answers(50, 18, 7, 25)
    result = s.cochran_q([first, second])
    assert result.statistic == pytest.approx((18 - 7) ** 2 / 25)
    assert s.cochran_q([first, first, first]).p == 1
    with pytest.raises(DataError, match="different lengths"):
        s.cochran_q([[1, 0], [1]])


def test_cochran_q_by_permuting_inside_items() -> None:
    rng = np.random.default_rng(0)
    correct = (rng.random((3, 80)) < np.array([[0.75], [0.6], [0.6]])).astype(int)
    result = s.cochran_q(correct)
    shuffled = np.array([s.cochran_q(rng.permuted(correct, axis=0)).statistic for _ in range(1500)])
    assert np.mean(shuffled >= result.statistic - 1e-9) == pytest.approx(result.p, abs=0.05)


def test_permutation_is_exact_on_few_units() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.5, 1, 9), rng.normal(0, 1, 9)
    d = a - b
    brute = np.mean([abs(np.dot(signs, d)) >= abs(d.sum()) - 1e-12 for signs in itertools.product([-1, 1], repeat=9)])
    result = s.paired_permutation(a, b)
    assert result.p == pytest.approx(brute) and result.effect == pytest.approx(d.mean())
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert result.p == pytest.approx(theirs.pvalue)


def test_five_seeds_cannot_pass_five_percent_and_six_can() -> None:
    assert s.paired_permutation([1.0] * 5, [0.0] * 5).p == 2 / 32
    assert s.paired_permutation([1.0] * 6, [0.0] * 6).p == 2 / 64
    assert "smallest possible p 0.0625" in s.paired_permutation([1.0] * 5, [0.0] * 5).note


def test_random_flips_approach_the_t_test_and_repeat() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(0.25, 1, 120)
    result = s.paired_permutation(a, np.zeros(120))
    assert result.p == pytest.approx(stats.ttest_1samp(a, 0).pvalue, abs=0.02)
    assert result == s.paired_permutation(a, np.zeros(120))
    assert s.paired_permutation(a, a).p == 1


def test_groups_are_flipped_whole() -> None:
    """Copies of an item in one group add no evidence."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.3, 1, 10), np.zeros(10)
    alone = s.paired_permutation(a, b)
    copied = s.paired_permutation(np.repeat(a, 7), np.repeat(b, 7), groups=list(np.repeat(np.arange(10), 7)))
    assert copied.p == alone.p and copied.n == 10
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


def test_bca_agrees_with_scipy() -> None:
    values = np.random.default_rng(5).exponential(size=60)
    ours = s.bca_bootstrap(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(9)
    ).confidence_interval
    assert ours.method == "bca" and (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    slow = s.bca_bootstrap(values, statistic=np.mean, resamples=4000)
    assert (slow.low, slow.high) == pytest.approx((ours.low, ours.high), abs=0.02)


def test_bca_without_variation_is_a_percentile_interval() -> None:
    flat = s.bca_bootstrap([1.0] * 20)
    assert flat.method == "percentile" and flat.low == flat.high == flat.value == 1.0


def test_weights_are_those_of_repeated_items() -> None:
    values, weights = [1.0, 2.0, 4.0], [1, 2, 3]
    assert s.bca_bootstrap(values, weights=weights).value == pytest.approx(np.repeat(values, weights).mean())
    with pytest.raises(DataError, match="positive"):
        s.bca_bootstrap(values, weights=[0, 1, 1])


def test_bca_and_cluster_coverage() -> None:
    rng = np.random.default_rng(6)
    plain, cluster, naive = [], [], []
    for i in range(150):
        plain.append(s.bca_bootstrap(rng.exponential(size=40), resamples=600, seed=i))
        groups = np.repeat(np.arange(40), 4)
        values = 1 + np.repeat(rng.normal(size=40), 4) + 0.3 * rng.normal(size=160)
        cluster.append(s.bca_bootstrap(values, groups=list(groups), resamples=600, seed=i))
        naive.append(s.bca_bootstrap(values, resamples=600, seed=i))
    coverage = [np.mean([e.low <= 1 <= e.high for e in those]) for those in (plain, cluster, naive)]
    assert coverage[0] > 0.88 and coverage[1] > 0.88 and coverage[2] < 0.8
    assert cluster[0].method.endswith("-cluster") and cluster[0].n == 40


def test_mean_interval_is_students_t_on_few_items() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    ours, theirs = s.mean_interval(values), stats.ttest_1samp(values, 0).confidence_interval()
    assert ours.method == "t" and (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert s.mean_interval([0.3]).high == math.inf


def test_hierarchical_bootstrap_sees_both_seeds_and_items() -> None:
    rng = np.random.default_rng(7)
    items = rng.normal(0, 1, 50)
    seeds = rng.normal(0, 0.01, (6, 1))
    shared = s.hierarchical_bootstrap(items + seeds, resamples=2000)
    fresh = s.hierarchical_bootstrap(items + seeds, shared_items=False, resamples=2000)
    assert shared.high - shared.low == pytest.approx(4 * items.std() / 50**0.5, rel=0.15)
    assert fresh.high - fresh.low < 0.6 * (shared.high - shared.low)
    assert s.hierarchical_bootstrap(np.ones((3, 10)), resamples=500).p < 0.01


def test_seed_tests_are_scipys() -> None:
    a, b = [0.61, 0.64, 0.60, 0.66], [0.58, 0.60, 0.61, 0.60]
    theirs = stats.ttest_rel(a, b)
    ours = s.paired_t(a, b)
    assert (ours.statistic, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert s.welch(a, b[:3]).p == pytest.approx(stats.ttest_ind(a, b[:3], equal_var=False).pvalue)
    assert s.paired_t([1, 2, 3], [1, 2, 3]).p == 1 and s.paired_t([2, 3, 4], [1, 2, 3]).p == 0
    assert s.welch([1, 1], [1, 1]).p == 1
    with pytest.raises(DataError, match="needs at least 3 values, got 2"):
        s.paired_t([1, 2], [1, 2])


def test_corrected_resampled_t_widens_the_plain_one() -> None:
    d = np.random.default_rng(8).normal(0.02, 0.03, 10)
    ours = s.corrected_resampled_t(d, n_train=90, n_test=10)
    assert ours.statistic == pytest.approx(d.mean() / math.sqrt(d.var(ddof=1) * (1 / 10 + 1 / 9)))
    assert ours.p > stats.ttest_1samp(d, 0).pvalue


def test_five_by_two_f_is_invariant_to_swapping_models() -> None:
    d = np.random.default_rng(9).normal(0.02, 0.03, (5, 2))
    ours = s.five_by_two_cv_f(d)
    variances = [(p - (p + q) / 2) ** 2 + (q - (p + q) / 2) ** 2 for p, q in d]
    assert ours.statistic == pytest.approx((d**2).sum() / (2 * sum(variances)))
    assert ours.p == pytest.approx(stats.f.sf(ours.statistic, 10, 5)) and s.five_by_two_cv_f(-d).p == ours.p
    assert s.five_by_two_cv_f(np.zeros((5, 2))).p == 1


def test_false_positives_of_tests_that_reuse_data() -> None:
    """Two equally good learners, 5 repeated splits: the plain t is far over its level, the corrected one is not."""
    rng = np.random.default_rng(10)
    plain = corrected = 0
    for _ in range(300):
        luck = rng.normal(0, 1, (30, 100))
        d = np.array([luck[:, rng.permutation(100)[:20]].mean(1)[0] for _ in range(15)])
        plain += stats.ttest_1samp(d, 0).pvalue < 0.05
        corrected += s.corrected_resampled_t(d, n_train=80, n_test=20).p < 0.05
    assert plain > 60 and corrected < 36


def test_newcombes_correlation_is_corrected_where_it_is_positive() -> None:
    first = [1] * 20 + [1] * 8 + [0] * 2 + [0] * 20
    second = [1] * 20 + [0] * 8 + [1] * 2 + [0] * 20
    one, two = (stats.binomtest(k, 50).proportion_ci(method="wilson") for k in (28, 22))
    phi = (20 * 20 - 8 * 2 - 50 / 2) / (28 * 22)
    down, up = 28 / 50 - one.low, two.high - 22 / 50
    assert s.newcombe(first, second).low == pytest.approx(6 / 50 - math.sqrt(down**2 - 2 * phi * down * up + up**2))


def test_holm_and_bonferroni() -> None:
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert s.bonferroni([0.01, 0.04, 0.5]) == pytest.approx([0.03, 0.12, 1.0])
    assert s.holm([]) == []
    p = list(np.random.default_rng(11).random(7))
    assert all(a <= b + 1e-12 for a, b in zip(s.holm(p), s.bonferroni(p), strict=True))
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        s.holm([1.2])


def test_tost_is_the_interval_inside_delta() -> None:
    rng = np.random.default_rng(12)
    for shift in (0.0, 0.1, 0.2, 0.3):
        d = rng.normal(shift, 0.5, 60)
        result = s.tost(d, np.zeros(60), delta=0.2)
        assert (result.p < 0.05) == (result.low > -0.2 and result.high < 0.2)
        brute = max(
            stats.ttest_1samp(d, -0.2, alternative="greater").pvalue, stats.ttest_1samp(d, 0.2, alternative="less").pvalue
        )
        assert result.p == pytest.approx(brute)


@pytest.mark.parametrize(("n", "margin"), [(50, 0.1), (100, 0.03), (300, 0.01)])
def test_tost_keeps_its_level_where_hardly_an_item_differs(n: int, margin: float) -> None:
    rng = np.random.default_rng(n)
    wrong = sum(s.tost((rng.random(n) < margin).astype(float), np.zeros(n), margin).p < 0.05 for _ in range(400))
    assert wrong <= 31
    one = s.tost([1.0] + [0.0] * (n - 1), [0.0] * n, margin).p
    assert one >= stats.binom.cdf(1, n, margin) - 1e-12 and s.equality_floor(0.0, margin, n) == pytest.approx((1 - margin) ** n)
    assert s.tost(np.ones(n), np.ones(n), 0.0).p == 1.0


def test_log_rank_is_scipys_statistic_and_keeps_the_level_of_few() -> None:
    rng = np.random.default_rng(21)
    times, reached = rng.integers(1, 12, 14).astype(float), rng.random(14) < 0.7
    arms = [
        stats.CensoredData(times[part][reached[part]], right=times[part][~reached[part]]) for part in (slice(0, 6), slice(6, 14))
    ]
    ours, theirs = s.log_rank(times, reached, 6), stats.logrank(*arms)
    assert ours.statistic == pytest.approx(theirs.statistic) and ours.p == pytest.approx(theirs.pvalue, abs=0.1)
    apart = s.log_rank([1, 2, 3, 9, 9, 9], [True] * 3 + [False] * 3, 3)
    assert apart.p == pytest.approx(0.1) and apart.note == "exact over 20 permutations"
    large = rng.exponential(1, 60)
    many = s.log_rank(large, large < 1, 30)
    split = [stats.CensoredData(x[x < 1], right=x[x >= 1]) for x in (large[:30], large[30:])]
    assert many.p == pytest.approx(stats.logrank(*split).pvalue, abs=0.05) and "random" in many.note
    assert s.log_rank([2.0, 2.0], [True, True], 1).p == 1.0
    with pytest.raises(DataError, match="each arm needs units"):
        s.log_rank([1.0, 2.0], [True, True], 2)


def test_power_agrees_with_simulation_and_inverts() -> None:
    rng, n, share, effect = np.random.default_rng(13), 300, 0.2, 0.08
    cells = rng.multinomial(n, [(share + effect) / 2, (share - effect) / 2, 1 - share], size=4000)
    found = np.mean((cells[:, 0] - cells[:, 1]) ** 2 / (cells[:, 0] + cells[:, 1]) > 3.841)
    assert s.paired_power(effect, share, n) == pytest.approx(found, abs=0.02)
    smallest = s.detectable_difference(n, share)
    assert s.paired_power(smallest, share, n) == pytest.approx(0.8)
    assert s.paired_sample_size(smallest, share) in (n, n + 1)
    assert s.detectable_difference(3, 0.1) == math.inf


def test_detectable_mean_difference_by_simulation() -> None:
    shift = s.detectable_mean_difference(0.03, 5)
    d = np.random.default_rng(14).normal(shift, 0.03, (4000, 5))
    assert np.mean(stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


def nearest_mean(x: np.ndarray, y: np.ndarray):
    def fit_predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        means = [x[train][y[train] == k].mean(0) if (y[train] == k).any() else np.full(x.shape[1], 1e9) for k in (0, 1)]
        return np.argmin([((x[test] - m) ** 2).sum(1) for m in means], axis=0)

    return fit_predict


def test_632plus_is_632_without_overfitting_and_near_half_without_signal() -> None:
    y = np.array([0, 1] * 30)
    constant = s.bootstrap_632plus(y, lambda train, test: y[test], resamples=20)
    assert constant.value == 1 and "weight 0.632" in constant.method
    noise = np.random.default_rng(15).normal(size=(60, 40))
    one_neighbour = lambda train, test: y[train][((noise[test][:, None] - noise[train]) ** 2).sum(-1).argmin(1)]  # noqa: E731
    plus, plain = (
        s.bootstrap_632plus(y, one_neighbour, resamples=50),
        s.bootstrap_632plus(y, one_neighbour, plus=False, resamples=50),
    )
    assert abs(plus.value - 0.5) < 0.1 < plain.value - 0.5
    signal = noise + y[:, None] * 2.0
    assert s.bootstrap_632plus(y, nearest_mean(signal, y), resamples=50).value > 0.95


def test_nested_cv_selects_inside_and_scores_outside() -> None:
    y = np.array([0, 1] * 50)
    x = np.random.default_rng(16).normal(size=(100, 3)) + np.array([0, 2.5, 0]) * y[:, None]
    seen: list[tuple[set[int], set[int]]] = []

    def fit_score(candidate: int, train: np.ndarray, test: np.ndarray) -> float:
        seen.append((set(train), set(test)))
        return float(np.mean(nearest_mean(x[:, [candidate]], y)(train, test) == y[test]))

    result = s.nested_cv(y, 3, fit_score)
    assert result.chosen == [1] * 5 and result.score.value > 0.8
    assert all(not train & test for train, test in seen)
    assert set().union(*(test for _, test in seen[6::7])) == set(range(100))


def test_stratified_folds_keep_every_class() -> None:
    y = np.array([0] * 20 + [1] * 10)
    folds = s.stratified_folds(y, 5, np.random.default_rng(0))
    assert sorted(np.concatenate(folds)) == list(range(30)) and all((y[f] == 1).sum() == 2 for f in folds)
    with pytest.raises(DataError, match="into 50 folds"):
        s.stratified_folds(y, 50, np.random.default_rng(0))


def test_friedman_and_wilcoxon() -> None:
    data = np.random.default_rng(17).normal(size=(12, 4)) + np.array([2.0, 0, 0, 0])
    ranking = s.friedman(data)
    assert ranking.test.p == pytest.approx(stats.friedmanchisquare(*data.T).pvalue)
    assert ranking.mean_ranks[0] == min(ranking.mean_ranks) and sum(ranking.mean_ranks) == pytest.approx(10)
    assert ranking.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 12)), abs=1e-3)
    pairs = s.pairwise_wilcoxon(data)
    raw = {key: stats.wilcoxon(data[:, key[0]], data[:, key[1]]).pvalue for key in pairs}
    assert [r.p for r in pairs.values()] == pytest.approx(s.holm(list(raw.values())))
    assert s.friedman(np.ones((3, 3))).test.p == 1
    with pytest.raises(DataError, match="at least 6"):
        s.wilcoxon([1, 2], [2, 1])


def test_calibration() -> None:
    confidences, correct = [0.9, 0.8, 0.3, 0.55], [1, 0, 0, 1]
    assert s.brier(confidences, correct).value == pytest.approx(np.mean((np.array(confidences) - correct) ** 2))
    by_hand = (abs(1 - 0.9) + abs(0 - 0.8) + abs(0 - 0.3) + abs(1 - 0.55)) / 4
    assert s.expected_calibration_error(confidences, correct).value == pytest.approx(by_hand)
    assert s.expected_calibration_error([0.5, 0.5], [1, 0], bins=10).value == 0
    assert s.expected_calibration_error([1.0, 1.0], [1, 1]).value == 0
    with pytest.raises(DataError, match=r"\[0, 1\], got 1\.5"):
        s.brier([1.5, 0.2], [1, 0])


def test_spearman() -> None:
    rng = np.random.default_rng(18)
    x = rng.normal(size=40)
    y = np.round(x + rng.normal(size=40), 1)
    ours, theirs = s.spearman(x, y, resamples=2000), stats.spearmanr(x, y)
    assert ours.statistic == pytest.approx(theirs.statistic) and ours.low < ours.statistic < ours.high
    small = s.spearman([1, 2, 3, 4, 5], [2, 1, 3, 5, 4], resamples=4000)
    ranks = [abs(stats.spearmanr([1, 2, 3, 4, 5], p).statistic) for p in itertools.permutations(range(5))]
    assert small.p == pytest.approx(np.mean(np.array(ranks) >= small.statistic - 1e-9), abs=0.03)
    with pytest.raises(DataError, match="constant"):
        s.spearman([1, 1, 1, 1], [1, 2, 3, 4])
