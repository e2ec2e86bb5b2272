#!/usr/bin/env python3
"""Passes TCP on to one storage server, at no more than so many bytes a second.

usage: slow-way.py FOLDER SAID

The server's address is the first in the file SAID, which has what the server printed, once it did.
FOLDER/rate has the bytes a second, 0 for as many as come, and is read anew all the time. The rate is
of all connections and both directions together. How many bytes were passed on is kept in
FOLDER/passed. It prints where it listens.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time

PIECE_BYTES = 16 * 1024
# What the kernel takes in ahead looks as if it had been sent: little.
BUFFER_BYTES = 64 * 1024
LOOK_EVERY_S = 0.05


class Way:
    def __init__(self, folder, said):
        self.folder = folder
        self.said = said
        self.lock = threading.Lock()
        self.rate = 0
        self.free_at = 0.0
        self.passed = 0

    def server(self):
        with open(self.said) as said:
            host, port = re.search(r"(127\.0\.0\.1):([1-9][0-9]*)", said.read()).groups()
        return host, int(port)

    def watch(self):
        while True:
            with open(os.path.join(self.folder, "rate")) as rate:
                self.rate = int(rate.read())
            part = os.path.join(self.folder, "passed.part")
            with open(part, "w") as file:
                print(self.passed, file=file)
            os.rename(part, os.path.join(self.folder, "passed"))
            time.sleep(LOOK_EVERY_S)

    def wait_for_turn(self, count):
        with self.lock:
            self.passed += count
            now = time.monotonic()
            self.free_at = max(self.free_at, now) + (count / self.rate if self.rate else 0)
            wait = self.free_at - now if self.rate else 0
        if wait > 0:
            time.sleep(wait)

    def carry(self, source, target):
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES if self.rate else 16 * PIECE_BYTES):
                self.wait_for_turn(len(piece))
                target.sendall(piece)
        # Whoever asked may have gone away in the middle.
        for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)

    def join(self, client):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        with client, server, contextlib.suppress(OSError, AttributeError):
            server.connect(self.server())
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asking = threading.Thread(target=self.carry, args=(client, server), daemon=True)
            asking.start()
            self.carry(server, client)
            asking.join()


def main():
    way = Way(*sys.argv[1:])
    listener = socket.socket()
    # Connections have their listener's buffers.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print("127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    threading.Thread(target=way.watch, daemon=True).start()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=way.join, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
