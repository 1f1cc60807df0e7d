"""The fields of a recipe's quantize step: the six exchangeable pieces and the plan that they start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from whet.parts import Kind


@dataclass(frozen=True)
class QuantizeSettings:
    """What :func:`whet.quantize.pipeline.quantize` takes beside model and data; the meanings stand there.

    ``checkpoint_seconds``: longest time between two saves of the progress, but for the block under way.
    ``rows`` is how many rows of the step's data are handed to ``calibrate``, which draws from them.
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
