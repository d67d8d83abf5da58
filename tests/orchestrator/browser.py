"""A headless Chromium that opens a page and records its errors, requests, sizes and a screenshot."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds, for a browser on a busy machine


def browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Seen:
    """A loaded page: the URLs requested, its errors and messages, the result of a script, a PNG."""

    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    picture: bytes = b""
    printed: bytes = b""


def visit(
    file: Path | str,
    folder: Path,
    *,
    width: int = 1280,
    dark: bool = False,
    ask: dict[str, str] | None = None,
    picture: bool = False,
    printed: bool = False,
) -> Seen:
    """Open `file`, or a URL, in a window `width` pixels wide, wait until it has loaded, and evaluate each expression of `ask`.
    `folder` is where the browser keeps what is its own."""
    return asyncio.run(_visit(file, folder, width, dark, ask or {}, picture, printed))


async def _visit(
    file: Path | str, folder: Path, width: int, dark: bool, ask: dict[str, str], picture: bool, printed: bool
) -> Seen:
    process = _start(folder)
    try:
        async with aiohttp.ClientSession() as session:
            where = await _address(folder, session)
            async with session.ws_connect(where, max_msg_size=0) as socket:
                call, seen = _talker(socket)
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
                await call("Emulation.setDeviceMetricsOverride", **size)
                scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                await call("Emulation.setEmulatedMedia", features=[scheme])
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await call(f"{domain}.enable")
                await call("Page.navigate", url=file if isinstance(file, str) else file.resolve().as_uri())
                ready = (
                    "new Promise(r => document.readyState == 'complete' ? r(1) : addEventListener('load', r))"
                )
                await _evaluate(call, ready)
                seen.results = {name: await _evaluate(call, text) for name, text in ask.items()}
                if picture:
                    answer = await call("Page.captureScreenshot", captureBeyondViewport=True)
                    seen.picture = base64.b64decode(answer["data"])
                if printed:
                    answer = await call("Page.printToPDF", preferCSSPageSize=True)
                    seen.printed = base64.b64decode(answer["data"])
                return seen
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    options += ["--disable-quic", "--disable-background-networking"]  # it asks for nothing but the page
    options += ["--disable-component-update", "--disable-sync"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    command = [browser() or "chromium", *options]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, "HOME": str(folder)})


async def _address(folder: Path, session: aiohttp.ClientSession) -> str:
    """Of the browser's one page."""
    port_file = folder / "DevToolsActivePort"
    async with asyncio.timeout(PATIENCE):
        while not port_file.exists() or not port_file.read_text().strip():
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [one for one in await answer.json() if one["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])


Call = Callable[..., Awaitable[dict[str, Any]]]


def _talker(socket: aiohttp.ClientWebSocketResponse) -> tuple[Call, Seen]:
    """A function that sends a command and waits for its answer, and what is seen on the way."""
    seen, numbers = Seen(), itertools.count(1)

    async def call(method: str, **params: Any) -> dict[str, Any]:
        number = next(numbers)
        await socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await socket.receive_json()
                if message.get("id") == number:
                    assert "error" not in message, message
                    return dict(message["result"])
                _note(message, seen)

    return call, seen


def _note(message: dict[str, Any], seen: Seen) -> None:
    method, params = message["method"], message["params"]
    if method == "Network.requestWillBeSent":
        seen.requests.append(params["request"]["url"])
    elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
        seen.messages.append(str(params))


async def _evaluate(call: Call, text: str) -> Any:
    answer = await call("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")
