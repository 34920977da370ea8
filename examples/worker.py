#!/usr/bin/env python3
"""A worker that writes its own loop, in Python.

    poolinit -n 4 --ready notify --output prefix -- examples/worker.py
"""

import os
import signal
import socket
import threading

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())


def tell(text):
    """sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names."""
    name = os.environ.get("NOTIFY_SOCKET")
    if name:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(text.encode(), name.replace("@", "\0", 1))


def say(text):
    print(text, flush=True)  # stdout is a pipe, which Python would buffer


# Here a real worker would connect to its queue.
tell("READY=1\nSTATUS=waiting for jobs")
env = os.environ
say("started: worker {POOLINIT_WORKER_ID} of {POOLINIT_WORKERS}, generation {POOLINIT_GENERATION}, pid {0}".format(os.getpid(), **env))

jobs = 0
while not stopping.wait(2):  # stands for waiting for a job
    jobs += 1
    say(f"job {jobs} done")
say(f"stopping after {jobs} jobs")
tell("STOPPING=1")
