"""Gives every layer the stage's own bits, group size and symmetry, except where an override says otherwise.

``overrides`` maps a layer-name pattern (shell style, ``"*.down_proj"``) to the fields that differ there, for instance
``{"*.down_proj": {"bits": 8}}``; later patterns win over earlier ones. A pattern that matches no layer is an error, for
it would change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import nn

from whet.errors import RecipeError, unknown
from whet.quantize.grid import BitPlan


@dataclass(frozen=True)
class Same:
    """``overrides``: layer-name pattern -> fields of the plan that differ there."""

    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, network: nn.Module, layers: Mapping[str, tuple[int, int]], plan: BitPlan) -> dict[str, BitPlan]:
        """Plans by layer name.

        Args:
            network: not read here; other allocators measure it.
            layers: layer name -> (out, in) of its weight.
            plan: what the stage asks for.

        Raises:
            RecipeError: an override with an unknown field or a wrong value, or one that matches no layer.
        """
        plans = dict.fromkeys(layers, plan)
        for pattern, changes in self.overrides.items():
            known = [f.name for f in fields(BitPlan)]
            for key in changes:
                if key not in known:
                    raise RecipeError(f"allocate.overrides.{pattern}.{key}: {unknown('field of a bit plan', key, known)}")
            matched = [name for name in layers if fnmatchcase(name, pattern)]
            if not matched:
                raise RecipeError(
                    f"allocate.overrides: no layer matches {pattern!r}; layers look like {next(iter(layers), 'none')!r}"
                )
            plans.update({name: replace(plans[name], **changes) for name in matched})
        return plans
