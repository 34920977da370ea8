"""A worker that appends each message to a list in Redis, and answers how long the
list is now. compose.yaml runs it.

A message that Redis did not take is delivered again, and given up in the end: then
poolinit keeps it in its spool.
"""

import os
import socket
from typing import BinaryIO, Optional

import poolinit

HOST = os.environ.get("REDIS_HOST", "redis")
LIST = os.environ.get("REDIS_LIST", "messages")

pool = poolinit.Pool()
redis: Optional[BinaryIO] = None


def command(*words: bytes) -> bytes:
    """Sends one command, and returns the line that answers it. A worker has one
    message in hand, so one connection does."""
    global redis
    if redis is None:
        redis = socket.create_connection((HOST, 6379), timeout=5).makefile("rwb")
    try:
        redis.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        redis.flush()
        line = redis.readline().rstrip()
    except OSError:
        redis = None
        raise
    if not line.startswith(b":"):
        redis = None
        raise RuntimeError(f"redis says {line!r}")
    return line[1:]


@pool.on_message
def message(body: bytes) -> bytes:
    return command(b"RPUSH", LIST.encode(), body)


pool.start()
