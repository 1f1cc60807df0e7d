"""Reads dataset rows as chats: lists of messages with a role and a content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whet.data.rows import missing_column, text_cell
from whet.errors import DataError

Message = dict[str, Any]

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other names that data sets use for the roles."""


def messages_of(row: Mapping[str, Any], system: str | None = None) -> list[Message]:
    """The row as a chat: its ``messages``, else ``prompt`` (text or messages) and ``completion``.

    ``system`` is put first if the chat has no system message. Messages written as ``from``/``value`` are read too.

    Raises:
        DataError: neither ``messages`` nor ``prompt`` and ``completion``; a message without role or content.
    """
    if row.get("messages"):
        messages = _read_messages(row["messages"], "messages")
    else:
        messages = [*_as_messages(row, "prompt", "user"), *_as_messages(row, "completion", "assistant")]
    return _with_system(messages, system)


def prompt_messages(row: Mapping[str, Any], system: str | None = None) -> list[Message]:
    """The part of the row's chat that a model answers: ``messages`` without a last assistant turn, else ``prompt``.

    Raises:
        DataError: the row has neither ``messages`` nor ``prompt``.
    """
    if row.get("messages"):
        messages = _read_messages(row["messages"], "messages")
        messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    else:
        messages = _as_messages(row, "prompt", "user")
    return _with_system(messages, system)


def prompt_text(row: Mapping[str, Any]) -> str:
    """The row's prompt as a reader wants it: its own words, without a template; of a chat, all turns before the reply."""
    return "\n".join(str(message["content"]) for message in prompt_messages(row))


def _as_messages(row: Mapping[str, Any], column: str, role: str) -> list[Message]:
    value = row.get(column)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _read_messages(value, column)
    if column not in row and "messages" in row:
        raise DataError("column 'messages' is empty (null) in this row; fill it or remove the row")
    if column not in row and column == "prompt":
        raise DataError(f"{missing_column(column, row)}; or give chats in a column 'messages'{_chat_column(row)}")
    return [{"role": role, "content": text_cell(row, column)}]


def _chat_column(row: Mapping[str, Any]) -> str:
    """A hint at the column that looks like a chat under another name."""
    lists = (name for name, cell in row.items() if isinstance(cell, Sequence) and cell and isinstance(cell[0], Mapping))
    found = next(lists, None)
    return f": `columns: {{messages: {found}}}`, which looks like one" if found else ""


def _read_messages(messages: Any, column: str) -> list[Message]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"column {column!r}: expected a list of messages, got {type(messages).__name__} {str(messages)[:60]!r}")
    return [_read_message(message, f"column {column!r}, message {i}") for i, message in enumerate(messages)]


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{where}: expected role and content, got {message!r}")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str) or not (isinstance(content, str) or (content is None and message.get("tool_calls"))):
        raise DataError(f"{where}: needs 'role' and 'content' as text, got {str(dict(message))[:80]}")
    rest = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value") and v is not None}
    return {"role": _ROLES.get(role, role), "content": content or "", **rest}


def _with_system(messages: list[Message], system: str | None) -> list[Message]:
    if system is None or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]
