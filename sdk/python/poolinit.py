"""A script that is a pool of worker processes, kept alive by poolinit.

    import poolinit

    pool = poolinit.Pool(4)
    pool.listen("tcp://0.0.0.0:8089?reply=always")

    @pool.on_message
    def handle(message: bytes) -> bytes:
        return message.upper()  # an exception: it is delivered again

    pool.start()

The handler may be an async def, and may take what is known of the message beside
its body: handle(message, meta). Run by hand, start() replaces this process with poolinit, which runs the same
script as its workers; there start() serves messages. It does not return.

A message is handled at least once: if its worker dies or raises an exception, it
is delivered again, up to --attempts times.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from contextvars import ContextVar
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    Awaitable,
    Callable,
    Deque,
    Dict,
    List,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
)

if TYPE_CHECKING:
    # What not every worker needs is imported where it is needed, so that workers start fast.
    import asyncio
    import ssl
    from datetime import datetime, timedelta

__all__ = ["AsyncClient", "Client", "Failure", "Meta", "Pool", "Refuse", "Retry"]

Body = Union[bytes, bytearray, memoryview, str]
Option = Union[str, int, Sequence[str], None]
Reply = Union[Body, None, Awaitable[Optional[Body]]]

_Plain = TypeVar("_Plain", bound=Callable[[], object])
_Numbered = TypeVar("_Numbered", bound=Callable[[int], object])
_Answering = TypeVar("_Answering", bound=Union[Callable[[bytes], Reply], "Callable[[bytes, Meta], Reply]"])
_Some = TypeVar("_Some", bound=Callable[..., object])


class Refuse(Exception):
    """A message handler raises it when the message is at fault: it is not delivered
    again, and the text goes to its client."""


class Retry(Exception):
    """A message handler raises it to get the message again after a time, as one more
    attempt: Retry(30, "the database is locked"). The time is a number of seconds, a
    timedelta, or a duration as poolinit's flags have it, such as "1m30s"."""

    def __init__(self, after: Union[float, str, timedelta], text: str = "") -> None:
        super().__init__(text)
        self.after = _duration(after)
        self.text = text

    def __str__(self) -> str:
        return f"{self.after}: {self.text}"


_DURATION = re.compile(r"0|(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+")


def _duration(after: Union[float, str, timedelta]) -> str:
    """A duration as Go writes it."""
    if isinstance(after, str):
        if _DURATION.fullmatch(after):
            return after
        raise ValueError(f"{after!r} is no duration, such as 30s, 500ms or 1m30s")
    if hasattr(after, "total_seconds"):
        after = after.total_seconds()
    if isinstance(after, bool) or not isinstance(after, (int, float)):
        raise TypeError(f"a time is a number of seconds, a timedelta or a string, not {type(after).__name__}")
    if not 0 <= after <= 1e9:
        raise ValueError(f"a time is from 0 to 1e9 seconds, not {after}")
    return f"{int(after)}s" if after == int(after) else f"{round(after * 1000)}ms"


class Failure(Exception):
    """Client.send raises it when the pool has not handled the message. A program may
    rely on the code (see docs/protocol.md), never on the text. An unknown code means
    the same as GIVEN_UP."""

    STOPPING = "stopping"  # no worker has had it; the clients here send it again by themselves
    SPOOLED = "spooled"  # the pool has stopped, and handles it after its next start
    INTERRUPTED = "interrupted"  # the pool stopped while a worker had it
    GIVEN_UP = "given-up"  # every attempt failed
    REFUSED = "refused"  # the worker refused it
    TOO_BIG = "too-big"  # it is longer than --max-message
    NOT_A_LINE = "not-a-line"  # --deliver lines, and it has an end of line
    EXPIRED = "expired"  # it waited for longer than expires=
    RETRY = "retry"  # send it again after the time that the text begins with
    NOT_TAGGED = "not-tagged"  # the URL has tagged=true at one end only

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class Meta:
    """What is known of a message beside its body. What is not known is empty, 0 or
    None; with --deliver frames and lines that is all of it."""

    __slots__ = ("id", "attempt", "source", "key", "headers", "_time", "_deadline", "_touch")

    def __init__(self, json_object: bytes = b"{}", touch: Callable[[], bool] = lambda: False) -> None:
        import json

        known = json.loads(json_object)
        self.id: str = known.get("id", "")  # the same at each delivery
        self.attempt: int = known.get("attempt", 0)  # 1 at the first delivery
        self.source: str = known.get("source", "")  # the URL that the message came by
        self.key: str = known.get("key", "")
        self.headers: Dict[str, str] = known.get("headers", {})
        self._time: Optional[str] = known.get("time")
        self._deadline: Optional[str] = known.get("deadline")
        self._touch = touch

    def __repr__(self) -> str:
        return f"<Meta id={self.id!r} attempt={self.attempt} source={self.source!r} key={self.key!r}>"

    @property
    def time(self) -> Optional[datetime]:
        """When the message arrived."""
        return _time(self._time)

    @property
    def deadline(self) -> Optional[datetime]:
        """When --message-timeout is over, unless touch() has moved it."""
        return _time(self._deadline)

    def touch(self) -> bool:
        """Begins --message-timeout anew, for this message. Any thread may call it. False:
        nothing was sent, since messages are not tagged or poolinit is gone."""
        return self._touch()


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d):(\d\d))")


def _time(text: Optional[str]) -> Optional[datetime]:
    """RFC 3339. datetime.fromisoformat() takes all of it only from Python 3.11 on."""
    from datetime import datetime, timedelta, timezone

    found = _TIME.fullmatch(text or "")
    if found is None:
        return None
    day, clock, fraction, hours, minutes = found.groups()
    micro = ((fraction or "") + "000000")[:6]
    zone = timezone.utc if hours is None else timezone(timedelta(hours=int(hours), minutes=int(hours[0] + minutes)))
    return datetime.fromisoformat(f"{day}T{clock}.{micro}").replace(tzinfo=zone)


_FAILED = 1 << 31  # of a header: the frame is a failure
_META = 1 << 30  # of a tagged frame's header: there is meta
_MAX_REPLY = 64 << 20  # poolinit's limit
_MAX_TEXT = 4096  # the longest text of a failure
_MAX_META = 64 << 10
_MAX_TAG = (1 << 53) - 1
_MAX_TAGGED = (1 << 30) - (128 << 10)  # the longest body of a tagged frame
_CHUNK = 64 << 10

_header = struct.Struct(">I")
_tagged = struct.Struct(">IQ")

def _bytes(what: object, name: str) -> bytes:
    if isinstance(what, bytes):
        return what
    if isinstance(what, str):
        return what.encode()
    if isinstance(what, (bytearray, memoryview)):
        return bytes(what)
    raise TypeError(f"{name} is bytes or str, not {type(what).__name__}")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(an exception that has no text)"


def _frame(tag: int, body: bytes, failed: int = 0) -> bytes:
    """A frame; a tagged one unless the tag is 0."""
    if tag:
        return _tagged.pack(len(body) + 8 | failed, tag) + body
    return _header.pack(len(body) | failed) + body


def _control(body: bytes) -> bytes:
    return _tagged.pack(len(body) + 8, 0) + body


def _failure(tag: int, code: str, text: str) -> bytes:
    text = text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore")
    return _frame(tag, code.encode() + b": " + text.encode(), _FAILED)


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)  # in one call, so that other lines do not come between
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed, or not there


# A frame from its socket: its tag, its meta, its body, and whether it is a failure.
# The tag is 0 and the meta is None if it has none.
_Received = Tuple[int, Optional[bytes], bytes, bool]


class _Frames:
    """Cuts a stream into frames."""

    def __init__(self, limit: int = 0x7FFFFFFF) -> None:
        self._limit = limit
        self._chunks: List[bytes] = []
        self.have = 0  # bytes that have come and are in no whole frame
        self.want = 1  # how many of them a frame needs at least
        self.control = False  # one of the frames has the tag 0

    def feed(self, chunk: bytes) -> List[_Received]:
        self.have += len(chunk)
        if self._chunks or self.have < self.want:
            self._chunks.append(chunk)
            if self.have < self.want:
                return []
            chunk = b"".join(self._chunks)
        frames, rest = self._cut(chunk)
        self.have = len(rest)
        self._chunks = [rest] if rest else []
        return frames

    def _cut(self, data: bytes) -> Tuple[List[_Received], bytes]:
        """The whole frames, and the rest. It sets what the rest lacks."""
        frames: List[_Received] = []
        unpack, failed = _header.unpack_from, _FAILED
        at, end, stop = 0, len(data), 4
        while end - at >= 4:
            word = unpack(data, at)[0]
            size = word & 0x7FFFFFFF
            stop = at + 4 + size
            if stop > end:
                self._check(size)
                break
            frames.append((0, None, data[at + 4 : stop], word >= failed))
            at = stop
            stop += 4
        self.want = stop - at
        return frames, data[at:]

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise _Garbage("the server sent something that is not a reply")


class _TaggedFrames(_Frames):
    def _cut(self, data: bytes) -> Tuple[List[_Received], bytes]:
        frames: List[_Received] = []
        unpack, failed = _tagged.unpack_from, _FAILED
        at, end = 0, len(data)
        while end - at >= 12:
            word, tag = unpack(data, at)
            start = at + 12
            stop = at + 4 + (word & 0x3FFFFFFF)
            if stop > end or stop < start:
                break
            meta = None
            if word & _META:
                start += 4
                after = start + _header.unpack_from(data, start - 4)[0] if start <= stop else stop + 1
                meta = data[start:after]
                start = after
            if start > stop or tag > _MAX_TAG:
                raise _Garbage("received something that is not a tagged frame")
            if not tag:
                self.control = True
            frames.append((tag, meta, data[start:stop], word >= failed))
            at = stop
        self.want = 4
        if end - at >= 4:
            size = _header.unpack_from(data, at)[0] & 0x3FFFFFFF
            if size < 8:
                raise _Garbage("received something that is not a tagged frame")
            self._check(size - 8)
            self.want += size
        return frames, data[at:]


class _Lines(_Frames):
    def _cut(self, data: bytes) -> Tuple[List[_Received], bytes]:
        *lines, rest = data.split(b"\n")
        self.want = len(rest) + 1
        return [(0, None, line, False) for line in lines], rest


class _Channel:
    """The worker's socket. Many messages are read at a time, and their replies are
    written together; no reply waits longer than a few milliseconds for the others."""

    HOLD = 0.002  # the pause between two checks for a waiting reply
    PATIENCE = 16  # checks without one, after which the thread sleeps
    BATCH = 64 << 10  # the bytes of one write

    def __init__(self, fd: int, deliver: str) -> None:
        self.sock = socket.socket(fileno=fd)
        self.sock.set_inheritable(False)  # an inherited copy would hide this worker's end
        self.sock.setblocking(True)
        self.lines = deliver == "lines"
        self.left = False  # no more replies are written
        self.drains = False  # poolinit has said that no more messages come
        self._in = {"lines": _Lines, "tagged": _TaggedFrames}.get(deliver, _Frames)()
        # The waiting replies. Any thread appends, without the lock; a thread that has it writes.
        self._out: List[bytes] = []
        self._bytes = 0  # about how many are in _out
        self._lock = threading.Lock()
        self._wake = threading.Semaphore(0)
        self._looker: Optional[threading.Thread] = None
        self._looking = False

    def receive(self, flags: int = 0) -> List[_Received]:
        """The messages that have arrived, at least one. An empty list at the end. With
        MSG_DONTWAIT it raises BlockingIOError instead of waiting."""
        while True:
            chunk = self.sock.recv(max(_CHUNK, min(self._in.want - self._in.have, 1 << 20)), flags)
            if not chunk:
                if self._in.have and not self.left:
                    raise EOFError("the input ended in the middle of a message")
                return []
            messages = self._in.feed(chunk)
            if self._in.control:
                self._in.control = False
                messages = [message for message in messages if message[0] or self._heed(message[2])]
            if messages:
                return messages

    def _heed(self, control: bytes) -> bool:
        """Control is no message. What is not known of it is ignored."""
        import json

        try:
            self.drains = self.drains or json.loads(control).get("drain") is True
        except (ValueError, AttributeError):
            pass  # not an object
        return False

    def hold(self) -> None:
        """Called before a message is handled, so that earlier replies do not wait for it.
        If the message ends the process, it is charged with that, and no earlier one."""
        if self._out and not self._looking:
            self._looking = True
            if self._looker is None:
                self._looker = threading.Thread(target=self._look, name="poolinit", daemon=True)
                self._looker.start()
            self._wake.release()

    def _look(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the main thread
        while True:
            self._wake.acquire()
            idle = 0
            while idle < self.PATIENCE or self._out:
                self._looking = True
                time.sleep(self.HOLD)
                idle = 0 if self._out else idle + 1
                try:
                    self.flush()
                except OSError:
                    pass  # the main thread gets the same error
                if idle >= self.PATIENCE:
                    self._looking = False  # a later reply is seen above, or wakes this thread

    def answer(self, frame: bytes) -> None:
        self._out.append(frame)
        self._bytes += len(frame)
        if self._bytes >= self.BATCH:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._bytes = 0
        n = len(self._out)
        if n:
            data = b"".join(self._out[:n]) if n > 1 else self._out[0]
            del self._out[:n]  # replies appended meanwhile stay
            self.sock.sendall(data)

    def leave(self, last: Optional[bytes]) -> None:
        """Answers the message in hand, and nothing after it."""
        with self._lock:
            if self.left:
                return
            self.left = True
            if last is not None:
                self._out.append(last)
            try:
                self._write()
                self.sock.shutdown(socket.SHUT_RDWR)  # not closed: another thread may be reading it
            except OSError:
                pass  # poolinit has closed its end

    def abandon(self) -> None:
        """Leaves closing to the kernel. If Python closed the socket just before the process
        ends, poolinit would take the worker for a detached one."""
        with self._lock:
            self.sock.detach()

    def no_more(self) -> None:
        """Ends the input after the data that has arrived."""
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the input has ended


def _notify(name: str, text: str) -> bool:
    """sd_notify(3): a datagram to the socket of that name."""
    if not name:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(text.encode(), "\0" + name[1:] if name.startswith("@") else name)
    except OSError:
        return False
    return True


_TOLD = (
    "POOLINIT_WORKER_ID",
    "POOLINIT_WORKERS",
    "POOLINIT_GENERATION",
    "POOLINIT_DELIVER",
    "POOLINIT_CONCURRENCY",
    "POOLINIT_FD",
    "POOLINIT_EVENT",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
)


class _Role:
    """The variables that poolinit has set for this process. They are removed from the
    environment, because the process's children are not workers."""

    def __init__(self) -> None:
        env = os.environ
        self.told: Dict[str, str] = {}
        if "POOLINIT_WORKER_ID" in env or "POOLINIT_EVENT" in env:
            for name in _TOLD:
                value = env.pop(name, None)
                if value is not None:
                    self.told[name] = value
        self.pid = os.getpid()
        self.parent = os.getppid()
        self.event = self.told.get("POOLINIT_EVENT", "")
        self.worker = "POOLINIT_WORKER_ID" in self.told
        self.notify = self.told.get("NOTIFY_SOCKET", "")
        self.worker_id = self._number("POOLINIT_WORKER_ID", -1)
        self.workers = self._number("POOLINIT_WORKERS", 0)
        self.generation = self._number("POOLINIT_GENERATION", 0)
        self.deliver = self.told.get("POOLINIT_DELIVER", "")
        self.concurrency = max(1, self._number("POOLINIT_CONCURRENCY", 1)) if self.deliver == "tagged" else 1
        self.watchdog = self._number("WATCHDOG_USEC", 0) / 1e6  # seconds

    def _number(self, name: str, default: int) -> int:
        value = self.told.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit()):
            raise RuntimeError(f"{name} is {value!r}, which is no number")
        return int(value)

    def channel(self) -> Optional[_Channel]:
        if not self.deliver:
            return None
        if self.deliver not in ("tagged", "frames", "lines"):
            raise RuntimeError(f"--deliver {self.deliver}: this script gets its messages by tagged, frames, or lines")
        fd = self._number("POOLINIT_FD", -1)
        try:
            return _Channel(fd, self.deliver)
        except OSError as e:
            raise RuntimeError(f"POOLINIT_FD {fd} is no socket: {e.strerror}") from None


_role: Optional[_Role] = None


def _my_role() -> _Role:
    global _role
    if _role is None:
        _role = _Role()
    return _role


class _Hand:
    """A message in hand, where there may be several."""

    __slots__ = ("tag", "written")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.written: List[bytes] = []


_hand: ContextVar[Optional[_Hand]] = ContextVar("poolinit", default=None)


class Pool:
    """A pool of workers; in a worker process, this worker.

    `workers` is the number of workers, or "auto". Further options are flags of
    `poolinit run`: max_messages=1000 is --max-messages 1000, and a list repeats
    the flag. The environment overrides them all, as in POOLINIT_WORKERS=8.
    concurrency is the number of messages that one worker handles at the same time:
    tasks of one event loop if the handler is an async def, otherwise threads.
    """

    def __init__(self, workers: Union[int, str, None] = None, **options: Option) -> None:
        self._role = _my_role()
        self._options: Dict[str, Option] = {"workers": workers, **options}
        self._urls: List[str] = []
        self._start: Optional[Callable[[], object]] = None
        self._worker_start: Optional[Callable[[int], object]] = None
        self._worker_stop: Optional[Callable[[int], object]] = None
        self._message: Optional[Callable[..., Any]] = None
        self._meta = ""  # how the message handler takes the meta
        self._shutdown: Optional[Callable[[], object]] = None
        self._begun = False
        self._channel: Optional[_Channel] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._many = False  # several messages may be in hand: _hand has the one that is meant
        self._step = 0  # it changes when a message begins or ends; if only one may be in hand, it is odd while one is
        self._running = 0  # if several may be in hand: how many are
        self._tag = 0  # of the only message in hand
        self._lines = self._role.deliver == "lines"
        self._written: List[bytes] = []  # for the only message in hand
        self._ending = False
        self._no_more = False
        self._copied = False  # this is a forked child of the worker

    # For the script, before start().

    def listen(self, url: str) -> None:
        """Takes messages from tcp://HOST:PORT, unix:///PATH or sysv://KEY."""
        self._not_begun("listen()")
        self._urls.append(url)

    def on_start(self, handler: _Plain) -> _Plain:
        """Runs once, before poolinit is started. It does not run if poolinit has started
        the script."""
        self._start = self._handler("on_start", self._start, handler)
        return handler

    def on_worker_start(self, handler: _Numbered) -> _Numbered:
        """Runs in each worker, before its first message. Without messages it is the
        worker: when it returns, the worker ends and is started again."""
        self._worker_start = self._handler("on_worker_start", self._worker_start, handler)
        return handler

    def on_worker_stop(self, handler: _Numbered) -> _Numbered:
        """Runs when a worker ends by itself or is asked to stop: after its last message."""
        self._worker_stop = self._handler("on_worker_stop", self._worker_stop, handler)
        return handler

    def on_message(self, handler: _Answering) -> _Answering:
        """Handles a message. Its return value is the reply; None is an empty one. It gets
        the message's Meta, too, if it has a second parameter without a default, or one
        that is called meta."""
        self._message = self._handler("on_message", self._message, handler)
        self._meta = _takes_meta(handler)
        return handler

    def on_shutdown(self, handler: _Plain) -> _Plain:
        """Runs once, in a process of its own, when no worker is left."""
        self._shutdown = self._handler("on_shutdown", self._shutdown, handler)
        return handler

    def _handler(self, name: str, old: Optional[Callable[..., object]], new: _Some) -> _Some:
        self._not_begun(name)
        if old is not None:
            raise RuntimeError(f"{name}: there is a handler already")
        if not callable(new):
            raise TypeError(f"{name}: a handler is a function, not {type(new).__name__}")
        if _flags(new) & (0x20 | 0x200):  # CO_GENERATOR, CO_ASYNC_GENERATOR
            raise TypeError(f"{name}: a handler is no generator; it returns its whole reply")
        return new

    def _not_begun(self, what: str) -> None:
        if self._begun:
            raise RuntimeError(f"{what} after start()")

    def start(self) -> NoReturn:
        """Runs the pool; in a worker process, the worker. It does not return."""
        self._not_begun("start()")
        self._begun = True
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start() is for the main thread: it catches SIGTERM")
        if self._role.event:
            if self._role.event == "shutdown" and self._shutdown is not None:
                self._finish(self._shutdown())
            sys.exit(0)
        if self._role.worker:
            self._work()
        self._become()

    # For workers.

    @property
    def worker_id(self) -> int:
        """The worker's number, from 0; its replacement gets the same. -1 outside a worker."""
        return self._role.worker_id

    @property
    def workers(self) -> int:
        """The number of workers of the pool. 0 outside a worker."""
        return self._role.workers

    @property
    def generation(self) -> int:
        """1, and one more with each reload. 0 outside a worker."""
        return self._role.generation

    @property
    def concurrency(self) -> int:
        """The number of messages that this worker may have in hand. 1 outside a worker."""
        return self._role.concurrency

    def write(self, data: Body) -> None:
        """Adds to the reply of the message in hand. The handler's return value follows."""
        if self._many:
            self._one("write()").written.append(_bytes(data, "a reply"))
            return
        if not self._step & 1:
            raise RuntimeError("write() without a message in hand")
        self._written.append(_bytes(data, "a reply"))

    def touch(self) -> bool:
        """Begins --message-timeout anew, for the message in hand. False: nothing was sent,
        since messages are not tagged or poolinit is gone."""
        if self._many:
            return self._touch(self._one("touch()").tag)
        if not self._step & 1:
            raise RuntimeError("touch() without a message in hand")
        return self._touch(self._tag)

    def _one(self, what: str) -> _Hand:
        hand = _hand.get()
        if hand is None:
            raise RuntimeError(f"{what} without a message in hand: it is for the handler, and for what runs in its context")
        return hand

    def _touch(self, tag: int) -> bool:
        channel = self._channel
        if not tag or channel is None or channel.left:
            return False
        try:
            channel.answer(_control(b'{"touch":%d}' % tag))
            channel.flush()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Ends this worker when it has answered its messages; another takes its place.
        Without messages it sends SIGTERM to this process."""
        self._in_worker("stop()")
        if self._channel is None or self._channel.left:
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._no_more:
            self._no_more = True
            if self._channel.drains:
                return
            # poolinit ends the input when everything is answered. If it cannot be
            # notified, the input ends after the data that has arrived.
            if not self.notify("STOPPING=1"):
                self._channel.no_more()

    def shutdown(self) -> None:
        """Stops the pool, as SIGTERM to poolinit does."""
        self._in_worker("shutdown()")
        if os.getppid() != self._role.parent:
            raise RuntimeError("shutdown(): poolinit is gone")
        os.kill(self._role.parent, signal.SIGTERM)

    def detach(self, reply: Body = b"") -> None:
        """Leaves the pool: another worker takes this one's place at once. `reply` answers
        the message in hand, and the return value of its handler is dropped. This
        worker may continue its work for any time, until the pool stops."""
        self._in_worker("detach()")
        if self._channel is None:
            raise RuntimeError("detach(): this worker gets no messages")
        if self._role.concurrency > 1:
            raise RuntimeError("detach() is for a worker with one message in hand, and concurrency is above 1")
        last = None
        if (self._running or self._step & 1) and not self._channel.left:
            hand = _hand.get() if self._many else None
            tag, written = (hand.tag, hand.written) if hand else (self._tag, self._written)
            last = self._frame(tag, b"".join([*written, _bytes(reply, "a reply")]))
        self._channel.leave(last)

    def notify(self, state: str) -> bool:
        """Sends a state to poolinit by sd_notify, as in notify("STATUS=loading"). False: no
        receiver. start() sends READY=1."""
        return _notify(self._role.notify, state)

    def _in_worker(self, what: str) -> None:
        if not self._role.worker or os.getpid() != self._role.pid:
            raise RuntimeError(f"{what} in a process that is no worker of a pool")

    # In a worker process.

    def _work(self) -> NoReturn:
        gets = self._role.deliver != ""
        if self._message is not None and not gets:
            raise RuntimeError(
                "poolinit gives this script no messages: run it by itself, or as in: "
                "poolinit -n 4 --listen tcp://127.0.0.1:8089 -- python3 SCRIPT"
            )
        if self._message is None and gets:
            raise RuntimeError("poolinit gives this script messages, and it has no on_message")
        channel = self._channel = self._role.channel()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Without this a pipe gets 8 KiB at a time, or with PYTHONUNBUFFERED parts of a
            # line, which mix with the lines of other workers.
            sys.stdout.reconfigure(line_buffering=True, write_through=False)
        os.register_at_fork(after_in_child=self._forked)
        ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if ours:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            self._live()
        finally:
            if channel is not None:
                channel.abandon()
            if ours and signal.getsignal(signal.SIGTERM) == self._on_sigterm:
                # It follows the last message closely, and must not interrupt the end.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(0)

    def _live(self) -> None:
        started = False
        try:
            try:
                if self._worker_start is not None:
                    self._finish(self._worker_start(self.worker_id))
                started = True
                self._serve()
            except (SystemExit, KeyboardInterrupt):
                started = True
                raise
            finally:
                self._ending = True
        finally:
            if os.getpid() == self._role.pid:
                try:
                    if started and self._worker_stop is not None:
                        self._finish(self._worker_stop(self.worker_id))
                finally:
                    self._end_loop()

    def _finish(self, result: object) -> None:
        """Runs what an async handler has returned."""
        if isinstance(result, Awaitable):
            self._event_loop().run_until_complete(result)

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """This process's loop: all async handlers run in it."""
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _end_loop(self) -> None:
        """Cancels what the handlers have left running. What does not end within a second is
        left to its fate."""
        loop = self._loop
        if loop is None:
            return
        import asyncio

        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        self._loop = None

    def _on_sigterm(self, signum: int, frame: Optional[FrameType]) -> None:
        if self._ending:
            return
        if self._channel is not None and not self._channel.left:
            self.stop()
            return
        self._ending = True
        raise SystemExit(0)

    def _forked(self) -> None:
        """A forked child is not a worker, and must not answer for it."""
        self._copied = True
        if self._channel is not None:
            self._channel.left = True
            self._channel.sock.close()
            self._channel._lock = threading.Lock()  # another thread may have held it
        try:
            if signal.getsignal(signal.SIGTERM) == self._on_sigterm:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except ValueError:
            pass  # the forking thread is not the main one

    def _serve(self) -> None:
        channel = self._channel
        if channel is None:
            return
        self.notify("READY=1")
        is_async = _flags(self._message) & 0x80  # CO_COROUTINE
        self._many = is_async or self._role.concurrency > 1
        try:
            if is_async:
                self._event_loop().run_until_complete(_Tasks(self, channel).run())
            elif self._many:
                self._watch()
                self._serve_threads(channel)
            else:
                self._watch()
                self._serve_one(channel)
        except (OSError, EOFError) as e:
            if not channel.left:
                _complain(f"poolinit: the worker's channel broke: {e}\n")
                sys.exit(1)
        finally:
            if not channel.left:
                try:
                    channel.flush()  # the replies from before a handler ended the process
                except OSError:
                    pass

    def _serve_one(self, channel: _Channel) -> None:
        """One message after the other."""
        while True:
            messages = channel.receive()
            if not messages:
                return
            for message in messages:
                channel.hold()
                frame = self._handle(message)
                if channel.left:
                    return
                channel.answer(frame)
            channel.flush()

    def _handle(self, message: _Received) -> bytes:
        """One message in, its frame out."""
        tag = self._tag = message[0]
        self._step += 1
        try:
            reply = self._call(message) if self._meta else self._message(message[2])  # type: ignore[misc]
            if self._written or type(reply) is not bytes:
                reply = self._joined(self._written, reply)
            size = len(reply)
            if size > _MAX_REPLY or self._lines:
                return self._frame(tag, reply)
            return (_tagged.pack(size + 8, tag) if tag else _header.pack(size)) + reply
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as e:
            return self._failed(tag, e)
        finally:
            self._step += 1
            if self._written:
                self._written = []

    def _call(self, message: _Received) -> Any:
        assert self._message is not None
        if not self._meta:
            return self._message(message[2])
        tag = message[0]
        meta = Meta(message[1] or b"{}", lambda: self._touch(tag))
        if self._meta == "second":
            return self._message(message[2], meta)
        return self._message(message[2], meta=meta)

    @staticmethod
    def _joined(written: List[bytes], reply: Any) -> bytes:
        if not written and type(reply) is bytes:
            return reply
        return b"".join([*written, b"" if reply is None else _bytes(reply, "a reply")])

    def _serve_threads(self, channel: _Channel) -> None:
        """Several messages at a time, each in a thread. Threads are made when they are
        needed; a thread that a handler does not leave is ended with the process."""
        from queue import SimpleQueue

        queue: SimpleQueue[Optional[_Received]] = SimpleQueue()
        threads: List[threading.Thread] = []
        lock = threading.Lock()
        error: List[BaseException] = []

        def run() -> None:
            try:
                while True:
                    message = queue.get()
                    if message is None:
                        return
                    frame = self._handle_in_thread(message)
                    if self._copied:
                        return  # a forked child has no other thread, and ends
                    with lock:
                        self._step += 1
                        self._running -= 1
                    if not channel.left:
                        channel.answer(frame)
                        channel.flush()
            except BaseException as e:
                error.append(e)
                channel.no_more()  # wakes the main thread

        while True:
            try:
                messages = channel.receive()
            except (OSError, EOFError):
                messages = []
                if not error:
                    raise
            if not messages or error:
                break
            for message in messages:
                with lock:
                    self._step += 1
                    self._running += 1
                queue.put(message)
                if len(threads) < min(self._running, self._role.concurrency):
                    threads.append(threading.Thread(target=run, name=f"poolinit-{len(threads)}", daemon=True))
                    threads[-1].start()
        for _ in threads:
            queue.put(None)
        for thread in threads:
            while thread.is_alive() and not error:
                thread.join(0.1)
        if error:
            raise error[0]

    def _handle_in_thread(self, message: _Received) -> bytes:
        """_handle, with others at the same time."""
        hand = _Hand(message[0])
        _hand.set(hand)
        try:
            return self._frame(hand.tag, self._joined(hand.written, self._call(message)))
        except SystemExit:
            raise
        except BaseException as e:
            return self._failed(hand.tag, e)

    def _frame(self, tag: int, reply: bytes) -> bytes:
        if self._lines:
            if b"\n" in reply:
                raise ValueError("the reply has an end of line in it, and --deliver lines is on")
            return reply + b"\n"
        if len(reply) > _MAX_REPLY:
            raise ValueError(f"the reply has {len(reply)} bytes, and poolinit takes {_MAX_REPLY}")
        return _frame(tag, reply) if tag else _header.pack(len(reply)) + reply

    def _failed(self, tag: int, e: BaseException) -> bytes:
        """The frame for an exception of a handler."""
        if isinstance(e, Refuse):
            code, text = Failure.REFUSED, _text(e)
        elif isinstance(e, Retry):
            code, text = Failure.RETRY, _text(e)
        else:
            place = e.__traceback__
            while place is not None and place.tb_next is not None and place.tb_frame.f_code.co_filename == __file__:
                place = place.tb_next  # without the functions here
            _complain("".join(traceback.format_exception(type(e), e, place)))
            code, text = "error", f"{type(e).__name__}: {_text(e)}"
        if self._lines and self._channel is not None and not self._channel.left:
            _complain(f"poolinit: the message failed, which --deliver lines cannot tell: {text}\n")
            sys.exit(1)
        return _failure(tag, code, text)

    def _watch(self) -> None:
        """Sends WATCHDOG=1 twice in every interval, unless a message is in hand and none has
        begun or ended since the last time: then the worker hangs."""
        every = self._role.watchdog / 2
        if every <= 0:
            return

        def run() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            last = -1
            while True:
                time.sleep(every)
                step = self._step
                if not (self._running or step & 1 and not self._many) or step != last:
                    last = step
                    self.notify("WATCHDOG=1")

        threading.Thread(target=run, name="poolinit-watchdog", daemon=True).start()

    # In a script that is run by hand.

    def _become(self) -> NoReturn:
        """Replaces this process with poolinit, and this script as its worker."""
        listens = bool(self._urls or self._options.get("listen") or _from_environment("listen"))
        if self._message is not None and not listens:
            raise RuntimeError("there is an on_message, and nowhere that messages come from: listen() is missing")
        if self._message is None and listens:
            raise RuntimeError("messages are listened for, and on_message is missing")
        if (os.environ.get("POOLINIT_DELIVER") or self._options.get("deliver")) == "exec":
            raise RuntimeError("--deliver exec is for commands that run once a message, and this script stays")
        if self._message is None and self._worker_start is None:
            raise RuntimeError("the workers have nothing to do: on_message and listen(), or on_worker_start")
        if "multiprocessing" in sys.modules and sys.modules["multiprocessing"].parent_process() is not None:
            raise RuntimeError('start() in a process of multiprocessing: put it under if __name__ == "__main__":')
        script, command = _script()
        program = _find(script)
        words = [program, "run", *self._flags(), "--", *command]
        if self._start is not None:
            self._finish(self._start())
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # closed, or not there
        try:
            os.execv(program, words)
        except OSError as e:
            _complain(f"poolinit: cannot run {program}: {e.strerror}\n")
            sys.exit(126)

    def _flags(self) -> List[str]:
        options = dict(self._options)
        if self._message is not None:
            options.setdefault("deliver", "tagged")
            options.setdefault("ready", "notify")  # start() reports it when on_worker_start has returned
        if self._shutdown is not None:
            options.setdefault("run_at_exit", True)
        options["listen"] = [*_words(options.pop("listen", None)), *self._urls]
        flags = [(name.replace("_", "-"), value) for name, value in options.items()]
        return [f"--{flag}={word}" for flag, value in flags if not _from_environment(flag) for word in _words(value)]


class _Tasks:
    """A worker with an async handler: each message is a task of the event loop."""

    def __init__(self, pool: Pool, channel: _Channel) -> None:
        from asyncio import current_task

        self._pool = pool
        self._channel = channel
        self._current_task = current_task
        self._loop = pool._event_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._waiting: Deque[_Received] = deque()
        self._tasks: Set[asyncio.Task[None]] = set()
        self._open = True  # there may be more messages
        self._flushing = False
        self._error: Optional[BaseException] = None

    async def run(self) -> None:
        """Returns when all messages are answered and no more come."""
        self._loop.add_reader(self._channel.sock, self._readable)
        if self._pool._role.watchdog > 0:
            self._beat()
        try:
            await self._ended
            if self._error is not None:
                raise self._error  # the last reply could not be written
        finally:
            self._loop.remove_reader(self._channel.sock)

    def _beat(self) -> None:
        """Sends WATCHDOG=1 while the loop turns."""
        self._pool.notify("WATCHDOG=1")
        self._loop.call_later(self._pool._role.watchdog / 2, self._beat)

    def _readable(self) -> None:
        try:
            messages = self._channel.receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except (OSError, EOFError) as e:
            self._fail(e)
            return
        if not messages:
            self._open = False
            self._loop.remove_reader(self._channel.sock)
        self._waiting.extend(messages)
        self._begin()

    def _begin(self) -> None:
        waiting, left = self._waiting, self._channel.left
        while waiting and len(self._tasks) < self._pool._role.concurrency and not left:
            message = waiting.popleft()
            task = self._loop.create_task(self._handle(message))
            self._tasks.add(task)
        if not self._tasks and (left or not waiting and not self._open) and not self._ended.done():
            self._ended.set_result(None)

    async def _handle(self, message: _Received) -> None:
        pool = self._pool
        hand = _Hand(message[0])
        _hand.set(hand)
        pool._running += 1
        try:
            frame = pool._frame(hand.tag, pool._joined(hand.written, await pool._call(message)))
        except (SystemExit, KeyboardInterrupt) as e:
            if pool._copied:
                _end_copy(e.code if isinstance(e, SystemExit) else 1)
            self._fail(e)
            return
        except BaseException as e:  # CancelledError, too: the message has to be answered
            if pool._ending:
                raise
            frame = pool._failed(hand.tag, e)
        finally:
            pool._running -= 1
        if pool._copied:
            _end_copy(0)
        self._answer(frame)
        task = self._current_task()
        if task is not None:
            self._tasks.discard(task)
        self._begin()

    def _answer(self, frame: bytes) -> None:
        """Writes a reply together with those of this turn of the loop."""
        if self._channel.left:
            return
        try:
            self._channel.answer(frame)
        except OSError as e:
            self._fail(e)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        try:
            if not self._channel.left:
                self._channel.flush()
        except OSError as e:
            self._fail(e)

    def _fail(self, e: BaseException) -> None:
        self._loop.remove_reader(self._channel.sock)
        self._error = self._error or e
        if not self._ended.done():
            self._ended.set_result(None)


def _end_copy(code: object) -> NoReturn:
    """Ends a forked child that has returned from an async handler. It shares the event
    loop's epoll descriptor with the worker, so the loop must not go on here."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or not there
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _flags(handler: Any) -> int:
    """The flags of a handler's code, as the module inspect has them."""
    while not hasattr(handler, "__code__") and hasattr(handler, "func"):
        handler = handler.func  # functools.partial
    if not hasattr(handler, "__code__"):
        handler = getattr(handler, "__call__", None)
    flags: int = getattr(getattr(handler, "__code__", None), "co_flags", 0)
    return flags


def _takes_meta(handler: Callable[..., object]) -> str:
    """How a message handler takes the meta: as its "second" argument, by "name", or not at
    all. A second parameter with a default is the handler's own, unless its name is meta."""
    code = getattr(handler, "__code__", None)
    if type(handler) is type(_takes_meta) and not hasattr(handler, "__wrapped__"):
        if code.co_argcount == 1 and not code.co_kwonlyargcount:
            return ""  # the usual case, without the import
    import inspect

    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (ValueError, TypeError):
        return ""  # a builtin function
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    extra = [p for p in placed[2:] if p.default is p.empty]
    extra += [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name != "meta"]
    if extra or not placed and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError("on_message: a handler takes the body of a message, and its meta if it wants that")
    if len(placed) > 1 and (placed[1].default is inspect.Parameter.empty or placed[1].name == "meta"):
        return "second"
    return "name" if any(p.name == "meta" and p.kind is not p.POSITIONAL_ONLY for p in parameters[1:]) else ""


def _words(value: Option) -> List[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(value)] if isinstance(value, (str, int)) else [str(each) for each in value]


def _from_environment(flag: str) -> bool:
    """Whether the environment sets a flag. It overrides the script: the operator knows
    better than the program."""
    return bool(os.environ.get("POOLINIT_" + flag.upper().replace("-", "_")))


def _script() -> Tuple[str, List[str]]:
    """This script's path, and the command that runs it again."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None or sys.argv[0] in ("", "-", "-c"):
        raise RuntimeError(
            "start() in code that is no file (stdin, python3 -c, a prompt): "
            "poolinit runs the same script again as its workers, so put it into a file"
        )
    if path.startswith(("/dev/", "/proc/")):
        raise RuntimeError(f"start() in {path}: it can be read once only, and poolinit runs the script again")
    words: List[str] = list(getattr(sys, "orig_argv", []))
    if not words:  # Python 3.9
        with open("/proc/self/cmdline", "rb") as f:
            words = [os.fsdecode(word) for word in f.read().split(b"\0")[:-1]]
    at = len(words) - len(sys.argv)
    if at > 0 and words[at] == sys.argv[0] and os.path.isfile(path):
        words[at] = path  # absolute, because a worker may start in another directory
    return path, [sys.executable or os.readlink("/proc/self/exe"), *words[1:]]


def _find(script: str) -> str:
    """The program poolinit. Without one the process ends."""
    named = os.environ.get("POOLINIT", "")
    if named:
        found = shutil.which(named)
        looked = f"POOLINIT is {named!r}, and that is no program."
        remedy = "Let it be the path of the program, or unset it."
    else:
        beside = os.path.join(os.path.dirname(os.path.abspath(script)), "poolinit")
        found = shutil.which("poolinit") or (beside if os.path.isfile(beside) and os.access(beside, os.X_OK) else None)
        looked = f"it is not in PATH ({os.environ.get('PATH', '')}), there is no {beside}, and POOLINIT is not set."
        remedy = "Put it into a directory of PATH or beside the script, or set POOLINIT to its path."
    if found is None:
        _complain(f"poolinit: cannot find the program poolinit: {looked}\n{remedy}\n")
        sys.exit(127)
    return os.path.abspath(found)


class Client:
    """A client of a pool that listens with reply=always.

        with poolinit.Client("tcp://127.0.0.1:8089") as client:
            reply = client.send(b"hello")

    The client sends a message again, on a new connection, if a stopping pool did not
    take it, or if the connection broke before its reply: it is handled at least once.
    connect_timeout is how long the pool may be away, in seconds; timeout is the
    longest silence of the pool, None is for ever. tls is for a pool with cert= in its
    URL. Threads may share a client; one at a time sends.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: Optional[float] = 60.0,
        connect_timeout: float = 10.0,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._url = url
        self._address, tagged = _address(url)
        if tagged:
            raise ValueError(f"{url!r}: this client does not speak tagged frames, but AsyncClient does")
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._lock = threading.Lock()
        self._sock: Optional[socket.socket] = None
        self._pid = 0  # of the process that owns the connection
        self._known = False  # a connection has been made before
        self._closed = False
        _clients.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def send(self, body: Body) -> bytes:
        """Sends a message and returns its reply.

        Raises Failure if the pool says that it failed; ConnectionError, or another
        OSError, if there is no way to the pool; TimeoutError if nothing was heard.
        """
        data = _bytes(body, "a message")
        if len(data) >= _FAILED:
            raise ValueError("a message is shorter than 2 GiB")
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            if self._pid != os.getpid():
                self._drop()  # a forked child must not read its parent's replies
            return self._until_handled(_header.pack(len(data)), data)

    def _until_handled(self, header: bytes, data: bytes) -> bytes:
        since, pause = 0.0, 0.0
        while True:
            try:
                failed, reply = self._exchange(header, data)
            except (_Silence, _Garbage):
                self._drop()
                raise
            except OSError as e:
                self._drop()
                if not self._known:
                    raise
                problem: Exception = e
            except BaseException:
                self._drop()  # a late reply would be read as that of the next message
                raise
            else:
                if not failed:
                    return reply
                failure = _failure_in(reply)
                if failure.code in (Failure.STOPPING, Failure.TOO_BIG, Failure.NOT_TAGGED):
                    self._drop()
                if failure.code != Failure.STOPPING:
                    raise failure
                problem = failure
            since = since or time.monotonic()
            if time.monotonic() - since >= self._connect_timeout:
                raise problem
            time.sleep(pause)
            pause = min(max(2 * pause, 0.02), 1.0)

    def _exchange(self, header: bytes, data: bytes) -> Tuple[bool, bytes]:
        if self._sock is not None and self._is_stale(self._sock):
            self._drop()
        sock = self._sock or self._connect()
        try:
            broken: Optional[OSError] = None
            try:
                if len(data) < _CHUNK:
                    sock.sendall(header + data)
                else:
                    sock.sendall(header)
                    sock.sendall(data)
            except socket.timeout:
                raise
            except OSError as e:
                broken = e  # the reason may have arrived before it
            try:
                size = _header.unpack(self._read(sock, 4))[0]
                if size & ~_FAILED > _MAX_REPLY:
                    raise _Garbage("the server sent something that is not a reply")
                return size & _FAILED != 0, self._read(sock, size & ~_FAILED)
            except socket.timeout:
                raise
            except OSError as e:
                raise broken or e
        except socket.timeout:
            raise _Silence(
                f"{self._url}: nothing was heard within {self._timeout} s "
                "(only a pool with reply=always in its URL answers every message)"
            ) from None

    def _is_stale(self, sock: socket.socket) -> bool:
        """Whether something has come that no message waits for: the end, or a reply too many,
        which is not the next message's."""
        try:
            sock.settimeout(0)
            sock.recv(1)
            return True
        except OSError as e:
            # TLS's own records are not for a message. ssl is imported by those who use it.
            if not isinstance(e, BlockingIOError) and type(e).__name__ != "SSLWantReadError":
                return True
            sock.settimeout(self._timeout)
            return False

    @staticmethod
    def _read(sock: socket.socket, n: int) -> bytes:
        chunks = []
        while n > 0:
            chunk = sock.recv(min(n, 1 << 20))
            if not chunk:
                raise ConnectionError("the pool closed the connection without a reply")
            chunks.append(chunk)
            n -= len(chunk)
        return b"".join(chunks)

    def _connect(self) -> socket.socket:
        address = self._address
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            sock = socket.create_connection(address, self._connect_timeout)
        try:
            if isinstance(address, str):
                sock.settimeout(self._connect_timeout)
                sock.connect(address)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=None if isinstance(address, str) else address[0])
            sock.settimeout(self._timeout)
        except BaseException:
            sock.close()
            raise
        self._sock, self._known, self._pid = sock, True, os.getpid()
        return sock

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()  # no shutdown: it would end the connection of a parent, too
            self._sock = None


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forked() -> None:
    """In a forked child, where no thread would release a held lock."""
    for client in _clients:
        client._lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


class _Silence(TimeoutError):
    """No answer in time: sending the message again would only repeat the wait."""


class _Garbage(ConnectionError):
    """The peer is not a pool: sending the message again does not help."""


def _failure_in(body: bytes) -> Failure:
    code, _, text = body.decode(errors="replace").partition(": ")
    return Failure(code, text)


def _address(url: str) -> Tuple[Union[str, Tuple[str, int]], bool]:
    """A path, or a host and a port; and whether messages are tagged."""
    from urllib.parse import parse_qs, unquote, urlsplit

    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if query.get("reply", ["always"])[-1] == "never":
        raise ValueError(f"{url!r}: a pool with reply=never has no replies")
    if query.get("once", ["false"])[-1] not in ("false", "0"):
        raise ValueError(f"{url!r}: once=true is one message a connection, and this client sends many")
    tagged = query.get("tagged", ["false"])[-1] not in ("false", "0")
    if parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1:
        return unquote(parts.path), tagged
    try:
        if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path:
            return (parts.hostname, parts.port), tagged
    except ValueError:
        pass  # not a port number
    raise ValueError(f"{url!r} is no address of a pool, such as tcp://127.0.0.1:8089 or unix:///run/pool.sock")


class _Sending:
    """A message of an AsyncClient."""

    __slots__ = ("data", "future", "failure")

    def __init__(self, data: bytes, future: asyncio.Future[bytes]) -> None:
        self.data = data
        self.future = future
        self.failure: Optional[Failure] = None  # "stopping"


class AsyncClient:
    """A client for asyncio, of a pool that listens with reply=always or tagged=true.

        async with poolinit.AsyncClient("tcp://127.0.0.1:8089?tagged=true") as client:
            replies = await asyncio.gather(*map(client.send, bodies))

    Any number of messages may be on the way, by one connection; the pool handles them
    at the same time. With tagged=true in the URL, as in the pool's, an answer does not
    wait for those of earlier messages. All else is as with Client.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: Optional[float] = 60.0,
        connect_timeout: float = 10.0,
        tls: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._url = url
        self._address, self._tagged = _address(url)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._waiting: Deque[_Sending] = deque()  # to be sent
        self._pending: Dict[int, _Sending] = {}  # sent by this connection and not answered, the oldest first
        self._again: List[_Sending] = []  # answered "stopping" by this connection
        self._last_tag = 0
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._link: Optional[_Link] = None
        self._going: Optional[asyncio.Task[None]] = None
        self._silence: Optional[asyncio.TimerHandle] = None
        self._known = False  # a connection has been made before
        self._since = 0.0  # when the first of the consecutive problems was
        self._pause = 0.0
        self._delay = 0.0  # before the next connection
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. send() raises ConnectionError for messages without a reply."""
        import asyncio

        self._closed = True
        if self._going is not None:
            self._going.cancel()
        self._drop()
        self._fail(ConnectionError("the client was closed"))
        await asyncio.sleep(0)  # the transport closes in the loop's next turn

    async def send(self, body: Body) -> bytes:
        """Sends a message and returns its reply.

        Raises what Client.send raises. If it is cancelled the message may be handled all
        the same.
        """
        import asyncio

        data = _bytes(body, "a message")
        if len(data) > (_MAX_TAGGED if self._tagged else 0x7FFFFFFF):
            raise ValueError(f"a message is shorter than {'1 GiB - 128 KiB' if self._tagged else '2 GiB'}")
        if self._closed:
            raise ValueError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError("the client belongs to another event loop: make one in each")
        self._loop = loop
        message = _Sending(data, loop.create_future())
        self._waiting.append(message)
        self._go_on()
        return await message.future

    def _go_on(self) -> None:
        import asyncio

        if self._going is None or self._going.done():
            self._going = asyncio.get_running_loop().create_task(self._go())

    async def _go(self) -> None:
        """Sends what waits."""
        import asyncio

        while self._waiting and not self._again and not self._closed:
            if self._link is None:
                if self._delay > 0:
                    await asyncio.sleep(self._delay)
                    self._delay = 0.0
                try:
                    await asyncio.wait_for(self._connect(), self._connect_timeout)
                except asyncio.TimeoutError:
                    self._lost(None, _Silence(f"{self._url}: no connection within {self._connect_timeout} s"))
                except OSError as e:
                    self._lost(None, e)
            elif not self._pending and not self._tagged:
                # What has come by now is a reply too many, or the end: it is read within
                # two turns of the loop.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if self._link is not None and not self._again:
                self._write(self._link)

    def _write(self, link: _Link) -> None:
        while self._waiting:
            message = self._waiting.popleft()
            if message.future.done():
                continue  # cancelled
            self._last_tag += 1
            self._pending[self._last_tag] = message
            size = len(message.data)
            link.write(_tagged.pack(size + 8, self._last_tag) if self._tagged else _header.pack(size), message.data)
        self._listen()

    async def _connect(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        link: Any = lambda: _Link(self)
        if isinstance(self._address, str):
            name = None if self._tls is None else ""
            await loop.create_unix_connection(link, self._address, ssl=self._tls, server_hostname=name)
        else:
            host, port = self._address
            await loop.create_connection(link, host, port, ssl=self._tls)

    def _connected(self, link: _Link) -> None:
        if self._closed:
            link.close()
            return
        self._link = link
        self._known = True
        if self._tagged:
            link.write(_control(b'{"hello":1}'), b"")

    def _listen(self) -> None:
        """Starts the time of a silent pool."""
        import asyncio

        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        if self._pending and self._timeout is not None:
            self._silence = asyncio.get_running_loop().call_later(self._timeout, self._silent)

    def _silent(self) -> None:
        silent, self._pending = list(self._pending.values()), {}
        error = _Silence(
            f"{self._url}: nothing was heard within {self._timeout} s "
            "(only a pool with reply=always or tagged=true in its URL answers every message)"
        )
        self._lost(self._link, error)  # the other messages are sent again
        _reject(silent, error)

    def _heard(self, link: _Link, frames: List[_Received]) -> None:
        for tag, _, body, failed in frames:
            if link is not self._link:
                return
            if self._tagged and (tag == 0 or not link.greeted):
                self._heed(link, tag, body, failed)
            else:
                self._answered(link, tag, body, failed)
        if link is not self._link:
            return
        self._listen()
        if not self._pending and self._again:
            failure = self._again[0].failure
            assert failure is not None
            self._lost(link, failure)

    def _heed(self, link: _Link, tag: int, body: bytes, failed: bool) -> None:
        if tag == 0 and not failed:
            link.greeted = True  # by the hello; nothing else is for a client
            return
        self._broken(link, _failure_in(body) if tag == 0 else None)

    def _broken(self, link: _Link, error: Optional[Exception] = None) -> None:
        """The server does not follow the protocol, and would not if the messages were sent
        again."""
        refused, self._pending = list(self._pending.values()), {}
        error = error or _Garbage("the server sent something that is not a reply")
        self._lost(link, error)
        _reject(refused, error)

    def _answered(self, link: _Link, tag: int, body: bytes, failed: bool) -> None:
        if not self._tagged:
            tag = next(iter(self._pending), 0)
        message = self._pending.pop(tag, None)
        if message is None:
            if self._tagged:
                self._broken(link)
            else:
                self._lost(link, _Garbage("the server has sent a reply too many"))
            return
        if failed:
            failure = _failure_in(body)
            if failure.code == Failure.STOPPING:
                message.failure = failure
                self._again.append(message)
                return
            _reject([message], failure)
        elif not message.future.done():
            message.future.set_result(body)
        self._since = self._pause = 0.0

    def _lost(self, link: Optional[_Link], error: Exception) -> None:
        """The connection has ended, or could not be made: messages without a reply are sent
        again by another one."""
        if link is not self._link:
            return
        self._drop()
        left = [*self._again, *self._pending.values(), *self._waiting]
        self._waiting = deque(message for message in left if not message.future.done())
        self._again, self._pending = [], {}
        if not self._waiting:
            return
        now = time.monotonic()
        self._since = self._since or now
        if not self._known or now - self._since >= self._connect_timeout:
            self._since = self._pause = 0.0
            self._fail(error)
            return
        self._delay = self._pause
        self._pause = min(max(2 * self._pause, 0.02), 1.0)
        self._go_on()

    def _fail(self, error: Exception) -> None:
        left = [*self._again, *self._pending.values(), *self._waiting]
        self._again, self._pending, self._waiting = [], {}, deque()
        _reject(left, error)

    def _drop(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _reject(messages: List[_Sending], error: Exception) -> None:
    for message in messages:
        if not message.future.done():
            message.future.set_exception(error)


class _Link:
    """A connection of an AsyncClient. It is an asyncio.Protocol, without importing that."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._transport: Optional[asyncio.Transport] = None
        self._frames = _TaggedFrames(_MAX_REPLY + _MAX_META) if client._tagged else _Frames(_MAX_REPLY)
        self.greeted = not client._tagged  # the server's hello has come

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._client._connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except _Garbage as e:
            plain = not self.greeted and data[4:16] == b"not-tagged: "
            self._client._broken(self, _failure_in(data[4:]) if plain else e)
            return
        self._client._heard(self, frames)

    def eof_received(self) -> None:
        pass  # the transport closes itself

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._client._lost(self, error or ConnectionError("the pool closed the connection without a reply"))

    def pause_writing(self) -> None:
        pass  # the caller decides how many messages are on the way

    def resume_writing(self) -> None:
        pass

    def write(self, header: bytes, data: bytes) -> None:
        assert self._transport is not None
        if len(data) < _CHUNK:
            self._transport.write(header + data)
        else:
            self._transport.write(header)
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
