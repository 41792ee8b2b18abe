"""The operator's port: `/metrics` (Prometheus), `/livez`, `/readyz`. It runs in a thread of its own, so a busy event
loop still answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from mainspring_svckit.health import Health

StartResponse = Callable[..., Any]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so.
        """Says nothing; probes would fill the log."""


class OpsServer:
    """Serves the operator's port until closed."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        """Binds at once.

        Args:
            health: What `/readyz` tells.
            host: Address to bind.
            port: Port to bind; 0 takes a free one.
        """
        metrics = make_wsgi_app()

        def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            match environ.get("PATH_INFO"):
                case "/metrics":
                    return metrics(environ, start_response)
                case "/livez":
                    return _answer(start_response, "200 OK", {"live": True})
                case "/readyz":
                    status = "200 OK" if health.ready else "503 Service Unavailable"
                    return _answer(start_response, status, {"ready": health.ready, "failing": dict(health.failing)})
                case _:
                    return _answer(start_response, "404 Not Found", {"error": "there are /metrics, /livez and /readyz"})

        self._server = make_server(host, port, app, _Server, _QuietHandler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="ops", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _answer(start_response: StartResponse, status: str, body: dict[str, Any]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(body).encode()]
