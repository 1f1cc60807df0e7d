"""Both sides of bench/merge.py, each in a process of its own: python _merge_sides.py whet|mergekit, questions on the standard input."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _environment import serve


def main() -> None:
    merge = {"whet": _whet, "mergekit": _mergekit}[sys.argv[1]]

    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        folder = Path(question["folder"])
        out = folder / sys.argv[1]
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        merge(folder, question["method"], out)
        return {"seconds": time.perf_counter() - started}

    serve(answer)


def _whet(folder: Path, method: str, out: Path) -> None:
    from whet.edit.run import run_edit

    models = [folder / "a", folder / "b"]
    if method == "linear":
        run_edit(models, "soup", weights=[0.4, 0.6], output=out)
    else:
        run_edit(models, {"name": "ties", "density": 0.5}, base=folder / "base", weights=[0.4, 0.6], output=out)


def _mergekit(folder: Path, method: str, out: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    about: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    ties = method == "ties"
    about["models"] = [
        {"model": str(folder / name), "parameters": {"weight": weight, **({"density": 0.5} if ties else {})}}
        for name, weight in (("a", 0.4), ("b", 0.6))
    ]
    if ties:
        about["base_model"] = str(folder / "base")
    options = MergeOptions(device="cpu", lazy_unpickle=True, low_cpu_memory=True, copy_tokenizer=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(about), str(out), options)


if __name__ == "__main__":
    main()
