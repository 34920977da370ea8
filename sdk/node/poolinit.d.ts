/// <reference types="node" />
import type { ConnectionOptions } from 'tls';

/** A reply or a message. */
export type Body = string | Uint8Array;

/** The return value of a message handler; nothing is an empty reply. */
export type Reply = Body | null | undefined | void;

export type Option = string | number | boolean | null | undefined | readonly (string | number)[];

/** Flags of `poolinit run`: maxMessages is --max-messages. The environment overrides them. */
export interface PoolOptions {
  /** When a worker counts as ready: notify is when workerStart has resolved, the default with messages. */
  ready?: 'started' | 'notify' | null;
  /** How many messages one worker handles at the same time. Default 1. */
  concurrency?: number;
  [flag: string]: Option;
}

/** What is known of a message beside its body. What is not known is empty, 0 or null. */
export class Meta {
  private constructor();
  /** The same at each delivery. */
  readonly id: string;
  /** 1 at the first delivery. */
  readonly attempt: number;
  /** The URL that the message came by. */
  readonly source: string;
  readonly key: string;
  /** When the message arrived. */
  readonly time: Date | null;
  /** When --message-timeout is over, unless touch() has moved it. */
  readonly deadline: Date | null;
  readonly headers: Readonly<Record<string, string>>;
  /** Begins --message-timeout anew, for this message. False: nothing was sent. */
  touch(): boolean;
}

export interface Handlers {
  /** Once, before poolinit runs. Not if poolinit started the script. */
  start: (this: Pool) => unknown;
  /** In each worker, before its first message; it is ready when this has resolved. Without messages it is the worker. */
  workerStart: (this: Pool, workerId: number) => unknown;
  /** When a worker ends by itself or is asked to stop: after its last message. */
  workerStop: (this: Pool, workerId: number) => unknown;
  /**
   * Handles a message. It gets the meta if it declares two parameters. If it throws or rejects, the message is
   * delivered again, except with Refuse.
   */
  message: (this: Pool, message: Buffer, meta: Meta) => Reply | PromiseLike<Reply>;
  /** Once, in a process of its own, when no worker is left. */
  shutdown: (this: Pool) => unknown;
}

/** A pool of workers; in a worker process, this worker. */
export class Pool {
  constructor(workers?: number | 'auto' | null, options?: PoolOptions);
  constructor(options: PoolOptions);

  /** Takes messages from tcp://HOST:PORT, unix:///PATH or sysv://KEY. */
  listen(url: string): this;
  on<Event extends keyof Handlers>(event: Event, handler: Handlers[Event]): this;
  /** Runs the pool; in a worker process, the worker. The promise is never settled. */
  start(): Promise<never>;

  /** The worker's number, from 0; its replacement gets the same. -1 outside a worker. */
  readonly workerId: number;
  /** The number of workers of the pool. 0 outside a worker. */
  readonly workers: number;
  /** 1, and one more with each reload. 0 outside a worker. */
  readonly generation: number;
  /** The number of messages that this worker may have in hand. */
  readonly concurrency: number;

  /** Adds to the reply of the message in hand. The handler's return value follows. */
  write(data: Body): void;
  /** Begins --message-timeout anew, for the message in hand. With concurrency above 1 meta.touch() does this. */
  touch(): boolean;
  /** Ends this worker when it has answered its messages; another takes its place. */
  stop(): void;
  /** Stops the pool, as SIGTERM to poolinit does. */
  shutdown(): void;
  /** Answers the message in hand and leaves the pool; another worker takes this one's place at once. */
  detach(reply?: Body): void;
  /**
   * Sends a state to poolinit by sd_notify, as in notify('STATUS=loading'), through a process of its own. True when
   * poolinit has read it, false if that fails; it never rejects. start() sends READY=1.
   */
  notify(state: string): Promise<boolean>;
}

/** A message handler throws it: the message is not delivered again, and the text goes to its client. */
export class Refuse extends Error {}

/** A message handler throws it to get the message again after a time: a duration such as '30s', or seconds. */
export class Retry extends Error {
  readonly after: string;
  constructor(after: string | number, text?: string);
}

/** Client.send rejects with it if the pool has not handled the message. */
export class Failure extends Error {
  static readonly STOPPING: 'stopping';
  static readonly SPOOLED: 'spooled';
  static readonly INTERRUPTED: 'interrupted';
  static readonly GIVEN_UP: 'given-up';
  static readonly REFUSED: 'refused';
  static readonly TOO_BIG: 'too-big';
  static readonly NOT_A_LINE: 'not-a-line';
  static readonly EXPIRED: 'expired';
  static readonly RETRY: 'retry';
  static readonly NOT_TAGGED: 'not-tagged';
  /** One of the constants, or a newer one, which means the same as GIVEN_UP. */
  readonly code: string;
  readonly text: string;
  constructor(code: string, text: string);
}

export interface ClientOptions {
  /** The longest silence of the pool, in ms; 0: for ever. Default 60000. */
  timeout?: number;
  /** How long the pool may be away, in ms; 0: for ever. Default 10000. */
  connectTimeout?: number;
  /** For a pool with cert= in its URL. */
  tls?: ConnectionOptions;
}

/** A client of a pool that listens with reply=always or tagged=true. It sends unanswered messages again. */
export class Client {
  constructor(url: string, options?: ClientOptions);
  send(body: Body): Promise<Buffer>;
  close(): void;
}
