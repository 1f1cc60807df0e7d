import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import ModelError, RecipeError
from whet.quantize.grid import BitPlan, GridParams, fit_matrix, parameter_bits
from whet.quantize.grids.ternary import Ternary
from whet.quantize.grids.uniform import Uniform


def groups(rows=4, n=3, g=16, seed=0, shift=0.0):
    return torch.randn(rows, n, g, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize("bits", range(2, 9))
def test_asymmetric_codes_follow_the_formula(bits):
    v, plan = groups(shift=0.3), BitPlan(bits, 16, False)
    p = Uniform().fit(v, plan)
    low, high = v.amin(-1).clamp(max=0), v.amax(-1).clamp(min=0)
    s = (high - low) / (2**bits - 1)
    z = torch.round(-low / s)
    assert torch.allclose(p.scales, s) and torch.equal(p.zeros, z)
    q = torch.clamp(torch.round(v / s[..., None]) + z[..., None], 0, 2**bits - 1)
    assert torch.equal(Uniform().encode(v, p, plan).float(), q)
    assert torch.allclose(Uniform().decode(q, p), s[..., None] * (q - z[..., None]))


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_codes_follow_the_formula(bits):
    v, plan = groups(), BitPlan(bits, 16, True)
    p = Uniform().fit(v, plan)
    assert p.zeros is None
    assert torch.allclose(p.scales, v.abs().amax(-1) / (2 ** (bits - 1) - 1))
    q = Uniform().encode(v, p, plan)
    assert int(q.min()) >= -(2 ** (bits - 1)) and int(q.max()) <= 2 ** (bits - 1) - 1


def test_rounding_is_half_to_even():
    plan, p = BitPlan(4, 4, True), GridParams(torch.ones(1, 1))
    assert Uniform().encode(torch.tensor([[[0.5, 1.5, 2.5, -0.5]]]), p, plan).tolist() == [[[0, 2, 2, 0]]]


@pytest.mark.parametrize("grid, bits", [(Uniform(), 4), (Uniform(shrink=True), 2), (Ternary(), 2)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_zero_is_a_level_even_where_all_weights_are_positive(grid, bits, symmetric):
    v, plan = groups(shift=10.0), BitPlan(bits, 16, symmetric)
    p = grid.fit(v, plan)
    zero = torch.zeros(4, 3, 1)
    assert torch.equal(grid.decode(grid.encode(zero, p, plan), p), zero)


@pytest.mark.parametrize("grid, bits", [(Uniform(), 3), (Ternary(), 2)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_group_of_zeros_has_scale_one_and_decodes_to_zero(grid, bits, symmetric):
    v, plan = torch.zeros(2, 1, 8), BitPlan(bits, 8, symmetric)
    p = grid.fit(v, plan)
    assert torch.equal(p.scales, torch.ones(2, 1))
    assert torch.equal(grid.decode(grid.encode(v, p, plan), p), v)


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(2, 8), symmetric=st.booleans(), seed=st.integers(0, 1000), shrink=st.booleans())
def test_levels_are_fixed_points_and_nearest(bits, symmetric, seed, shrink):
    grid, plan, v = Uniform(shrink), BitPlan(bits, 16, symmetric), groups(seed=seed, n=1)
    p = grid.fit(v, plan).stored_as(torch.float16)
    once = grid.decode(grid.encode(v, p, plan), p)
    assert torch.equal(grid.decode(grid.encode(once, p, plan), p), once)
    nearest = (v[..., None] - grid.levels(p, plan)[..., None, :]).abs().amin(-1)
    assert torch.allclose((v - once).abs(), nearest, atol=1e-6)


@pytest.mark.parametrize("grid, bits", [(Uniform(), 3), (Ternary(), 2)])
def test_soft_runs_from_the_base_level_to_the_next(grid, bits):
    v, plan = groups(n=1), BitPlan(bits, 16, False)
    p = grid.fit(v, plan)
    base = grid.base(v, p, plan)
    levels = grid.levels(p, plan).expand(4, 1, -1)
    assert torch.allclose(grid.soft(v, p, plan, torch.zeros_like(v)), levels.gather(-1, base.long()), atol=1e-6)
    above = (base + 1).clamp(max=levels.shape[-1] - 1).long()
    assert torch.allclose(grid.soft(v, p, plan, torch.ones_like(v)), levels.gather(-1, above), atol=1e-6)
    shift = torch.full_like(v, 0.5, requires_grad=True)
    grid.soft(v, p, plan, shift).sum().backward()
    assert bool(shift.grad.isfinite().all()) and float(shift.grad.abs().sum()) > 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_shrink_search_never_gives_more_of_the_error_it_minimises(symmetric):
    v, plan = groups(rows=16, g=64) ** 3, BitPlan(2, 64, symmetric)

    def error(grid):
        p = grid.fit(v, plan)
        return (grid.decode(grid.encode(v, p, plan), p) - v).abs().pow(2.4).sum(-1)

    plain, searched = error(Uniform()), error(Uniform(shrink=True))
    assert bool((searched <= plain + 1e-5).all())
    assert float(searched.sum()) < 0.9 * float(plain.sum())


def test_ternary_thresholds_lie_halfway_to_the_ends():
    plan = BitPlan(2, 6)
    v = torch.tensor([[[-2.0, -1.01, -0.99, 1.4, 1.6, 3.0]]])
    p = Ternary(shrink=False).fit(v, plan)
    assert Ternary().decode(Ternary().encode(v, p, plan), p).tolist() == [[[-2.0, -2.0, 0.0, 0.0, 3.0, 3.0]]]


def test_ternary_refuses_other_widths():
    with pytest.raises(RecipeError, match=r"three levels take 2 bits; set bits: 2"):
        Ternary().check(BitPlan(4, 32))


def test_a_short_last_group_is_fitted_on_its_own_columns():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(3))
    plan = BitPlan(4, 16)
    p = fit_matrix(Uniform(), weight, plan, torch.float32)
    assert p.scales.shape == (5, 3)
    assert torch.equal(p.scales[:, 2:], Uniform().fit(weight[:, None, 32:], plan).scales)


def test_storage_follows_the_stated_formula():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(3))
    for plan, bits in [(BitPlan(4, 16), 8 * 4 * (16 + 4)), (BitPlan(3, "channel", True), 8 * 16), (BitPlan(4, "tensor"), 20)]:
        p = fit_matrix(Uniform(), weight, plan)
        assert Uniform().cost(p, plan) == parameter_bits(p, plan.bits) == bits
    assert Ternary().cost(fit_matrix(Ternary(), weight, BitPlan(2, 16)), BitPlan(2, 16)) == 8 * 4 * 32 + 2 * 16


def test_a_scale_that_its_type_cannot_hold_is_refused():
    with pytest.raises(ModelError, match="set scale_dtype: float32"):
        fit_matrix(Uniform(), torch.full((1, 4), 1e7), BitPlan(2, "channel"))


def test_tiny_scales_do_not_become_zero():
    p = fit_matrix(Uniform(), torch.full((1, 4), 1e-12), BitPlan(8, "channel"))
    assert float(p.scales) > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bits": 9}, "from 2 to 8"),
        ({"bits": 1}, "from 2 to 8"),
        ({"group_size": 0}, "positive"),
        ({"group_size": "row"}, "'channel' or 'tensor'"),
    ],
)
def test_plans_refuse_wrong_values(change, message):
    with pytest.raises(RecipeError, match=message):
        BitPlan(**change)
