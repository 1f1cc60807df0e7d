"""A ledger to look at, made without training: a comparison with a planted reason, and a run that is under way."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from whet.board.app import make_app
from whet.board.guard import Access
from whet.measure.outcome import Estimate, Outcome, TaskResult
from whet.measure.results import write_result
from whet.run.alive import alive
from whet.run.compare.verdicts import judge, variant_estimate
from whet.run.ledger import ComparisonRecord, Ledger, Membership, RaceRecord, Run, StepRecord
from whet.run.progress import ProgressFile
from whet.run.race.carry import Race
from whet.run.race.page import summary
from whet.run.race.plan import make_plan
from whet.run.race.standing import Course
from whet.run.race.standing import judge as judge_race
from whet.run.race.targets import Target
from whet.run.store import Store
from whet.train.receipt import StepLog

HOSTILE = "<script>window.taken=1</script><img src=x onerror='window.taken=2'>"
SEEDS = (0, 1, 2)
SKILLS = ("carrying", "facts", "ordering")
LIVE = "alive-20260101-000000-0000"
SPRINT = "sprint-20260101-000000-bbbb"
BAD_AT = {"plain": (), "masked <i>": ("carrying",)}
"""Variant -> the skills at which it is always wrong."""


@dataclass(frozen=True)
class Shelf:
    """What the tests look at."""

    store: Store
    ledger: Ledger
    claims: Path


def _result(variant: str, seed: int) -> TaskResult:
    outcomes = []
    for number in range(36):
        skill = SKILLS[number % 3]
        # A few items that change from seed to seed, the same for all variants.
        right = skill not in BAD_AT[variant] and (number + seed) % 9 != 0
        said = f"Adding 1{number} and 5 gives {number if right else number + 1}. {HOSTILE}"
        outcome = Outcome(
            f"i{number}", float(right), f"Question {number}? {HOSTILE}", str(number), said, labels={"skill": skill}, answer="7"
        )
        outcomes.append(outcome)
    value = sum(o.score for o in outcomes) / len(outcomes)
    estimates = {"accuracy": Estimate(value, value - 0.1, value + 0.1, len(outcomes), "wilson")}
    return TaskResult(
        "answers", variant, "accuracy", outcomes, {"template": "x"}, estimates, {"ended": 0.5 if BAD_AT[variant] else 1.0}
    )


def _run(identity: str, status: str, started: dt.datetime, seed: int = 0, **document: Any) -> Run:
    finished = None if status == "running" else started + dt.timedelta(seconds=5)
    document = {"name": identity[:5], "model": "nano", "train": [{"name": "tuned"}], "data": [{"name": "rows"}], **document}
    return Run(
        id=identity,
        recipe=identity[:5],
        document=document,
        seed=seed,
        status=status,
        started=started,
        finished=finished,
        versions={"whet": "0"},
        machine={"cores": 2},
        steps=[],
    )


def _step(run: str, position: int, name: str, section: str, identity: str, inputs: dict[str, str], **more: Any) -> StepRecord:
    blank = {
        "status": "done",
        "why": "runs: the first time",
        "settings": {"note": "Überlänge"},
        "receipt": {},
        "cost": {"seconds": 1.0},
    }
    return StepRecord(
        run_id=run, position=position, name=name, section=section, identity=identity, inputs=inputs, **{**blank, **more}
    )


def _fill(store: Store, ledger: Ledger) -> None:
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    results = {variant: {seed: _result(variant, seed) for seed in SEEDS} for variant in BAD_AT}
    runs: dict[str, dict[str, str]] = {}
    for index, (variant, by_seed) in enumerate(results.items()):
        for seed, result in by_seed.items():
            run, made = f"small-{index}-{seed}", f"scores{index}{seed}"
            runs.setdefault(variant, {})[str(seed)] = run

            def write(folder: Path, result: TaskResult = result) -> None:
                write_result(result, folder / "000.jsonl")
                (folder / "results.json").write_text(
                    json.dumps([{"stage": "tuned", "task": "answers", "file": "000.jsonl", "mib": 1.0}])
                )
                (folder / "comparisons.json").write_text("[]")

            store.put(made, write)
            curve = [{"step": s, "loss": 3.0 / s} for s in range(1, 20)]
            ledger.save(_run(run, "done", start + dt.timedelta(minutes=seed), seed))
            ledger.save(
                _step(run, 0, "rows", "data", "rows0", {"code": "c"}),
                _step(
                    run,
                    1,
                    "tuned",
                    "train",
                    f"tuned{index}{seed}",
                    {"data": "rows0", "base": "outside"},
                    receipt={"curve": curve},
                ),
                _step(run, 2, "scores", "measure", made, {"stage.tuned": f"tuned{index}{seed}"}),
            )
    spent = {"tokens": 1000.0, "flops": 1e9, "examples": 10, "seconds": 2.0, "kinds": {"training": 1000}}
    result = {
        "unit": "flops",
        "variants": {
            v: {"changes": {"train.0.objective": v}, "values": {}, "runs": runs[v], "spent": spent, "failed": "", "stopped": ""}
            for v in results
        },
        "scores": {"answers": {v: dict(zip(("value", "low", "high"), variant_estimate(r))) for v, r in results.items()}},
        "verdicts": [v.plain() for v in judge({"answers": results})],
        "targets": [],
        "notes": [],
    }
    ledger.save(
        ComparisonRecord(
            id="small-20260101-000000-aaaa",
            name="small",
            status="done",
            started=start,
            finished=start,
            document={"about": "hiding words"},
            result=result,
        )
    )
    _add_race(ledger, start)
    pages = store.scratch / "runs" / "small-20260101-000000-aaaa"
    pages.mkdir(parents=True)
    (pages / "compare.html").write_text("<!doctype html><title>whole</title><style>p { color:red }</style><p>whole page</p>")
    (pages / "secret.txt").write_text("not for readers")


def _add_race(ledger: Ledger, start: dt.datetime) -> None:
    """A finished race of one workload, whose comparison is the shelf's."""
    source = {"name": "chain-mod10", "steps": 2, "rows": 8}
    task = {"name": "perplexity", "data": source, "split": "validation"}
    recipe = {
        "model": "nano",
        "data": [{"name": "rows", "source": source}],
        "train": [{"name": "net", "data": "rows", "format": "plain", "steps": 4, "validate": task}],
        "measure": [{"name": "test", "tasks": [{"name": "perplexity", "data": source}]}],
    }
    algorithms = {"steady": {"lr": 1e-3}, "quick <i>": {"optimizer": "sgd", "tune": {"lr": "0.1..1"}}}
    asked = {
        "ruleset": "self-tuning",
        "trials": 2,
        "algorithms": algorithms,
        "workloads": {"chains": {"recipe": recipe, "target": "perplexity=9"}},
    }
    plan = make_plan({"name": "sprint", "about": "who is first", "race": asked})
    studies = {"steady": [4.0, math.inf, 6.0], "quick <i>": [3.0, 3.0, 2.0]}
    processor = {"steady": [0.4, math.inf, 0.6], "quick <i>": [1.25, 1.5, 1.0]}
    course = Course(
        plan.workloads[0], Target("perplexity", 9.0, {}), "small-20260101-000000-aaaa", studies, {"processor": processor}
    )
    result = summary(Race(SPRINT, plan, [course], judge_race(plan, [course]), {"processor": "P", "threads": 1}, 1.0))
    record = RaceRecord(
        id=SPRINT, name="sprint", status="done", started=start, finished=start, document=plan.document, result=result
    )
    ledger.save(record, Membership(part="small-20260101-000000-aaaa", whole=SPRINT))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every test gets a copy of."""
    folder = tmp_path_factory.mktemp("board")
    store = Store.open(str(folder / "home"))
    _fill(store, Ledger.beside(store.scratch))
    claims = folder / "claims"
    claims.mkdir()
    (claims / "hidden.yaml").write_text(
        f'paper: hidden\ntitle: Hidden words\nclaim: "Hiding helps {HOSTILE}"\npaper_figure: 1%\ntest: a small one\n'
        "settings: {rows: 4}\nrun: python claims/hidden.py\nseeds: [0]\nresult: []\nverdict: reproduced\nnote: fine\n"
        "date: 2026-01-01\nversion: 0.1.0\ncost_seconds: 1\n"
    )
    (claims / "broken.yaml").write_text("paper: other\n")
    return folder


@pytest.fixture
def shelf(filled: Path, tmp_path: Path) -> Shelf:
    folder = shutil.copytree(filled, tmp_path / "board")
    store = Store.open(str(folder / "home"))
    return Shelf(store, Ledger.beside(store.scratch), folder / "claims")


def log(step: int, of: int = 40) -> StepLog:
    return StepLog(step, of, 4.0 / step, {}, 1.0, 1e-3, 100, 100, 0.01)


@dataclass
class Training:
    """A run that is under way; ``point`` adds to its curve, ``end`` ends it."""

    shelf: Shelf
    file: ProgressFile

    def point(self, step: int) -> None:
        self.file._due = 0.0
        self.file(log(step))

    def end(self) -> None:
        self.shelf.ledger.save(_step(LIVE, 0, "tuned", "train", "live0001", {}))
        self.shelf.ledger.finish(LIVE, "done")
        shutil.rmtree(self.shelf.store.checkpoints("live0001"))


@pytest.fixture
def training(shelf: Shelf) -> Iterator[Training]:
    with alive(shelf.store, LIVE):
        shelf.ledger.save(_run(LIVE, "running", dt.datetime.now(dt.UTC)))
        shelf.ledger.save(_step(LIVE, 0, "tuned", "train", "live0001", {}, status="running", cost={}))
        made = Training(shelf, ProgressFile(shelf.store.checkpoints("live0001")))
        made.point(1)
        made.point(2)
        yield made


@pytest.fixture
def served(shelf: Shelf) -> Iterator[str]:
    """The address of a board on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = make_app(shelf.store, shelf.ledger, shelf.claims, Access.to("127.0.0.1"))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; without one the tests are skipped, and say so among the warnings."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        reason = "the board's pages are not tested: apt-get install chromium, pip install playwright"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, served: str) -> Iterator[Any]:
    """A page that may talk to the board alone; afterwards nothing may have been asked of others, nor complained about."""
    context = browser.new_context(base_url=served, viewport={"width": 1100, "height": 900})
    found = context.new_page()
    found.set_default_timeout(60_000)
    foreign: list[str] = []
    complaints: list[str] = []

    def pass_on(route: Any) -> None:
        if urlsplit(route.request.url).netloc == urlsplit(served).netloc:
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    context.route("**/*", pass_on)
    found.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    yield found
    context.close()
    assert not foreign and not complaints
