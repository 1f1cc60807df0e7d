"""Renders chats through the tokenizer's own chat template and finds the tokens that are trained.

A template is never re-implemented. What is trained is found by *incremental rendering*: the chat up to an assistant turn,
with the generation prompt, must be the beginning of the chat with that turn, and this the beginning of the whole chat; the
text in between is what the model has to write. A template that changes earlier turns when later ones are added has no such
spans: then its ``{% generation %}`` markers are used, and a template that has none is refused with the way out.

A reply is trained up to and including the special token that closes it, found by its position, so that a padding token
equal to the end token changes nothing. A template that closes replies with no special token gets the tokenizer's
end-of-sequence token after the last reply: without one the model would never learn to stop.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from jinja2.exceptions import TemplateError

from whet.data.example import Example
from whet.data.messages import Message as Message
from whet.data.messages import messages_of as messages_of
from whet.data.messages import prompt_messages as prompt_messages
from whet.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASIC_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:{{ '\n' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)
"""A chat template without new special tokens, for base models that come with none: assign it to ``tokenizer.chat_template``."""


def prompt_ids(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, *, system: str | None = None) -> list[int]:
    """Token ids that a model is given to answer the row: its prompt through the chat template, with generation prompt.

    Raises:
        DataError: no prompt in the row, no chat template, or a template that refuses this chat.
    """
    return tokenize(render(prompt_messages(row, system), tokenizer, generation=True), tokenizer)


def render(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, generation: bool = False) -> str:
    """The chat as text, by the tokenizer's own template; ``generation`` adds the opening of the next assistant turn.

    Raises:
        DataError: the tokenizer has no chat template, or the template refuses the chat.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "this tokenizer has no chat template (a base model?). Ways out: `format: plain` trains on the `text` column; or give "
            "the tokenizer one: tokenizer.chat_template = whet.data.chat.BASIC_TEMPLATE; tokenizer.save_pretrained(FOLDER)"
        )
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation))
    except (TemplateError, TypeError) as error:
        roles = ", ".join(str(m["role"]) for m in messages) or "none"
        advice = "; put the system text into the first user message" if "system" in roles else ""
        raise DataError(f"the chat template refuses a chat with roles ({roles}): {error}{advice}") from error


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of rendered text; the template has already written the special tokens."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def encode(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, train_on: Literal["all", "last"] = "all"
) -> Example:
    """One chat as tokens with the assistant's replies trained.

    Args:
        messages: ``role`` and ``content`` each; other keys are given to the template.
        tokenizer: must have a chat template.
        train_on: every assistant turn, or only the last one.

    Returns:
        An example that ends with its last trained token (what follows has no part in the loss).

    Raises:
        DataError: no assistant turn, no or an unsuitable template, text that the template drops.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise DataError("this chat has no assistant turn, so there is nothing to train on")
    turns = turns if train_on == "all" else turns[-1:]
    text = render(messages, tokenizer)
    spans = _spans(text, messages, turns, tokenizer)
    if spans is None:
        ids, trained = _by_markers(messages, tokenizer, train_on)
    else:
        _refuse_lost_text(text, spans, messages, turns)
        ids, trained = _by_spans(text, spans, tokenizer)
    trained[0] = False
    if not any(trained):
        raise DataError("the chat template renders nothing for this chat's assistant turns; is a reply empty?")
    end = len(trained) - trained[::-1].index(True)
    return Example(ids[:end], trained[:end])


def _spans(
    text: str, messages: Sequence[Message], turns: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]] | None:
    """Characters [start, end) of each turn's reply in ``text``; ``None`` if the template is not incremental but has markers."""
    spans = []
    for turn in turns:
        opening = render(messages[:turn], tokenizer, generation=True)
        upto = text if turn == len(messages) - 1 else render(messages[: turn + 1], tokenizer)
        for shorter, longer in ((opening, upto), (upto, text)):
            if not longer.startswith(shorter):
                if _has_markers(tokenizer):
                    return None
                raise DataError(_not_incremental(shorter, longer, turn, len(turns)))
        spans.append((len(opening), len(upto)))
    return spans


def _not_incremental(shorter: str, longer: str, turn: int, turns: int) -> str:
    at = next((i for i, (a, b) in enumerate(zip(shorter, longer)) if a != b), min(len(shorter), len(longer)))
    way = (
        "train_on: each (one example per reply, as at inference) or train_on: last"
        if turns > 1
        else "a template with {% generation %} markers"
    )
    return (
        f"the chat template changes what stands before message {turn} when the reply or later turns are added: "
        f"{shorter[at : at + 30]!r} becomes {longer[at : at + 30]!r} (character {at}), so the trained tokens would not be "
        f"what the model sees at inference. Way out: {way}"
    )


def _refuse_lost_text(text: str, spans: Sequence[tuple[int, int]], messages: Sequence[Message], turns: Sequence[int]) -> None:
    bare = _bare(text)
    replies = dict(zip(turns, spans))
    for i, message in enumerate(messages):
        if i in replies:
            found = _bare(message["content"]) in _bare(text[slice(*replies[i])])
        else:
            found = message["role"] == "assistant" or _bare(message["content"]) in bare
        if not found:
            raise DataError(
                f"the chat template drops or rewrites text of message {i} (role {message['role']}): {message['content'][:60]!r} "
                "is not in what it renders. Way out: a template that keeps it, or move the text into a user message"
            )


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _by_spans(text: str, spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    cuts = [cut for span in spans for cut in span]
    pieces = _split(text, cuts, tokenizer)
    ids: list[int] = []
    trained: list[bool] = []
    for number, piece in enumerate(pieces):
        is_reply = number % 2 == 1
        is_last = number == 2 * len(spans) - 1
        end = _reply_end(piece, tokenizer) if is_reply else 0
        if end is None:
            piece = [*piece, _eos(tokenizer)] if is_last else piece
            end = len(piece)
        ids += piece
        trained += [position < end for position in range(len(piece))]
    return ids, trained


def _split(text: str, cuts: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of the pieces between the cuts: of the whole text at once where no token crosses a cut, else piece by piece.

    A token that crosses a cut joins the prompt's end with the reply's beginning; at inference the prompt is tokenized alone.
    """
    whole = tokenize(text, tokenizer)
    bounds = [0]
    for cut in cuts:
        head = tokenize(text[:cut], tokenizer) if cut < len(text) else whole
        if whole[: len(head)] != head:
            return _split_apart(text, cuts, whole, tokenizer)
        bounds.append(len(head))
    return [whole[start:end] for start, end in zip(bounds, [*bounds[1:], len(whole)])]


def _split_apart(text: str, cuts: Sequence[int], whole: list[int], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    pieces = [tokenize(text[start:end], tokenizer) for start, end in zip([0, *cuts], [*cuts, len(text)])]
    if tokenizer.decode([i for piece in pieces for i in piece]) != tokenizer.decode(whole):
        raise DataError(
            "a token joins the end of the prompt with the beginning of the reply, and this tokenizer cannot tokenize them apart. "
            "Way out: a chat template whose generation prompt ends with a special token or a line break"
        )
    return pieces


def _reply_end(reply: list[int], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """How many tokens of a reply are trained: through its closing special token; ``None`` if none closes it."""
    special = _special_ids(tokenizer, len(tokenizer), tokenizer.eos_token_id)
    last = next((i for i in reversed(range(len(reply))) if reply[i] in special), None)
    if last is None or (last + 1 < len(reply) and str(tokenizer.decode(reply[last + 1 :])).strip()):
        return None
    return last + 1


@functools.lru_cache(maxsize=8)
def _special_ids(tokenizer: PreTrainedTokenizerBase, size: int, eos: int | None) -> frozenset[int]:
    # size and eos are asked for so that a tokenizer that is changed later is looked at again
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError(
            "this tokenizer has no end-of-sequence token and its template closes replies with none: the model could never stop"
        )
    return int(tokenizer.eos_token_id)


def _has_markers(tokenizer: PreTrainedTokenizerBase) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", str(tokenizer.chat_template)) is not None


def _by_markers(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, train_on: str) -> tuple[list[int], list[bool]]:
    encoded: Any = tokenizer.apply_chat_template(
        list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = list(encoded["input_ids"])
    trained = [bool(mark) for mark in encoded["assistant_masks"]]
    if train_on == "last" and any(trained):
        end = len(trained) - trained[::-1].index(True)
        start = max((i + 1 for i in range(end) if not trained[i]), default=0)
        trained = [start <= i < end for i in range(len(ids))]
    closing = _special_ids(tokenizer, len(tokenizer), tokenizer.eos_token_id)
    for i in range(1, len(ids)):
        # Markers often leave out the token that closes the reply, which the model must write too.
        trained[i] = trained[i] or (trained[i - 1] and ids[i] in closing and ids[i - 1] not in closing)
    return ids, trained
