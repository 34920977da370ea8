"""Sends each line of stdin by the client for asyncio, and prints what becomes of it. With PARALLEL they are all on the
way at once."""

import asyncio
import os
import ssl
import sys

import poolinit


async def send(client, line):
    try:
        print((await client.send(line.rstrip("\n"))).decode(), flush=True)
    except poolinit.Failure as e:
        print("failure", e.code, e.text, flush=True)
    except OSError as e:
        print("error", type(e).__name__.lstrip("_"), e, flush=True)


async def main():
    tls = None
    if "CA" in os.environ:
        tls = ssl.create_default_context(cafile=os.environ["CA"])
    try:
        client = poolinit.AsyncClient(sys.argv[1], timeout=float(os.environ.get("TIMEOUT", "60")),
                                      connect_timeout=float(os.environ.get("CONNECT_TIMEOUT", "60")), tls=tls)
    except ValueError as e:
        sys.exit(str(e))
    loop = asyncio.get_running_loop()
    async with client:
        sends = []
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            sends.append(asyncio.ensure_future(send(client, line)))
            if "PARALLEL" not in os.environ:
                await sends.pop()
        await asyncio.gather(*sends)


asyncio.run(main(), debug="DEBUG" in os.environ)
