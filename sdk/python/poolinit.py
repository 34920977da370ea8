"""A script that is a pool of worker processes, kept alive by poolinit.

    import poolinit

    pool = poolinit.Pool(4)
    pool.listen("tcp://0.0.0.0:8089?reply=always")

    @pool.on_message
    def handle(message: bytes) -> bytes:
        return message.upper()  # an exception: it is delivered again

    pool.start()

Run by hand, start() replaces this process with poolinit, which runs the same
script as its workers; there start() serves messages. It does not return.

A message is handled at least once: if its worker dies or raises an exception, it
is delivered again, up to --attempts times.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Callable, Dict, List, NoReturn, Optional, Sequence, Tuple, TypeVar, Union

if TYPE_CHECKING:
    import ssl

__all__ = ["Client", "Failure", "Pool", "Refuse"]

Body = Union[bytes, bytearray, memoryview, str]
Option = Union[str, int, Sequence[str], None]

_Plain = TypeVar("_Plain", bound=Callable[[], object])
_Numbered = TypeVar("_Numbered", bound=Callable[[int], object])
_Answering = TypeVar("_Answering", bound=Callable[[bytes], Optional[Body]])
_Some = TypeVar("_Some", bound=Callable[..., object])


class Refuse(Exception):
    """A message handler raises it when the message is at fault: it is not delivered
    again, and the text goes to its client."""


class Failure(Exception):
    """Client.send raises it when the pool has not handled the message. A program may
    rely on the code (see docs/protocol.md), never on the text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


_FAILED = 1 << 31
_MAX_REPLY = 64 << 20  # poolinit's limit
_MAX_TEXT = 4096  # the longest text of a failure
_CHUNK = 64 << 10

_header = struct.Struct(">I")


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


def _failure(code: str, text: str) -> bytes:
    body = code.encode() + b": " + text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore").encode()
    return _header.pack(len(body) | _FAILED) + body


def _complain(text: str) -> None:
    try:
        sys.stderr.write(text)  # in one call, so that other lines do not come between
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed, or not there


def _size(data: bytes) -> int:
    """The length of the frame that begins here; 4 while its header is incomplete."""
    body: int = _header.unpack_from(data)[0] & ~_FAILED if len(data) >= 4 else 0
    return 4 + body


class _Channel:
    """The worker's socket. Many messages are read at a time, and their replies are
    written together; no reply waits longer than a few milliseconds for the others."""

    HOLD = 0.002  # the pause between two checks for a waiting reply
    PATIENCE = 16  # checks without one, after which the thread sleeps
    BATCH = 64 << 10  # the bytes of one write

    def __init__(self, fd: int, lines: bool) -> None:
        self.sock = socket.socket(fileno=fd)
        self.sock.set_inheritable(False)  # an inherited copy would hide this worker's end
        self.sock.setblocking(True)
        self.lines = lines
        self.left = False  # no more replies are written
        self._rest = b""
        # The waiting replies. One thread appends, without the lock; two threads write.
        self._out: List[bytes] = []
        self._bytes = 0  # about how many are in _out
        self._lock = threading.Lock()
        self._wake = threading.Semaphore(0)
        self._looker: Optional[threading.Thread] = None
        self._looking = False

    def receive(self) -> List[bytes]:
        """The messages that have arrived, at least one. An empty list at the end."""
        while True:
            data = self._fill()
            if not data:
                return []
            messages = self._split(data)
            if messages:
                return messages

    def _fill(self) -> bytes:
        """Reads until a message may be complete."""
        chunks = [self._rest] if self._rest else []
        have = len(self._rest)
        want = have + 1 if self.lines else _size(self._rest)
        while have < want or not have:
            chunk = self.sock.recv(max(_CHUNK, min(want - have, 1 << 20)))
            if not chunk:
                if have and not self.left:
                    raise EOFError("the input ended in the middle of a message")
                return b""
            chunks.append(chunk)
            have += len(chunk)
            if want == 4 and have >= 4 and not self.lines:
                chunks = [b"".join(chunks)]
                want = _size(chunks[0])
        return b"".join(chunks) if len(chunks) > 1 else chunks[0]

    def _split(self, data: bytes) -> List[bytes]:
        if self.lines:
            *messages, self._rest = data.split(b"\n")
            return messages
        messages = []
        unpack = _header.unpack_from
        at, end = 0, len(data)
        while end - at >= 4:
            stop = at + 4 + (unpack(data, at)[0] & 0x7FFFFFFF)
            if stop > end:
                break
            messages.append(data[at + 4 : stop])
            at = stop
        self._rest = data[at:]
        return messages

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
        self.watchdog = self._number("WATCHDOG_USEC", 0) / 1e6  # seconds

    def _number(self, name: str, default: int) -> int:
        value = self.told.get(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit()):
            raise RuntimeError(f"{name} is {value!r}, which is no number")
        return int(value)

    def channel(self) -> Optional[_Channel]:
        deliver = self.told.get("POOLINIT_DELIVER", "")
        if not deliver:
            return None
        if deliver not in ("frames", "lines"):
            raise RuntimeError(f"--deliver {deliver}: this script gets its messages by frames, or by lines")
        fd = self._number("POOLINIT_FD", -1)
        try:
            return _Channel(fd, deliver == "lines")
        except OSError as e:
            raise RuntimeError(f"POOLINIT_FD {fd} is no socket: {e.strerror}") from None


_role: Optional[_Role] = None


def _my_role() -> _Role:
    global _role
    if _role is None:
        _role = _Role()
    return _role


class Pool:
    """A pool of workers; in a worker process, this worker.

    `workers` is the number of workers, or "auto". Further options are flags of
    `poolinit run`: max_messages=1000 is --max-messages 1000, and a list repeats
    the flag. The environment overrides them all, as in POOLINIT_WORKERS=8.
    """

    def __init__(self, workers: Union[int, str, None] = None, **options: Option) -> None:
        self._role = _my_role()
        self._options: Dict[str, Option] = {"workers": workers, **options}
        self._urls: List[str] = []
        self._start: Optional[Callable[[], object]] = None
        self._worker_start: Optional[Callable[[int], object]] = None
        self._worker_stop: Optional[Callable[[int], object]] = None
        self._message: Optional[Callable[[bytes], Optional[Body]]] = None
        self._shutdown: Optional[Callable[[], object]] = None
        self._begun = False
        self._channel: Optional[_Channel] = None
        self._step = 0  # odd while a message is in hand
        self._written: List[bytes] = []
        self._ending = False
        self._no_more = False

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
        """Handles a message. Its return value is the reply; None is an empty one."""
        self._message = self._handler("on_message", self._message, handler)
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
        if getattr(getattr(new, "__code__", None), "co_flags", 0) & 0x80:  # CO_COROUTINE
            raise TypeError(f"{name}: a handler is no async function; call asyncio.run() in it")
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
                self._shutdown()
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

    def write(self, data: Body) -> None:
        """Adds to the reply of the message in hand. The handler's return value follows."""
        if not self._step & 1:
            raise RuntimeError("write() without a message in hand")
        self._written.append(_bytes(data, "a reply"))

    def stop(self) -> None:
        """Ends this worker when it has answered its messages; another takes its place.
        Without messages it sends SIGTERM to this process."""
        self._in_worker("stop()")
        if self._channel is None or self._channel.left:
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._no_more:
            self._no_more = True
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
        last = None
        if self._step & 1 and not self._channel.left:
            last = self._frame(b"".join([*self._written, _bytes(reply, "a reply")]))
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
        gets = "POOLINIT_DELIVER" in self._role.told
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
                    self._worker_start(self.worker_id)
                started = True
                self._serve()
            except (SystemExit, KeyboardInterrupt):
                started = True
                raise
            finally:
                self._ending = True
        finally:
            if started and self._worker_stop is not None and os.getpid() == self._role.pid:
                self._worker_stop(self.worker_id)

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
        self._watch()
        try:
            while True:
                messages = channel.receive()
                if not messages:
                    break
                for message in messages:
                    channel.hold()
                    frame = self._handle(message)
                    if channel.left:
                        return
                    channel.answer(frame)
                channel.flush()
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

    def _handle(self, message: bytes) -> bytes:
        """One message in, its frame out."""
        self._step += 1
        try:
            assert self._message is not None
            reply = self._message(message)
            if self._written or type(reply) is not bytes:
                end = b"" if reply is None else _bytes(reply, "a reply")
                reply = b"".join([*self._written, end])
            return self._frame(reply)
        except Refuse as e:
            return self._failed("refused", _text(e))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as e:
            place = e.__traceback__.tb_next if e.__traceback__ else None  # without this function
            _complain("".join(traceback.format_exception(type(e), e, place)))
            return self._failed("error", f"{type(e).__name__}: {_text(e)}")
        finally:
            self._step += 1
            if self._written:
                self._written = []

    def _frame(self, reply: bytes) -> bytes:
        if self._channel is not None and self._channel.lines:
            if b"\n" in reply:
                raise ValueError("the reply has an end of line in it, and --deliver lines is on")
            return reply + b"\n"
        if len(reply) > _MAX_REPLY:
            raise ValueError(f"the reply has {len(reply)} bytes, and poolinit takes {_MAX_REPLY}")
        return _header.pack(len(reply)) + reply

    def _failed(self, code: str, text: str) -> bytes:
        if self._channel is not None and self._channel.lines and not self._channel.left:
            _complain(f"poolinit: the message failed, which --deliver lines cannot tell: {text}\n")
            sys.exit(1)
        return _failure(code, text)

    def _watch(self) -> None:
        """Sends WATCHDOG=1 twice in every interval, unless the same message is in hand as
        the last time: then the worker hangs."""
        every = self._role.watchdog / 2
        if every <= 0:
            return

        def run() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            last = -1
            while True:
                time.sleep(every)
                step = self._step
                if not step & 1 or step != last:
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
            self._start()
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
            options.setdefault("ready", "notify")  # start() reports it when on_worker_start has returned
        if self._shutdown is not None:
            options.setdefault("run_at_exit", True)
        options["listen"] = [*_words(options.pop("listen", None)), *self._urls]
        flags = [(name.replace("_", "-"), value) for name, value in options.items()]
        return [f"--{flag}={word}" for flag, value in flags if not _from_environment(flag) for word in _words(value)]


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
        self._address = _address(url)
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
                code, _, text = reply.decode(errors="replace").partition(": ")
                failure = Failure(code, text)
                if code in ("stopping", "too-big"):
                    self._drop()
                if code != "stopping":
                    raise failure
                problem = failure
            since = since or time.monotonic()
            if time.monotonic() - since >= self._connect_timeout:
                raise problem
            time.sleep(pause)
            pause = min(max(2 * pause, 0.02), 1.0)

    def _exchange(self, header: bytes, data: bytes) -> Tuple[bool, bytes]:
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


def _address(url: str) -> Union[str, Tuple[str, int]]:
    """A path, or a host and a port."""
    from urllib.parse import parse_qs, unquote, urlsplit

    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if query.get("reply", ["always"])[-1] == "never":
        raise ValueError(f"{url!r}: a pool with reply=never has no replies")
    if query.get("once", ["false"])[-1] not in ("false", "0"):
        raise ValueError(f"{url!r}: once=true is one message a connection, and this client sends many")
    if parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1:
        return unquote(parts.path)
    try:
        if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path:
            return parts.hostname, parts.port
    except ValueError:
        pass  # not a port number
    raise ValueError(f"{url!r} is no address of a pool, such as tcp://127.0.0.1:8089 or unix:///run/pool.sock")
