"""The prompts of the rollouts, in the order of the schedule, epoch after epoch, with a position that can be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from whet.data.chat import encode, messages_of, prompt_ids, prompt_messages
from whet.data.example import Example
from whet.errors import DataError, RecipeError

if TYPE_CHECKING:
    from whet.model import Model

    Schedule = Callable[[int, int, int], Any]


@dataclass(frozen=True)
class Prompt:
    """A drawn prompt: ``key`` numbers it over the whole run, ``ids`` is what the model is given."""

    key: int
    row: Mapping[str, Any]
    ids: list[int]
    demonstration: Example | None


class PromptStream:
    """Draws prompts without end.

    Args:
        data: rows with ``prompt`` or ``messages``, and the reference reply where demonstrations are wanted.
        schedule: ``(size, epoch, seed) -> indices``, a pure function; so the position is two numbers.
        seed: given to the schedule.
        system: system text for chats that have none.
        demonstration: ``none``; ``inside`` requires a reference reply of every row; ``beside`` takes it where there is one.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]] | Any,
        schedule: Schedule,
        seed: int,
        *,
        system: str | None = None,
        demonstration: Literal["none", "inside", "beside"] = "none",
    ) -> None:
        if not len(data):
            raise DataError("the data for the rollouts has no rows")
        self.data, self.schedule, self.seed = data, schedule, seed
        self.system, self.demonstration = system, demonstration
        self.too_long = 0
        self._epoch = self._offset = self._drawn = 0
        self._order: tuple[int, list[int]] = (-1, [])

    def draw(self, count: int, model: Model) -> list[Prompt]:
        """The next ``count`` usable prompts; those that leave no room for an answer are counted in ``too_long`` and passed over.

        Raises:
            DataError: a row that cannot be rendered (it is named), or no usable row at all.
            RecipeError: the schedule gives no rows.
        """
        prompts: list[Prompt] = []
        passed = 0
        while len(prompts) < count:
            prompt = self._prompt(self._next_index(), model)
            if prompt is not None:
                prompts.append(prompt)
                continue
            passed += 1
            self.too_long += 1
            if passed > len(self.data):
                raise DataError(f"no prompt leaves room for an answer in the context of {model.context} tokens")
        return prompts

    def state(self) -> dict[str, int]:
        """The position."""
        return {"epoch": self._epoch, "offset": self._offset, "drawn": self._drawn, "too_long": self.too_long}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on from a :meth:`state`."""
        self._epoch, self._offset, self._drawn = state["epoch"], state["offset"], state["drawn"]
        self.too_long = state["too_long"]

    def _next_index(self) -> int:
        while True:
            if self._order[0] != self._epoch:
                self._order = (self._epoch, [int(i) for i in self.schedule(len(self.data), self._epoch, self.seed)])
            order = self._order[1]
            if not order:
                raise RecipeError(f"the schedule gives no rows for epoch {self._epoch}")
            if self._offset < len(order):
                self._offset += 1
                return order[self._offset - 1]
            self._epoch, self._offset = self._epoch + 1, 0

    def _prompt(self, number: int, model: Model) -> Prompt | None:
        row, limit = self.data[number], model.context or float("inf")
        try:
            ids = prompt_ids(row, model.tokenizer, system=self.system)
            demonstration = self._reply(row, model)
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
        self._drawn += 1
        if len(ids) >= limit or (demonstration is not None and len(demonstration) > limit):
            return None
        return Prompt(self._drawn - 1, row, ids, demonstration)

    def _reply(self, row: Mapping[str, Any], model: Model) -> Example | None:
        if self.demonstration == "none":
            return None
        if not _has_reply(row):
            if self.demonstration == "beside":
                return None
            raise DataError("this objective puts the reference completion into the group, but the row has no 'completion'")
        return encode(messages_of(row, self.system), model.tokenizer, train_on="last")


def _has_reply(row: Mapping[str, Any]) -> bool:
    if row.get("messages"):
        return len(prompt_messages(row)) < len(messages_of(row))
    return row.get("completion") is not None
