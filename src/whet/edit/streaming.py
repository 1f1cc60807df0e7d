"""The one pass over the tensors that every edit is an instance of.

An edit gives ``combine``, which sees one tensor of every model at a time; :func:`run_job` does the rest: checks, reading,
writing, configuration, tokenizer, lineage and receipt. Arithmetic is one width above what is stored (float32 for 16-bit
weights, float64 for float32), so that merging a model with itself gives back its bits.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whet.edit.folders import check_alike, check_related, copy_side_files, lineage_of, open_checkpoint
from whet.edit.job import MergeJob, names_of
from whet.edit.receipt import Tally, arithmetic_of, receipt_of, write_lineage
from whet.edit.tensors import Checkpoint, Entry, write_checkpoint
from whet.errors import ModelError

STRETCH = 1 << 17
"""Elements that an elementwise edit sees at a time: in float32 they fit a core's cache, where one thread is faster than several
that wait for each other after each of the short steps."""


@dataclass(frozen=True)
class Slot:
    """One tensor's place in all models. Every access reads from disk, so only what the edit keeps stays in memory.

    ``stretch``: first and last element, if the edit sees the tensor as vectors of a few elements each.
    """

    name: str
    shape: tuple[int, ...]
    arithmetic: torch.dtype
    ancestor: Checkpoint | None
    checkpoints: Sequence[Checkpoint]
    stretch: tuple[int, int] | None = None

    @property
    def base(self) -> Tensor:
        """The ancestor's tensor in the arithmetic dtype."""
        if self.ancestor is None:
            raise ModelError("this edit needs the base model that the others were tuned from: give base")
        return self._load(self.ancestor)

    def tensors(self) -> Iterator[Tensor]:
        """Every model's tensor, one after another, in the arithmetic dtype."""
        return (self._load(c) for c in self.checkpoints)

    def tensor(self, model: int) -> Tensor:
        return self._load(self.checkpoints[model])

    def stored(self, checkpoint: Checkpoint) -> Tensor:
        """A model's tensor as it is stored, unchecked."""
        return checkpoint[self.name] if self.stretch is None else checkpoint.stretch(self.name, *self.stretch)

    def _load(self, checkpoint: Checkpoint) -> Tensor:
        tensor = self.stored(checkpoint).to(self.arithmetic)
        if not _finite(tensor):
            raise ModelError(f"{checkpoint.folder}: tensor {self.name!r} holds NaN or Inf; take an earlier checkpoint")
        return tensor


def _finite(tensor: Tensor) -> bool:
    """Whether all entries are finite. One that is not shows in their sum, which is many times faster than asking each."""
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()
    return math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all())


Combine = Callable[[Slot], Tensor]


def run_job(
    merge: MergeJob,
    combine: Combine,
    settings: Mapping[str, Any],
    formula: str,
    weights: Sequence[float],
    extra: Callable[[], Mapping[str, Any]] = dict,
    *,
    elementwise: bool = False,
) -> dict[str, Any]:
    """Merges into ``merge.output`` and returns the receipt.

    The folder appears whole: it is written aside and renamed. Weights are stored in the base's dtype (the first model's if
    there is no base); configuration and tokenizer are the first model's.

    Args:
        combine: gives the merged tensor of a slot, in the slot's arithmetic dtype.
        settings: the edit's settings, for lineage and receipt.
        formula: the effective formula in words that the reader of the receipt can check.
        weights: the effective (normalized) weights that stand in the formula.
        extra: what the edit adds to the receipt; asked after the pass.
        elementwise: each entry of the result depends on that entry alone, so that ``combine`` may get stretches of a tensor,
            which stay in the processor's cache.

    Raises:
        ModelError: the folders do not belong together, the output is not empty, or a result overflows its dtype.
    """
    started = time.perf_counter()
    checkpoints, ancestor, cosines = _open_all(merge)
    output = Path(merge.output)
    _refuse_output(output, merge)
    with _appearing(output) as folder, _lineages([*([ancestor] if ancestor else []), *checkpoints]) as lineages:
        with _one_thread() if elementwise else nullcontext():
            tally, written, digest = _pass(merge, checkpoints, ancestor, combine, folder, elementwise)
        copy_side_files(checkpoints[0].folder, folder, (ancestor or checkpoints[0]).dtype)
        receipt = {
            **receipt_of(tally, checkpoints, ancestor, Checkpoint(folder)),
            **written,
            "settings": dict(settings),
            "formula": formula,
            "models": names_of(merge),
            "base": Path(merge.base).name if merge.base else None,
            "weights": [float(w) for w in weights],
            "cosines": cosines,
            "seconds": round(time.perf_counter() - started, 3),
            **extra(),
        }
        write_lineage(folder, output.name, [lineage.result() for lineage in lineages], receipt, digest)
    return receipt


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that takes its place if nothing goes wrong, and else leaves no trace."""
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield aside
        aside.chmod(0o755)
        if output.exists():
            output.rmdir()
        aside.replace(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _lineages(parents: Sequence[Checkpoint]) -> Iterator[list[Future[dict[str, Any]]]]:
    """The parents' entries for ``whet.json``, whose hashes are computed while the tensors are merged."""
    hashing = ThreadPoolExecutor(1)
    try:
        yield [hashing.submit(lineage_of, parent.folder) for parent in parents]
    finally:
        hashing.shutdown(wait=False, cancel_futures=True)


def open_models(merge: MergeJob) -> tuple[list[Checkpoint], Checkpoint | None]:
    """Opens all folders and refuses those whose tensors do not correspond."""
    if not merge.models:
        raise ModelError("nothing to merge: give at least one model")
    checkpoints = [open_checkpoint(Path(m)) for m in merge.models]
    ancestor = open_checkpoint(Path(merge.base)) if merge.base else None
    for other in [*checkpoints[1:], *([ancestor] if ancestor else [])]:
        check_alike(checkpoints[0], other)
    return checkpoints, ancestor


def slots(checkpoints: Sequence[Checkpoint], ancestor: Checkpoint | None) -> Iterator[Slot]:
    """The slots of all floating tensors, for edits that need a pass of their own before merging."""
    for name, entry in (ancestor or checkpoints[0]).entries.items():
        if entry.dtype.is_floating_point:
            yield Slot(name, entry.shape, arithmetic_of(entry.dtype), ancestor, checkpoints)


def _open_all(merge: MergeJob) -> tuple[list[Checkpoint], Checkpoint | None, list[float]]:
    checkpoints, ancestor = open_models(merge)
    start = ancestor or checkpoints[0]
    cosines = [check_related(start, c) for c in checkpoints if c is not start]
    return checkpoints, ancestor, [round(c, 6) for c in cosines]


def _refuse_output(output: Path, merge: MergeJob) -> None:
    if output.resolve() in {Path(m).resolve() for m in [*merge.models, *([merge.base] if merge.base else [])]}:
        raise ModelError(f"{output}: is one of the models being merged; write to another folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ModelError(f"{output}: already exists and is not empty; take another folder or remove it")


def _pass(
    merge: MergeJob,
    checkpoints: Sequence[Checkpoint],
    ancestor: Checkpoint | None,
    combine: Combine,
    folder: Path,
    elementwise: bool,
) -> tuple[Tally, dict[str, int], str | None]:
    reference, tally = ancestor or checkpoints[0], Tally()
    layout: dict[str, Entry] = dict(sorted(reference.entries.items()))

    def merged(slot: Slot, dtype: torch.dtype) -> Tensor:
        made = combine(slot)
        result = made.to(dtype)
        if not _finite(result):
            raise ModelError(f"tensor {slot.name!r}: the merged values overflow {dtype}; use smaller weights or a wider base")
        before = slot.stored(reference).to(slot.arithmetic)
        tally.norm += float(torch.linalg.vector_norm(before)) ** 2
        tally.change += float(torch.linalg.vector_norm(before.sub_(made))) ** 2
        return result

    def compute(name: str) -> Tensor | Iterator[Tensor]:
        entry = layout[name]
        if not entry.dtype.is_floating_point:
            return _copy(name, reference, checkpoints, tally)
        tally.merged += 1
        whole = Slot(name, entry.shape, arithmetic_of(entry.dtype), ancestor, checkpoints)
        if not elementwise or entry.numel <= STRETCH:
            return merged(whole, entry.dtype)
        ends = [(start, min(start + STRETCH, entry.numel)) for start in range(0, entry.numel, STRETCH)]
        return (merged(replace(whole, shape=(b - a,), stretch=(a, b)), entry.dtype) for a, b in ends)

    written, digest = write_checkpoint(folder, layout, compute, merge.shard_bytes)
    return tally, written, None if reference.tied else digest


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copy(name: str, reference: Checkpoint, checkpoints: Sequence[Checkpoint], tally: Tally) -> Tensor:
    tensor = reference[name]
    tally.copied.append(name)
    if any(not torch.equal(tensor, c[name]) for c in checkpoints):
        tally.differing_buffers.append(name)
    return tensor
