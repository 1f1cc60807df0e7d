"""A run that trains leaves its curve for the board while it trains, and nothing afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tiny import recipe
from whet.board.app import make_app
from whet.board.guard import Access
from whet.run import progress
from whet.run.ledger import Ledger
from whet.run.runner import run_recipe
from whet.run.store import Store
from whet.run.store_tools import verify_store
from whet.train import loop


def test_a_tiny_run_is_seen_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path / "home"))
    ledger = Ledger.beside(store.scratch)
    client = TestClient(make_app(store, ledger, None, Access.to("localhost")), base_url="http://localhost")
    real, seen = loop.train_step, []

    def look_first(training: Any) -> Any:
        seen.append(client.get("/live").text)
        return real(training)

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(loop, "train_step", look_first)
    run = run_recipe(recipe(steps=5), store=store, quiet=True).run
    assert "train first" in seen[0] and "step 1 of 5" in seen[1] and "step 4 of 5" in seen[4]
    assert "polyline" not in seen[1] and "polyline" in seen[2] and seen[3] != seen[2]

    assert client.get("/live").headers["x-running"] == "0"
    assert not list(store.scratch.rglob(progress.FILE)) and verify_store(store)[0] == []
    page = client.get(f"/runs/{run.id}").text
    assert "polyline" in page and "llama" in page and "first" in page
