"""The fields of a recipe's quantize step: the six exchangeable pieces and the plan that they start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from whet import parts
from whet.parts import Kind


@dataclass(frozen=True)
class QuantizeSettings:
    """What :func:`whet.quantize.pipeline.quantize` takes beside model and data.

    ``bits``, ``group_size``, ``symmetric``: the plan that ``allocate`` starts from (4 bits, 128 columns, asymmetric: the
    field's usual weight-only setting); ``group_size`` may also be ``"channel"`` or ``"tensor"``.
    ``transform``, ``grid``, ``rounding``, ``allocate``, ``compensate``, ``calibrate``: the pieces, as names or mappings.
    ``lm_head``: quantize the output head too (its weights are untied from the embedding first). Off: it is small in large
    models and hurts most.
    ``skip``: name patterns (shell style) of layers that stay in float.
    ``scale_dtype``: what scales are stored in; ``auto`` is bfloat16 for bfloat16 weights and float16 for others.
    ``rows``: how many rows of the step's data are handed to ``calibrate``, which draws from them.
    ``checkpoint_seconds``: longest time between two saves of the progress, but for the block under way (120, as in training).
    """

    bits: Annotated[int, Ge(2), Le(8)] = 4
    group_size: Annotated[int, Gt(0)] | Literal["channel", "tensor"] = 128
    symmetric: bool = False
    transform: Annotated[Any, Kind("transform")] = "none"
    grid: Annotated[Any, Kind("grid")] = "uniform"
    rounding: Annotated[Any, Kind("rounding")] = "nearest"
    allocate: Annotated[Any, Kind("allocate")] = "same"
    compensate: Annotated[Any, Kind("compensate")] = "gptq"
    calibrate: Annotated[Any, Kind("calibrate")] = "rows"
    lm_head: bool = False
    skip: tuple[str, ...] = ()
    scale_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    rows: Annotated[int, Gt(0)] = 512
    checkpoint_seconds: Annotated[float, Ge(0)] = 120.0


def read_settings(given: Mapping[str, Any]) -> QuantizeSettings:
    """The settings that a step gives, its pieces built.

    Raises:
        RecipeError: an unknown field, or a wrong value; names it.
    """
    return QuantizeSettings(**parts.validate(parts.settings_of(QuantizeSettings), given, "quantize", "a quantize step"))
