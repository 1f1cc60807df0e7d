"""Intervals and tests: which result is judged by which test.

=========================================== =======================================================================
right or wrong on the same items, two arms  ``mcnemar`` (with ``newcombe``'s interval); several arms: ``cochran_q``
real-valued per item, two arms              ``paired_permutation``; the interval is ``mean_interval`` / ``bca_bootstrap``
few seeds                                   paired: ``paired_t`` and ``paired_permutation`` (exact); else ``welch``
items and seeds, two arms                   ``crossed_t``; intervals of one arm: ``hierarchical_bootstrap``
retrained learners on little data           ``five_by_two_cv_f``, ``corrected_resampled_t``, ``bootstrap_632plus``, ``nested_cv``
several arms over several data sets         ``friedman``, then ``pairwise_wilcoxon``
time to a target over several workloads     ``performance_profile``, ``speed_up``; two arms: ``sign_test``
time to a target, with some never there     ``log_rank``
one proportion                              ``wilson``, ``clopper_pearson``
calibration, rank correlation               ``brier``, ``expected_calibration_error``, ``spearman``
AUROC; two scores on the same items         ``auroc``; ``auroc_difference``
"no difference" is the claim                ``tost``
many comparisons                            ``holm`` (``bonferroni``)
what a run could detect                     ``detectable_difference``, ``paired_power``, ``paired_sample_size``
=========================================== =======================================================================

Effects are always the first arm minus the second. Two-sided, 95%, 10,000 resamples unless said otherwise.
"""

from whet.measure.statistics.association import brier, expected_calibration_error, spearman
from whet.measure.statistics.crossed import Crossed, crossed_t
from whet.measure.statistics.learners import Nested, bootstrap_632plus, nested_cv, stratified_folds
from whet.measure.statistics.means import (
    Ranking,
    bonferroni,
    corrected_resampled_t,
    five_by_two_cv_f,
    friedman,
    holm,
    paired_t,
    pairwise_wilcoxon,
    tost,
    welch,
    wilcoxon,
)
from whet.measure.statistics.profiles import SpeedUp, performance_profile, profile, ratios, sign_test, speed_up
from whet.measure.statistics.proportions import (
    clopper_pearson,
    cochran_q,
    detectable_difference,
    detectable_mean_difference,
    discordant,
    equality_floor,
    mcnemar,
    newcombe,
    paired_power,
    paired_sample_size,
    sparse,
    unseen_share,
    wilson,
)
from whet.measure.statistics.ranking import auroc, auroc_difference
from whet.measure.statistics.resampling import bca_bootstrap, hierarchical_bootstrap, mean_interval, paired_permutation
from whet.measure.statistics.result import TestResult
from whet.measure.statistics.survival import log_rank

__all__ = [
    "Crossed",
    "Nested",
    "Ranking",
    "SpeedUp",
    "TestResult",
    "auroc",
    "auroc_difference",
    "bca_bootstrap",
    "bonferroni",
    "bootstrap_632plus",
    "brier",
    "clopper_pearson",
    "cochran_q",
    "corrected_resampled_t",
    "crossed_t",
    "detectable_difference",
    "detectable_mean_difference",
    "discordant",
    "equality_floor",
    "expected_calibration_error",
    "five_by_two_cv_f",
    "friedman",
    "hierarchical_bootstrap",
    "holm",
    "log_rank",
    "mcnemar",
    "mean_interval",
    "nested_cv",
    "newcombe",
    "paired_permutation",
    "paired_power",
    "paired_sample_size",
    "paired_t",
    "pairwise_wilcoxon",
    "performance_profile",
    "profile",
    "ratios",
    "sign_test",
    "sparse",
    "spearman",
    "speed_up",
    "stratified_folds",
    "tost",
    "unseen_share",
    "welch",
    "wilcoxon",
    "wilson",
]
