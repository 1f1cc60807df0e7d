"""The conditions a score was taken under; two scores may be compared only if these agree.

A score depends on more than the model: on the wording of the prompt, the template around it, the sampler, the rule that
extracts the answer, the number type, the worked examples shown first, and the libraries. All of it is written down here as
plain data, long texts as hashes, so that a difference can be named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from whet.errors import RecipeError
from whet.model import template_hash

if TYPE_CHECKING:
    from whet.model import Model

PACKAGES = ("torch", "transformers", "tokenizers")
"""The libraries whose versions can change a score."""


def digest(value: Any) -> str:
    """First 16 hex digits of the sha256 of a text, or of plain data written as JSON with sorted keys."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tokenizer_hash(model: Model) -> str:
    """Hash of the tokenizer's vocabulary: what makes two numbers *per token* comparable."""
    return digest(dict(model.tokenizer.get_vocab()))


def conditions(
    model: Model, rows: Iterable[Mapping[str, Any]], prompts: Iterable[Sequence[int] | str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything besides the weights that the score depends on, as plain data.

    Args:
        model: gives the dtype and the template's hash.
        rows: the measured rows, in order; their hash is ``data``.
        prompts: what the model was really shown (text, or token ids, which are decoded), few-shot rows included; their hash
            is ``prompts``.
        settings: further conditions of the task: ``sampling``, ``extractor``, ``few_shot``, ``window``, ...
    """
    shown = [p if isinstance(p, str) else model.tokenizer.decode(list(p)) for p in prompts]
    return {
        "data": digest([dict(row) for row in rows]),
        "prompts": digest(shown),
        "template": template_hash(model.tokenizer),
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        **settings,
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Name -> (old value, new value) for each condition that differs and is not in ``allow``.

    Nested conditions are named with a dot (``versions.torch``); allowing the outer name allows what is inside.

    >>> differences({"dtype": "float32", "few_shot": 0}, {"dtype": "bfloat16", "few_shot": 0})
    {'dtype': ('float32', 'bfloat16')}
    """
    flat_old, flat_new = dict(_flat(old)), dict(_flat(new))
    names = [*flat_old, *(name for name in flat_new if name not in flat_old)]
    return {
        name: (flat_old.get(name), flat_new.get(name))
        for name in names
        if flat_old.get(name) != flat_new.get(name) and not any(name == a or name.startswith(f"{a}.") for a in allow)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def refuse_different(old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str], what: str) -> None:
    """Raises if two scores were taken under different conditions.

    Raises:
        RecipeError: lists every condition that differs with both values, and the way out.
    """
    found = differences(old, new, allow)
    if found:
        listed = "; ".join(f"{name}: {a!r} against {b!r}" for name, (a, b) in found.items())
        names = sorted({name.partition(".")[0] for name in found})
        raise RecipeError(
            f"{what}: the two scores were not taken under the same conditions ({listed}). "
            f"Measure again under the same conditions, or pass allow={names!r} to compare all the same"
        )
