"""What a select or synthesize part may use besides the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from whet.errors import RecipeError

if TYPE_CHECKING:
    from whet.model import Model


@dataclass(frozen=True)
class Context:
    """The model to work with (if any), the seed of every random draw, and the receipt that the part fills with plain data."""

    model: Model | None = None
    seed: int = 0
    receipt: dict[str, Any] = field(default_factory=dict)

    def need_model(self, part: str) -> Model:
        """The model.

        Raises:
            RecipeError: there is none; names the part that needs one.
        """
        if self.model is None:
            raise RecipeError(f"{part} needs a model: give the recipe a `model`, or put this step after a training step")
        return self.model
