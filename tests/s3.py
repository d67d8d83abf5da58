"""An S3 server for tests, in a process of its own, with buckets in memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import boto3

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def served(*, lists: str = "", **environment: str) -> Iterator[str]:
    """The address of a server that runs for the duration of the block. With `lists` it lists only that prefix of
    every bucket."""
    port = free_port()
    usual, narrow = ["moto.server", "-H", "127.0.0.1", "-p", str(port)], ["tests.narrow_s3", str(port), lists]
    server = subprocess.Popen(
        [sys.executable, "-m", *(narrow if lists else usual)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
    )
    try:
        for _ in range(600):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def bucket(address: str, name: str) -> str:
    """A new bucket, as a URL."""
    client = boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"


class Connection:
    """A connection to a server that can be cut: from `cut_at` to `mend`, requests that contain the word are not
    passed on, and their sockets are closed; `cut` is set by the first."""

    def __init__(self, address: str) -> None:
        self.target = ("127.0.0.1", int(address.rpartition(":")[2]))
        self.word: bytes | None = None
        self.cut = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, word: str) -> None:
        self.word = word.encode()

    def mend(self) -> None:
        self.word = None

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                there = socket.create_connection(self.target)
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client, there, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with closing(source), closing(sink), suppress(OSError):
            while data := source.recv(2**16):
                if asks and self.word is not None and self.word in data:
                    self.cut.set()
                    return
                sink.sendall(data)
