"""What a select, label or synthesize part may use besides the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from whet.data.rows import row_hash
from whet.errors import RecipeError
from whet.parts import effective
from whet.workers import blocks

if TYPE_CHECKING:
    from whet.model import Model

    Trainer = Callable[[Model, Any, Mapping[str, Any], int], tuple[Model, Mapping[str, float]]]


@dataclass(frozen=True)
class Context:
    """The model to work with (if any), a model to hold it against, the seed of every random draw, and the receipt that the part
    fills with plain data. ``cost`` holds what the part's own passes (:meth:`spend`) and runs (:meth:`trained`) took. ``trainer``
    fine-tunes a model on rows: (model, rows, settings, seed) -> the trained model and its cost.
    """

    model: Model | None = None
    seed: int = 0
    receipt: dict[str, Any] = field(default_factory=dict)
    reference: Model | None = None
    cost: dict[str, float] = field(default_factory=dict)
    trainer: Trainer | None = None

    def need_model(self, part: str) -> Model:
        """The model.

        Raises:
            RecipeError: there is none; names the part that needs one.
        """
        if self.model is None:
            raise RecipeError(f"{part} needs a model: give the recipe a `model`, or put this step after a training step")
        return self.model

    def need_reference(self, part: str) -> Model:
        """The model that ``model`` is held against.

        Raises:
            RecipeError: there is none.
        """
        if self.reference is None:
            raise RecipeError(f"{part} compares the step's `model` with another: name it as the data step's `reference`")
        return self.reference

    def spend(self, tokens: int, model: Model) -> None:
        """Counts tokens that a model has read or written for this part."""
        self.cost["tokens"] = self.cost.get("tokens", 0) + tokens
        self.cost["flops"] = self.cost.get("flops", 0.0) + 2.0 * model.parameters * tokens

    def trained(self, part: str, rows: Any, settings: Mapping[str, Any], seed: int) -> Model:
        """A copy of the model, fine-tuned on the rows' replies with the fields of a train step; its cost is counted.

        Raises:
            RecipeError: nothing here can train.
        """
        if self.trainer is None:
            raise RecipeError(f"{part} trains models and can only be used in a recipe's data step")
        model, cost = self.trainer(self.need_model(part), rows, settings, seed)
        for unit, amount in cost.items():
            self.cost[unit] = self.cost.get(unit, 0) + amount
        return model

    def map_blocks(
        self,
        function: Callable[..., Sequence[Any]],
        rows: Sequence[Mapping[str, Any]],
        *,
        block_rows: int = 4096,
        shared: Any = None,
        with_model: bool = False,
    ) -> list[Any]:
        """One result per row, computed by blocks of rows on the pool in use; finished blocks of a killed run are found again.

        Args:
            function: ``function(rows, keys)``: a list with one result per row, of what JSON can hold; the model and ``shared``
                follow as arguments where they are asked for. ``keys`` are the numbers of the rows in the whole; random draws
                must come from them and the seed, never from the block, so that results do not depend on its size. Picklable:
                a module's function, or a part's method.
            rows: all rows.
            block_rows: rows of a block.
            shared: what the function needs besides, sent once to each worker.
            with_model: the function gets the context's model, and an accelerator where there are any.
        """
        from whet.generate.kept import map_kept

        pieces = [(r.start, [rows[i] for i in r]) for r in blocks(len(rows), block_rows)]
        content = hashlib.sha256("".join(row_hash(row) for _, piece in pieces for row in piece).encode()).hexdigest()
        owner = effective(function.__self__) if hasattr(function, "__self__") else None
        about = json.dumps([content, block_rows, self.seed, function.__qualname__, owner], default=str)
        return [
            result
            for part in map_kept(
                _Block(function),
                pieces,
                name=hashlib.sha256(about.encode()).hexdigest()[:16],
                what="rows",
                shared=lambda: self._shared(shared, with_model),
                accelerator=with_model,
            )
            for result in part
        ]

    def _shared(self, shared: Any, with_model: bool) -> Any:
        from whet.generate.shipping import ship

        return (ship(self.need_model("this pass")), shared) if with_model else (None, shared)


@dataclass(frozen=True)
class _Block:
    """Carries a block out: opens what came with it, and checks that there is one result per row."""

    function: Callable[..., Sequence[Any]]

    def __call__(self, block: tuple[int, Sequence[Any]], given: tuple[Any, Any]) -> list[Any]:
        from whet.generate.shipping import unpack

        start, rows = block
        model, shared = given
        keys = list(range(start, start + len(rows)))
        more = [] if model is None else [unpack(model)]
        results = list(self.function(rows, keys, *more, *([] if shared is None else [shared])))
        if len(results) != len(rows):
            raise ValueError(f"{self.function} gave {len(results)} results for {len(rows)} rows")
        return results
