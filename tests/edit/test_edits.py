"""What every merge must satisfy, and what single methods promise."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from whet.edit.blocks import block_indices
from whet.edit.deltas import drop_random, keep_largest
from whet.edit.run import run_edit
from whet.errors import ModelError
from whet.model import load_model

METHODS: list[Any] = [
    "soup",
    {"name": "task-arithmetic", "coefficient": 0.5},
    {"name": "ties", "density": 1.0},
    {"name": "dare", "density": 1.0, "coefficient": 0.5},
    {"name": "dare-ties", "density": 1.0, "coefficient": 0.5},
    "slerp",
]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def assert_same(one: Path, two: Path) -> None:
    a, b = weights_in(one), weights_in(two)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m if isinstance(m, str) else m["name"])
def test_merging_a_model_with_itself_is_the_identity(make: Any, tmp_path: Path, method: Any, dtype: torch.dtype) -> None:
    base, a = make("base", moved=0.0, dtype=dtype), make("a", dtype=dtype)
    folder, receipt = run_edit([a, a], method, base=None if method in ("soup", "slerp") else base, output=tmp_path / "out")
    assert_same(folder, a)
    assert receipt["dtype"]["arithmetic"] == ("float64" if dtype == torch.float32 else "float32")
    if method in ("soup", "slerp"):
        assert receipt["relative_change"] < 1e-7


def test_a_soup_of_many_copies_is_the_model(make: Any, tmp_path: Path) -> None:
    a = make("a")
    assert_same(run_edit([a] * 7, "soup", output=tmp_path / "out")[0], a)


def test_order_of_ingredients_does_not_matter(make: Any, tmp_path: Path) -> None:
    folders = [make(f"m{i}", seed=i) for i in range(3)]
    soups = [run_edit(list(p), "soup", output=tmp_path / f"s{i}")[0] for i, p in enumerate(itertools.permutations(folders))]
    for other in soups[1:]:
        assert_same(soups[0], other)


def test_soup_weights_are_normalized_and_said_so(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    folder, receipt = run_edit([a, b], "soup", weights=[3, 1], output=tmp_path / "out")
    assert receipt["weights"] == [0.75, 0.25] and receipt["formula"] == "θ = 0.75·θ[a] + 0.25·θ[b]"
    name = "model.layers.1.mlp.up_proj.weight"
    expected = 0.75 * weights_in(a)[name] + 0.25 * weights_in(b)[name]
    torch.testing.assert_close(weights_in(folder)[name], expected, rtol=1e-6, atol=1e-8)
    with pytest.raises(ModelError, match="sum to 0"):
        run_edit([a, b], "soup", weights=[1, -1], output=tmp_path / "no")
    with pytest.raises(ModelError, match="1 weights for 2 models"):
        run_edit([a, b], "soup", weights=[1], output=tmp_path / "no")


@pytest.mark.parametrize(
    "method",
    ["soup", {"name": "ties", "density": 0.3}, {"name": "dare", "seed": 3}, {"name": "lines", "alpha": 0.4, "beta": 0.5}],
)
def test_sharded_equals_unsharded(make: Any, tmp_path: Path, method: Any) -> None:
    base = make("base", moved=0.0)
    whole = [make(n, seed=i) for i, n in enumerate("ab")]
    parts = [make(f"{n}-sharded", seed=i, shard="20KB") for i, n in enumerate("ab")]
    assert len(list(parts[0].glob("*.safetensors"))) > 2
    one, _ = run_edit(whole, method, base=base, output=tmp_path / "one")
    two, receipt = run_edit(parts, method, base=base, output=tmp_path / "two", shard_bytes=15_000)
    assert receipt["shards"] == len(list(two.glob("*.safetensors"))) > 2
    assert_same(one, two)


def test_task_arithmetic_identities(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, b = trio
    assert_same(run_edit([a], "task-arithmetic", base=base, output=tmp_path / "one")[0], a)
    assert_same(run_edit([a, b], {"name": "task-arithmetic", "coefficient": 0.0}, base=base, output=tmp_path / "zero")[0], base)
    half, _ = run_edit([a, b], {"name": "task-arithmetic", "coefficient": 0.5}, base=base, output=tmp_path / "half")
    assert_same(half, run_edit([a, b], "soup", output=tmp_path / "soup")[0])


def test_ties_by_hand(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, b = trio
    folder, _ = run_edit([a, b], {"name": "ties", "density": 0.4}, base=base, weights=[1.0, 0.5], output=tmp_path / "out")
    name = "model.layers.0.mlp.gate_proj.weight"
    start = weights_in(base)[name].double()
    deltas = []
    for model in (a, b):
        delta = weights_in(model)[name].double() - start
        kept = delta.abs().flatten().sort(descending=True).values[: int(0.4 * delta.numel())].min()
        deltas.append(torch.where(delta.abs() >= kept, delta, 0.0))
    expected = start.clone()
    for index in itertools.product(*(range(s) for s in start.shape)):
        x, y = float(deltas[0][index]), 0.5 * float(deltas[1][index])
        sign = 1 if x + y >= 0 else -1
        taken = [(v, w) for v, w in ((x, 1.0), (y, 0.5)) if v * sign > 0]
        expected[index] += sum(v for v, _ in taken) / (sum(w for _, w in taken) or 1)
    torch.testing.assert_close(weights_in(folder)[name].double(), expected, rtol=1e-6, atol=1e-8)


def test_trimming_keeps_the_largest_and_all_ties() -> None:
    delta = torch.tensor([0.1, -0.5, 0.3, -0.2, 0.0])
    assert keep_largest(0.4)(delta.clone(), "", 0).tolist() == pytest.approx([0, -0.5, 0.3, 0, 0])
    assert keep_largest(0.01)(delta.clone(), "", 0).count_nonzero() == 1
    assert keep_largest(0.4)(torch.ones(5), "", 0).count_nonzero() == 5


def test_dare_keeps_the_expected_change_and_its_share() -> None:
    drop, delta = drop_random(0.3, seed=0, rescale=True), torch.randn(200_000, generator=torch.Generator().manual_seed(0)) + 1
    dropped = drop(delta.clone(), "w", 0)
    assert float((dropped != 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(float(delta.mean()), abs=0.03)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], delta[kept] / 0.3)
    assert torch.equal(dropped, drop(delta.clone(), "w", 0))
    assert not torch.equal(kept, drop(delta.clone(), "v", 0) != 0) and not torch.equal(kept, drop(delta.clone(), "w", 1) != 0)


def test_dare_averages_to_task_arithmetic(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, _ = trio
    name = "model.embed_tokens.weight"
    runs = []
    for seed in range(24):
        folder, _ = run_edit([a], {"name": "dare", "density": 0.5, "seed": seed}, base=base, output=tmp_path / str(seed))
        runs.append(weights_in(folder)[name])
    target, start = weights_in(a)[name], weights_in(base)[name]
    one = float((runs[0] - target).norm() / (target - start).norm())
    mean = float((torch.stack(runs).mean(0) - target).norm() / (target - start).norm())
    assert one == pytest.approx(1.0, abs=0.1) and mean == pytest.approx(1 / math.sqrt(24), abs=0.03)


def test_slerp_ends_and_length(make: Any, tmp_path: Path) -> None:
    a, b = make("a", seed=1, moved=0.02), make("b", seed=2, moved=0.02)
    for t, end in ((0.0, a), (1.0, b)):
        assert_same(run_edit([a, b], {"name": "slerp", "t": t}, output=tmp_path / f"t{t}")[0], end)
    folder, receipt = run_edit([a, b], "slerp", output=tmp_path / "half")
    straight, _ = run_edit([a, b], "soup", output=tmp_path / "soup")
    name = "model.layers.0.self_attn.q_proj.weight"
    x, y, z, m = (weights_in(f)[name].double() for f in (a, b, folder, straight))
    assert float(z.norm()) > float(m.norm())
    assert float(z.norm()) == pytest.approx(float((x.norm() + y.norm()) / 2), rel=1e-3)
    assert 0 < receipt["tensors_straight"] < receipt["tensors_merged"]
    assert_same(folder, run_edit([b], "slerp", base=a, output=tmp_path / "base")[0])
    with pytest.raises(ModelError, match="between two models, got 3"):
        run_edit([a, b, a], "slerp", output=tmp_path / "no")


def test_lines_factors(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, _ = trio

    def lines(alpha: float, beta: float | None) -> tuple[Path, dict[str, Any]]:
        settings = {"name": "lines", "alpha": alpha} | ({} if beta is None else {"beta": beta})
        return run_edit([a], settings, base=base, output=tmp_path / f"{alpha}-{beta}")

    assert_same(lines(1, 0)[0], a)
    assert_same(lines(0, 0)[0], base)
    folder, receipt = lines(0.2, None)
    assert receipt["factors"] == pytest.approx([0.2, 0.6, 1.0]) and receipt["blocks"] == "model.layers"
    start, tuned, scaled = weights_in(base), weights_in(a), weights_in(folder)
    for name, factor in (
        ("model.embed_tokens.weight", 0.2),
        ("model.norm.weight", 0.2),
        ("model.layers.1.mlp.up_proj.weight", 0.6),
    ):
        expected = start[name].double() + factor * (tuned[name].double() - start[name].double())
        torch.testing.assert_close(scaled[name].double(), expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(scaled["model.layers.2.mlp.up_proj.weight"], tuned["model.layers.2.mlp.up_proj.weight"])


def test_wise_ft_is_the_straight_average_with_the_base(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, _ = trio
    folder, _ = run_edit([a], "wise-ft", base=base, output=tmp_path / "wise")
    assert_same(folder, run_edit([base, a], "soup", output=tmp_path / "soup")[0])


def test_lines_searches_what_is_left_open(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, b = trio
    name = "model.embed_tokens.weight"
    start, target = weights_in(base)[name], weights_in(a)[name]

    def scorer(folder: Path) -> float:
        return -float((weights_in(folder)[name] - (start + 0.3 * (target - start))).norm())

    _, receipt = run_edit([a], "lines", base=base, scorer=scorer, output=tmp_path / "out")
    assert len(receipt["search"]) == 11 and receipt["factor_outside"] == 0.3
    assert receipt["factors"] == pytest.approx([0.3, 0.65, 1.0])
    with pytest.raises(ModelError, match="give alpha"):
        run_edit([a], "lines", base=base, output=tmp_path / "no")
    with pytest.raises(ModelError, match="give beta"):
        run_edit([a, b], "lines", base=base, output=tmp_path / "no")


def test_lines_balances_alpha_over_models(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, a, b = trio
    _, plain = run_edit([a, b], {"name": "lines", "beta": 0.5}, base=base, output=tmp_path / "sum")
    assert plain["factor_outside"] == pytest.approx(0.5)
    _, trimmed = run_edit([a, b], {"name": "lines", "beta": 0.5, "merge": "ties"}, base=base, output=tmp_path / "ties")
    deltas = [sum_of_changes(base, m) for m in (a, b)]
    folder, _ = run_edit([a, b], {"name": "ties", "merge": "sum"}, base=base, output=tmp_path / "tau")
    names = deltas[0].keys()
    above = sum(float((deltas[0][n] + deltas[1][n]).abs().sum()) for n in names)
    below = sum(float(d.abs().sum()) for d in sum_of_changes(base, folder).values())
    assert trimmed["factor_outside"] == pytest.approx(above / below / 2, rel=1e-4)


def sum_of_changes(base: Path, model: Path) -> dict[str, torch.Tensor]:
    start, end = weights_in(base), weights_in(model)
    return {n: end[n].double() - start[n].double() for n in start}


def test_block_numbers_are_the_containers_alone() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.w1.weight" for i in range(3) for e in range(8)] + [
        "model.norm.weight",
        "v.0.w",
        "v.1.w",
    ]
    container, index, count = block_indices(names, None, {})
    assert (container, count) == ("model.layers", 3) and index["model.layers.1.mlp.experts.7.w1.weight"] == 1
    assert "model.norm.weight" not in index
    assert block_indices(names, None, {"num_hidden_layers": 2})[0] == "v"
    assert block_indices(["h.0.a", "h.1.a"], None, {})[0] == "h"
    assert block_indices(names, "v", {})[2] == 2
    with pytest.raises(ModelError, match="at least 2 blocks"):
        block_indices(["h.0.w"], None, {})
    with pytest.raises(ModelError, match="gaps"):
        block_indices(["h.0.w", "h.2.w"], None, {})
    with pytest.raises(ModelError, match="no numbered blocks under 'x'"):
        block_indices(names, "x", {})


def test_greedy_soup_keeps_what_does_not_hurt(make: Any, tmp_path: Path) -> None:
    """Three noisy copies around a target and one far away: the greedy soup leaves out the far one."""
    target = make("target", moved=0.0)
    near = [make(f"near{i}", seed=i, moved=0.01) for i in range(3)]
    far = make("far", seed=9, moved=0.2)
    goal = weights_in(target)
    seen: list[str] = []

    def scorer(folder: Path) -> float:
        seen.append(folder.name)
        return -sum(float((v - goal[k]).square().sum()) for k, v in weights_in(folder).items())

    folder, receipt = run_edit([far, *near], "soup-greedy", scorer=scorer, output=tmp_path / "out")
    assert set(receipt["ingredients"]) == {"near0", "near1", "near2"} and receipt["greedy"][-1]["kept"] is False
    assert load_model(folder).lineage["receipts"][0]["greedy"] == receipt["greedy"]
    assert receipt["score"] >= receipt["best_single"] and receipt["score"] == pytest.approx(scorer(folder))
    assert [s["single"] for s in receipt["greedy"]] == sorted((s["single"] for s in receipt["greedy"]), reverse=True)
    again, _ = run_edit([*near[::-1], far], "soup-greedy", scorer=scorer, output=tmp_path / "again")
    assert_same(folder, again)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_greedy_soup_keeps_at_equal_score_and_needs_a_scorer(trio: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, a, b = trio
    _, receipt = run_edit([a, b], "soup-greedy", scorer=lambda folder: 0.5, output=tmp_path / "out")
    assert receipt["ingredients"] == ["a", "b"]
    with pytest.raises(ModelError, match="give a scorer"):
        run_edit([a, b], "soup-greedy", output=tmp_path / "no")
    with pytest.raises(ModelError, match="leave out weights"):
        run_edit([a, b], "soup-greedy", weights=[1, 1], scorer=lambda f: 0, output=tmp_path / "no")
    with pytest.raises(ModelError, match="gave nan for a"):
        run_edit([a, b], "soup-greedy", scorer=lambda f: math.nan, output=tmp_path / "no")
