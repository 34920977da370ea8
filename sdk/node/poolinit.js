'use strict';

// A script that is a pool of worker processes, kept alive by poolinit.
//
//     const { Pool } = require('./poolinit.js');
//
//     const pool = new Pool(4);
//     pool.listen('tcp://0.0.0.0:8089?reply=always');
//     pool.on('message', async (message) => message.toString().toUpperCase());
//     pool.start();
//
// Run by hand, start() runs poolinit, which runs the same script as its workers;
// there start() serves messages. A message is handled at least once: if its worker
// dies or its handler throws, it is delivered again, up to --attempts times.

const { spawn } = require('child_process');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');
const tls = require('tls');
const { isMainThread, Worker } = require('worker_threads');

// A message handler throws it when the message is at fault: it is not delivered
// again, and the text goes to its client.
class Refuse extends Error {
  get name() { return 'Refuse'; }
}

// A message handler throws it to get the message again after a time, as one more
// attempt: new Retry('30s', 'the database is locked'). The time is a duration as
// poolinit's flags have it, or a number of seconds.
class Retry extends Error {
  constructor(after, text = '') {
    super(String(text));
    this.after = durationOf(after);
  }

  get name() { return 'Retry'; }
}

function durationOf(after) {
  if (typeof after === 'string') {
    if (/^(0|(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+)$/.test(after)) return after;
    throw new RangeError(`'${after}' is no duration, such as 30s, 500ms or 1m30s`);
  }
  if (typeof after !== 'number') throw new TypeError(`a time is a number of seconds or a string, not ${typeof after}`);
  if (!(after >= 0 && after <= 1e9)) throw new RangeError(`a time is from 0 to 1e9 seconds, not ${after}`);
  return Number.isInteger(after) ? `${after}s` : `${Math.round(after * 1000)}ms`;
}

// Client.send rejects with it when the pool has not handled the message. A program
// may rely on the code (see docs/protocol.md), never on the text. An unknown code means
// the same as GIVEN_UP.
class Failure extends Error {
  static STOPPING = 'stopping'; // no worker has had it; the client sends it again by itself
  static SPOOLED = 'spooled'; // the pool has stopped, and handles it after its next start
  static INTERRUPTED = 'interrupted'; // the pool stopped while a worker had it
  static GIVEN_UP = 'given-up'; // every attempt failed
  static REFUSED = 'refused'; // the worker refused it
  static TOO_BIG = 'too-big'; // it is longer than --max-message
  static NOT_A_LINE = 'not-a-line'; // --deliver lines, and it has an end of line
  static EXPIRED = 'expired'; // it waited for longer than expires=
  static RETRY = 'retry'; // send it again after the time that the text begins with
  static NOT_TAGGED = 'not-tagged'; // the URL has tagged=true at one end only

  constructor(code, text) {
    super(`${code}: ${text}`);
    this.code = code;
    this.text = text;
  }

  get name() { return 'Failure'; }
}

// What is known of a message beside its body. What is not known is empty, 0 or null;
// with --deliver frames and lines that is all of it.
class Meta {
  #touch;

  constructor(json, touch) {
    const known = json === null ? {} : JSON.parse(json.toString());
    this.id = known.id ?? ''; // the same at each delivery
    this.attempt = known.attempt ?? 0; // 1 at the first delivery
    this.source = known.source ?? ''; // the URL that the message came by
    this.key = known.key ?? '';
    this.time = known.time === undefined ? null : new Date(known.time); // when it arrived
    this.deadline = known.deadline === undefined ? null : new Date(known.deadline); // when --message-timeout is over
    this.headers = known.headers ?? {};
    this.#touch = touch;
  }

  // Begins --message-timeout anew, for this message. False: nothing was sent, since
  // messages are not tagged or poolinit is gone.
  touch() { return this.#touch(); }
}

const FAILED = 0x80000000;
const META = 0x40000000; // of a tagged frame: there is meta
const MAX_META = 64 << 10;
const MAX_TAGGED = (1 << 30) - (128 << 10); // the longest body of a tagged frame
const MAX_REPLY = 64 << 20; // poolinit's limit
const MAX_TEXT = 4096; // the longest text of a failure

const nothing = Buffer.alloc(0);

function toBuffer(what, name) {
  if (Buffer.isBuffer(what)) return what;
  if (typeof what === 'string') return Buffer.from(what);
  if (what instanceof Uint8Array) return Buffer.from(what.buffer, what.byteOffset, what.byteLength);
  throw new TypeError(`${name} is a string, a Buffer or a Uint8Array, not ${what === null ? 'null' : typeof what}`);
}

function header(size) {
  const head = Buffer.allocUnsafe(4);
  head.writeUInt32BE(size);
  return head;
}

function taggedHeader(size, tag) {
  const head = Buffer.allocUnsafe(12);
  head.writeUInt32BE(size + 8);
  head.writeUInt32BE(Math.floor(tag / 2 ** 32), 4);
  head.writeUInt32BE(tag >>> 0, 8);
  return head;
}

function failureIn(body) {
  const text = body.toString();
  const at = text.indexOf(': ');
  return at < 0 ? new Failure(text, '') : new Failure(text.slice(0, at), text.slice(at + 2));
}

// The start of a text, without a partial character at its end.
function cut(text, bytes) {
  const all = Buffer.from(text);
  if (all.length <= bytes) return all;
  let end = bytes;
  while (end > 0 && (all[end] & 0xc0) === 0x80) end--;
  return all.subarray(0, end);
}

function complain(text) {
  try {
    fs.writeSync(2, text);
  } catch {
    // closed, or not read
  }
}

function textOf(error) {
  try {
    return String(error);
  } catch {
    return '(something that has no text)';
  }
}

function stackOf(error) {
  return error instanceof Error && error.stack ? error.stack : `thrown: ${textOf(error)}`;
}

// Splits the input into frames.
class Frames {
  #limit;
  #chunks = [];
  #have = 0;
  #want = 4;

  constructor(limit = Infinity) {
    this.#limit = limit;
  }

  // Calls each(body, failed, tag, meta) for every complete frame.
  take(chunk, each) {
    if (this.#have > 0) {
      this.#chunks.push(chunk);
      this.#have += chunk.length;
      if (this.#have < this.#want) return;
      chunk = Buffer.concat(this.#chunks, this.#have);
    }
    let at = 0;
    let size = 4;
    while (chunk.length - at >= 4) {
      const word = chunk.readUInt32BE(at);
      size = 4 + this.size(word);
      if (size - 4 > this.#limit) throw new Error('the server sent something that is not a reply');
      if (chunk.length - at < size) break;
      this.cut(chunk, at + 4, at + size, word, each);
      at += size;
      size = 4;
    }
    this.#have = chunk.length - at;
    this.#chunks = this.#have > 0 ? [chunk.subarray(at)] : [];
    this.#want = size;
  }

  size(word) { return word & 0x7fffffff; }

  cut(chunk, at, end, word, each) { each(chunk.subarray(at, end), word >= FAILED, 0, null); }

  get partial() { return this.#have > 0; }
}

class TaggedFrames extends Frames {
  size(word) { return word & 0x3fffffff; }

  cut(chunk, at, end, word, each) {
    let start = at + 8;
    let meta = null;
    if ((word & META) !== 0 && start + 4 <= end) {
      meta = chunk.subarray(start + 4, start + 4 + chunk.readUInt32BE(start));
      start += 4 + chunk.readUInt32BE(start);
    }
    if (start > end || ((word & META) !== 0 && meta === null)) throw new Error('received something that is not a tagged frame');
    const tag = chunk.readUInt32BE(at) * 2 ** 32 + chunk.readUInt32BE(at + 4);
    if (tag > Number.MAX_SAFE_INTEGER) throw new Error('received something that is not a tagged frame');
    each(chunk.subarray(start, end), word >= FAILED, tag, meta);
  }
}

// The same for --deliver lines.
class Lines {
  #rest = nothing;

  take(chunk, each) {
    let data = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    for (let end; (end = data.indexOf(10)) >= 0; data = data.subarray(end + 1)) each(data.subarray(0, end), false, 0, null);
    this.#rest = data;
  }

  get partial() { return this.#rest.length > 0; }
}

// Collects replies, to write them together. A thread checks every few milliseconds
// whether one waits. So the earlier replies go out even if the next handler is slow
// or never returns to the event loop. If such a handler has to be killed, its own
// message is charged with that, and no other.
class Replies {
  static SIZE = 64 << 10;
  static LARGE = 32 << 10; // replies of this size or more are written without a copy

  // Words that both threads share.
  static LOCK = 0;
  static BEGIN = 1; // the waiting replies start here
  static END = 2; // and end here
  static LOOK = 3; // the thread must look
  static UP = 4; // the thread runs
  static SHUT = 5; // the thread must not write
  static WORDS = 8;

  static THREAD = `
    const { workerData: { shared, fd, LOCK, BEGIN, END, LOOK, UP, SHUT, WORDS } } = require('worker_threads');
    const { writeSync } = require('fs');
    const state = new Int32Array(shared, 0, WORDS);
    const bytes = new Uint8Array(shared, 4 * WORDS);
    const never = new Int32Array(new SharedArrayBuffer(4));
    function look() {
      while (Atomics.compareExchange(state, LOCK, 0, 1) !== 0) Atomics.wait(state, LOCK, 1, 1);
      const begin = state[BEGIN], end = Atomics.load(state, END);
      let n = 0;
      try {
        if (end > begin && state[SHUT] === 0) n = writeSync(fd, bytes, begin, end - begin);
      } catch {} // full or closed: the main thread gets the same error
      state[BEGIN] = begin + n;
      Atomics.store(state, LOCK, 0);
      return end > begin;
    }
    Atomics.store(state, UP, 1);
    for (;;) {
      Atomics.wait(state, LOOK, 0);
      for (let idle = 0; idle < 16;) {
        Atomics.wait(never, 0, 0, 2);
        idle = look() ? 0 : idle + 1;
        if (idle === 16) {
          Atomics.store(state, LOOK, 0); // a later reply is seen below, or wakes this thread
          if (look()) Atomics.store(state, LOOK, (idle = 0, 1));
        }
      }
    }`;

  #fd;
  #socket;
  #shared = new SharedArrayBuffer(4 * Replies.WORDS + Replies.SIZE);
  #state = new Int32Array(this.#shared, 0, Replies.WORDS);
  #bytes = Buffer.from(this.#shared, 4 * Replies.WORDS);
  #end = 0;
  #thread = null;

  constructor(fd, socket) {
    this.#fd = fd;
    this.#socket = socket;
  }

  get waiting() { return this.#end > 0 && this.#end > Atomics.load(this.#state, Replies.BEGIN); }

  // Called before a message is handled, so that earlier replies do not wait for it.
  hold() {
    const state = this.#state;
    if (!this.waiting) return;
    if (this.#thread === null) {
      const { LOCK, BEGIN, END, LOOK, UP, SHUT, WORDS } = Replies;
      const workerData = { shared: this.#shared, fd: this.#fd, LOCK, BEGIN, END, LOOK, UP, SHUT, WORDS };
      try {
        this.#thread = new Worker(Replies.THREAD, { eval: true, workerData, execArgv: [], env: {} });
        this.#thread.on('error', () => Atomics.store(state, Replies.UP, 0));
        this.#thread.unref();
      } catch {
        this.#thread = undefined; // threads are not allowed here
      }
    }
    if (Atomics.load(state, Replies.UP) === 0) {
      this.flush();
    } else if (Atomics.load(state, Replies.LOOK) === 0) {
      Atomics.store(state, Replies.LOOK, 1);
      Atomics.notify(state, Replies.LOOK);
    }
  }

  add(body, failed) {
    if (this.#end + 4 > Replies.SIZE) this.flush();
    this.#word(failed ? body.length + FAILED : body.length);
    this.#put(body);
  }

  // A tag of 0 is control.
  addTagged(tag, body, failed) {
    if (this.#end + 12 > Replies.SIZE) this.flush();
    this.#word(failed ? body.length + 8 + FAILED : body.length + 8);
    this.#word(tag / 2 ** 32);
    this.#word(tag);
    this.#put(body);
  }

  #word(word) {
    const bytes = this.#bytes;
    const at = this.#end;
    bytes[at] = word >>> 24;
    bytes[at + 1] = word >>> 16;
    bytes[at + 2] = word >>> 8;
    bytes[at + 3] = word;
    this.#end = at + 4;
  }

  addLine(body) {
    this.#put(body);
    this.#put(Buffer.from('\n'));
  }

  #put(data) {
    if (data.length >= Replies.LARGE) {
      this.flush();
      this.#write(data);
      return;
    }
    if (this.#end + data.length > Replies.SIZE) this.flush();
    this.#bytes.set(data, this.#end);
    this.#end += data.length;
    Atomics.store(this.#state, Replies.END, this.#end);
  }

  flush() {
    if (this.#end === 0) return;
    this.#lock();
    const begin = this.#state[Replies.BEGIN];
    const end = this.#end;
    this.#end = this.#state[Replies.BEGIN] = this.#state[Replies.END] = 0;
    try {
      if (end > begin) this.#write(this.#bytes.subarray(begin, end));
    } finally {
      this.#unlock();
    }
  }

  // Writes as much as the socket accepts, and leaves the rest to the event loop.
  #write(data) {
    let n = 0;
    if (this.#socket.writableLength === 0) {
      try {
        while (n < data.length) n += fs.writeSync(this.#fd, data, n);
      } catch (e) {
        if (e.code !== 'EAGAIN') throw e;
      }
    }
    if (n === data.length) return;
    this.#state[Replies.SHUT] = 1;
    this.#socket.write(Buffer.from(data.subarray(n)), () => {
      if (this.#socket.writableLength === 0) this.#state[Replies.SHUT] = 0;
    });
  }

  // Resolves when everything is written.
  drained() {
    this.flush();
    return new Promise((resolve) => {
      if (this.#socket.writableLength === 0) resolve();
      else this.#socket.write(nothing, () => resolve());
    });
  }

  // Stops all writing: another file may get the same descriptor.
  close() {
    this.#lock();
    this.#state[Replies.SHUT] = 1;
    this.#end = this.#state[Replies.BEGIN] = this.#state[Replies.END] = 0;
    this.#unlock();
  }

  #lock() {
    const { LOCK } = Replies;
    while (Atomics.compareExchange(this.#state, LOCK, 0, 1) !== 0) Atomics.wait(this.#state, LOCK, 1, 1);
  }

  #unlock() { Atomics.store(this.#state, Replies.LOCK, 0); }
}

const TOLD = ['POOLINIT_EVENT', 'POOLINIT_WORKER_ID', 'POOLINIT_WORKERS', 'POOLINIT_GENERATION', 'POOLINIT_DELIVER',
  'POOLINIT_CONCURRENCY', 'POOLINIT_FD', 'NOTIFY_SOCKET'];

// The variables that poolinit has set for this process. They are removed from the
// environment, because the process's children are not workers.
let role = null;

function myRole() {
  if (role !== null) return role;
  const told = {};
  if ('POOLINIT_WORKER_ID' in process.env || 'POOLINIT_EVENT' in process.env) {
    for (const name of TOLD) {
      const value = process.env[name];
      if (value !== undefined) told[name] = value;
      delete process.env[name];
    }
  }
  const number = (name, otherwise) => {
    if (told[name] === undefined) return otherwise;
    if (!/^\d+$/.test(told[name])) throw new Error(`${name} is '${told[name]}', which is no number`);
    return Number(told[name]);
  };
  role = {
    event: told.POOLINIT_EVENT ?? '',
    isWorker: told.POOLINIT_WORKER_ID !== undefined,
    workerId: number('POOLINIT_WORKER_ID', -1),
    workers: number('POOLINIT_WORKERS', 0),
    generation: number('POOLINIT_GENERATION', 0),
    deliver: told.POOLINIT_DELIVER ?? '',
    concurrency: Math.max(1, number('POOLINIT_CONCURRENCY', 1)),
    fd: number('POOLINIT_FD', -1),
    notify: told.NOTIFY_SOCKET ?? '',
    parent: process.ppid,
  };
  return role;
}

const EVENTS = ['start', 'workerStart', 'workerStop', 'message', 'shutdown'];

// If a worker wants to stop and cannot ask poolinit for no more messages, it waits
// this long, in ms, for a moment without a message in hand.
const LULL = 1000;

// A pool of workers; in a worker process, this worker.
class Pool {
  #role = myRole();
  #options;
  #concurrency;
  #urls = [];
  #handlers = {};
  #begun = false;

  #socket = null; // null: no messages
  #input = null;
  #replies = null;
  #tagged = false; // replies go in any order
  #takesMeta = false;
  #drains = false; // poolinit has said that no more messages come
  #tag = 0; // of the only message in hand
  #queue = []; // messages that have not been begun
  #next = 0; // of the queue
  #slots = []; // messages begun, in order, from the oldest without a reply on
  #inHand = 0;
  #written = [];
  #flushing = false;
  #starting = true;
  #stopping = false;
  #lull = false; // it waits for a moment without a message
  #lullOver = false;
  #program; // poolinit's path, once it has been looked up
  #telling = Promise.resolve(''); // the notifications to poolinit, one after the other
  #teller = null; // the process that sends the current one
  #dismissed = false;
  #left = false;
  #leaving = null;
  #inputEnded = false;
  #ending = false;
  #crashed = false;

  // workers is the number of workers, or 'auto'. Options are flags of `poolinit run`:
  // maxMessages: 1000 is --max-messages 1000, and a list repeats the flag. The
  // environment overrides them all. concurrency is the number of messages that one
  // worker handles at the same time.
  constructor(workers, options = {}) {
    if (typeof workers === 'object' && workers !== null) [workers, options] = [undefined, workers];
    const { concurrency = 1, ...flags } = options;
    if (!Number.isInteger(concurrency) || concurrency < 1) throw new RangeError('concurrency is 1 or more');
    this.#concurrency = concurrency;
    this.#options = { workers, ...flags };
  }

  // Takes messages from tcp://HOST:PORT, unix:///PATH or sysv://KEY.
  listen(url) {
    this.#notBegun('listen()');
    this.#urls.push(String(url));
    return this;
  }

  // Sets the handler of an event:
  //   start()              once, before poolinit runs. Not if poolinit started the script
  //   workerStart(id)      in each worker, before its first message. Without messages it is the worker
  //   workerStop(id)       when a worker ends by itself, or is asked to stop
  //   message(message)     its return value is the reply; undefined is an empty one.
  //                        It gets the Meta too if it is declared as message(message, meta)
  //   shutdown()           once, in a process of its own, when no worker is left
  // All may be async.
  on(event, handler) {
    this.#notBegun(`on('${event}')`);
    if (!EVENTS.includes(event)) throw new TypeError(`there is no event '${event}', but ${EVENTS.join(', ')}`);
    if (typeof handler !== 'function') throw new TypeError(`on('${event}'): a handler is a function`);
    if (this.#handlers[event]) throw new Error(`on('${event}'): there is a handler already`);
    this.#handlers[event] = handler;
    return this;
  }

  #notBegun(what) {
    if (this.#begun) throw new Error(`${what} after start()`);
  }

  // Runs the pool; in a worker process, the worker. The promise is never settled.
  start() {
    this.#notBegun('start()');
    this.#begun = true;
    if (!isMainThread) throw new Error('start() is for the main thread: it catches signals');
    if (this.#role.event !== '') this.#run(() => this.#event());
    else if (this.#role.isWorker) this.#work();
    else this.#become();
    return new Promise(() => {});
  }

  // Ends the process if the SDK itself fails.
  #run(what) {
    (async () => what())().catch((e) => {
      this.#crashed = true;
      complain(`${stackOf(e)}\n`);
      process.exit(1);
    });
  }

  async #event() {
    if (this.#role.event === 'shutdown') await this.#handlers.shutdown?.call(this);
    process.exit();
  }

  // For workers.

  // The worker's number, from 0; its replacement gets the same. -1 outside a worker.
  get workerId() { return this.#role.workerId; }

  // The number of workers of the pool. 0 outside a worker.
  get workers() { return this.#role.workers; }

  // 1, and one more with each reload. 0 outside a worker.
  get generation() { return this.#role.generation; }

  // The number of messages that this worker may have in hand.
  get concurrency() { return this.#concurrency; }

  // Begins --message-timeout anew, for the message in hand. False: nothing was sent,
  // since messages are not tagged or poolinit is gone. With concurrency above 1 it is
  // the meta that has this method.
  touch() {
    this.#one('touch()');
    if (this.#inHand === 0) throw new Error('touch() without a message in hand');
    return this.#touch(this.#tag);
  }

  #touch(tag) {
    if (tag === 0 || this.#left || this.#ending) return false;
    try {
      this.#replies.addTagged(0, Buffer.from(`{"touch":${tag}}`), false);
      this.#replies.flush();
    } catch (e) {
      this.#broke(e);
      return false;
    }
    return true;
  }

  // Adds to the reply of the message in hand. The handler's return value follows.
  write(data) {
    this.#one('write()');
    if (this.#inHand === 0) throw new Error('write() without a message in hand');
    this.#written.push(toBuffer(data, 'a reply'));
  }

  // Ends this worker when it has answered its messages; another takes its place.
  // Without messages it sends SIGTERM to this process.
  stop() {
    this.#inWorker('stop()');
    if (this.#socket === null || this.#left) {
      process.kill(process.pid, 'SIGTERM');
      return;
    }
    if (this.#stopping) return;
    this.#stopping = true;
    if (this.#drains) return;
    // On STOPPING=1 poolinit ends the input when everything is answered.
    this.#tell('STOPPING=1').then((problem) => {
      if (problem) this.#awaitLull();
    });
  }

  #awaitLull() {
    this.#lull = true;
    setTimeout(() => {
      this.#socket.pause();
      this.#lullOver = true;
      this.#settle();
    }, LULL).unref();
    this.#settle();
  }

  // Stops the pool, as SIGTERM to poolinit does.
  shutdown() {
    this.#inWorker('shutdown()');
    if (process.ppid !== this.#role.parent) throw new Error('shutdown(): poolinit is gone');
    process.kill(this.#role.parent, 'SIGTERM');
  }

  // Leaves the pool: another worker takes this one's place at once. reply answers the
  // message in hand, and the return value of its handler is dropped. This worker may
  // continue its work for any time, until the pool stops.
  detach(reply = nothing) {
    this.#inWorker('detach()');
    this.#one('detach()');
    if (this.#socket === null) throw new Error('detach(): this worker gets no messages');
    if (this.#left) return;
    if (this.#inHand > 0) {
      const last = Buffer.concat([...this.#written, toBuffer(reply, 'a reply')]);
      this.#check(last);
      this.#answer(this.#tag, last);
    } else {
      process.once('beforeExit', () => this.#end());
    }
    this.#leave();
  }

  // Writes the replies that wait; later ones are dropped.
  #leave() {
    this.#left = true;
    this.#queue = [];
    this.#leaving = this.#replies.drained().then(() => {
      this.#replies.close();
      this.#socket.destroy();
    });
  }

  // Sends a state to poolinit by sd_notify, as in notify('STATUS=loading'). It resolves
  // with true when poolinit has read it, with false if that fails, and never rejects.
  // Node has no unix datagrams, so each call runs `poolinit notify`. start() sends
  // READY=1.
  async notify(state) {
    return await this.#tell(String(state)) === '';
  }

  // Resolves with the problem; '' is success.
  #tell(state) {
    if (this.#role.notify === '') return Promise.resolve('nobody listens: NOTIFY_SOCKET is not set');
    this.#telling = this.#telling.then(() => new Promise((resolve) => {
      if (this.#dismissed) {
        resolve('poolinit stops this worker, and listens no more');
        return;
      }
      this.#program ??= placesOf(process.argv[1], this.#role.parent).find(isProgram);
      if (this.#program === undefined) {
        resolve(`cannot find the program poolinit: ${whyNotFound(process.argv[1])}`);
        return;
      }
      const cannot = (e) => resolve(`cannot run ${this.#program}: ${e.message}`);
      try {
        // It must be in this process's group: poolinit ignores other senders.
        this.#teller = spawn(this.#program, ['notify', '--', ...state.split('\n').filter(Boolean)], {
          stdio: ['ignore', 'ignore', 'inherit'],
          env: { ...process.env, NOTIFY_SOCKET: this.#role.notify },
        });
        this.#teller.on('error', cannot);
        this.#teller.on('exit', (code, signal) => resolve(code === 0 ? '' : `poolinit notify ended with ${signal ?? code}`));
      } catch (e) {
        cannot(e);
      }
    }));
    return this.#telling;
  }

  #one(what) {
    if (this.#concurrency > 1) throw new Error(`${what} cannot tell which message is meant, with concurrency above 1`);
  }

  #inWorker(what) {
    if (!this.#role.isWorker || !this.#begun) throw new Error(`${what} in a process that is no worker of a pool`);
  }

  // In a worker process.

  #work() {
    const { deliver, fd } = this.#role;
    const { message } = this.#handlers;
    if (!['', 'tagged', 'frames', 'lines'].includes(deliver)) {
      throw new Error(`--deliver ${deliver}: this script gets its messages by tagged, frames, or lines`);
    }
    if (deliver === '' && message) {
      throw new Error('poolinit gives this script no messages: run it by itself, or as in: '
        + 'poolinit -n 4 --listen tcp://127.0.0.1:8089 -- node SCRIPT');
    }
    if (deliver !== '' && !message) {
      throw new Error('poolinit gives this script messages, and it has no message handler');
    }
    if (deliver !== '') this.#open(fd, deliver);
    else process.once('beforeExit', () => this.#end()); // the script has nothing more to do
    process.on('SIGTERM', () => this.#terminated());
    process.on('uncaughtExceptionMonitor', () => { this.#crashed = true; });
    process.on('exit', () => this.#exiting());
    this.#run(async () => {
      await this.#handlers.workerStart?.call(this, this.#role.workerId);
      this.#starting = false;
      if (this.#socket === null) return;
      this.#pump(); // messages that have arrived do not wait
      await this.#ready();
    });
  }

  // A pool with --ready notify sends messages only after this.
  async #ready() {
    const useless = () => this.#stopping || this.#left || this.#inputEnded || this.#ending;
    if (useless() || this.#role.notify === '' || !mayAwaitReady(this.#role.parent)) return;
    const problem = await this.#tell('READY=1');
    if (problem === '' || useless()) return;
    complain(`poolinit: worker ${this.workerId} cannot say READY=1, and with --ready notify it gets no messages: ${problem}\n`);
  }

  #open(fd, deliver) {
    try {
      this.#socket = new net.Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
    } catch (e) {
      throw new Error(`POOLINIT_FD ${fd} is no socket: ${e.message}`);
    }
    this.#replies = new Replies(fd, this.#socket);
    this.#tagged = deliver === 'tagged';
    if (this.#tagged) this.#concurrency = this.#role.concurrency;
    this.#takesMeta = this.#handlers.message.length > 1;
    this.#input = this.#tagged ? new TaggedFrames() : deliver === 'lines' ? new Lines() : new Frames();
    const enqueue = (body, failed, tag, meta) => {
      if (this.#tagged && tag === 0) this.#control(body);
      else this.#queue.push({ body, tag, meta });
    };
    this.#socket.on('data', (chunk) => {
      if (this.#left) return;
      try {
        this.#input.take(chunk, enqueue);
      } catch (e) {
        this.#broke(e);
        return;
      }
      this.#pump();
    });
    this.#socket.on('end', () => {
      if (this.#input.partial && !this.#left) {
        this.#broke(new Error('the input ended in the middle of a message'));
        return;
      }
      this.#inputEnded = true;
      if (!this.#stopping) this.#dismiss();
      this.#pump();
    });
    this.#socket.on('error', (e) => this.#broke(e));
  }

  // What is not known of it is ignored.
  #control(body) {
    try {
      if (JSON.parse(body.toString()).drain === true) this.#drains = true;
    } catch {
      // not an object
    }
  }

  #broke(e) {
    if (this.#left || this.#ending) return;
    complain(`poolinit: the worker's channel broke: ${e.message}\n`);
    this.#left = true;
    this.#replies.close();
    this.#end(1);
  }

  #terminated() {
    const ours = process.listenerCount('SIGTERM') === 1; // otherwise the script has a handler of its own
    if (this.#socket === null || this.#left) {
      if (ours) this.#end();
      return;
    }
    // poolinit ends the input before it sends SIGTERM, but Node may see the signal first.
    setImmediate(() => setImmediate(() => {
      if (this.#inputEnded) this.#dismiss();
      else if (ours && !this.#left && !this.#ending) this.stop();
    }));
  }

  // poolinit stops this worker and reads no more notifications: the current and the
  // later ones are dropped.
  #dismiss() {
    this.#dismissed = true;
    this.#teller?.kill('SIGKILL');
  }

  // Ends the worker.
  #end(code) {
    if (this.#ending) return;
    this.#ending = true;
    this.#run(async () => {
      await this.#leaving;
      await this.#handlers.workerStop?.call(this, this.#role.workerId);
      await this.#telling; // otherwise poolinit would have to end the notifying process
      process.exit(code);
    });
  }

  // The script has called process.exit(), or the process has crashed.
  #exiting() {
    if (this.#ending) return;
    this.#ending = true;
    try {
      if (this.#socket !== null && !this.#left) this.#replies.flush(); // their messages have been handled
    } catch {
      // poolinit has closed its end
    }
    if (!this.#crashed) this.#handlers.workerStop?.call(this, this.#role.workerId);
  }

  // Begins messages until `concurrency` of them are in hand.
  #pump() {
    if (this.#starting) return;
    try {
      while (this.#inHand < this.#concurrency && this.#next < this.#queue.length) {
        const message = this.#queue[this.#next];
        this.#queue[this.#next++] = undefined;
        this.#begin(message);
      }
      if (this.#next > 0 && this.#next === this.#queue.length) {
        this.#queue = [];
        this.#next = 0;
      }
      if (this.#left) {
        if (this.#inHand === 0) this.#end();
        return;
      }
      if (this.#inHand === 0) this.#replies.flush();
      else this.#flushSoon();
    } catch (e) {
      this.#broke(e); // the socket cannot be written
      return;
    }
    this.#settle();
  }

  // If an async handler does not wait for anything, an extra write is not worth it.
  // If it does wait, the replies before it must not.
  #flushSoon() {
    if (this.#flushing || !this.#replies.waiting) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      try {
        if (!this.#left) this.#replies.flush();
      } catch (e) {
        this.#broke(e);
      }
    });
  }

  // Ends the worker if there is nothing more for it to do.
  #settle() {
    const idle = () => this.#inHand === 0 && this.#next === this.#queue.length && !this.#starting && !this.#left;
    const leave = () => {
      if (!idle()) return;
      this.#leave(); // so that no message comes while workerStop runs
      this.#end();
    };
    if (!idle()) return;
    if (this.#inputEnded) this.#replies.drained().then(() => this.#end());
    else if (this.#lullOver) leave();
    else if (this.#lull) setImmediate(() => setImmediate(leave)); // read what has arrived first
  }

  #begin({ body, tag, meta }) {
    this.#replies.hold();
    this.#inHand++;
    this.#tag = tag;
    let reply;
    let later;
    try {
      reply = this.#takesMeta
        ? this.#handlers.message.call(this, body, new Meta(meta, () => this.#touch(tag)))
        : this.#handlers.message.call(this, body);
      later = typeof reply?.then === 'function';
    } catch (e) {
      this.#done(this.#slot(tag, false), undefined, e, true);
      return;
    }
    if (!later) {
      this.#done(this.#slot(tag, false), reply, undefined, false);
      return;
    }
    const slot = this.#slot(tag, true);
    Promise.resolve(reply).then( // not reply.then(): it may call more than one, or more than once
      (value) => this.#later(slot, value, undefined, false),
      (e) => this.#later(slot, undefined, e, true),
    );
  }

  // The place of a reply. Without tags replies go in the order of their messages, and
  // null is the only message.
  #slot(tag, later) {
    if (this.#tagged) return { tag, reply: null, failed: false };
    if (this.#slots.length === 0 && !later) return null;
    const slot = { tag: 0, reply: null, failed: false };
    this.#slots.push(slot);
    return slot;
  }

  #later(slot, value, error, threw) {
    try {
      this.#done(slot, value, error, threw);
    } catch (e) {
      this.#broke(e);
      return;
    }
    this.#pump();
  }

  // A handler has ended. Without tags its reply goes out after those before it.
  #done(slot, value, error, threw) {
    this.#inHand--;
    let reply;
    let failed = false;
    try {
      if (threw) throw error;
      reply = value === undefined || value === null ? nothing : toBuffer(value, 'a reply');
      if (this.#written.length > 0) reply = Buffer.concat([...this.#written, reply]);
      this.#check(reply);
    } catch (e) {
      failed = true;
      reply = this.#failure(e);
    }
    this.#written.length = 0;
    if (this.#left) return;
    if (slot === null || this.#tagged) {
      this.#answer(slot === null ? 0 : slot.tag, reply, failed);
      return;
    }
    slot.reply = reply;
    slot.failed = failed;
    while (this.#slots.length > 0 && this.#slots[0].reply !== null) {
      const first = this.#slots.shift();
      this.#answer(0, first.reply, first.failed);
    }
  }

  #check(reply) {
    if (this.#role.deliver === 'lines') {
      if (reply.includes(10)) throw new Error('the reply has an end of line in it, and --deliver lines is on');
    } else if (reply.length > MAX_REPLY) {
      throw new Error(`the reply has ${reply.length} bytes, and poolinit takes ${MAX_REPLY}`);
    }
  }

  // The body of a failure frame.
  #failure(e) {
    const expected = e instanceof Refuse || e instanceof Retry;
    if (!expected) complain(`${stackOf(e)}\n`);
    const text = !expected ? textOf(e) : e instanceof Retry ? `${e.after}: ${e.message}` : e.message;
    if (this.#role.deliver === 'lines' && !this.#left) {
      complain(`poolinit: the message failed, which --deliver lines cannot tell: ${text}\n`);
      process.exit(1);
    }
    const code = !expected ? 'error' : e instanceof Retry ? Failure.RETRY : Failure.REFUSED;
    return Buffer.concat([Buffer.from(`${code}: `), cut(text, MAX_TEXT)]);
  }

  #answer(tag, reply, failed = false) {
    if (this.#tagged) this.#replies.addTagged(tag, reply, failed);
    else if (this.#role.deliver === 'lines') this.#replies.addLine(reply);
    else this.#replies.add(reply, failed);
  }

  // In a script that is run by hand.

  #become() {
    const { message, workerStart } = this.#handlers;
    const listens = this.#urls.length > 0 || Boolean(this.#options.listen) || fromEnvironment('listen');
    if (message && !listens) {
      throw new Error('there is a message handler, and nowhere that messages come from: listen() is missing');
    }
    if (!message && listens) throw new Error("messages are listened for, and on('message') is missing");
    if ((process.env.POOLINIT_DELIVER || this.#options.deliver) === 'exec') {
      throw new Error('--deliver exec is for commands that run once a message, and this script stays');
    }
    if (!message && !workerStart) {
      throw new Error("the workers have nothing to do: on('message') and listen(), or on('workerStart')");
    }
    const { script, command } = thisScript();
    const program = find(script);
    const args = ['run', ...this.#flags(), '--', ...command];
    this.#run(async () => {
      await this.#handlers.start?.call(this);
      become(program, args);
    });
  }

  #flags() {
    const options = { ...this.#options };
    if (this.#handlers.message) {
      options.deliver ??= 'tagged';
      options.ready ??= 'notify'; // workers report it when workerStart has resolved
    }
    const deliver = process.env.POOLINIT_DELIVER || options.deliver;
    if (this.#concurrency > 1 && deliver === 'tagged') options.concurrency ??= this.#concurrency;
    else if (this.#concurrency > 1) options.window ??= this.#concurrency;
    if (this.#handlers.shutdown) options.runAtExit ??= true;
    options.listen = [...[options.listen ?? []].flat(), ...this.#urls];
    const words = [];
    for (const [name, value] of Object.entries(options)) {
      const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      if (value === undefined || value === null || fromEnvironment(flag)) continue;
      for (const each of [value].flat()) words.push(`--${flag}=${each}`);
    }
    return words;
  }
}

// Whether the environment sets a flag. It overrides the script: the operator knows
// better than the program.
function fromEnvironment(flag) {
  return Boolean(process.env[`POOLINIT_${flag.toUpperCase().replace(/-/g, '_')}`]);
}

// This script's path, and the command that runs it again.
function thisScript() {
  const script = process.argv[1];
  if (process._eval !== undefined || script === undefined || script === '-') {
    throw new Error('start() in code that is no file (stdin, node -e, a prompt): '
      + 'poolinit runs the same script again as its workers, so put it into a file');
  }
  if (/^\/(dev|proc)\//.test(script)) {
    throw new Error(`start() in ${script}: it can be read once only, and poolinit runs the script again`);
  }
  return { script, command: [process.execPath, ...process.execArgv, script, ...process.argv.slice(2)] };
}

function isProgram(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

// Where the program poolinit may be. For a worker this includes the program of its
// parent.
function placesOf(script, parent) {
  const named = process.env.POOLINIT;
  const inPath = (name) => (process.env.PATH ?? '').split(':').filter(Boolean).map((dir) => path.resolve(dir, name));
  const places = !named ? [...inPath('poolinit'), beside(script)]
    : named.includes('/') ? [path.resolve(named)] : inPath(named);
  if (parent === undefined || !isChildOf(parent)) return places;
  const [name] = wordsOf(parent, 'cmdline') ?? [''];
  if (path.isAbsolute(name)) places.push(name); // with --user this process may not read exe
  return [...places, `/proc/${parent}/exe`];
}

function beside(script) { return path.join(path.dirname(script ?? '.'), 'poolinit'); }

function whyNotFound(script) {
  const named = process.env.POOLINIT;
  return named
    ? `POOLINIT is '${named}', and that is no program.\nLet it be the path of the program, or unset it.`
    : `it is not in PATH (${process.env.PATH ?? ''}), there is no ${beside(script)}, and POOLINIT is not set.\n`
      + 'Put it into a directory of PATH or beside the script, or set POOLINIT to its path.';
}

// The program poolinit. Without one the process ends.
function find(script) {
  const found = placesOf(script).find(isProgram);
  if (found !== undefined) return found;
  complain(`poolinit: cannot find the program poolinit: ${whyNotFound(script)}\n`);
  return process.exit(127);
}

// Whether the parent is poolinit, not a shell or another wrapper: a worker leads its
// process group.
function isChildOf(parent) {
  const [pid, , ppid, group] = myStat();
  return pid === String(process.pid) && group === pid && ppid === String(parent);
}

// PID, state, parent, group, session, terminal, the terminal's foreground group; []
// without /proc.
function myStat() {
  try {
    const stat = fs.readFileSync('/proc/self/stat', 'latin1');
    return [stat.slice(0, stat.indexOf(' ')), ...stat.slice(stat.lastIndexOf(')') + 2).split(' ')];
  } catch {
    return [];
  }
}

// Whether the pool may wait for READY=1. Sending it costs a process, so it is not
// sent to a pool that certainly does not wait.
function mayAwaitReady(parent) {
  if (!isChildOf(parent)) return true;
  const [words, environ] = [wordsOf(parent, 'cmdline'), wordsOf(parent, 'environ')];
  if (words === null || environ === null) return true; // it belongs to another user
  return / --ready[= ]notify /.test(` ${words.join(' ')} `) || environ.includes('POOLINIT_READY=notify');
}

function wordsOf(pid, what) {
  try {
    return fs.readFileSync(`/proc/${pid}/${what}`, 'latin1').split('\0');
  } catch {
    return null;
  }
}

// Becomes poolinit where Node can (from 22.15 and 23.11 on). Otherwise poolinit is a
// child: this process forwards signals to it, and ends with it.
function become(program, args) {
  if (typeof process.execve === 'function') {
    process.execve(program, [program, ...args], process.env);
    return;
  }
  let child = null;
  for (const name of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGTERM', 'SIGCONT', 'SIGWINCH',
    'SIGIO', 'SIGPWR', 'SIGVTALRM', 'SIGXCPU']) {
    process.removeAllListeners(name); // the script's own handlers are for its workers
    process.on(name, () => {
      if (!(fromTerminal.includes(name) && inForeground())) child?.kill(name);
    });
  }
  child = spawn(program, args, { stdio: 'inherit' });
  child.on('error', (e) => {
    complain(`poolinit: cannot run ${program}: ${e.message}\n`);
    process.exit(e.code === 'ENOENT' ? 127 : 126);
  });
  child.on('exit', (code, signal) => process.exit(code ?? 128 + os.constants.signals[signal]));
}

// A terminal sends these to its whole foreground group, so poolinit has them already.
// A second one would mean "kill the workers at once".
const fromTerminal = ['SIGINT', 'SIGQUIT', 'SIGWINCH'];

function inForeground() {
  const [, , , group, , , foreground] = myStat();
  return group !== undefined && group === foreground;
}

// A client of a pool that listens with reply=always or tagged=true. With tagged=true
// in the URL, as in the pool's, an answer does not wait for those of earlier messages.
//
//     const client = new Client('tcp://127.0.0.1:8089');
//     const reply = await client.send('hello');
//     client.close();
//
// The client sends a message again, on a new connection, if a stopping pool did not
// take it, or if the connection broke before its reply: it is handled at least once.
class Client {
  #url;
  #address;
  #tagged;
  #timeout;
  #connectTimeout;
  #tls;
  #socket = null;
  #connected = false; // whether the socket is connected
  #known = false; // a connection has been made before
  #frames = null;
  #waiting = []; // to be sent
  #pending = new Map(); // sent on this connection, without a reply, by tag
  #lastTag = 0;
  #greeted = false; // by the hello of a server of tagged frames
  #again = []; // answered "stopping" on this connection
  #checking = false; // whether something has come that no message waits for
  #silence = null; // the timer of a silent pool
  #retry = null; // the timer of the next connection
  #since = 0; // when the first of the consecutive problems was
  #pause = 0;
  #closed = false;

  // timeout is the longest silence of the pool, connectTimeout how long the pool may be
  // away; both in ms, 0 is for ever. tls: options of tls.connect(), for a pool with
  // cert= in its URL.
  constructor(url, { timeout = 60000, connectTimeout = 10000, tls: options } = {}) {
    this.#url = String(url);
    [this.#address, this.#tagged] = addressOf(this.#url);
    this.#timeout = timeout;
    this.#connectTimeout = connectTimeout;
    this.#tls = options;
  }

  // Sends a message and resolves with its reply, a Buffer. It rejects with a Failure
  // if the pool says that the message failed, or with another Error if the pool cannot
  // be reached or does not answer. Several messages may be in flight: the pool handles
  // them in parallel.
  async send(body) {
    const data = toBuffer(body, 'a message');
    if (data.length >= FAILED) throw new RangeError('a message is shorter than 2 GiB');
    if (this.#tagged && data.length > MAX_TAGGED) throw new RangeError('a tagged message is not longer than 1 GiB - 128 KiB');
    if (this.#closed) throw new Error('the client is closed');
    return new Promise((resolve, reject) => {
      this.#waiting.push({ data, resolve, reject });
      this.#go();
    });
  }

  // Closes the connection. Messages without a reply are rejected.
  close() {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#retry = null;
    this.#drop();
    this.#fail(new Error('the client was closed'));
  }

  #fail(error) {
    const all = [...this.#again, ...this.#takePending(), ...this.#waiting];
    this.#again = [];
    this.#waiting = [];
    this.#reject(all, error);
  }

  #takePending() {
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    return pending;
  }

  #reject(messages, error) {
    for (const { reject } of messages) reject(error);
  }

  // fresh: nothing can have come that no message waits for.
  #go(fresh = false) {
    if (this.#retry !== null || this.#waiting.length === 0 || this.#again.length > 0) return;
    if (this.#socket === null) this.#connect();
    if (!this.#connected || this.#checking) return;
    if (this.#pending.size === 0 && !fresh && !this.#tagged) {
      this.#check();
      return;
    }
    this.#socket.ref();
    this.#socket.cork();
    for (const message of this.#waiting) {
      const tag = ++this.#lastTag;
      this.#socket.write(this.#tagged ? taggedHeader(message.data.length, tag) : header(message.data.length));
      this.#socket.write(message.data);
      this.#pending.set(tag, message);
    }
    this.#socket.uncork();
    this.#waiting = [];
    this.#listen(this.#timeout);
  }

  // What has come by now is a reply too many, which is not the next message's, or the
  // end. It is read within two turns of the event loop, and then there is no connection.
  #check() {
    const socket = this.#socket;
    this.#checking = true;
    socket.ref();
    setImmediate(() => setImmediate(() => {
      this.#checking = false;
      this.#go(socket === this.#socket);
    }));
  }

  #connect() {
    const socket = this.#tls === undefined ? net.connect(this.#address)
      : tls.connect({ servername: net.isIP(this.#address.host ?? '') ? '' : this.#address.host, ...this.#address, ...this.#tls });
    this.#socket = socket;
    this.#frames = this.#tagged ? new TaggedFrames(MAX_REPLY + MAX_META) : new Frames(MAX_REPLY);
    this.#greeted = false;
    socket.setNoDelay?.(true);
    socket.once(this.#tls === undefined ? 'connect' : 'secureConnect', () => {
      if (socket !== this.#socket) return;
      this.#connected = this.#known = true;
      if (this.#tagged) {
        const hello = '{"hello":1}';
        socket.write(taggedHeader(hello.length, 0));
        socket.write(hello);
      }
      this.#go(true);
    });
    socket.on('data', (chunk) => {
      if (socket === this.#socket) this.#heard(chunk);
    });
    socket.on('error', (e) => this.#lost(socket, e));
    socket.on('close', () => this.#lost(socket, new Error('the pool closed the connection without a reply')));
    this.#listen(this.#connectTimeout);
  }

  // Starts the timer of a silent pool.
  #listen(limit) {
    clearTimeout(this.#silence);
    if (limit <= 0) return;
    this.#silence = setTimeout(() => {
      const error = new Error(this.#connected
        ? `${this.#url}: nothing was heard within ${limit / 1000} s (only a pool with reply=always or tagged=true in its URL answers every message)`
        : `${this.#url}: no connection within ${limit / 1000} s`);
      error.code = 'ETIMEDOUT';
      if (!this.#connected) {
        this.#lost(this.#socket, error);
        return;
      }
      const silent = this.#takePending();
      this.#lost(this.#socket, error); // the other messages are sent again
      this.#reject(silent, error);
    }, limit);
  }

  #heard(chunk) {
    this.#listen(this.#timeout);
    const socket = this.#socket;
    try {
      this.#frames.take(chunk, (body, failed, tag) => {
        if (socket !== this.#socket) return;
        if (this.#tagged && (tag === 0 || !this.#greeted)) this.#heed(body, failed, tag);
        else this.#took(body, failed, tag);
      });
    } catch (e) {
      const plain = this.#tagged && !this.#greeted && chunk.toString('latin1', 4, 16) === 'not-tagged: ';
      const error = plain ? failureIn(chunk.subarray(4)) : e;
      this.#reject(this.#takePending(), error); // sending them again would only repeat the error
      this.#lost(socket, error);
      return;
    }
    if (this.#socket === null) return;
    if (this.#pending.size > 0) return;
    clearTimeout(this.#silence);
    if (this.#again.length > 0) this.#lost(this.#socket, this.#again[0].failure);
    else this.#socket.unref(); // no reply is awaited
  }

  // Control: the hello. Nothing else is for a client.
  #heed(body, failed, tag) {
    if (tag !== 0) throw new Error('the server sent something that is not a reply');
    if (failed) throw failureIn(body);
    this.#greeted = true;
  }

  #took(body, failed, tag) {
    if (!this.#tagged) tag = this.#pending.keys().next().value; // the oldest
    const message = this.#pending.get(tag);
    this.#pending.delete(tag);
    if (message === undefined) {
      if (this.#tagged) throw new Error('the server sent something that is not a reply');
      this.#drop();
      return;
    }
    if (!failed) {
      this.#since = this.#pause = 0;
      message.resolve(Buffer.from(body));
      return;
    }
    const failure = failureIn(body);
    if (failure.code === Failure.STOPPING) {
      message.failure = failure;
      this.#again.push(message);
      return;
    }
    this.#since = this.#pause = 0;
    message.reject(failure);
  }

  // The connection has ended: messages without a reply are sent again on another one.
  #lost(socket, error) {
    if (socket !== this.#socket || socket === null) return;
    const known = this.#known;
    this.#drop();
    this.#waiting = [...this.#again, ...this.#takePending(), ...this.#waiting];
    this.#again = [];
    if (this.#waiting.length === 0) return;
    this.#since = this.#since || Date.now();
    if (!known || (this.#connectTimeout > 0 && Date.now() - this.#since >= this.#connectTimeout)) {
      this.#since = this.#pause = 0;
      this.#fail(error);
      return;
    }
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.#go();
    }, this.#pause);
    this.#pause = Math.min(Math.max(2 * this.#pause, 20), 1000);
  }

  #drop() {
    clearTimeout(this.#silence);
    this.#connected = false;
    const socket = this.#socket;
    this.#socket = null;
    socket?.destroy();
  }
}

// The options of net.connect(), and whether messages are tagged.
function addressOf(url) {
  const wrong = () => new TypeError(`'${url}' is no address of a pool, such as tcp://127.0.0.1:8089 or unix:///run/pool.sock`);
  let parts;
  try {
    parts = new URL(url);
  } catch {
    throw wrong();
  }
  const query = parts.searchParams;
  if (query.get('reply') === 'never') throw new TypeError(`'${url}': a pool with reply=never has no replies`);
  if (!['false', '0', null].includes(query.get('once'))) {
    throw new TypeError(`'${url}': once=true is one message a connection, and this client sends many`);
  }
  const tagged = !['false', '0', null].includes(query.get('tagged'));
  if (parts.protocol === 'unix:' && parts.host === '' && parts.pathname.length > 1) {
    return [{ path: decodeURIComponent(parts.pathname) }, tagged];
  }
  if (parts.protocol === 'tcp:' && parts.hostname && parts.port && ['', '/'].includes(parts.pathname)) {
    return [{ host: parts.hostname.replace(/^\[|\]$/g, ''), port: Number(parts.port) }, tagged];
  }
  throw wrong();
}

module.exports = { Client, Failure, Meta, Pool, Refuse, Retry };
