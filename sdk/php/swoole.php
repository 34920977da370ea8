<?php

/**
 * The names of Swoole's process pool, for programs that were written for it, in a PHP without ext-swoole:
 *
 *     php -d auto_prepend_file=swoole.php program.php
 *
 * Swoole\Process\Pool is then poolinit's pool. docs/swoole.md lists each method and each difference. If the extension
 * is loaded, this file does nothing.
 */

declare(strict_types=1);

namespace Poolinit {

    if (!\extension_loaded('swoole')) {
        require_once __DIR__ . '/Pool.php';

        foreach (['NONE' => 0, 'UNIXSOCK' => 1, 'MSGQUEUE' => 2, 'SOCKET' => 3] as $name => $value) {
            \defined("SWOOLE_IPC_$name") || \define("SWOOLE_IPC_$name", $value);
        }
        \defined('SWOOLE_MSGQUEUE_ORIENT') || \define('SWOOLE_MSGQUEUE_ORIENT', 1);
        \defined('SWOOLE_MSGQUEUE_BALANCE') || \define('SWOOLE_MSGQUEUE_BALANCE', 2);
        unset($name, $value);

        /**
         * A worker's own socket, for SWOOLE_IPC_UNIXSOCK. poolinit opens one for each worker number (--share), so
         * data for a worker that is being replaced waits for its successor.
         *
         * @internal
         */
        final class Mailbox
        {
            /** @var resource */
            private $socket;

            private string $path;

            /** @var list<string> messages from this worker to itself */
            private array $own = [];

            public function __construct(private readonly int $id)
            {
                $names = \explode(':', (string) \getenv('LISTEN_FDNAMES'));
                $at = \array_search("swoole-$id", $names, true);
                if ($at === false || (int) \getenv('LISTEN_PID') !== \getmypid()) {
                    throw new \Swoole\Exception('SWOOLE_IPC_UNIXSOCK needs a socket for each worker, which '
                        . 'start() asks for: run the program by php, not by poolinit run');
                }
                $this->socket = \fopen('php://fd/' . (3 + $at), 'r+b');
                $this->path = \substr((string) \stream_socket_get_name($this->socket, false), 0, -\strlen("$id.sock"));
                foreach (['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES'] as $name) {
                    \putenv($name);
                    unset($_ENV[$name], $_SERVER[$name]);
                }
            }

            /**
             * The sockets of $workers workers, as URLs of --share.
             *
             * @return list<string>
             */
            public static function shares(int $workers): array
            {
                $path = \sys_get_temp_dir() . '/swoole-' . \bin2hex(\random_bytes(8)) . '-';
                $share = static fn (int $id): string => "unix://$path$id.sock?name=swoole-$id&mode=0600";
                return \array_map($share, \range(0, $workers - 1));
            }

            /**
             * Returns when the message is in the other worker's socket; false if that fails.
             */
            public function send(int $to, string $data): bool
            {
                if ($to === $this->id) {
                    $this->own[] = $data;
                    return true;
                }
                $socket = @\stream_socket_client("unix://$this->path$to.sock");
                $frame = \pack('N', \strlen($data)) . $data;
                return $socket !== false && @\fwrite($socket, $frame) === \strlen($frame);
            }

            /**
             * Returns the next message; null if there is none and the worker must stop.
             *
             * @param callable(): bool $goesOn
             */
            public function receive(callable $goesOn): ?string
            {
                while ($goesOn()) {
                    if ($this->own !== []) {
                        return \array_shift($this->own);
                    }
                    $read = [$this->socket];
                    $none = null;
                    if (!@\stream_select($read, $none, $none, null)) {
                        continue; // a signal
                    }
                    $sender = @\stream_socket_accept($this->socket, 0);
                    $header = $sender === false ? '' : (string) \stream_get_contents($sender, 4);
                    if (\strlen($header) < 4) {
                        continue; // a predecessor has taken it, or the sender has died
                    }
                    $size = \unpack('N', $header)[1];
                    $data = $size === 0 ? '' : (string) \stream_get_contents($sender, $size);
                    if (\strlen($data) === $size) {
                        return $data;
                    }
                }
                return null;
            }
        }
    }
}

namespace Swoole {

    if (!\extension_loaded('swoole')) {
        class Exception extends \Exception
        {
        }

        /**
         * The names of the process pool's events and options in Swoole.
         */
        class Constant
        {
            public const EVENT_START = 'start';
            public const EVENT_SHUTDOWN = 'shutdown';
            public const EVENT_WORKER_START = 'workerStart';
            public const EVENT_WORKER_STOP = 'workerStop';
            public const EVENT_WORKER_EXIT = 'workerExit';
            public const EVENT_MESSAGE = 'message';
            public const OPTION_ENABLE_COROUTINE = 'enable_coroutine';
            public const OPTION_ENABLE_MESSAGE_BUS = 'enable_message_bus';
            public const OPTION_MAX_PACKAGE_SIZE = 'max_package_size';
            public const OPTION_MAX_WAIT_TIME = 'max_wait_time';
        }

        /**
         * A worker, as Swoole\Process\Pool::getProcess() returns it. The rest of Swoole\Process is absent.
         */
        class Process
        {
            public const IPC_NOWAIT = 256;

            public ?int $pipe = null;
            public ?int $msgQueueId = null;
            public ?int $msgQueueKey = null;
            public ?int $pid = null;
            public ?int $id = null;

            private bool $isSelf = false;
            private ?\Poolinit\Mailbox $mailbox = null;
            private ?\SysvMessageQueue $queue = null;
            private int $mode = SWOOLE_MSGQUEUE_BALANCE;

            public function __construct(
                callable $callback,
                bool $redirect_stdin_and_stdout = false,
                int $pipe_type = 2,
                bool $enable_coroutine = false,
            ) {
                throw new Exception('new Swoole\Process needs ext-swoole: here is Swoole\Process\Pool alone');
            }

            /**
             * @internal
             */
            public static function of(int $id, ?int $pid, bool $isSelf, ?\Poolinit\Mailbox $mailbox): self
            {
                $process = (new \ReflectionClass(self::class))->newInstanceWithoutConstructor();
                $process->id = $id;
                $process->pid = $pid;
                $process->isSelf = $isSelf;
                $process->mailbox = $mailbox;
                return $process;
            }

            /**
             * @return int|false
             */
            public function write(string $data): int|false
            {
                if ($this->mailbox === null) {
                    \trigger_error('no pipe: write() is for SWOOLE_IPC_UNIXSOCK', E_USER_WARNING);
                    return false;
                }
                return $this->mailbox->send((int) $this->id, $data) ? \strlen($data) : false;
            }

            /**
             * @return string|false
             */
            public function read(int $size = 8192): string|false
            {
                if ($this->mailbox === null) {
                    \trigger_error('no pipe: read() is for SWOOLE_IPC_UNIXSOCK', E_USER_WARNING);
                    return false;
                }
                if (!$this->isSelf) {
                    throw new Exception("read() of worker $this->id needs ext-swoole: "
                        . 'here a worker reads what was sent to it alone');
                }
                return (string) $this->mailbox->receive(static fn (): bool => true);
            }

            /**
             * Opens a System V queue for push() and pop().
             */
            public function useQueue(int $key = 0, int $mode = SWOOLE_MSGQUEUE_BALANCE, int $capacity = -1): bool
            {
                if (!\function_exists('msg_get_queue')) {
                    throw new Exception('a System V queue needs the extension sysvmsg: docker-php-ext-install sysvmsg');
                }
                $queue = \msg_get_queue($key);
                if ($queue === false) {
                    return false;
                }
                $this->queue = $queue;
                $this->mode = $mode;
                $this->msgQueueKey = $key;
                return $capacity < 0 || \msg_set_queue($queue, ['msg_qbytes' => $capacity]);
            }

            public function push(string $data): bool
            {
                if (!$this->hasQueue('push')) {
                    return false;
                }
                $wait = ($this->mode & self::IPC_NOWAIT) === 0;
                return @\msg_send($this->queue, 1 + ($this->isOriented() ? (int) $this->id : 0), $data, false, $wait);
            }

            /**
             * @return string|false false also if a signal interrupts the call
             */
            public function pop(int $size = 65536): string|false
            {
                if (!$this->hasQueue('pop')) {
                    return false;
                }
                $flags = ($this->mode & self::IPC_NOWAIT) !== 0 ? MSG_IPC_NOWAIT : 0;
                $type = $this->isOriented() ? 1 + (int) $this->id : 0;
                return @\msg_receive($this->queue, $type, $got, $size, $data, false, $flags) ? $data : false;
            }

            /**
             * PHP does not know how many bytes are in a queue.
             *
             * @return array{queue_num: int}|false
             */
            public function statQueue(): array|false
            {
                $stat = $this->hasQueue('statQueue') ? \msg_stat_queue($this->queue) : false;
                return $stat === false ? false : ['queue_num' => $stat['msg_qnum']];
            }

            public function freeQueue(): bool
            {
                return $this->hasQueue('freeQueue') && \msg_remove_queue($this->queue);
            }

            public function name(string $process_name): bool
            {
                return \cli_set_process_title($process_name);
            }

            public function exit(int $exit_code = 0): void
            {
                exit($exit_code);
            }

            public static function kill(int $pid, int $signal_no = SIGTERM): bool
            {
                return \posix_kill($pid, $signal_no);
            }

            public static function signal(int $signal_no, ?callable $callback = null): bool
            {
                return \pcntl_signal($signal_no, $callback ?? SIG_DFL);
            }

            /**
             * @param array<mixed> $arguments
             */
            public function __call(string $name, array $arguments): never
            {
                throw new Exception("Swoole\\Process::$name() needs ext-swoole");
            }

            /**
             * @param array<mixed> $arguments
             */
            public static function __callStatic(string $name, array $arguments): never
            {
                throw new Exception("Swoole\\Process::$name() needs ext-swoole");
            }

            private function hasQueue(string $method): bool
            {
                if ($this->queue === null) {
                    \trigger_error("no message queue: call useQueue() before $method()", E_USER_WARNING);
                }
                return $this->queue !== null;
            }

            private function isOriented(): bool
            {
                return ($this->mode & ~self::IPC_NOWAIT) === SWOOLE_MSGQUEUE_ORIENT;
            }
        }
    }
}

namespace Swoole\Process {

    use Swoole\Exception;
    use Swoole\Process;

    if (!\extension_loaded('swoole')) {
        /**
         * Swoole's process pool, kept by poolinit.
         */
        class Pool
        {
            /** The variable that tells workers the random key of a private queue. */
            private const KEY = 'SWOOLE_POOL_MSGQUEUE_KEY';

            private const EVENTS = ['start', 'shutdown', 'workerstart', 'workerstop', 'workerexit', 'message'];

            public int $master_pid = -1;
            public int $workerPid = -1;
            public int $workerId = -1;

            /** @var Process[]|null */
            public ?array $workers = null;

            public bool $workerRunning = true;
            public bool $running = true;

            private readonly \Poolinit\Pool $pool;

            /** @var array<string, callable> */
            private array $handlers = [];

            private ?\Poolinit\Mailbox $mailbox = null;
            private bool $started = false;
            private bool $listens = false;
            private bool $private = false; // only this pool uses the queue

            public function __construct(
                private readonly int $worker_num,
                private readonly int $ipc_type = SWOOLE_IPC_NONE,
                private int $msgqueue_key = 0,
                bool $enable_coroutine = false,
            ) {
                if ($worker_num <= 0) {
                    throw new Exception('the parameter $worker_num must be greater than 0');
                }
                self::refuseCoroutines($enable_coroutine);
                $this->pool = new \Poolinit\Pool($worker_num);
                unset($this->running, $this->workerRunning); // so that __get() serves them
            }

            /**
             * running and workerRunning: false as soon as this worker has been told to stop. Swoole sets them only
             * before onWorkerStop.
             */
            public function __get(string $name): bool
            {
                if (!$this->__isset($name)) {
                    throw new \Error("Undefined property: Swoole\\Process\\Pool::\$$name");
                }
                return $this->pool->running;
            }

            public function __isset(string $name): bool
            {
                return $name === 'running' || $name === 'workerRunning';
            }

            /**
             * @param array<string, mixed> $settings
             */
            public function set(array $settings): void
            {
                foreach ($settings as $name => $value) {
                    switch ($name) {
                        case 'max_package_size':
                            $size = self::size($value);
                            if ($size < 0) {
                                $this->warnOnce("max_package_size must be greater than or equal to 0, got $size");
                            } else {
                                $this->pool->set(['max-message' => (string) \max(1, \min($size, 0x7fffffff))]);
                            }
                            break;
                        case 'max_wait_time': // 0 is never; ten years are the longest time of poolinit
                            $this->pool->set(['stop-timeout' => (int) $value > 0 ? (int) $value . 's' : '87600h']);
                            break;
                        case 'enable_coroutine':
                            self::refuseCoroutines((bool) $value);
                            break;
                        case 'enable_message_bus': // the limit that it lifts does not exist here
                            break;
                        default:
                            $this->warnOnce("option \"$name\" is unknown without ext-swoole, and has no effect");
                    }
                }
            }

            public function on(string $name, callable $callback): bool
            {
                $event = \strtolower($name);
                if ($this->started) {
                    self::warn('process pool is started. unable to register event callback function');
                    return false;
                }
                if (!\in_array($event, self::EVENTS, true)) {
                    $this->warnOnce("unknown event type[$name]");
                    return false;
                }
                if ($event === 'message' && $this->ipc_type === SWOOLE_IPC_NONE) {
                    throw new Exception('cannot set `onMessage` event with ipc_type=0');
                }
                $this->handlers[$event] = $callback;
                return true;
            }

            public function listen(string $host, int $port = 0, int $backlog = 2048): bool
            {
                if ($this->started || $this->ipc_type !== SWOOLE_IPC_SOCKET || $this->listens) {
                    self::warn(match (true) {
                        $this->started => 'process pool is started. unable to listen',
                        $this->listens => 'the process pool is already listening',
                        default => "unsupported ipc type[$this->ipc_type]",
                    });
                    return false;
                }
                if (\stripos($host, 'unix:/') === 0) {
                    $path = \implode('/', \array_map('rawurlencode', \explode('/', \ltrim(\substr($host, 5), '/'))));
                    $url = "unix:///$path";
                } else {
                    $url = 'tcp://' . (\str_contains($host, ':') ? '[' . \trim($host, '[]') . ']' : $host) . ":$port";
                }
                $this->pool->listen("$url?once=true");
                return $this->listens = true;
            }

            public function write(string $data): bool
            {
                if ($this->ipc_type !== SWOOLE_IPC_SOCKET) {
                    self::warn("unsupported ipc type[$this->ipc_type]");
                    return false;
                }
                try {
                    $data === '' || $this->pool->write($data);
                    return $data !== '';
                } catch (\LogicException) { // no message is in hand
                    return false;
                }
            }

            public function sendMessage(string $data, int $dst_worker_id): bool
            {
                if ($this->workerId < 0) {
                    self::warn('process pool is not started.');
                    return false;
                }
                if ($this->mailbox === null) {
                    self::warn("unsupported ipc type[$this->ipc_type], sendMessage requires SWOOLE_IPC_UNIXSOCK");
                    return false;
                }
                if ($dst_worker_id < 0 || $dst_worker_id >= $this->count()) {
                    self::warn("invalid worker_id[$dst_worker_id]");
                    return false;
                }
                return $this->mailbox->send($dst_worker_id, $data);
            }

            public function getProcess(int $work_id = -1): Process|false
            {
                if ($this->workerId < 0) {
                    return false;
                }
                if ($work_id >= $this->count()) {
                    self::warn("invalid worker_id[$work_id]");
                    return false;
                }
                $id = $work_id < 0 ? $this->workerId : $work_id;
                $isSelf = $id === $this->workerId;
                $pid = $isSelf ? (int) \getmypid() : self::pidOf($id, $this->master_pid);
                if (!isset($this->workers[$id])) {
                    $this->workers[$id] = Process::of($id, $pid, $isSelf, $this->mailbox);
                    if ($this->ipc_type === SWOOLE_IPC_MSGQUEUE) {
                        $this->workers[$id]->useQueue($this->msgqueue_key);
                    }
                }
                $this->workers[$id]->pid = $pid;
                return $this->workers[$id];
            }

            public function detach(): bool
            {
                try {
                    $this->pool->detach();
                    return true;
                } catch (\LogicException) {
                    return false;
                }
            }

            public function stop(): void
            {
                if ($this->workerId >= 0) {
                    $this->pool->stop();
                }
            }

            public function shutdown(): bool
            {
                if (!$this->started) {
                    throw new Exception('The process pool is not started');
                }
                try {
                    $this->pool->shutdown();
                    return true;
                } catch (\RuntimeException $e) {
                    self::warn($e->getMessage());
                    return false;
                }
            }

            /**
             * @return false|null null in the process that runs when the pool has stopped; otherwise it does not return
             */
            public function start()
            {
                if ($this->started) {
                    self::warn('process pool is started');
                    return false;
                }
                if (isset($this->handlers['workerexit'])) {
                    throw new Exception('cannot set `onWorkerExit` without enable_coroutine');
                }
                if (!isset($this->handlers['workerstart']) && !isset($this->handlers['message'])) {
                    throw new Exception("require 'onWorkerStart' or 'onMessage' callback");
                }
                if ($this->ipc_type === SWOOLE_IPC_SOCKET && !$this->listens) {
                    self::warn('must first listen to an tcp port');
                    return false;
                }
                $this->started = true;
                $this->prepare();
                $this->pool->on('start', $this->onStart(...))->on('shutdown', $this->onShutdown(...));
                $this->pool->on('workerStart', $this->onWorkerStart(...))->on('workerStop', $this->onWorkerStop(...));
                $this->pool->start();
                $this->started = false;
                return null;
            }

            /**
             * Configures the source of messages.
             */
            private function prepare(): void
            {
                $launches = $this->launches();
                $this->private = $this->ipc_type === SWOOLE_IPC_MSGQUEUE && $this->msgqueue_key === 0;
                if ($this->private) {
                    // Workers are not children of this process, so they could not find a private queue: a random key
                    // replaces it.
                    $launches && \putenv(self::KEY . '=' . \random_int(0x10000000, 0x7fffffff));
                    $this->msgqueue_key = (int) \getenv(self::KEY);
                }
                if ($this->ipc_type === SWOOLE_IPC_UNIXSOCK && $launches) {
                    $count = (string) \getenv('POOLINIT_WORKERS'); // the environment overrides the program
                    $count = (int) $count > 0 ? (int) $count : $this->worker_num;
                    $this->pool->set(['share' => \Poolinit\Mailbox::shares($count)]);
                }
                if (!isset($this->handlers['message']) || $this->ipc_type === SWOOLE_IPC_UNIXSOCK) {
                    $this->pool->set(['listen' => null]);
                    return;
                }
                if ($this->ipc_type === SWOOLE_IPC_MSGQUEUE) {
                    $mode = $this->private ? '0600' : '0666';
                    $this->pool->listen(\sprintf('sysv://0x%x?mode=%s', $this->msgqueue_key & 0xffffffff, $mode));
                }
                $this->pool->on('message', $this->onMessage(...));
                $this->pool->set(['deliver' => 'frames']); // Swoole's callbacks have no use for more
            }

            /**
             * Whether this process becomes poolinit.
             */
            private function launches(): bool
            {
                return $this->pool->workerId < 0 && (string) \getenv('POOLINIT_EVENT') === '';
            }

            private function onStart(): void
            {
                $this->master_pid = (int) \getmypid();
                $this->call('start');
            }

            private function onShutdown(): void
            {
                $this->master_pid = $this->pool->masterPid;
                $this->call('shutdown');
                $key = $this->msgqueue_key;
                if ($this->private && \function_exists('msg_queue_exists') && \msg_queue_exists($key)) {
                    \msg_remove_queue(\msg_get_queue($key));
                }
            }

            private function onWorkerStart(): void
            {
                $this->master_pid = $this->pool->masterPid;
                $this->workerId = $this->pool->workerId;
                $this->workerPid = (int) \getmypid();
                \pcntl_signal(SIGUSR2, SIG_IGN); // poolinit forwards it, and PHP would die of it
                if ($this->ipc_type === SWOOLE_IPC_UNIXSOCK) {
                    $this->mailbox = new \Poolinit\Mailbox($this->workerId);
                }
                $this->call('workerstart', $this->workerId);
                if ($this->mailbox === null || !isset($this->handlers['message'])) {
                    return;
                }
                while (($message = $this->mailbox->receive(fn (): bool => $this->pool->running)) !== null) {
                    $this->call('message', $message);
                }
            }

            private function onWorkerStop(): void
            {
                $this->call('workerstop', $this->workerId);
            }

            /**
             * Swoole gives its return value no meaning.
             */
            private function onMessage(\Poolinit\Pool $pool, string $message): void
            {
                $this->call('message', $message);
            }

            private function call(string $event, mixed ...$arguments): void
            {
                if (isset($this->handlers[$event])) {
                    ($this->handlers[$event])($this, ...$arguments);
                }
            }

            private function count(): int
            {
                return (int) $this->pool->workers;
            }

            /**
             * Returns the PID of another worker, read from /proc; null if it is unknown.
             */
            private static function pidOf(int $id, int $master): ?int
            {
                $newest = [-1, null];
                foreach (\glob('/proc/[0-9]*/stat') ?: [] as $file) {
                    $text = (string) @\file_get_contents($file);
                    $fields = \explode(' ', \substr($text, (int) \strrpos($text, ')') + 2));
                    if ((int) ($fields[1] ?? 0) !== $master) {
                        continue;
                    }
                    $environment = "\0" . @\file_get_contents(\dirname($file) . '/environ');
                    if (\str_contains($environment, "\0POOLINIT_WORKER_ID=$id\0")) {
                        $newest = \max($newest, [(int) $fields[19], (int) \basename(\dirname($file))]);
                    }
                }
                return $newest[1];
            }

            private static function size(mixed $value): int
            {
                $units = ['K' => 10, 'M' => 20, 'G' => 30];
                $unit = \strtoupper(\substr(\rtrim((string) $value, 'bB'), -1));
                return (int) $value << ($units[$unit] ?? 0);
            }

            private static function refuseCoroutines(bool $wanted): void
            {
                if ($wanted) {
                    throw new Exception('coroutines need ext-swoole: here a worker does one thing after the other');
                }
            }

            /**
             * A warning that concerns each process of the pool on its way to start(): only one process prints it.
             */
            private function warnOnce(string $text): void
            {
                $this->launches() && self::warn($text);
            }

            /**
             * PHP would add the place in this file that calls trigger_error(), which is of no use.
             */
            private static function warn(string $text): void
            {
                foreach (\debug_backtrace(DEBUG_BACKTRACE_IGNORE_ARGS) as $call) {
                    if (isset($call['file']) && $call['file'] !== __FILE__) {
                        $text .= ", called in $call[file] on line $call[line]";
                        break;
                    }
                }
                \trigger_error("Swoole\\Process\\Pool: $text", E_USER_WARNING);
            }
        }
    }
}
