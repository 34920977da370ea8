/// <reference types="node" />
import type { ConnectionOptions } from 'tls';

/** What a reply or a message may be. */
export type Body = string | Uint8Array;

/** What a message handler returns; nothing is an empty reply. */
export type Reply = Body | null | undefined | void;

export type Option = string | number | boolean | null | undefined | readonly (string | number)[];

/** Flags of `poolinit run`: maxMessages is --max-messages. The environment outranks them. */
export interface PoolOptions {
  /** When a worker counts as ready: notify is when workerStart has resolved, the default with messages. */
  ready?: 'started' | 'notify' | null;
  /** How many messages one worker handles at a time; their replies go in order all the same. Default 1. */
  concurrency?: number;
  [flag: string]: Option;
}

export interface Handlers {
  /** Once, before poolinit is run. Not where poolinit has run the script. */
  start: (this: Pool) => unknown;
  /** In each worker, before its first message; it is ready when this has resolved. Without messages it is the worker. */
  workerStart: (this: Pool, workerId: number) => unknown;
  /** When a worker ends by itself, or is asked to: after its last message. */
  workerStop: (this: Pool, workerId: number) => unknown;
  /** Handles a message. If it throws or rejects the message is delivered again, unless with Refuse. */
  message: (this: Pool, message: Buffer) => Reply | PromiseLike<Reply>;
  /** Once, in a process of its own, when no worker is left. */
  shutdown: (this: Pool) => unknown;
}

/** A pool of workers, and in each of its processes the worker. */
export class Pool {
  constructor(workers?: number | 'auto' | null, options?: PoolOptions);
  constructor(options: PoolOptions);

  /** Takes messages from tcp://HOST:PORT, unix:///PATH or sysv://KEY. */
  listen(url: string): this;
  on<Event extends keyof Handlers>(event: Event, handler: Handlers[Event]): this;
  /** Runs the pool, or in a worker the worker. The promise is never settled. */
  start(): Promise<never>;

  /** The worker's number, from 0; its replacement gets the same. -1 in no worker. */
  readonly workerId: number;
  /** How many workers the pool has. 0 in no worker. */
  readonly workers: number;
  /** 1, and one more with each reload. 0 in no worker. */
  readonly generation: number;

  /** Adds to the reply of the message in hand. What the handler returns follows. */
  write(data: Body): void;
  /** Ends this worker when it has answered what it was given; another takes its place. */
  stop(): void;
  /** Stops the pool, as SIGTERM to poolinit does. */
  shutdown(): void;
  /** Answers the message in hand and leaves the pool; another worker takes this one's place at once. */
  detach(reply?: Body): void;
  /**
   * Tells poolinit by sd_notify, as in notify('STATUS=loading'), by a process of its own. True when that has been
   * read, false if it could not be told; it never rejects. READY=1 is said by start().
   */
  notify(state: string): Promise<boolean>;
}

/** Thrown by a message handler: the message is not delivered again, and the text goes to its client. */
export class Refuse extends Error {}

/** What Client.send rejects with if the pool has not handled the message. */
export class Failure extends Error {
  /** stopping, spooled, interrupted, given-up, refused, too-big, not-a-line. */
  readonly code: string;
  readonly text: string;
  constructor(code: string, text: string);
}

export interface ClientOptions {
  /** For how long nothing at all may be heard, in ms; 0: for ever. Default 60000. */
  timeout?: number;
  /** For how long the pool may be away, in ms; 0: for ever. Default 10000. */
  connectTimeout?: number;
  /** For a pool with cert= in its URL. */
  tls?: ConnectionOptions;
}

/** A client of a pool that listens with reply=always. It sends again what had no answer. */
export class Client {
  constructor(url: string, options?: ClientOptions);
  send(body: Body): Promise<Buffer>;
  close(): void;
}
