"""Who may read the board, and what a browser may do with its pages.

A page of another site can make a browser ask any address of this machine. So a request counts only if it names this board as
its host (a name that an attacker points here is refused), and pages may load, embed and run nothing but the board's own files.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+)(:\d{1,5})?")


@dataclass(frozen=True)
class Access:
    """``names``: what this board is called in a request. ``token``: what a reader has to know, on an address that others reach."""

    names: frozenset[str]
    token: str | None

    @classmethod
    def to(cls, host: str) -> Access:
        """For a board that listens on ``host``; makes a token where that is no loopback address."""
        if is_loopback(host):
            return cls(frozenset({"localhost"}), None)
        own = {"localhost", host, socket.gethostname(), socket.getfqdn()}
        return cls(frozenset(name.lower() for name in own), secrets.token_urlsafe(24))

    def means_this(self, header: str) -> bool:
        """Whether a ``Host`` header speaks of this board: one of its names, or an address, which nobody can point elsewhere."""
        found = _HOST.fullmatch(header)
        name = found[1].strip("[]").lower().rstrip(".") if found else ""
        if self.token is None:
            return name in self.names or (_is_address(name) and is_loopback(name))
        return name in self.names or _is_address(name)

    def admits(self, *given: str | None) -> bool:
        """Whether one of these is the token; the time it takes says nothing about it."""
        if self.token is None:
            return True
        return any(hmac.compare_digest((candidate or "").encode(), self.token.encode()) for candidate in given)

    @property
    def cookie(self) -> str:
        """The cookie's name: boards on several ports of one machine share their cookies."""
        return f"whet-{hashlib.sha256((self.token or '').encode()).hexdigest()[:8]}"


class Guard:
    """Lets through what :class:`Access` admits, and only reading; adds the headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._answer(Request(scope)) or self._app)(scope, receive, with_headers)

    def _answer(self, request: Request) -> Response | None:
        """A refusal, or the way past the token; ``None`` for what may go through."""
        access = self._access
        if not access.means_this(request.headers.get("host", "")):
            return PlainTextResponse("This board is not known by that name; use its address, or localhost.", 400)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("The board only shows.", 405, {"Allow": "GET, HEAD"})
        given = request.query_params.get("token")
        header = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not access.admits(given, header, request.cookies.get(access.cookie)):
            return PlainTextResponse("This board asks for its token: open the address that whet board printed.", 401)
        if access.token is None or given is None:
            return None
        # The token leaves the address bar, where it would be seen, kept and passed on.
        clean = request.url.remove_query_params("token")
        past = RedirectResponse(f"{clean.path}?{clean.query}" if clean.query else clean.path, 303)
        past.set_cookie(access.cookie, access.token, httponly=True, samesite="strict")
        return past


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
