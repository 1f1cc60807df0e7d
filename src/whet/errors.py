"""The errors that a user can act on: each names the field, the value and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class WhetError(Exception):
    """Anything that the user, not whet, can put right. The command line prints it without a traceback."""


class RecipeError(WhetError):
    """A recipe or a setting that cannot be carried out; raised before any compute is spent."""


class DataError(WhetError):
    """A file or row that cannot be used; names the file and line, or the column."""


class ModelError(WhetError):
    """A model folder or its weights that cannot be used; names the file or the tensor."""


class StoreError(WhetError):
    """An artifact or ledger that cannot be read or written."""


class OtherRank(WhetError):
    """Another of the processes that train together failed, with this reason. It says so itself, so this one is silent."""


ELSEWHERE = {
    "learning_rate": "lr",
    "lr_scheduler_type": "lr_schedule",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "warmup_ratio": "warmup",
    "max_grad_norm": "clip",
    "max_seq_length": "max_length",
    "max_completion_length": "max_new_tokens",
    "num_generations": "group_size",
    "reward_funcs": "reward",
    "lora_alpha": "alpha",
}
"""Names that other training libraries have for settings -> the ones here."""


def unknown(what: str, value: str, allowed: Iterable[str]) -> str:
    """A sentence for a name that is not known: what it is, what was given, the nearest right spelling, what is allowed.

    >>> unknown("objective", "dop", ["dpo", "sft"])
    "unknown objective 'dop': did you mean 'dpo'? Known: dpo, sft"
    """
    names = sorted(allowed)
    same = ELSEWHERE.get(value)
    near = [same] if same in names else get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {value!r}: {hint}Known: {', '.join(names) or 'none'}"
