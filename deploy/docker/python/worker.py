"""A worker that answers each message in capitals, and refuses an empty one."""

import poolinit

pool = poolinit.Pool()


@pool.on_worker_start
def started(worker_id: int) -> None:
    print(f"worker {worker_id} of {pool.workers} is started")  # here it would connect to its database


@pool.on_message
def message(body: bytes) -> bytes:
    if not body:
        raise poolinit.Refuse("there is nothing in it")
    return body.upper()  # an exception: the message is delivered again


pool.start()
