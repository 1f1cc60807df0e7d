"""Says what this machine has, which extras are usable, and what each missing one would give."""

from __future__ import annotations

from importlib import metadata, util
from typing import Any

from whet.run.machine import machine, versions
from whet.run.store import Store

EXTRAS: dict[str, tuple[str, str, str]] = {
    "compressed-tensors": ("compressed_tensors", "export", "export of quantized models that transformers and servers load"),
    "psycopg": ("psycopg", "postgres", "the ledger on PostgreSQL"),
    "ray": ("ray", "ray", "variants and data passes on a cluster"),
    "starlette": ("starlette", "board", "the board in a browser"),
    "uvicorn": ("uvicorn", "board", "the board in a browser"),
    "trl": ("trl", "bench", "benchmarks and parity tests against TRL"),
    "lm-eval": ("lm_eval", "bench", "benchmarks and parity tests against lm-eval"),
    "mergekit": ("mergekit", "bench", "benchmarks and parity tests against mergekit"),
}
"""Distribution -> import name, the extra that installs it, what it gives."""


def examine() -> tuple[dict[str, Any], str]:
    """The machine, the versions, the store and the extras, as data and as text."""
    store = Store.open()
    extras: dict[str, dict[str, Any]] = {}
    for name, (module, extra, gives) in EXTRAS.items():
        usable = util.find_spec(module) is not None
        extras[name] = {
            "usable": usable,
            "version": metadata.version(name) if usable else None,
            "gives": gives,
            "install": None if usable else f"pip install 'whet[{extra}]'",
        }
    data: dict[str, Any] = {"machine": machine(), "versions": versions(), "store": store.address, "extras": extras}
    lines = ["machine", *(f"  {k}: {v}" for k, v in data["machine"].items())]
    lines += ["versions", *(f"  {k}: {v}" for k, v in data["versions"].items())]
    lines += [f"store\n  {store.address}: {len(list(store.identities()))} artifacts", "extras"]
    for name, e in extras.items():
        lines.append(
            f"  {name} {e['version']}: {e['gives']}"
            if e["usable"]
            else f"  {name} missing: would give {e['gives']}; {e['install']}"
        )
    return data, "\n".join(lines)
