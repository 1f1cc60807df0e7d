"""The merges give what mergekit gives on the same folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from whet.edit.run import run_edit

pytestmark = pytest.mark.peer


def mergekit(config: dict[str, Any], out: Path) -> dict[str, torch.Tensor]:
    pytest.importorskip("mergekit")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(device="cpu", copy_tokenizer=False, quiet=True))
    return {k: v for file in out.glob("*.safetensors") for k, v in load_file(file).items()}


CASES = [
    ("soup", [0.3, 0.9], "linear", {}),
    ({"name": "soup", "normalize": False}, [0.3, 0.9], "linear", {"normalize": False}),
    ("task-arithmetic", [0.4, 0.7], "task_arithmetic", {}),
    ({"name": "task-arithmetic", "coefficient": 0.5}, [1.0, -0.3], "task_arithmetic", {"lambda": 0.5}),
    ({"name": "task-arithmetic", "normalize": True}, [0.4, 0.7], "task_arithmetic", {"normalize": True}),
    ({"name": "ties", "density": 0.3}, [0.4, 0.7], "ties", {"density": 0.3, "normalize": True}),
    ({"name": "ties", "density": 0.6, "merge": "sum"}, [1.0, 1.0], "ties", {"density": 0.6, "normalize": False}),
    ({"name": "ties", "density": 0.6, "coefficient": 0.8}, [1.0, 1.0], "ties", {"density": 0.6, "lambda": 0.8}),
    ({"name": "dare-linear", "density": 1.0}, [0.4, 0.7], "dare_linear", {"density": 1.0, "normalize": False}),
    ({"name": "dare-ties", "density": 1.0}, [0.4, 0.7], "dare_ties", {"density": 1.0, "normalize": False}),
    ({"name": "slerp", "t": 0.35}, None, "slerp", {"t": 0.35}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "weights", "theirs", "options"), CASES, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_parity_with_mergekit(tmp_path: Path, make: Any, method: Any, weights: Any, theirs: str, options: dict[str, Any]) -> None:
    base, a, b = make("base", moved=0.0), make("a", seed=1, moved=0.02), make("b", seed=2, moved=0.02)
    density = {"density": options["density"]} if "density" in options else {}
    shared = {k: v for k, v in options.items() if k != "density"}
    if theirs == "slerp":
        models, config_base = [{"model": str(a)}, {"model": str(b)}], str(a)
    else:
        models = [{"model": str(m), "parameters": {"weight": w, **density}} for m, w in zip((a, b), weights, strict=True)]
        config_base = None if theirs == "linear" else str(base)
    config = {"merge_method": theirs, "models": models, "parameters": shared, "dtype": "float32"}
    if config_base:
        config["base_model"] = config_base
    expected = mergekit(config, tmp_path / "theirs")
    folder, _ = run_edit(
        [a, b], method, base=None if theirs in ("linear", "slerp") else base, weights=weights, output=tmp_path / "ours"
    )
    ours = load_file(folder / "model.safetensors")
    assert set(expected) - {"lm_head.weight"} == set(ours)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
