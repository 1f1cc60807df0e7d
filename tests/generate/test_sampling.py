"""The sampling distribution against transformers' filters, and the draws against the distribution."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from transformers import LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from whet.generate.completion import Sampling
from whet.generate.sampling import draw, log_distribution, stream, uniforms


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6),
        Sampling(top_k=7),
        Sampling(top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(temperature=1.4, top_k=15, top_p=0.7, min_p=0.05),
        Sampling(top_k=1000, top_p=0.999),
    ],
)
def test_distribution_is_that_of_transformers(sampling: Sampling) -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * 3
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    expected = warpers(torch.zeros(64, 1, dtype=torch.long), logits).log_softmax(-1)
    torch.testing.assert_close(log_distribution(logits, sampling), expected)


@pytest.mark.parametrize("spread", [0.1, 6.0], ids=["flat", "peaked"])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(spread: float) -> None:
    """Whether the first entries hold it or not, and whatever the rows beside it need."""
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)) * spread
    logits[3] = torch.linspace(0, 1, 5000)
    got = log_distribution(logits, Sampling(top_p=0.9))
    expected = TopPLogitsWarper(0.9)(torch.zeros(6, 1, dtype=torch.long), logits).log_softmax(-1)
    torch.testing.assert_close(got, expected)
    alone = torch.cat([log_distribution(row, Sampling(top_p=0.9)) for row in logits.split(1)])
    assert torch.equal(got.isfinite(), alone.isfinite())


def test_temperature_zero_reports_the_plain_distribution_in_float32() -> None:
    logits = torch.randn(3, 9).bfloat16()
    got = log_distribution(logits, Sampling(temperature=0, top_k=2))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, logits.float().log_softmax(-1))


def test_distribution_does_not_depend_on_the_order_of_entries_and_keeps_ties() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0, 1.0]])
    kept = log_distribution(logits, Sampling(top_k=2)).isfinite()
    assert kept.tolist() == [[True, True, True, False, True]]
    order = torch.tensor([3, 1, 4, 0, 2])
    for sampling in (Sampling(top_k=2), Sampling(top_p=0.6), Sampling(min_p=0.3)):
        torch.testing.assert_close(log_distribution(logits[:, order], sampling), log_distribution(logits, sampling)[:, order])


def test_distribution_is_differentiable_under_filters() -> None:
    logits = torch.randn(2, 20, requires_grad=True)
    log_distribution(logits, Sampling(temperature=0.5, top_p=0.8)).amax(-1).sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad != 0).any())


@pytest.mark.parametrize("size", [2, 7, 16, 37])
def test_draws_follow_the_distribution(size: int) -> None:
    """Chi-square over 40,000 rows, each with a stream of its own, and over 40,000 steps of one stream."""
    logps = (torch.randn(size, generator=torch.Generator().manual_seed(size)) * 1.5).log_softmax(-1)
    count = 40_000
    zeros = torch.zeros(count, dtype=torch.long)
    by_row = draw(logps.expand(count, -1), torch.tensor([stream(0, i // 4, i % 4) for i in range(count)]), zeros)
    by_step = draw(logps.expand(count, -1), zeros + stream(1, 2, 3), torch.arange(count))
    for drawn in (by_row, by_step):
        p = stats.chisquare(torch.bincount(drawn, minlength=size).numpy(), (logps.double().softmax(-1) * count).numpy()).pvalue
        assert p > 0.001


def test_draws_never_take_a_filtered_entry_and_are_independent_of_neighbours() -> None:
    logits = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))
    logps = log_distribution(logits, Sampling(top_k=3))
    streams, steps = torch.arange(500) * 977, torch.arange(500) % 5
    drawn = draw(logps, streams, steps)
    assert bool(logps.gather(-1, drawn[:, None]).isfinite().all())
    assert torch.equal(draw(logps[100:200].flip(0), streams[100:200].flip(0), steps[100:200].flip(0)), drawn[100:200].flip(0))


def test_a_small_change_of_the_logits_hardly_ever_changes_a_draw() -> None:
    """What another batch shape does to float32 logits: about 1e-6."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 1024, generator=generator)
    moved = logits + 1e-6 * torch.randn(2000, 1024, generator=generator)
    streams, steps = torch.arange(2000) * 31, torch.zeros(2000, dtype=torch.long)
    drawn = [draw(x.log_softmax(-1), streams, steps) for x in (logits, moved)]
    assert torch.equal(*drawn)


def test_uniforms_are_splitmix64_and_stay_inside_the_interval() -> None:
    def mix(word: int) -> int:
        word &= (1 << 64) - 1
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
        word = (word ^ word >> 27) * 0x94D049BB133111EB % (1 << 64)
        return word ^ word >> 31

    row = stream(3, 10**30, 2)
    got = uniforms(torch.tensor([row, row]), torch.tensor([0, 4]), 5)
    base = mix(row + 5 * 0xD1342543DE82EF95)
    expected = [((mix(base + lane * 0x9E3779B97F4A7C15) >> 11) + 0.5) / 2**53 for lane in range(1, 6)]
    assert got[1].tolist() == pytest.approx(expected, abs=1e-16)
    many = uniforms(torch.arange(1000), torch.zeros(1000, dtype=torch.long), 100)
    assert 0 < float(many.min()) < float(many.max()) < 1
    assert stats.kstest(many.flatten().numpy(), "uniform").pvalue > 0.001


def test_streams_differ() -> None:
    words = {stream(s, k, g) for s in range(10) for k in range(-10, 30) for g in range(10)}
    assert len(words) == 10 * 40 * 10
    assert all(-(2**63) <= w < 2**63 for w in words)
    assert math.isclose(sum(w > 0 for w in words) / 4000, 0.5, abs_tol=0.05)
