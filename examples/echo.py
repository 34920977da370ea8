#!/usr/bin/env python3
"""A worker in Python, with nothing but the socket on fd 3: it answers each
message with itself. An empty one it refuses.

    poolinit -n 4 --listen tcp://127.0.0.1:8089 -- examples/echo.py
    echo hello | poolinit send tcp://127.0.0.1:8089
"""

import os
import signal
import socket
import struct
import sys

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it follows the end of the messages, which ends the loop
channel = socket.socket(fileno=int(os.environ["POOLINIT_FD"]))
channel.set_inheritable(False)  # a child that held it would hide our end
reader = channel.makefile("rb")


def handle(body):
    """Returns the reply; an exception is a failure."""
    if not body:
        raise ValueError("there is nothing in it")
    return body


def answer(body, failure=0):
    channel.sendall(struct.pack(">I", len(body) | failure << 31) + body)


env = os.environ
print("started: worker {POOLINIT_WORKER_ID} of {POOLINIT_WORKERS}, generation {POOLINIT_GENERATION}, pid {0}".format(os.getpid(), **env), flush=True)
n = 0
while header := reader.read(4):
    message = reader.read(struct.unpack(">I", header)[0])
    n += 1
    try:
        answer(handle(message))
    except ValueError as e:  # it will not get better
        answer(b"refused: " + str(e).encode(), failure=1)
    except Exception as e:  # worth another attempt
        print(repr(e), file=sys.stderr)
        answer(b"error: " + str(e).encode(), failure=1)
print(f"stopping after {n} messages", flush=True)
