"""A chat, rendered by the tokenizer's own template, with the assistant's replies trained.

Reads ``messages`` (list of ``role``/``content``), else ``prompt`` and ``completion``. Trained tokens are the replies through
the token that closes them; prompts, system texts and the template's own words are not trained. With ``train_on: each`` a
chat of several replies becomes one example per reply, each seen exactly as at inference; templates that rewrite earlier
turns (for example drop earlier thoughts) need it.

Defaults: all replies of a chat in one example; no system text (the template's own default stays).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from whet.data.chat import encode
from whet.data.example import Example
from whet.data.messages import messages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Chat:
    """``train_on``: ``all`` replies, the ``last``, or ``each`` as its own example. ``system``: put first if a chat has none."""

    train_on: Literal["all", "last", "each"] = "all"
    system: str | None = None

    def __call__(self, row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
        messages = messages_of(row, self.system)
        if self.train_on != "each":
            return [encode(messages, tokenizer, train_on=self.train_on)]
        ends = [i + 1 for i, message in enumerate(messages) if message["role"] == "assistant"] or [len(messages)]
        return [encode(messages[:end], tokenizer, train_on="last") for end in ends]
