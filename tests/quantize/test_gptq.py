"""GPTQ against a direct, slow implementation of the paper's equations, and its properties."""

import pytest
import torch

from whet.errors import ModelError
from whet.quantize.columns import code_matrices
from whet.quantize.compensate.gptq import Gptq, inverse_factor
from whet.quantize.compensate.none import None_
from whet.quantize.grid import BitPlan
from whet.quantize.grids.ternary import Ternary
from whet.quantize.grids.uniform import Uniform
from whet.quantize.hessian import Hessian, output_error
from whet.quantize.rounding.nearest import Nearest


def problem(out=12, columns=40, tokens=400, seed=0, rank=6):
    """Weights and the Hessian of strongly correlated inputs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, rank, generator=g) @ torch.randn(rank, columns, generator=g) + 0.3 * torch.randn(
        tokens, columns, generator=g
    )
    hessian = Hessian(columns, "layer")
    hessian.add(x)
    return torch.randn(out, columns, generator=g), hessian.matrix()


def code(weight, hessian, plan, compensate, grid=None):
    made = code_matrices({"w": weight}, hessian, plan, grid or Uniform(), Nearest(), compensate, scale_dtype=torch.float32)
    return made["w"][0]


def direct(weight, hessian, bits, group, damping=0.01, order=None):
    """The paper's equations in float64: remove one column after another from the inverse Hessian and spread its error."""
    w = weight.double().clone()
    columns = w.shape[1]
    order = list(range(columns)) if order is None else order
    inverse = torch.linalg.inv(hessian + damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64))
    decoded = torch.zeros_like(w)
    for position, j in enumerate(order):
        if position % group == 0:
            window = w[:, order[position : position + group]]
            low, high = window.amin(1).clamp(max=0), window.amax(1).clamp(min=0)
            scale = (high - low) / (2**bits - 1)
            zero = torch.round(-low / scale)
        q = torch.clamp(torch.round(w[:, j] / scale) + zero, 0, 2**bits - 1)
        decoded[:, j] = scale * (q - zero)
        later = order[position + 1 :]
        error = (w[:, j] - decoded[:, j]) / inverse[j, j]
        w[:, later] -= error[:, None] * inverse[j, later]
        inverse = inverse - inverse[:, j : j + 1] * inverse[j : j + 1, :] / inverse[j, j]
    return decoded


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits, group", [(4, 40), (3, 8), (2, 16)])
def test_agrees_with_the_papers_equations(bits, group, seed):
    weight, hessian = problem(seed=seed)
    ours = code(weight, hessian, BitPlan(bits, group), Gptq(block=16)).decode()
    assert torch.allclose(ours.double(), direct(weight, hessian, bits, group), atol=1e-5)


@pytest.mark.parametrize("group", [40, 8])
def test_activation_order_agrees_with_the_papers_equations_in_that_order(group):
    weight, hessian = problem(seed=5)
    order = torch.argsort(hessian.diagonal(), descending=True).tolist()
    ours = code(weight, hessian, BitPlan(3, group), Gptq(act_order=True)).decode()
    assert torch.allclose(ours.double(), direct(weight, hessian, 3, group, order=order), atol=1e-5)


@pytest.mark.parametrize("grid, bits", [(Uniform(), 3), (Uniform(shrink=True), 2), (Ternary(), 2)])
@pytest.mark.parametrize("group", [8, 12, "channel", "tensor"])
def test_without_correlations_it_is_round_to_nearest(grid, bits, group):
    weight, _ = problem()
    plan = BitPlan(bits, group)
    eye = torch.eye(40, dtype=torch.float64)
    for settings in (Gptq(), Gptq(act_order=True, static_groups=True)):
        ours, nearest = code(weight, eye, plan, settings, grid), code(weight, None, plan, None_(), grid)
        assert torch.equal(ours.codes, nearest.codes)
        assert torch.equal(ours.decode(), nearest.decode())


@pytest.mark.parametrize("group", [8, 12, 16, 40])
@pytest.mark.parametrize("act_order, static_groups", [(False, False), (True, False), (True, True)])
def test_the_block_size_does_not_matter(group, act_order, static_groups):
    weight, hessian = problem(seed=1)
    results = [
        code(weight, hessian, BitPlan(3, group), Gptq(act_order=act_order, static_groups=static_groups, block=block)).decode()
        for block in (1, 7, 16, 128)
    ]
    for other in results[1:]:
        assert torch.allclose(results[0], other, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_output_error_is_below_nearest_on_correlated_inputs(bits, seed):
    weight, hessian = problem(seed=seed)
    for settings in (Gptq(), Gptq(act_order=True), Gptq(act_order=True, static_groups=True)):
        plan = BitPlan(bits, 20)
        ours, nearest = code(weight, hessian, plan, settings), code(weight, None, plan, None_())
        assert output_error(weight, ours.decode(), hessian) < 0.9 * output_error(weight, nearest.decode(), hessian)


@pytest.mark.parametrize("act_order", [False, True])
def test_a_dead_input_column_gives_zero_weights(act_order):
    weight, hessian = problem()
    hessian[5], hessian[:, 5] = 0, 0
    layer, receipt = code_matrices({"w": weight}, hessian, BitPlan(4, 8), Uniform(), Nearest(), Gptq(act_order=act_order))["w"]
    assert receipt["dead_columns"] == 1
    assert torch.equal(layer.decode()[:, 5], torch.zeros(12))
    assert bool((layer.decode()[:, 6] != 0).any())


def test_permuting_rows_permutes_the_codes():
    weight, hessian = problem()
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    a, b = (code(w, hessian, BitPlan(3, 8), Gptq()) for w in (weight, weight[rows]))
    assert torch.equal(a.codes[rows], b.codes)


def test_with_activation_order_permuting_columns_permutes_the_codes():
    weight, hessian = problem()
    columns = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    plan, settings = BitPlan(3, "channel"), Gptq(act_order=True)
    a, b = code(weight, hessian, plan, settings), code(weight[:, columns], hessian[columns][:, columns], plan, settings)
    assert torch.equal(a.codes[:, columns], b.codes)


def test_groups_along_the_activation_order_are_kept_and_counted():
    weight, hessian = problem()
    scattered = code(weight, hessian, BitPlan(3, 8), Gptq(act_order=True))
    static = code(weight, hessian, BitPlan(3, 8), Gptq(act_order=True, static_groups=True))
    assert static.order is None and scattered.order is not None
    assert sorted(scattered.groups.tolist()) == static.groups.tolist()
    assert scattered.storage_bits == static.storage_bits + 32 * 40


def test_a_failed_factorization_is_tried_with_ten_times_the_damping():
    hessian = torch.diag(torch.tensor([1.0] * 19 + [-0.05], dtype=torch.float64))
    assert inverse_factor(hessian, 0.01)[1] == pytest.approx(0.1)
    with pytest.raises(ModelError, match=r"the Hessian of 'q' cannot be factorized.*more calibration tokens"):
        inverse_factor(-torch.eye(4, dtype=torch.float64), 0.01, "q")


@pytest.mark.parametrize("columns", [40, 700, 1100])
def test_the_factor_is_that_of_the_inverse_in_the_order_asked_for(columns):
    _, hessian = problem(columns=columns, tokens=2 * columns)
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(0))
    before = hessian.clone()
    factor, damping = inverse_factor(hessian, 0.05, order=order)
    damped = hessian[order][:, order] + damping * hessian.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    assert torch.equal(hessian, before)
    assert torch.allclose(factor.double(), torch.linalg.cholesky(torch.linalg.inv(damped), upper=True), rtol=1e-5, atol=1e-7)


def test_the_matrix_is_symmetric_and_whole_over_several_blocks():
    x = torch.randn(1300, 1100, generator=torch.Generator().manual_seed(0))
    hessian = Hessian(1100, "a")
    hessian.add(x)
    matrix = hessian.matrix()
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix, 2 / 1300 * x.double().T @ x.double(), atol=1e-5)


def test_fewer_tokens_than_columns_still_work():
    weight, hessian = problem(tokens=10, columns=40)
    layer = code(weight, hessian, BitPlan(3, 8), Gptq())
    assert bool(layer.decode().isfinite().all())


def test_the_hessian_is_the_mean_over_tokens_however_they_arrive():
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    whole, pieces = Hessian(5, "a"), Hessian(5, "a")
    whole.add(x)
    for row in x:
        pieces.add(row)
    flat = x.reshape(-1, 5).double()
    assert torch.allclose(whole.matrix(), 2 / 21 * flat.T @ flat, atol=1e-5)
    assert torch.allclose(whole.matrix(), pieces.matrix(), atol=1e-6)


def test_the_hessian_refuses_what_it_cannot_use():
    hessian = Hessian(2, "model.layers.0.mlp.up_proj")
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp.up_proj' saw no calibration token"):
        hessian.matrix()
    with pytest.raises(ModelError, match=r"entering 'model.layers.0.mlp.up_proj' hold NaN or Inf"):
        hessian.add(torch.tensor([[1.0, float("nan")]]))
