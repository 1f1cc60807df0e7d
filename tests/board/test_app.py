"""Who may read the board, and that reading changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from whet.board.app import make_app
from whet.board.guard import Access
from whet.board.lineage import draw, graph_of
from whet.board.pages import Claims
from whet.board.records import Records, Step
from whet.board.searching import KINDS, search
from whet.board.words import LIMIT, cut, differing
from whet.cli import main
from whet.run import progress
from whet.run.progress import FILE, ProgressFile, read_progress
from whet.train.receipt import StepLog

Make = Callable[[str], TestClient]


@pytest.fixture
def board(shelf: Any) -> Make:
    """A client of a board that listens on an address."""

    def make(host: str) -> TestClient:
        access = Access.to(host)
        client = TestClient(make_app(shelf.store, shelf.ledger, shelf.claims, access), base_url=f"http://{host}:8137")
        client.token = access.token
        return client

    return make


def test_only_names_of_this_board_are_answered(board: Make) -> None:
    client = board("127.0.0.1")
    for host in ("localhost:8137", "127.0.0.1", "[::1]:8137", "LOCALHOST."):
        assert client.get("/", headers={"host": host}).status_code == 200
    for host in ("rebound.example", "127.0.0.1.example:8137", "10.0.0.1:8137", "localhost@example", "", "a b"):
        assert client.get("/", headers={"host": host}).status_code == 400, host


def test_elsewhere_it_asks_for_the_token(board: Make) -> None:
    client = board("0.0.0.0")
    assert client.token and board("0.0.0.0").token != client.token
    for address in ("/", "/live", "/static/board.css", "/runs/small-0-0", "/nowhere", "/?token=wrong", "/?token="):
        refused = client.get(address)
        assert refused.status_code == 401 and "small" not in refused.text
    assert client.get("/", headers={"authorization": f"Bearer {client.token}"}).status_code == 200
    assert client.get("/", headers={"host": "rebound.example", "authorization": f"Bearer {client.token}"}).status_code == 400

    past = client.get(f"/runs?page=0&token={client.token}", follow_redirects=False)
    assert past.status_code == 303 and past.headers["location"] == "/runs?page=0"
    assert "HttpOnly" in past.headers["set-cookie"] and "SameSite=strict" in past.headers["set-cookie"]
    assert client.get("/runs").status_code == 200


def test_every_answer_forbids_the_network_and_nothing_but_reading_is_allowed(board: Make) -> None:
    client = board("localhost")
    addresses = ("/", "/static/board.js", "/nowhere", "/pages/small-20260101-000000-aaaa/compare.html")
    for address in addresses:
        headers = client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in client.get("/").headers["content-security-policy"]
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/").status_code == 405


def test_a_comparison_is_shown_in_the_unit_of_its_budget(board: Make) -> None:
    page = board("localhost").get("/comparisons/small-20260101-000000-aaaa").text
    assert "flops spent" in page and ">1B<" in page and "accuracy against flops" in page


def test_reading_changes_neither_ledger_nor_store(board: Make, shelf: Any, training: Any) -> None:
    def everything() -> tuple[Any, ...]:
        rows = [vars(r) for r in shelf.ledger.runs()]
        files = sorted(str(p) for p in shelf.store.scratch.rglob("*") if "ledger.db" not in p.name)
        return json.dumps(rows, default=str).count("done"), len(rows), files

    before, client = everything(), board("localhost")
    for address in (
        "/",
        "/runs",
        "/runs/small-0-0",
        "/comparisons/small-20260101-000000-aaaa",
        "/live",
        "/models/rows0",
        "/search?q=a",
    ):
        assert client.get(address).status_code == 200
    assert everything() == before


@pytest.mark.parametrize(
    "address",
    [
        "/runs/none",
        "/comparisons/none",
        "/races/none",
        "/comparisons/small-20260101-000000-aaaa/pair",
        "/comparisons/small-20260101-000000-aaaa/pair?task=answers&a=plain&b=none",
        "/comparisons/small-20260101-000000-aaaa/pair?task=none&a=plain&b=plain",
        "/models/outside",
        "/claims/broken",
        "/pages/small-20260101-000000-aaaa/secret.txt",
        "/pages/..%2f..%2fledger.db/report.html",
        "/pages/small-20260101-000000-aaaa/..%2f..%2fledger.db",
        "/static/..%2fapp.py",
        "/<script>",
    ],
)
def test_what_is_not_there_is_said_plainly(board: Make, address: str) -> None:
    answer = board("localhost").get(address)
    assert answer.status_code == 404 and "<script>alert" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize(
    "asked", ["page=9999", "page=x", "by=none", "group=<b>", "kind=none", "kind=all&page=2&by=skill&group=facts"]
)
def test_a_pairs_address_may_say_anything(board: Make, asked: str) -> None:
    pair = "/comparisons/small-20260101-000000-aaaa/pair?task=answers&a=plain&b=masked+%3Ci%3E&"
    answer = board("localhost").get(pair + asked)
    assert answer.status_code == 200 and "<b>&" not in answer.text and "group=<b>" not in answer.text


def test_everything_is_escaped_in_every_page(board: Make) -> None:
    client = board("localhost")
    pair = "/comparisons/small-20260101-000000-aaaa/pair?task=answers&a=plain&b=masked+%3Ci%3E"
    for address in (
        "/",
        "/comparisons",
        "/comparisons/small-20260101-000000-aaaa",
        "/races",
        "/races/sprint-20260101-000000-bbbb",
        pair,
        "/claims",
        "/claims/hidden",
        "/search?q=<script>",
    ):
        text = client.get(address).text
        assert "<script>window" not in text and "<img" not in text and "masked <i>" not in text and "“<script>" not in text


def test_a_run_whose_process_is_gone_is_shown_as_interrupted(board: Make, shelf: Any, training: Any) -> None:
    client = board("localhost")
    assert client.get("/live").headers["x-running"] == "1"
    lock = shelf.store.scratch / "locks" / "run-alive-20260101-000000-0000"
    held = lock.read_text()
    lock.unlink()
    lock.write_text(held)
    assert client.get("/live").headers["x-running"] == "0"
    assert "interrupted" in client.get("/runs").text
    assert shelf.ledger.run("alive").status == "running"


def test_words_that_differ_are_marked_and_nothing_is_lost() -> None:
    first, second = "Tom has 12 apples.\nSo 19.", "Tom has 12 pears.\nSo  19."
    left, right = differing(first, second)
    assert "".join(t for t, _ in left) == first and "".join(t for t, _ in right) == second
    assert [t for t, differs in left if differs] == ["apples.\n"] and [t for t, differs in right if differs] == ["pears.\n"]
    assert cut("x" * (LIMIT + 7)).endswith("7 more characters")


def test_hits_are_claims_and_comparisons_first_and_quote_what_a_reader_wrote(board: Make, shelf: Any) -> None:
    hits = search(Records(shelf.store, shelf.ledger), Claims.of(shelf.claims).found, "a")
    kinds = [hit.kind for hit in hits]
    assert set(kinds) == set(KINDS) and kinds == sorted(kinds, key=KINDS.index)
    assert hits[0].verdict == "reproduced"
    (found,) = search(Records(shelf.store, shelf.ledger), (), "hiding")
    assert found.around == ("", "hiding", " words") and found.verdict == "masked <i> loses to plain"
    page = board("localhost").get("/search?q=a").text
    assert (
        "<details open><summary>1 race<" in page
        and "<details><summary>18 steps" in page
        and "<details open><summary>1 claim<" in page
    )


def test_what_a_greedy_soup_left_out_is_no_ingredient_in_the_lineage() -> None:
    def step(name: str, section: str = "train", **more: Any) -> Step:
        blank: dict[str, Any] = {"inputs": {}, "settings": {}, "receipt": {}}
        return Step("r", 0, name, section, f"id-{name}", "done", **{**blank, **more})

    inputs = {"models.0": "id-slow", "models.1": "id-middle", "models.2": "id-fast"}
    receipt = {"models": ["fast", "slow"], "weights": [0.75, 0.25], "ingredients": ["fast", "slow"]}
    soup = step("soup", "edit", inputs=inputs, settings={"models": ["slow", "middle", "fast"]}, receipt=receipt)
    graph = graph_of([step("slow"), step("middle"), step("fast"), soup])
    assert {a: w for (a, _), w in graph.weights.items()} == {"id-slow": 0.25, "id-middle": 0.0, "id-fast": 0.75}
    drawn = draw(graph)
    assert drawn.count("stroke-dasharray") == 2 and "tried, not used" in drawn  # its arrow, and the legend
    assert "× 0.75" in drawn and "× 0.25" in drawn and "× 0<" not in drawn
    whole = graph_of([step("slow"), step("middle"), step("fast"), replace(soup, receipt={})])
    assert len(whole.edges) == 3 and "stroke-dasharray" not in draw(whole)


def test_progress_is_read_as_written_also_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def log(step: int, loss: float) -> StepLog:
        return StepLog(step, None, loss, {}, 1.0, 1e-3, 100, 100, 0.01)

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    folder = tmp_path / "identity"
    assert read_progress(folder) == []
    killed = ProgressFile(folder)
    for step in (1, 2, 3, 4):
        killed(log(step, 1.0))
    with (folder / FILE).open("a") as half:
        half.write('{"step": 5, "lo\n')
    again = ProgressFile(folder)
    again(log(3, float("nan")))
    assert [p["step"] for p in read_progress(folder)] == [1, 2, 3]
    assert read_progress(folder)[-1]["loss"] != read_progress(folder)[-1]["loss"]


def test_progress_is_thinned_and_a_full_disk_does_not_stop_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry, now = StepLog(1, None, 1.0, {}, 1.0, 1e-3, 100, 100, 0.01), 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    file = ProgressFile(tmp_path / "identity")
    for second in range(0, 100_000, 10):
        now = float(second) + 1
        file(replace(entry, step=second + 1))
    assert 2000 < len(read_progress(tmp_path / "identity")) < 5500  # of 10,000

    blocked = ProgressFile(tmp_path / "none" / "identity")
    blocked(entry)
    now += 100
    blocked(entry)
    assert caplog.text.count("progress is no longer shown") == 1


def test_the_command_says_where_it_serves_and_ends_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whet", "board", "--port", "0", "--json"]
    environment = {**os.environ, "WHET_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout and process.stderr
        said = json.loads(process.stdout.readline())
        assert said["token"] is None and said["address"].startswith("http://127.0.0.1:")
        with urllib.request.urlopen(said["address"], timeout=60) as answer:
            assert "whet run quickstart" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0 and process.stderr.read() == ""


def test_what_is_missing_or_taken_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--host", "203.0.113.1", "--port", "0"]) == 2
    assert "cannot listen on 203.0.113.1" in capsys.readouterr().err
    assert main(["board", "--port", "99999"]) == 2
    assert "--port 99999: a port lies between 0" in capsys.readouterr().err
    assert main(["board", "--claims", "nowhere"]) == 2
    assert "--claims nowhere: there is no such folder" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["board"]) == 2
    assert "pip install 'whet[board]'" in capsys.readouterr().err
