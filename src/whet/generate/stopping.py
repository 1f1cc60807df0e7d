"""When a row ends and what its text is: end-of-sequence ids and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.errors import RecipeError
from whet.model import Model


def eos_ids(model: Model) -> frozenset[int]:
    """Every token id that ends a sequence: those of the generation configuration, the configuration and the tokenizer."""
    holders: tuple[Any, ...] = (getattr(model.network, "generation_config", None), model.config, model.tokenizer)
    found: set[int] = set()
    for holder in holders:
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


class StopStrings:
    """Finds stop strings in the text of a growing row, and cuts the text there.

    Stop strings are sought in the text with its special tokens, so that a special token's text can be one. A row is decoded
    only when its newest token could end a stop string, and then only as far back as the longest stop string can reach.

    Raises:
        RecipeError: an empty stop string.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        if "" in stop:
            raise RecipeError("sampling.stop holds an empty string, which would end every completion at once; remove it")
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.reach = 4 * max(map(len, stop), default=0) + 4
        self._last = frozenset(s[-1] for s in stop)
        self._suspects: dict[int, bool] = {}

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the newest of the sampled ids completes a stop string."""
        if not self.stop or not self._suspicious(ids[-1]):
            return False
        text = self._decode(ids[-self.reach :])
        return any(s in text for s in self.stop)

    def cut(self, ids: Sequence[int]) -> str:
        """The text before the first stop string, without special tokens."""
        text = self._decode(ids)
        text = text[: min((text.find(s) for s in self.stop if s in text), default=len(text))]
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special:
                text = text.replace(token.content, "")
        return text

    def _suspicious(self, token: int) -> bool:
        """Whether a token may hold the last character of a stop string, in part (bytes) or as space that decoding strips."""
        if token not in self._suspects:
            piece = self._decode([token])
            self._suspects[token] = "\ufffd" in piece or any(c in piece or c.isspace() for c in self._last)
        return self._suspects[token]

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
