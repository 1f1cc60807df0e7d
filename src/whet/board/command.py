"""Serves the board until it is stopped."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from importlib import util
from pathlib import Path

from whet.errors import WhetError
from whet.run.ledger import Ledger
from whet.run.store import Store


def serve(host: str, port: int, claims: str | None, *, as_json: bool = False) -> None:
    """Serves the ledger of ``$WHET_HOME`` and says where.

    Args:
        host: the address to listen on. On any but a loopback one readers need the token that is printed.
        port: 0 takes a free one.
        claims: folder of the claims' files; default ``claims`` where there is one.
        as_json: print the address and the token as JSON.

    Raises:
        WhetError: the extra is not installed, the address cannot be listened on, or the folder is not there.
    """
    missing = [name for name in ("starlette", "uvicorn") if util.find_spec(name) is None]
    if missing:
        raise WhetError(f"whet board needs {' and '.join(missing)}; pip install 'whet[board]'")
    import uvicorn

    from whet.board.app import make_app
    from whet.board.guard import Access

    if not 0 <= port < 65536:
        raise WhetError(f"--port {port}: a port lies between 0 (any free one) and 65535")
    folder = Path(claims or "claims")
    if claims and not folder.is_dir():
        raise WhetError(f"--claims {claims}: there is no such folder")
    store = Store.open()
    with _listen(host, port) as listener:
        access = Access.to(host)
        app = make_app(store, Ledger.beside(store.scratch), folder if folder.is_dir() else None, access)
        taken = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{taken}/"
        if as_json:
            print(json.dumps({"address": address, "token": access.token}), flush=True)
        else:
            print(_welcome(address, access.token), flush=True)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=1
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # From here on who is told the address is not refused, only waits.
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        raise WhetError(f"cannot listen on {host}, port {port}: {error}; --port 0 takes a free port") from error


def _welcome(address: str, token: str | None) -> str:
    if token is None:
        return f"board: {address}\nCtrl-C ends it"
    return f"board: {address}?token={token}\nWho has this address can read everything; it is not encrypted on its way. Ctrl-C ends it"
