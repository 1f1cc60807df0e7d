"""What a train step leaves while it runs, so that another process can show its curve: ``progress.jsonl`` beside its checkpoints.

A line holds the newest optimizer step. Lines come about once a second, and less often the longer the run, so that the file of a
week has some 15,000. A step that goes on after a kill adds to the file. It goes with the checkpoints when the step is finished.
"""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whet.train.receipt import StepLog

log = logging.getLogger("whet")

FILE = "progress.jsonl"
INTERVAL = 1.0
"""Seconds between two lines at first."""
GROWTH = 2000
"""After so many intervals the time between two lines grows: it is this part of the time that has passed."""


class ProgressFile:
    """Called with the log of every optimizer step; adds a line to the file in ``folder`` when one is due.

    A disk that takes no more lines does not stop the training: they end with a warning.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._started, self._due = folder, time.monotonic(), 0.0

    def __call__(self, entry: StepLog) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + max(INTERVAL, (now - self._started) / GROWTH)
        point = {
            "step": entry.step,
            "steps": entry.steps,
            "loss": entry.loss,
            "terms": dict(entry.terms),
            "lr": entry.lr,
            "tokens": entry.tokens,
            "seconds": entry.seconds,
            "at": time.time(),
        }
        try:
            self._folder.mkdir(exist_ok=True)
            with (self._folder / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
        except OSError as error:
            log.warning("progress is no longer shown: %s", error)
            self._due = math.inf


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """The points so far, by optimizer step; none before the first line.

    A run that went on from a checkpoint repeats steps; what it left of them before is passed over.
    """
    points: list[dict[str, Any]] = []
    with suppress(OSError):
        for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
            # The last line may be half written, or the disk was full.
            with suppress(ValueError, KeyError, TypeError):
                point = json.loads(line)
                while points and points[-1]["step"] >= point["step"]:
                    points.pop()
                points.append(point)
    return points
