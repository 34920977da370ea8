"""What the tests of tagged messages run. A message's first word says what becomes of it."""

import asyncio
import os
import sys
import time

import poolinit

pool = poolinit.Pool(1, healthy_after="0s", concurrency=os.environ.get("CONCURRENCY"))
if os.environ.get("POOL_URL"):
    pool.listen(os.environ["POOL_URL"])


@pool.on_worker_start
def worker_start(worker_id):
    print(f"up worker={worker_id} of={pool.workers} generation={pool.generation}")


@pool.on_worker_stop
def worker_stop(worker_id):
    print(f"down worker={worker_id}")


async def fail_later():
    raise ValueError("in the background")


def answer(body, meta):
    word, _, rest = body.decode(errors="replace").partition(" ")
    if word == "refuse":
        raise poolinit.Refuse(rest)
    if word == "retry":
        raise poolinit.Retry(float(rest), "not yet")
    if word == "retry-text":
        raise poolinit.Retry(rest, "not yet")
    if word == "retry-first" and meta.attempt == 1:
        raise poolinit.Retry(rest, "not yet")
    if word == "fail":
        raise ValueError(rest)
    if word == "odd":
        raise asyncio.CancelledError("odd")
    if word == "wrong":
        return {}
    if word == "none":
        return None
    if word == "exit":
        sys.exit(int(rest))
    if word == "stop":
        pool.stop()
    if word == "write":
        pool.write("wrote ")
        return rest
    if word == "meta":
        when = [f"{t.timestamp():.3f}" if t else "None" for t in (meta.time, meta.deadline)]
        return "|".join([meta.id, str(meta.attempt), meta.source, meta.key, *when, meta.headers.get("a", "")])
    if word == "attempt":
        return f"{meta.attempt} {meta.source} {bool(meta.id)} {bool(meta.time)}"
    if word == "touch":
        return str(meta.touch()).lower()
    if word == "touch-pool":
        return str(pool.touch()).lower()
    if word == "concurrency":
        return str(pool.concurrency)
    if word == "detach":
        pool.detach("detached")
    if word == "background":
        asyncio.get_running_loop().create_task(fail_later())
    if word == "fork":
        pid = os.fork()
        if pid == 0:
            return "from the child"
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return body


if os.environ.get("MODE") == "async":

    @pool.on_message
    async def message(body, meta):
        word, _, rest = body.decode(errors="replace").partition(" ")
        if word == "wait":
            print("waiting")
            while not os.path.exists(rest):
                await asyncio.sleep(0.005)
        if word == "sleep":
            await asyncio.sleep(float(rest))
        if word == "touching":
            for _ in range(5):
                await asyncio.sleep(float(rest))
                meta.touch()
        if word == "never":
            print("waiting")
            await asyncio.get_running_loop().create_future()
        return answer(body, meta)

else:

    @pool.on_message
    def message(body, meta):
        word, _, rest = body.decode(errors="replace").partition(" ")
        if word == "wait":
            print("waiting")
            while not os.path.exists(rest):
                time.sleep(0.005)
        if word == "sleep":
            time.sleep(float(rest))
        if word == "touching":
            for _ in range(5):
                time.sleep(float(rest))
                meta.touch()
        if word == "never":
            print("waiting")
            time.sleep(1e6)
        return answer(body, meta)


pool.start()
