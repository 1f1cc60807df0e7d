"""Quantization that cannot be done or would say nothing: refused with the layer, the numbers and the way out."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from safetensors.torch import load_file, save_file


def recipe(user: Any, export: str | None = None, **step: Any) -> dict[str, Any]:
    out = [{"name": "out", "model": "q", "to": export}] if export else None
    return user.recipe(train=None, quantize=[{"name": "q", "data": "rows", "group_size": 32, **step}], export=out)


def test_calibration_set_too_small(user: Any) -> None:
    user.refused(
        recipe(user, rows=1),
        "quantize step 'q': the calibration set is too small: 1 rows with 19 tokens",
        "with 128 inputs",
        "Give more or longer rows, or set compensate: none",
        commands=("run", "check"),
    )
    user.refused(
        recipe(user, calibrate={"name": "windows", "length": 250}, rows=4), "less than one window of 250; set a shorter length"
    )
    assert user.run(recipe(user, rows=1, compensate="none"))[0] == 0


def test_no_calibration_rows(user: Any) -> None:
    document = user.recipe(train=None, quantize=[{"name": "q", "group_size": 32}])
    user.refused(document, "quantize step 'q': data: 'gptq' calibrates on rows; name the data step", "compensate: none")


def test_shapes_that_do_not_divide_the_group_size(user: Any) -> None:
    message = "groups of 48 do not divide its 64 columns; quantize with group_size: 64; or use export packed"
    user.refused(
        recipe(user, "compressed-tensors", group_size=48),
        "export step 'out': compressed-tensors cannot hold layer 'model.layers.0.self_attn.q_proj'",
        message,
    )
    assert user.run(recipe(user, "packed", group_size=48))[0] == 0
    codes = load_file(next((user.folder / "whet-home").rglob("packed.safetensors")))
    assert codes["model.layers.0.self_attn.q_proj.scales"].shape == (64, 2)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"skip": ["nope*"]},
            "quantize step 'q': skip: no layer matches 'nope*'; layers look like 'model.layers.0.self_attn.q_proj'",
        ),
        ({"bits": 1}, "quantize.0.bits: Input should be greater than or equal to 2; got 1"),
        ({"bits": 4.5}, "quantize.0.bits: Input should be a valid integer"),
        ({"group_size": "row"}, "quantize.0.group_size: "),
        ({"scale_dtype": "int8"}, "quantize.0.scale_dtype: Input should be 'auto', 'float32'"),
        ({"compensate": "gtpq"}, "quantize.0.compensate: unknown compensate 'gtpq': did you mean 'gptq'?"),
    ],
)
def test_settings_that_fit_no_layer(user: Any, step: dict[str, Any], message: str) -> None:
    user.refused(recipe(user, **step), message)


def test_activations_that_are_not_finite(user: Any) -> None:
    tensors = load_file(user.model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e30
    tensors["model.layers.1.mlp.gate_proj.weight"] *= 1e30
    save_file(tensors, user.model / "model.safetensors", metadata={"format": "pt"})
    status, _, message = user.run(recipe(user))
    assert status == 2 and "Traceback" not in message
    assert "model.layers.1.mlp" in message and "Inf" in message


def test_a_packed_file_that_is_damaged(user: Any) -> None:
    assert user.run(recipe(user, "packed"))[0] == 0
    packed = next((user.folder / "whet-home").rglob("packed.safetensors")).parent
    work = user.folder / "packed"
    for change, message in (
        (
            lambda: (work / "packed.safetensors").write_bytes((work / "packed.safetensors").read_bytes()[:-50]),
            "packed.safetensors: damaged",
        ),
        (lambda: (work / "packed.json").write_text("{"), "packed.json: damaged"),
        (
            lambda: (work / "packed.json").write_text(json.dumps({"version": 99})),
            "packed.json: version 99; this whet reads version",
        ),
        (lambda: (work / "packed.json").write_text(json.dumps({"version": 1, "layers": {"a": {}}})), "packed.json: damaged"),
    ):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(packed, work)
        change()
        user.forwards.clear()
        user.refused(user.recipe(model=str(work)), message)
