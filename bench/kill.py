"""Kills a recipe's run at random moments, resumes it each time, and compares the result bit for bit with an undisturbed run.

    python bench/kill.py                      # ten SIGKILLs over the demo
    python bench/kill.py --recipe FILE --kills 3 --seed 1 --checkpoint-seconds 5

Prints where each kill hit, how many seconds of work it cost (the time since the newest checkpoint, block of completions or
artifact), and at the end what differs between the two stores, what ``whet store verify`` finds and what was left over.
Times and peak memory, which no two runs share, are left out of the comparison; every other byte counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CLOCK = ("seconds", "seconds_training", "processor", "processor_training", "peak_memory_mib", "peak_memory_bytes", "resumed_at")
"""Figures in receipts that say how a run went, not what it made."""
ROOT = Path(__file__).resolve().parents[1]


def start(home: Path, *arguments: str, program: Sequence[str] = ("-m", "whet"), **options: Any) -> subprocess.Popen[str]:
    """Starts a ``whet`` command on a store of its own, with one thread and a folder of its own for temporary files."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    own = {
        "WHET_HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(home),
    }
    environment = {**{k: v for k, v in os.environ.items() if k != "WHET_LEDGER"}, **own}
    return subprocess.Popen([sys.executable, *program, *arguments], env=environment, text=True, **options)


def finish(home: Path, *arguments: str, **options: Any) -> str:
    """Runs a ``whet`` command to its end; returns what it printed.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    process = start(home, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    printed, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"whet {' '.join(arguments)} ended with {process.returncode}: {said[-2000:]}{printed[-500:]}")
    return printed


def differences(first: Path, second: Path) -> Iterator[str]:
    """Every artifact and file in which two stores differ, but for times, peak memory and the stores' own folders."""
    listings = [{p.name: p for p in (home / "artifacts").iterdir()} for home in (first, second)]
    for identity in sorted({*listings[0], *listings[1]}):
        if identity not in listings[0] or identity not in listings[1]:
            yield f"artifact {identity} is only in {first if identity in listings[0] else second}"
            continue
        folders = [listing[identity] for listing in listings]
        manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
        for file in sorted({*manifests[0], *manifests[1]}):
            if manifests[0].get(file) == manifests[1].get(file):
                continue
            if file not in manifests[0] or file not in manifests[1]:
                yield f"{identity}/{file} is only in one of them"
            elif _content(folders[0] / file, first) != _content(folders[1] / file, second):
                yield f"{identity}/{file} differs"


def _content(path: Path, home: Path) -> Any:
    if path.suffix not in (".json", ".md"):
        return path.read_bytes()
    text = path.read_text().replace(str(home), "HOME")
    return _timeless(json.loads(text)) if path.suffix == ".json" else text


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in CLOCK}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def leftovers(home: Path) -> list[str]:
    """What killed runs left in a store and beside it: locks, checkpoints, folders aside, temporary files, processes."""
    found = [*(home / "locks").iterdir(), *(home / "checkpoints").iterdir(), *(home / "tmp").iterdir()]
    found += [p for p in (home / "artifacts").iterdir() if p.name.startswith(".")]
    return [*map(str, found), *(f"process {pid}" for pid in _processes(home))]


def _processes(home: Path) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"WHET_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            continue


def newest_save(home: Path) -> float:
    """When the newest whole thing was written: a checkpoint, a block of completions or rows, a result, an artifact."""
    kept = home / "checkpoints"
    saved = [p for p in kept.glob("*/**/*") if not any(part.startswith(".") for part in p.relative_to(kept).parts)]
    saved += (home / "artifacts").glob("[!.]*/manifest.json")
    times = [0.0]
    for path in saved:
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def newest_run(home: Path) -> dict[str, Any]:
    """The newest run as ``whet show`` gives it."""
    return dict(json.loads(finish(home, "show", "last", "--json")))


def _where(home: Path) -> str:
    run = newest_run(home)
    at = [f"[{s['section']}] {s['name']}" for s in run["steps"] if s["status"] in ("running", "interrupted")]
    return f"{at[0] if at else 'between steps or starting'}, run {run['status']}"


def _gaps(seconds: float, kills: int, seed: int) -> list[float]:
    """Random waiting times whose sum is at most what the whole takes."""
    numbers = random.Random(seed)
    moments = sorted(numbers.uniform(0, seconds) for _ in range(kills))
    return [b - a for a, b in zip([0.0, *moments], moments)]


def _command(recipe: Path, seconds: float) -> list[str]:
    import yaml

    document = yaml.safe_load(recipe.read_text())
    names = [f"{section}.{step['name']}" for section in ("train", "quantize") for step in document.get(section, ())]
    return ["run", str(recipe), *(f"{name}.checkpoint_seconds={seconds}" for name in names)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo.yaml")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-seconds", type=float, default=10.0, help="longest time between two checkpoints (10)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the two stores go, and stay; an undisturbed run that is there is used again; default: temporary",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return compare(options, options.folder or Path(temporary))


def compare(options: argparse.Namespace, folder: Path) -> int:
    """The undisturbed run, the disturbed one, and what differs."""
    calm, disturbed = folder / "undisturbed", folder / "killed"
    command = _command(options.recipe, options.checkpoint_seconds)
    finish(calm, *command)
    whole = sum(step["cost"].get("seconds", 0.0) for step in newest_run(calm)["steps"])
    print(f"undisturbed: {whole:.0f} s", flush=True)
    finish(disturbed, "show")
    began, lost = time.time(), 0.0
    for number, gap in enumerate(_gaps(whole, options.kills, options.seed), start=1):
        process = start(disturbed, *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.readline()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        started = time.time()
        try:
            process.wait(gap)
            print(f"kill {number}: the run had ended before")
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        killed, cost = time.time(), time.time() - max(started, newest_save(disturbed))
        process.wait()
        lost += cost
        print(f"kill {number} at {killed - started:.1f} s: {_where(disturbed)}; {cost:.1f} s of work lost", flush=True)
    finish(disturbed, *command)
    print(f"killed, resumed and ended: {time.time() - began:.0f} s, of which lost {lost:.0f} s")
    found = [*differences(calm, disturbed), *(f"left over: {what}" for what in leftovers(disturbed))]
    print(finish(disturbed, "store", "verify").strip())
    print("\n".join(found) or f"no difference in {len(list((calm / 'artifacts').iterdir()))} artifacts, nothing left over")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
