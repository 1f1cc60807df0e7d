"""Cuts texts into what a log-likelihood is asked for: context-continuation pairs, and the windows of a long document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whet.data.chat import tokenize
from whet.errors import DataError, RecipeError
from whet.model import Model

Pair = tuple[list[int], list[int]]


def text_ids(model: Model, text: str) -> list[int]:
    """Token ids of a text as the tokenizer makes them: with its beginning token if it adds one and the text has none."""
    begun = bool(model.tokenizer.bos_token) and text.startswith(str(model.tokenizer.bos_token))
    return list(model.tokenizer(text, add_special_tokens=not begun, verbose=False)["input_ids"])


def prefix_token(model: Model) -> int:
    """The token before the first token of a text: beginning-of-sequence, or end-of-sequence where there is none.

    Raises:
        DataError: the tokenizer has neither.
    """
    tokenizer = model.tokenizer
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise DataError(
            f"the tokenizer of {model.name!r} has neither a beginning- nor an end-of-sequence token to put before a text"
        )
    return int(token)


def split_pair(model: Model, context: str, continuation: str, rendered: bool = False) -> Pair:
    """Tokens of context and continuation, cut where the context's own tokens end.

    Both are tokenized together, because a token may join the end of the one with the beginning of the other; blanks at the end
    of the context go to the continuation. An empty context is the prefix token alone. ``rendered`` text comes from a chat
    template, which has written the special tokens already.

    Raises:
        DataError: nothing is left for the continuation (an empty one, or one that joins the context's last token).
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        return [prefix_token(model)], tokenize(continuation, model.tokenizer)
    head, whole = (tokenize(t, model.tokenizer) if rendered else text_ids(model, t) for t in (bare, bare + continuation))
    if len(whole) <= len(head):
        raise DataError(
            f"the continuation {continuation!r} has no tokens of its own after {bare[-40:]!r}; give a delimiter before it"
        )
    return head, whole[len(head) :]


def fit(model: Model, context: Sequence[int], continuation: Sequence[int]) -> Pair:
    """The pair with as much of the context's end as the model can take (one token at least).

    Raises:
        DataError: the continuation alone is longer than the model's context.
    """
    if model.context and len(continuation) > model.context:
        raise DataError(
            f"a continuation has {len(continuation)} tokens, more than the context of {model.name!r}, {model.context}; shorten it"
        )
    room = model.context + 1 - len(continuation) if model.context else len(context)
    return list(context[-min(room, len(context)) :]), list(continuation)


def rolling_windows(ids: Sequence[int], prefix: int, window: int, stride: int) -> Iterator[Pair]:
    """Windows that predict each token of a document exactly once.

    The first window predicts the first ``window`` tokens after the prefix token; each further one predicts the next ``stride``
    tokens, and sees as many tokens before them as make its input ``window`` long. With ``stride`` = ``window`` windows are
    disjoint (fast; the first tokens of a window have little context); a smaller stride gives every token at least
    ``window - stride`` tokens of context after the first window, at ``window / stride`` times the cost.

    Args:
        ids: the document's tokens.
        prefix: what stands before the first one.
        window: input tokens of one forward pass.
        stride: newly predicted tokens per window, at most ``window``.

    Yields:
        (context, continuation) with ``len(context) + len(continuation) - 1 <= window``.
    """
    if not 1 <= stride <= window:
        raise RecipeError(f"stride: must be at least 1 and at most the window, {window}; got {stride}")
    done = 0
    while done < len(ids):
        end = min(done + (stride if done else window), len(ids))
        yield (list(ids[end - window - 1 : done]) if done else [prefix]), list(ids[done:end])
        done = end
