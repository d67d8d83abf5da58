"""A connection to a server that can be cut, or go silent while it stays open, and be restored."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Cable:
    """`address` is that of the server. Connections that were open before a fault stay lost after it."""

    def __init__(self, address: str) -> None:
        self.target = ("127.0.0.1", int(address.rpartition(":")[2]))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._in, self._age = True, 0  # connections of another age transmit nothing
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        """Break every connection, and new ones too."""
        self._in = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def die(self) -> None:
        """Keep connections open and accept new ones, but transmit nothing."""
        self._age += 1
        self._in = False

    def mend(self) -> None:
        self._in = True

    def close(self) -> None:
        self.pull()
        for end in (self._server, *self._ends):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._ends.append(client)
                if self._in:
                    self._join(client)
                elif not self._age:
                    client.shutdown(socket.SHUT_RDWR)

    def _join(self, client: socket.socket) -> None:
        there = socket.create_connection(self.target)
        self._ends.append(there)
        for ends in ((client, there), (there, client)):
            threading.Thread(target=self._pass, args=(*ends, self._age), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, age: int) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                if age == self._age:
                    sink.sendall(data)
            if age == self._age:
                sink.shutdown(socket.SHUT_RDWR)
