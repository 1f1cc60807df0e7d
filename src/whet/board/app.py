"""The board's addresses. Every answer is made anew from the ledger and the store."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from whet.board import comparing, live, pages, pairs, racing
from whet.board.guard import Access, Guard
from whet.board.records import PAGES, Records
from whet.board.searching import KINDS, MOST, search
from whet.errors import WhetError
from whet.run.ledger import Ledger
from whet.run.store import Store

HERE = Path(__file__).parent
STATIC = {
    "style.css": HERE.parent / "run" / "templates" / "style.css",
    **{name: HERE / "static" / name for name in ("board.css", "board.js", "icon.svg")},
}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; sandbox"
"""For the pages that runs wrote: whole in themselves, with styles but without scripts."""


def make_app(store: Store, ledger: Ledger, claims: Path | None, access: Access) -> Starlette:
    """The board as an ASGI application.

    Args:
        store, ledger: what it shows.
        claims: folder of the claims' files, if there is one.
        access: who may read.
    """
    board = _Board(Records(store, ledger), claims)
    routes = {
        "/": board.start,
        "/live": board.live,
        "/runs": board.runs,
        "/runs/{id}": board.run,
        "/runs/{id}/pair": board.run_pair,
        "/comparisons": board.comparisons,
        "/comparisons/{id}": board.comparison,
        "/comparisons/{id}/pair": board.comparison_pair,
        "/races": board.races,
        "/races/{id}": board.race,
        "/claims": board.claims,
        "/claims/{paper}": board.claim,
        "/models/{identity}": board.model,
        "/search": board.search,
        "/pages/{id}/{name}": board.page,
        "/static/{name}": board.static,
        "/favicon.ico": lambda _: FileResponse(STATIC["icon.svg"]),
    }
    return Starlette(
        routes=[Route(path, endpoint) for path, endpoint in routes.items()],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: board.refused, WhetError: board.failed},
    )


class _Board:
    """One method per address."""

    def __init__(self, records: Records, claims: Path | None) -> None:
        self._records, self._claims = records, claims
        loader = jinja2.FileSystemLoader([HERE / "templates", HERE.parent / "run" / "templates"])
        self._templates = jinja2.Environment(
            loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        self._templates.filters["path"] = lambda text: quote(str(text), safe="")

    def start(self, request: Request) -> Response:
        races = [racing.listed(self._records, r) for r in self._records.races()[:5]]
        return self._page("start.html", {"races": races, **pages.start_page(self._records, self._read_claims())})

    def live(self, request: Request) -> Response:
        """What is under way as a piece of a page, asked for again and again by the script."""
        asked = request.query_params
        found = live.under_way(self._records, asked.get("run"), asked.get("within"))
        return self._page("live.html", {"live": found}, headers={"X-Running": str(len(found))})

    def runs(self, request: Request) -> Response:
        asked = request.query_params.get("page", "0")
        return self._page("runs.html", pages.runs_page(self._records, int(asked) if asked.isdecimal() else 0))

    def run(self, request: Request) -> Response:
        run = _known(self._records.run(request.path_params["id"]), "run")
        return self._page("run.html", pages.run_page(self._records, run))

    def run_pair(self, request: Request) -> Response:
        run = _known(self._records.run(request.path_params["id"]), "run")
        task, a, b = _asked(request)
        first, second = (self._records.results([(run.seed, run.id)], task, stage) for stage in (a, b))
        return self._pair(request, (a, b), (first, second), ("run", f"/runs/{quote(run.id)}", run.id), ())

    def comparisons(self, request: Request) -> Response:
        found = [pages.listed(self._records, c) for c in self._records.comparisons()]
        return self._page("comparisons.html", {"comparisons": found})

    def comparison(self, request: Request) -> Response:
        record = _known(self._records.comparison(request.path_params["id"]), "comparison")
        return self._page("comparison.html", comparing.comparison_page(self._records, record))

    def comparison_pair(self, request: Request) -> Response:
        record = _known(self._records.comparison(request.path_params["id"]), "comparison")
        task, a, b = _asked(request)
        variants = record.result.get("variants", {})
        _known((a in variants and b in variants) or None, "variant")
        first, second = (self._records.results(comparing.runs_of(record, name), task) for name in (a, b))
        verdicts = [v for v in record.result["verdicts"] if v["task"] == task and {v["first"], v["second"]} == {a, b}]
        return self._pair(
            request, (a, b), (first, second), ("comparison", f"/comparisons/{quote(record.id)}", record.id), verdicts
        )

    def races(self, request: Request) -> Response:
        return self._page("races.html", {"races": [racing.listed(self._records, r) for r in self._records.races()]})

    def race(self, request: Request) -> Response:
        record = _known(self._records.race(request.path_params["id"]), "race")
        return self._page("race_page.html", racing.race_page(self._records, record))

    def claims(self, request: Request) -> Response:
        return self._page("claims.html", pages.claims_page(self._read_claims()))

    def claim(self, request: Request) -> Response:
        named = {c.paper: c for c in self._read_claims().found}
        claim = _known(named.get(request.path_params["paper"]), "claim")
        return self._page("claim.html", pages.claim_page(self._records, claim))

    def model(self, request: Request) -> Response:
        found = pages.model_page(self._records, request.path_params["identity"])
        return self._page("model.html", _known(found, "artifact"))

    def search(self, request: Request) -> Response:
        query = request.query_params.get("q", "").strip()[:200]
        hits = search(self._records, self._read_claims().found, query)
        kinds = [(kind, several) for kind in KINDS if (several := [h for h in hits if h.kind == kind])]
        return self._page("search.html", {"query": query, "number": len(hits), "kinds": kinds, "most": MOST})

    def page(self, request: Request) -> Response:
        """A page that a run, comparison or race wrote."""
        identity, name = request.path_params["id"], request.path_params["name"]
        known = self._records.run(identity) or self._records.comparison(identity) or self._records.race(identity)
        _known(known if name in PAGES and name in self._records.pages(identity) else None, "page")
        path = self._records.store.scratch / "runs" / identity / name
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    def static(self, request: Request) -> Response:
        return FileResponse(_known(STATIC.get(request.path_params["name"]), "file"))

    def refused(self, request: Request, error: Exception) -> Response:
        """Nothing is at this address."""
        assert isinstance(error, HTTPException)
        return self._page("error.html", {"text": error.detail}, status=error.status_code)

    def failed(self, request: Request, error: Exception) -> Response:
        """The ledger or the store cannot be read."""
        return self._page("error.html", {"text": str(error)}, status=500)

    def _pair(
        self,
        request: Request,
        names: tuple[str, str],
        results: tuple[pairs.Results, pairs.Results],
        owner: tuple[str, str, str],
        verdicts: Any,
    ) -> Response:
        data = comparing.pair_page(names, results, request.query_params)
        if data is None:
            gone = "the outcomes of these two are no longer in the store, or were taken on different items; the verdict remains"
            raise HTTPException(404, gone)
        told = [{**v, "words": comparing.in_words(v)} for v in verdicts]
        return self._page("pair.html", {**data, "owner": owner, "verdicts": told, "task": request.query_params["task"]})

    def _read_claims(self) -> pages.Claims:
        return pages.Claims.of(self._claims)

    def _page(
        self, template: str, data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        has_claims = self._claims is not None
        return HTMLResponse(
            self._templates.get_template(template).render(has_claims=has_claims, **data), status, dict(headers or {})
        )


def _known(found: Any, kind: str) -> Any:
    """What was found.

    Raises:
        HTTPException: nothing was.
    """
    if found is None:
        raise HTTPException(404, f"There is no such {kind} in this ledger.")
    return found


def _asked(request: Request) -> tuple[str, str, str]:
    """The task and both names that a pair's address has."""
    values = tuple(request.query_params.get(name) for name in ("task", "a", "b"))
    with contextlib.suppress(ValueError):
        task, a, b = (value for value in values if value is not None)
        return task, a, b
    raise HTTPException(404, "The address of a pair has task, a and b.")
