"""A preference pair: the same prompt with a chosen and a rejected reply, both trained through their closing token.

Reads ``prompt`` (or ``messages``, whose last assistant turn is left out), ``chosen`` and ``rejected``: text, or messages; if
these begin with the prompt's own messages they are taken as whole chats, and then no ``prompt`` is needed. Gives two
examples, ``values["chosen"]`` 1 and 0, which stay together as one unit. A pair of equal texts teaches nothing and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from whet.data.chat import encode
from whet.data.example import Example
from whet.data.messages import Message, messages_of, prompt_messages
from whet.data.rows import missing_column
from whet.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Preference:
    """``system``: put first where the prompt has none."""

    system: str | None = None

    def __call__(self, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        chosen, rejected = (self._chat(row, column) for column in ("chosen", "rejected"))
        if chosen[-1] == rejected[-1]:
            raise DataError(f"chosen and rejected are the same text: {chosen[-1]['content'][:60]!r}; remove this pair")
        return [
            replace(encode(chat, tokenizer, train_on="last"), values={"chosen": value})
            for chat, value in ((chosen, 1.0), (rejected, 0.0))
        ]

    def _chat(self, row: Mapping[str, Any], column: str) -> list[Message]:
        reply = row.get(column)
        if reply is None:
            raise DataError(missing_column(column, row))
        if isinstance(reply, str):
            return [*prompt_messages(row, self.system), {"role": "assistant", "content": reply}]
        chat = messages_of({"messages": reply}, self.system)
        if any(message["role"] == "user" for message in chat):
            return chat
        return [*prompt_messages(row, self.system), *(m for m in chat if m["role"] != "system")]
