"""A worker of which each message takes 10 ms."""

import asyncio
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../sdk/python"))

import poolinit

pool = poolinit.Pool()


@pool.on_message
async def message(body):
    await asyncio.sleep(0.01)
    return body


pool.start()
