"""What the tests of the Python SDK run. A message's first word says what becomes of it."""

import os
import subprocess
import sys
import threading
import time

import poolinit

pool = poolinit.Pool(2, healthy_after="0s", max_message=os.environ.get("MAX_MESSAGE"))
if os.environ.get("POOL_URL"):
    pool.listen(os.environ["POOL_URL"])


def await_file(name):
    print("waiting")
    while not os.path.exists(name):
        time.sleep(0.005)


@pool.on_start
def start():
    print("start")


@pool.on_worker_start
def worker_start(worker_id):
    if os.environ.get("START") in ("fails", f"fails {pool.generation}"):
        raise ValueError("no database")
    print(f"up worker={worker_id} of={pool.workers} generation={pool.generation} pid={os.getpid()}")
    while os.environ.get("START") == "loops":
        time.sleep(3600)
    if os.environ.get("START") == "again":
        pool.start()


@pool.on_worker_stop
def worker_stop(worker_id):
    assert worker_id == pool.worker_id
    print(f"down worker={worker_id}")


@pool.on_shutdown
def shutdown():
    print("shutdown", pool.worker_id)


def message(body):
    word, _, rest = body.decode(errors="replace").partition(" ")
    if word == "refuse":
        raise poolinit.Refuse(rest)
    if word == "fail":
        raise ValueError(rest)
    if word == "exit":
        sys.exit(int(rest))
    if word == "stop":
        pool.stop()
    if word == "shutdown":
        pool.shutdown()
    if word == "write":
        pool.write("wrote ")
        return rest
    if word == "print":
        print("printed:", rest)
    if word == "none":
        return None
    if word == "wrong":
        return {}
    if word == "big":
        return b"x" * int(rest)
    if word == "pid":
        return str(os.getpid())
    if word == "wait":
        await_file(rest)
    if word == "detach":
        pool.detach("detached")
        await_file(rest)
    if word == "loop":
        print("looping")
        while True:
            pass
    if word == "notify":
        return str(pool.notify(rest)).lower()
    if word == "child":
        return subprocess.run(["sh", "-c", "env; ls -l /proc/self/fd"], stdout=subprocess.PIPE, check=True).stdout
    if word == "fork":
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    if word == "threads":
        return str(threading.active_count())
    return body


if os.environ.get("START") != "loops":
    pool.on_message(message)
pool.start()
