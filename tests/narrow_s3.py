"""An S3 server for a role that may list only a prefix of each bucket: `python -m tests.narrow_s3 PORT PREFIX`.

Amazon then says "forbidden" of an object that is not there, and of a list that begins elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def narrow(app: App, prefix: str) -> App:
    """The same application, with the answers of S3 to a role that may list only `prefix/`."""

    def answer(environ: dict[str, Any], begin: Callable[..., Any]) -> Iterable[bytes]:
        path, asked = environ["PATH_INFO"].strip("/"), environ["REQUEST_METHOD"]
        query = parse_qs(environ.get("QUERY_STRING", ""))
        reads = asked in ("GET", "HEAD")
        lists = reads and "/" not in path and "location" not in query
        begins = query.get("prefix", [""])[0]
        if path and lists and begins != prefix and not begins.startswith(f"{prefix}/"):
            return refused(asked, begin)
        head: list[Any] = []
        body = list(app(environ, lambda *words: head.extend(words)))
        if reads and "/" in path and str(head[0]).startswith("404"):
            return refused(asked, begin)
        begin(*head)
        return body

    def refused(asked: str, begin: Callable[..., Any]) -> Iterable[bytes]:
        begin("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(FORBIDDEN)))])
        return [] if asked == "HEAD" else [FORBIDDEN]

    return answer


if __name__ == "__main__":
    app = narrow(DomainDispatcherApplication(create_backend_app), sys.argv[2])
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
