"""Sends each line of stdin, and prints what becomes of it."""

import os
import ssl
import sys

import poolinit

tls = None
if "CA" in os.environ:
    tls = ssl.create_default_context(cafile=os.environ["CA"])
try:
    client = poolinit.Client(sys.argv[1], timeout=float(os.environ.get("TIMEOUT", "60")),
                             connect_timeout=float(os.environ.get("CONNECT_TIMEOUT", "60")), tls=tls)
except ValueError as e:
    sys.exit(str(e))
with client:
    for line in sys.stdin:
        try:
            print(client.send(line.rstrip("\n")).decode(), flush=True)
        except poolinit.Failure as e:
            print("failure", e.code, e.text, flush=True)
        except OSError as e:
            print("error", type(e).__name__.lstrip("_"), e, flush=True)
