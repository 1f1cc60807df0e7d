"""Work in blocks, carried out by the pool in use and kept on disk as they are done: a run that is killed writes only the blocks
under way again.

The blocks depend on the request alone, never on time or on whether they are kept, so that a resumed run has the bits of an
undisturbed one, wherever they are done. A block is :data:`ROUNDS` times what the engine holds at once: fewer would leave slots empty at too many ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whet.generate.completion import Completion, Sampling
from whet.generate.engine import check_prompt, generate
from whet.generate.shipping import ship, unpack
from whet.model import Model
from whet.workers import blocks, current

ROUNDS, LEAST = 8, 64
"""Completions of a block: so many times the engine's slots, and at least so many."""

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def kept_in(folder: Path | None) -> Iterator[None]:
    """Keeps the results of :func:`map_kept` in the folder while inside, and takes those that are there already."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def map_kept(
    function: Callable[..., Any],
    blocks: Sequence[tuple[int, Any]],
    *,
    name: str,
    what: str,
    shared: Callable[[], Any] = lambda: None,
    accelerator: bool = False,
) -> list[Any]:
    """``[function(block), ...]`` on the pool in use; results are taken from the folder of :func:`kept_in` where they lie there.

    Args:
        function: gets a block, and ``shared()`` as the second argument unless that is ``None``; its result is what JSON can hold.
        blocks: number of the first row, and the content.
        name: of the results in the folder: it must say everything that they depend on and the folder does not.
        what: what rows are called in messages, such as ``prompts``.
        shared: gives what all blocks need; called only if there is something to do.
        accelerator: whether a block needs one where there are any.
    """
    folder = _folder.get()
    files = [folder / name / f"{start:08d}.json" if folder is not None else None for start, _ in blocks]
    results = [_read(file) for file in files]
    missing = [number for number, result in enumerate(results) if result is None]

    def keep(number: int, result: Any) -> None:
        if (file := files[missing[number]]) is not None:
            _write(file, result)

    def label(block: tuple[int, Any]) -> str:
        return f"block of {what} that begins with {block[0]}" if len(blocks) > 1 else ""

    if missing:
        made = current().map(
            function,
            [blocks[number] for number in missing],
            shared=shared(),
            accelerator=accelerator,
            label=label,
            on_result=keep,
        )
        for number, result in zip(missing, made):
            results[number] = result
    return results


def generate_in_blocks(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    group_size: int = 1,
    seed: int = 0,
    keys: Sequence[int] | None = None,
    batch_tokens: int = 32768,
    block: int | None = None,
    receipt: dict[str, Any] | None = None,
) -> list[Completion]:
    """Samples as :func:`whet.generate.engine.generate` does, with its arguments and errors, block by block.

    ``block``: prompts of a block; default by what the engine holds at once.
    """
    for index, ids in enumerate(prompts):
        check_prompt(model, ids, f"prompt {index}")
    keys = list(range(len(prompts))) if keys is None else list(keys)
    longest = max((len(ids) for ids in prompts), default=0) + sampling.max_new_tokens
    size = block or max(1, max(LEAST, ROUNDS * batch_tokens // longest) // group_size)
    given: dict[str, Any] = {"group_size": group_size, "seed": seed, "batch_tokens": batch_tokens}
    plain = [list(map(int, ids)) for ids in prompts]
    request = [model.lineage.get("weights"), asdict(sampling), given, size, plain, keys]
    done = map_kept(
        _generate,
        [(r.start, (plain[r.start : r.stop], keys[r.start : r.stop])) for r in blocks(max(1, len(prompts)), size)],
        name=hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16],
        what="prompts",
        shared=lambda: (ship(model), sampling, given),
        accelerator=True,
    )
    if receipt is not None:
        for content in done:
            _add(receipt, content["receipt"])
    return [Completion(**about) for content in done for about in content["completions"]]


def _generate(block: tuple[int, Any], shared: tuple[Any, Sampling, Mapping[str, Any]]) -> dict[str, Any]:
    start, (prompts, keys) = block
    model, sampling, given = shared
    receipt: dict[str, Any] = {}
    written = generate(unpack(model), prompts, sampling, keys=keys, receipt=receipt, **given)
    return {"receipt": receipt, "completions": [{**vars(c), "prompt": c.prompt + start} for c in written]}


def _write(file: Path, result: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(result))
    aside.rename(file)


def _read(file: Path | None) -> Any:
    return json.loads(file.read_text()) if file is not None and file.is_file() else None


def _add(total: dict[str, Any], block: Mapping[str, Any]) -> None:
    """Adds a block's receipt to that of all: counts are summed, of the slots the most stays."""
    for name, value in block.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        else:
            total[name] = max(total.get(name, 0), value) if name == "slots" else total.get(name, 0) + value
