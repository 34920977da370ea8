<?php

/**
 * A pool of worker processes in one script, kept alive by poolinit.
 *
 *     $pool = new Poolinit\Pool(4);
 *     $pool->listen('tcp://0.0.0.0:8089?reply=always');
 *     $pool->on('message', fn (Poolinit\Pool $pool, string $message): string => strtoupper($message));
 *     $pool->start();
 *
 * Run by hand, or as the ENTRYPOINT of a container, start() becomes
 * `poolinit run ... -- php this-script`, with the same PID; poolinit runs the
 * script again in each worker, where start() calls the handlers. See README.md.
 *
 * This file is the whole SDK. It needs pcntl, and posix for shutdown().
 */

declare(strict_types=1);

namespace Poolinit;

use function getmypid;
use function hrtime;
use function pack;
use function strlen;
use function substr;
use function unpack;

/**
 * A message handler throws it to make the message's failure final: the message is
 * not delivered again, and the text goes to its client.
 */
final class Refuse extends \RuntimeException
{
}

/**
 * A message handler throws it to get the message again after a time, as one more attempt:
 * throw new Retry('30s', 'the database is locked').
 */
final class Retry extends \RuntimeException
{
    /** A duration as poolinit's flags have it. */
    public readonly string $after;

    /**
     * @param string|int|float $after a duration such as '30s', '500ms' or '1m30s', or a number of seconds
     */
    public function __construct(string|int|float $after, string $text = '')
    {
        parent::__construct($text);
        if (is_string($after)) {
            if (preg_match('/^(0|(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+)$/D', $after) !== 1) {
                throw new \InvalidArgumentException("\"$after\" is no duration, such as 30s, 500ms or 1m30s");
            }
            $this->after = $after;
            return;
        }
        if (!($after >= 0 && $after <= 1e9)) {
            throw new \InvalidArgumentException("a time is from 0 to 1e9 seconds, not $after");
        }
        $this->after = $after == (int) $after ? (int) $after . 's' : (int) round($after * 1000) . 'ms';
    }
}

/**
 * What is known of a message beside its body. What is not known is empty, 0 or null; with --deliver frames that is
 * all of it.
 */
final class Meta
{
    /** The same at each delivery. */
    public readonly string $id;

    /** 1 at the first delivery. */
    public readonly int $attempt;

    /** The URL that the message came by. */
    public readonly string $source;

    public readonly string $key;

    /** When the message arrived. */
    public readonly ?\DateTimeImmutable $time;

    /** When --message-timeout is over, unless touch() has moved it. */
    public readonly ?\DateTimeImmutable $deadline;

    /** @var array<string, string> */
    public readonly array $headers;

    /**
     * @internal
     */
    public function __construct(string $json, private readonly \Closure $touch)
    {
        $known = $json === '' ? [] : json_decode($json, true, 512, JSON_THROW_ON_ERROR);
        $time = static fn (string $name): ?\DateTimeImmutable => isset($known[$name]) ? new \DateTimeImmutable($known[$name]) : null;
        $this->id = $known['id'] ?? '';
        $this->attempt = $known['attempt'] ?? 0;
        $this->source = $known['source'] ?? '';
        $this->key = $known['key'] ?? '';
        $this->time = $time('time');
        $this->deadline = $time('deadline');
        $this->headers = $known['headers'] ?? [];
    }

    /**
     * Begins --message-timeout anew, for this message. False: nothing was sent, since messages are not tagged, or the
     * message has been answered.
     */
    public function touch(): bool
    {
        return ($this->touch)();
    }
}

/**
 * The pool for its script: before start() its configuration, after it the worker
 * that this process is.
 *
 * @property-read bool $running false as soon as this worker has been told to stop
 */
final class Pool
{
    /** The longest reply that poolinit takes, in bytes. */
    private const MAX_REPLY = 64 << 20;

    /** How much of an exception's text the client gets, in bytes. */
    private const MAX_TEXT = 4096;

    /** How much is read, and how many replies are written, at a time. */
    private const BATCH = 64 << 10;

    /** A reply of this size or more is written without a copy. */
    private const LARGE = 32 << 10;

    /** The reply of a message that took longer (in ns) is written at once, not together with the next ones. */
    private const FAST = 20_000;

    /** The longest time (in ns) that a reply waits for the next, fast ones of its batch. */
    private const HOLD = 1_000_000;

    /** The variables that poolinit sets for a worker. The worker's children must not get them. */
    private const TOLD = ['POOLINIT_WORKER_ID', 'POOLINIT_WORKERS', 'POOLINIT_GENERATION', 'POOLINIT_DELIVER',
        'POOLINIT_CONCURRENCY', 'POOLINIT_FD', 'POOLINIT_EVENT', 'NOTIFY_SOCKET', 'WATCHDOG_USEC'];

    /** The tag of control frames. */
    private const CONTROL = "\0\0\0\0\0\0\0\0";

    private const EVENTS = ['start', 'workerstart', 'message', 'workerstop', 'shutdown'];

    private static bool $started = false;

    /** The number of this worker, from 0: a replacement gets the same. -1: this process is not a worker. */
    public readonly int $workerId;

    /** The number of workers; 'auto' in a process that is not a worker, if the script set that. */
    public readonly int|string $workers;

    /** 1, and one more with each reload; 0: this process is not a worker. */
    public readonly int $generation;

    /** The PID of poolinit; before this process becomes poolinit, its own. */
    public readonly int $masterPid;

    /** @var array<string, callable> by event, in lower case */
    private array $handlers = [];

    /** @var array<string, mixed> by the name of the flag of `poolinit run` */
    private array $options;

    /** The variables that poolinit has set for this process. @var array<string, string> */
    private array $told = [];

    /** The PID of the worker: a child that it forks is not a worker. */
    private int $pid = 0;

    /** @var ?resource the channel, to read messages from; null: no channel, or it has ended */
    private $in = null;

    /** @var ?resource the channel, to write replies to */
    private $out = null;

    /** Replies that have not been written yet, as frames. */
    private string $replies = '';

    /** The data of write() for the message in hand; null: no message is in hand. */
    private ?string $written = null;

    private bool $tagged = false;
    private string $tag = ''; // of the message in hand, 8 bytes, or '' with --deliver frames
    private bool $drains = false; // poolinit has said that no more messages come
    private bool $begun = false; // workerStart has returned, or it is the worker's own loop
    private bool $asked = false; // poolinit was asked for no more messages
    private bool $over = false;
    private int $watchdog = 0; // the interval of WATCHDOG=1, in ns; 0: never
    private int $heard = 0; // when WATCHDOG=1 was last sent
    private bool $goesOn = true; // this worker has not been told to stop
    private bool $looks = false; // the program has read $running

    /**
     * @param int|string $workers how many, or 'auto': as many as the CPUs that the cgroup grants
     */
    public function __construct(int|string $workers = 1)
    {
        if ($workers !== 'auto' && (!is_int($workers) || $workers < 1)) {
            throw new \InvalidArgumentException("the number of workers is 1 or more, or 'auto'");
        }
        foreach (self::TOLD as $name) {
            $this->told[$name] = (string) getenv($name);
        }
        $id = $this->told['POOLINIT_WORKER_ID'];
        $worker = preg_match('/^\d+$/D', $id) === 1;
        $this->workerId = $worker ? (int) $id : -1;
        $this->workers = $worker ? (int) $this->told['POOLINIT_WORKERS'] : $workers;
        $this->generation = $worker ? (int) $this->told['POOLINIT_GENERATION'] : 0;
        $this->masterPid = $worker || $this->told['POOLINIT_EVENT'] !== '' ? self::parent() : (int) getmypid();
        $this->options = ['workers' => $workers];
    }

    /**
     * $running is false as soon as this worker has been told to stop. A loop in a workerStart handler that reads it
     * ends by itself: the SDK does not end it.
     */
    public function __get(string $name): bool
    {
        if ($name !== 'running') {
            throw new \Error("Undefined property: Poolinit\\Pool::\$$name");
        }
        $this->looks = true;
        return $this->goesOn;
    }

    /**
     * Sets flags of `poolinit run`, by their names without dashes: ['stop-timeout' => '20s', 'max-message' => '8MiB'].
     * A list repeats a flag, true is a flag without a value, null removes an earlier setting. The environment
     * overrides the script: if POOLINIT_STOP_TIMEOUT is set, it counts.
     *
     * @param array<string, mixed> $options
     */
    public function set(array $options): self
    {
        foreach ($options as $name => $value) {
            $name = strtolower(str_replace('_', '-', (string) $name));
            if (!preg_match('/^[a-z][a-z0-9-]*$/', $name)) {
                throw new \InvalidArgumentException("\"$name\" is no flag of poolinit run");
            }
            $this->options[$name] = $value;
        }
        return $this;
    }

    /**
     * Takes messages from tcp://HOST:PORT, unix:///PATH or sysv://KEY, with parameters as in
     * tcp://0.0.0.0:8089?reply=always&connections=100. It may be called several times.
     */
    public function listen(string $url): self
    {
        $this->options['listen'] = [...(array) ($this->options['listen'] ?? []), $url];
        return $this;
    }

    /**
     * Sets the handler of an event. Event names are not case-sensitive.
     *
     * start: in the process that is about to become poolinit, with ($pool). workerStart, workerStop: in a worker, with
     * ($pool, $workerId). message: in a worker, with ($pool, $message), or with ($pool, $message, $meta) if it has a
     * third parameter without a default, or one of the type Meta; its return value is the reply, null an empty one;
     * an exception is a failure. shutdown: once, in a process of its own, when no worker is left, with
     * ($pool).
     */
    public function on(string $event, callable $handler): self
    {
        $name = strtolower($event);
        if (!in_array($name, self::EVENTS, true)) {
            throw new \InvalidArgumentException("\"$event\" is no event: there are start, workerStart, message, "
                . 'workerStop and shutdown');
        }
        $this->handlers[$name] = $handler;
        if ($name === 'message') {
            self::takesMeta($handler); // or it throws
        }
        return $this;
    }

    /**
     * Becomes poolinit, or serves as one of its workers; neither returns. It returns only in the process that runs
     * once, for the shutdown handler (or with the flag run-at-exit), when the pool has stopped.
     */
    public function start(): void
    {
        if (self::$started) {
            throw new \LogicException('start() has been called before: a program has one pool, and starts it once');
        }
        self::$started = true;
        if (PHP_SAPI !== 'cli') {
            self::fail(1, 'it is for the command line, and this is ' . PHP_SAPI);
        }
        if ($this->workerId >= 0) {
            $this->work();
        }
        if ($this->told['POOLINIT_EVENT'] === '') {
            $this->launch();
        }
        $event = $this->told['POOLINIT_EVENT'];
        $this->forget();
        $this->goesOn = false;
        if ($event === 'shutdown') {
            $this->call('shutdown', $this);
        }
    }

    /**
     * Adds to the reply of the message in hand. The return value of its handler comes after it.
     */
    public function write(string $data): void
    {
        if ($this->written === null) {
            throw new \LogicException('write() is for a message handler: there is no message in hand to reply to');
        }
        $this->written .= $data;
    }

    /**
     * Begins --message-timeout anew, for the message in hand. False: nothing was sent, since messages are not tagged.
     */
    public function touch(): bool
    {
        if ($this->written === null) {
            throw new \LogicException('touch() is for a message handler: there is no message in hand');
        }
        return $this->touches($this->tag);
    }

    private function touches(string $tag): bool
    {
        if ($tag === '' || $tag !== $this->tag || $this->written === null || $this->in === null) {
            return false;
        }
        $this->flush();
        $control = '{"touch":' . unpack('J', $tag)[1] . '}';
        $this->put(pack('N', strlen($control) + 8) . self::CONTROL . $control);
        return true;
    }

    /**
     * Ends this worker after the messages that it has; another takes its place. A workerStart handler with
     * a loop of its own finds $running false.
     */
    public function stop(): void
    {
        $this->mustWork('stop');
        $this->goesOn = false;
        $this->askForNoMore();
    }

    /**
     * Stops the whole pool, as SIGTERM to poolinit does.
     */
    public function shutdown(): void
    {
        if ($this->told['POOLINIT_EVENT'] !== '') {
            return; // poolinit has stopped
        }
        $this->mustWork('shutdown');
        $posix = function_exists('posix_kill');
        if (!$posix || !posix_kill($this->masterPid, SIGTERM)) {
            $why = $posix ? posix_strerror(posix_get_last_error()) : 'PHP has no posix extension';
            throw new \RuntimeException("cannot tell poolinit (PID $this->masterPid) to stop: $why");
        }
    }

    /**
     * Leaves the pool: another worker takes this one's place at once, and this one may continue its work for any
     * time. It gets no more messages, but still the stop signal. The message in hand is answered with the data of
     * write() and $reply; the return value of its handler is dropped. Messages that this worker has not begun go to
     * other workers.
     */
    public function detach(?string $reply = null): void
    {
        $this->mustWork('detach');
        if ($this->in === null) {
            throw new \LogicException('detach() is for a worker that gets messages, and has not left the pool yet');
        }
        if ($this->written !== null) {
            $this->answer(self::limited($this->written . $reply));
            $this->written = null;
        }
        $this->flush();
        stream_socket_shutdown($this->in, STREAM_SHUT_RDWR); // fclose() is not enough: children may have it open too
        fclose($this->in);
        fclose($this->out);
        $this->in = $this->out = null;
    }

    /**
     * Reports that this worker is ready, for --ready notify. The SDK does this for a worker that gets messages, when
     * its workerStart handler has returned. A worker with a loop of its own must call it.
     */
    public function ready(): void
    {
        $this->notify('READY=1');
    }

    /**
     * Sets a short text about what this worker is doing. poolinit shows it.
     */
    public function status(string $text): void
    {
        $this->notify('STATUS=' . strtr(self::utf8($text, self::MAX_TEXT - 16), "\r\n", '  '));
    }

    /**
     * Reports that this worker does not hang, for --watchdog. The SDK does this between messages. A handler that takes
     * long, and a worker with a loop of its own, must call it.
     */
    public function alive(): void
    {
        if ($this->watchdog > 0) {
            $this->heard = hrtime(true);
            $this->notify('WATCHDOG=1');
        }
    }

    // ---- Run by hand: becoming poolinit.

    /**
     * Replaces this process by poolinit.
     */
    private function launch(): never
    {
        $takes = isset($this->options['listen']) || self::fromEnvironment('listen');
        if ($takes && !isset($this->handlers['message'])) {
            throw new \LogicException('there are messages to listen for, but on(\'message\', ...) was not called');
        }
        if (!$takes && isset($this->handlers['message'])) {
            throw new \LogicException('there is a handler for messages, but listen() was not called');
        }
        if (!$takes && !isset($this->handlers['workerstart'])) {
            throw new \LogicException('the workers have nothing to do: call on(\'message\', ...) and listen(), '
                . 'or on(\'workerStart\', ...)');
        }
        if (!function_exists('pcntl_exec')) {
            self::fail(1, 'PHP has no pcntl_exec() to become poolinit with. Install the pcntl extension '
                . '(docker-php-ext-install pcntl), or take pcntl_exec out of disable_functions');
        }
        $command = self::commandLine();
        $poolinit = self::find();
        $this->call('start', $this);
        while (ob_get_level() > 0 && ob_end_flush()) {
            // flush: this output comes before that of the workers
        }
        flush();
        @pcntl_exec($poolinit, ['run', ...$this->flags(), '--', ...$command]);
        self::fail(126, "$poolinit cannot be run: " . pcntl_strerror(pcntl_get_last_error()));
    }

    /**
     * The flags of `poolinit run`, without those that the environment sets.
     *
     * @return list<string>
     */
    private function flags(): array
    {
        $options = $this->options;
        if (isset($this->handlers['message'])) {
            $options += ['deliver' => 'tagged', 'ready' => 'notify']; // workers report it when workerStart has returned
        }
        if (isset($this->handlers['shutdown'])) {
            $options += ['run-at-exit' => true];
        }
        $flags = [];
        foreach ($options as $name => $value) {
            if ($value === null || self::fromEnvironment($name)) {
                continue;
            }
            foreach (is_array($value) ? $value : [$value] as $one) {
                $flags[] = "--$name" . match ($one) {
                    true => '',
                    false => '=false',
                    default => '=' . $one,
                };
            }
        }
        return $flags;
    }

    /**
     * Whether the environment sets a flag. It overrides the script: the operator knows better than the program.
     */
    private static function fromEnvironment(string $flag): bool
    {
        return (string) getenv('POOLINIT_' . strtoupper(strtr($flag, '-', '_'))) !== '';
    }

    /**
     * Returns the path of poolinit, or ends the program.
     */
    private static function find(): string
    {
        $named = (string) getenv('POOLINIT');
        if ($named !== '') {
            if (is_file($named) && is_executable($named)) {
                return $named;
            }
            self::fail(127, "\$POOLINIT is \"$named\", which is no program. "
                . 'Let it name the poolinit binary, or unset it');
        }
        $path = (string) getenv('PATH');
        $places = [];
        foreach (explode(':', $path !== '' ? $path : '/usr/local/bin:/usr/bin:/bin') as $directory) {
            if ($directory !== '') {
                $places[] = rtrim($directory, '/') . '/poolinit';
            }
        }
        $script = dirname(self::script() ?: getcwd() . '/-r');
        $vendor = dirname(__DIR__, 2); // where composer has put this file
        $beside = ["$script/poolinit", "$script/vendor/bin/poolinit", __DIR__ . '/poolinit', "$vendor/bin/poolinit"];
        foreach ([...$places, ...$beside] as $file) {
            if (is_file($file) && is_executable($file)) {
                return $file;
            }
        }
        self::fail(127, "there is no program called poolinit, which keeps the workers alive.\n"
            . "Looked for: \$POOLINIT (not set), poolinit in PATH ($path), "
            . implode(', ', array_unique($beside)) . ".\n"
            . 'Put the binary into one of these places, as in a Dockerfile: COPY poolinit /usr/local/bin/poolinit; '
            . 'or set POOLINIT=/path/to/poolinit');
    }

    /**
     * Returns the command line that runs this program again, with PHP's own options as they are.
     *
     * @return list<string>
     */
    private static function commandLine(): array
    {
        $php = PHP_BINARY !== '' ? PHP_BINARY : (string) @readlink('/proc/self/exe');
        $arguments = $_SERVER['argv'];
        $script = self::script();
        $line = [];
        if (cli_get_process_title() === '') { // if set, the title has replaced the command line
            $line = explode("\0", substr((string) @file_get_contents('/proc/self/cmdline'), 0, -1));
        }
        $rest = count($line) - count($arguments);
        if ($script === '') { // code on the command line
            return [$php, ...array_slice($line, 1)];
        }
        if ($rest < 1 || array_slice($line, -(count($arguments) - 1) ?: count($line)) !== array_slice($arguments, 1)) {
            $ini = (string) php_ini_loaded_file();
            $prepend = 'auto_prepend_file=' . ini_get('auto_prepend_file');
            $options = self::absolute([...($ini !== '' ? ['-c', $ini] : ['-n']), '-d', $prepend]);
            return [$php, ...$options, '-f', $script, '--', ...array_slice($arguments, 1)];
        }
        // php OPTIONS SCRIPT ARGUMENTS, or php OPTIONS -f SCRIPT -- ARGUMENTS
        for ($at = $rest; $at > 0 && $line[$at] !== $arguments[0]; $at--) {
        }
        if ($at > 0) {
            $line[$at] = $script;
        }
        $line[0] = $php;
        return [...self::absolute(array_slice($line, 0, $rest)), ...array_slice($line, $rest)];
    }

    /**
     * Makes the path of auto_prepend_file absolute: the program may have changed its directory.
     *
     * @param list<string> $options
     * @return list<string>
     */
    private static function absolute(array $options): array
    {
        foreach ($options as &$option) {
            if (preg_match('{^(-d)?auto_prepend_file=([\'"]?)([^/\'"].*?)\2$}', $option, $m)) {
                foreach (get_included_files() as $file) {
                    if (str_ends_with($file, '/' . basename($m[3]))) {
                        $option = "$m[1]auto_prepend_file=$m[2]$file$m[2]";
                        break;
                    }
                }
            }
        }
        return $options;
    }

    /**
     * Returns the absolute path of the program, with the symbolic links that were used to name it; "" for code
     * on the command line. If the program cannot be run again, the process ends.
     */
    private static function script(): string
    {
        $named = (string) $_SERVER['argv'][0];
        $main = get_included_files()[0] ?? '';
        if ($named === 'Standard input code' || $named === '-' || preg_match('{^/(dev|proc)/}', $named)) {
            if ($named[0] === 'S' && self::isCode()) {
                return '';
            }
            self::fail(1, 'the program came from stdin or a pipe, so it cannot be run again in each worker. '
                . 'Put it into a file: php pool.php');
        }
        if (!str_starts_with($named, '/')) {
            $named = getcwd() . '/' . $named;
        }
        return is_file($named) && realpath($named) === realpath($main) ? $named : $main;
    }

    /**
     * Whether this is php -r CODE.
     */
    private static function isCode(): bool
    {
        foreach (explode("\0", (string) @file_get_contents('/proc/self/cmdline')) as $option) {
            if ($option === '--') {
                break;
            }
            if (preg_match('/^(-r|--run)/', $option)) {
                return true;
            }
        }
        return false;
    }

    // ---- A worker.

    /**
     * The life of a worker: start, messages, stop.
     */
    private function work(): never
    {
        $fd = $this->told['POOLINIT_FD'];
        $handler = $this->handlers['message'] ?? null;
        if (!function_exists('pcntl_signal')) {
            self::fail(1, 'PHP has no pcntl_signal(), without which a worker cannot end gracefully. '
                . 'Install the pcntl extension (docker-php-ext-install pcntl)');
        }
        if ($fd !== '' && !in_array($this->told['POOLINIT_DELIVER'], ['tagged', 'frames'], true)) {
            self::fail(1, "poolinit runs with --deliver {$this->told['POOLINIT_DELIVER']}; this needs frames or tagged");
        }
        if (($fd !== '') !== ($handler !== null)) {
            self::fail(1, $handler === null
                ? 'poolinit has messages for this program, which has no handler for them: on(\'message\', ...)'
                : 'poolinit has no messages for this program, which has a handler for them: poolinit run --listen URL');
        }
        $this->pid = (int) getmypid();
        $this->watchdog = 500 * (int) $this->told['WATCHDOG_USEC'];
        $this->heard = hrtime(true);
        $this->forget();
        if ($fd !== '') {
            $this->open((int) $fd);
            $this->tagged = $this->told['POOLINIT_DELIVER'] === 'tagged';
        }
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, $this->terminated(...));
        register_shutdown_function($this->exiting(...));
        $this->begun = $fd === '';
        $this->call('workerstart', $this, $this->workerId);
        $this->begun = true;
        if ($this->in !== null) {
            $this->ready();
            $this->serve($handler);
            $this->in === null || $this->asked || $this->awaitSignal();
        }
        $this->end();
    }

    /**
     * Removes poolinit's variables from the environment: a child of this process is not a worker.
     */
    private function forget(): void
    {
        foreach (self::TOLD as $name) {
            putenv($name);
            unset($_ENV[$name], $_SERVER[$name]);
        }
    }

    /**
     * Opens the channel twice: non-blocking to read, so that signals are handled while no data is there, and blocking
     * to write. PHP would close a stream that is silent for default_socket_timeout.
     */
    private function open(int $fd): void
    {
        foreach (['in', 'out'] as $end) {
            $stream = @fopen("php://fd/$fd", 'r+b');
            if ($stream === false || stream_get_meta_data($stream)['stream_type'] !== 'tcp_socket') {
                self::fail(1, "POOLINIT_FD is $fd, which is no socket");
            }
            stream_set_timeout($stream, -1);
            stream_set_read_buffer($stream, 0);
            stream_set_write_buffer($stream, 0);
            $this->$end = $stream;
        }
        stream_set_blocking($this->in, false);
    }

    /**
     * Handles messages until there are no more. Replies are written together while messages are handled fast.
     */
    private function serve(callable $handler): void
    {
        $buffer = '';
        $at = 0;
        $first = $last = hrtime(true);
        $tagged = $this->tagged;
        $bits = $tagged ? 0x3fffffff : 0x7fffffff;
        $takesMeta = self::takesMeta($handler);
        $meta = '';
        for (;;) {
            $rest = strlen($buffer) - $at;
            $size = $rest < 4 ? 0 : 4 + (unpack('N', $buffer, $at)[1] & $bits);
            if ($size === 0 || $size > $rest) {
                $this->flush();
                $buffer = $at === 0 ? $buffer : substr($buffer, $at);
                $at = 0;
                $more = $this->read($size - $rest);
                if ($more === '') {
                    break;
                }
                $buffer .= $more;
                $first = $last = hrtime(true);
                continue;
            }
            $start = $at + 4;
            if ($tagged) {
                $start += 8;
                $this->tag = substr($buffer, $at + 4, 8);
                $meta = '';
                if ((ord($buffer[$at]) & 0x40) !== 0) {
                    $length = $size < 16 ? $size : unpack('N', $buffer, $start)[1];
                    $meta = $takesMeta ? substr($buffer, $start + 4, $length) : '';
                    $start += 4 + $length;
                }
                if ($start > $at + $size) {
                    self::fail(1, 'received something that is not a tagged frame');
                }
            }
            $body = substr($buffer, $start, $at + $size - $start);
            $at += $size;
            if ($size === $rest) {
                $buffer = ''; // do not keep two copies of a long message
                $at = 0;
            }
            if ($tagged && $this->tag === self::CONTROL) {
                $this->control($body);
                continue;
            }
            $this->written = '';
            $failed = false;
            try {
                $reply = self::text($takesMeta ? $handler($this, $body, $this->meta($meta)) : $handler($this, $body));
                $reply = self::limited($this->written === '' ? $reply : $this->written . $reply);
            } catch (\Throwable $e) {
                $failed = true;
                $reply = self::failure($e);
                $e instanceof Refuse || $e instanceof Retry || self::say("a message failed: $e");
            }
            $now = hrtime(true);
            $slow = $now - $last > self::FAST;
            if ($slow && getmypid() !== $this->pid) { // not checked after a fast message: fork() alone takes longer
                exit(0); // a child that the handler has forked and that has returned from it
            }
            $this->written = null;
            if ($this->in === null) { // detach() was called, and has answered
                return;
            }
            $this->answer($reply, $failed);
            unset($body, $reply, $e);
            if ($slow || $now - $first > self::HOLD || strlen($this->replies) > self::BATCH) {
                $this->flush();
                $first = $now;
            }
            $last = $now;
            if ($this->watchdog > 0 && $now - $this->heard >= $this->watchdog) {
                $this->alive();
            }
        }
        if ($buffer !== '') {
            self::fail(1, 'the messages ended in the middle of one');
        }
    }

    /**
     * The meta of the message in hand.
     */
    private function meta(string $json): Meta
    {
        $tag = $this->tag;
        return new Meta($json, fn (): bool => $this->touches($tag));
    }

    /**
     * A control frame of poolinit. What is not known of it is ignored.
     */
    private function control(string $body): void
    {
        $known = json_decode($body, true);
        if (is_array($known) && ($known['drain'] ?? null) === true) {
            $this->drains = true;
            $this->goesOn = false;
        }
    }

    /**
     * Whether a message handler wants the meta. A third parameter with a default is the handler's own, unless it has
     * the type Meta.
     */
    private static function takesMeta(callable $handler): bool
    {
        $parameters = (new \ReflectionFunction(\Closure::fromCallable($handler)))->getParameters();
        foreach (array_slice($parameters, 3) as $parameter) {
            if (!$parameter->isOptional()) {
                throw new \LogicException('a message handler gets the pool, the message, and its meta if it wants that: '
                    . "there is nothing for \${$parameter->getName()}");
            }
        }
        $third = $parameters[2] ?? null;
        if ($third === null || $third->isVariadic()) {
            return false;
        }
        $type = $third->getType();
        return !$third->isOptional() || ($type instanceof \ReflectionNamedType && $type->getName() === Meta::class);
    }

    /**
     * Waits for data and returns it; "" at the end. $want is the number of bytes that a message lacks.
     */
    private function read(int $want): string
    {
        $size = max(self::BATCH, min($want, 256 << 10)); // a socket never has more at once
        for (;;) {
            $read = [$this->in];
            $none = null;
            $wait = $this->watchdog > 0 ? max(0, $this->heard + $this->watchdog - hrtime(true)) : null;
            try { // an error handler may throw for the warning about an interrupting signal
                $n = @stream_select($read, $none, $none, $wait === null ? null : intdiv($wait, 1_000_000_000),
                    $wait === null ? null : intdiv($wait % 1_000_000_000, 1000));
            } catch (\Throwable) {
                $n = false;
            }
            if ($n === 0) {
                $this->alive();
            }
            if (!$n) {
                continue;
            }
            try {
                $more = (string) @fread($this->in, $size);
            } catch (\Throwable) {
                $more = '';
            }
            if ($more !== '' || feof($this->in)) {
                return $more;
            }
        }
    }

    /**
     * Adds a reply to those that wait. A long one is written at once, without a copy.
     */
    private function answer(string $reply, bool $failed = false): void
    {
        $length = strlen($reply);
        $bit = $failed ? 0x80000000 : 0;
        $header = $this->tagged ? pack('N', $length + 8 | $bit) . $this->tag : pack('N', $length | $bit);
        if ($length < self::LARGE) {
            $this->replies .= $header . $reply;
            return;
        }
        $this->replies .= $header;
        $this->flush();
        $this->put($reply);
    }

    private function flush(): void
    {
        if ($this->replies !== '') {
            $this->put($this->replies);
            $this->replies = '';
        }
    }

    private function put(string $data): void
    {
        try {
            $n = @fwrite($this->out, $data);
        } catch (\Throwable) {
            $n = 0;
        }
        if ($n !== strlen($data)) {
            $this->replies = '';
            $this->over = true;
            self::fail(1, 'cannot write a reply: poolinit has closed the channel');
        }
    }

    /**
     * Converts the return value of a handler to a reply.
     */
    private static function text(mixed $reply): string
    {
        return match (true) {
            is_string($reply) => $reply,
            $reply === null => '',
            is_int($reply), is_float($reply), $reply instanceof \Stringable => (string) $reply,
            default => throw new \TypeError('a reply is a string or null, and not ' . get_debug_type($reply)),
        };
    }

    private static function limited(string $reply): string
    {
        if (strlen($reply) > self::MAX_REPLY) {
            $size = strlen($reply);
            throw new \LengthException("the reply has $size bytes, and poolinit takes " . self::MAX_REPLY);
        }
        return $reply;
    }

    /**
     * The body of a failure frame.
     */
    private static function failure(\Throwable $e): string
    {
        if ($e instanceof Retry) {
            return 'retry: ' . self::utf8("$e->after: {$e->getMessage()}", self::MAX_TEXT);
        }
        $text = $e->getMessage() !== '' ? $e->getMessage() : $e::class;
        return ($e instanceof Refuse ? 'refused: ' : 'error: ') . self::utf8($text, self::MAX_TEXT);
    }

    /**
     * Makes a text valid UTF-8, of at most $most bytes.
     */
    private static function utf8(string $text, int $most): string
    {
        $valid = static fn (string $s): string => htmlspecialchars_decode(
            htmlspecialchars($s, ENT_NOQUOTES | ENT_SUBSTITUTE, 'UTF-8'), ENT_NOQUOTES);
        $text = $valid(substr($text, 0, $most));
        while (strlen($text) > $most) { // the replacement for a broken character may be longer
            $text = preg_replace('/.$/us', '', $text);
        }
        return $text;
    }

    /**
     * Asks poolinit to end the input when all messages are answered. If that fails, the input ends after the messages
     * that have arrived.
     */
    private function askForNoMore(): void
    {
        if ($this->in === null || $this->asked) {
            return;
        }
        if ($this->drains) {
            return; // no more come
        }
        $this->asked = true;
        if (!$this->notify('STOPPING=1')) {
            stream_socket_shutdown($this->in, STREAM_SHUT_RD);
        }
    }

    /**
     * Sends a state to poolinit by sd_notify(3).
     */
    private function notify(string $text): bool
    {
        $name = $this->told['NOTIFY_SOCKET'];
        if ($this->pid === 0 || $name === '') {
            return false;
        }
        try {
            $socket = @stream_socket_client('udg://' . ($name[0] === '@' ? "\0" . substr($name, 1) : $name));
            return $socket !== false && @fwrite($socket, $text) === strlen($text);
        } catch (\Throwable) {
            return false;
        }
    }

    /**
     * SIGTERM. A worker that gets messages asks for no more. One with a loop of its own ends by itself if it has read
     * $running; otherwise it ends here, as soon as PHP returns from its blocking call.
     */
    private function terminated(): void
    {
        if (getmypid() !== $this->pid) { // a child that this worker has forked
            exit(128 + SIGTERM);
        }
        $this->goesOn = false;
        if ($this->in !== null) {
            $this->askForNoMore();
        } elseif (!$this->looks) {
            $this->end();
        }
    }

    /**
     * Waits for the stop signal, which follows the last message at once. While PHP shuts down it would die of the
     * signal, even with a handler.
     */
    private function awaitSignal(): void
    {
        if (function_exists('pcntl_sigtimedwait')) {
            pcntl_sigprocmask(SIG_BLOCK, [SIGTERM]);
            $this->asked || @pcntl_sigtimedwait([SIGTERM], $info, 1);
        }
    }

    /**
     * The end of a worker: workerStop, and exit code 0. The signal that may follow the last message does not
     * interrupt it.
     */
    private function end(): never
    {
        if (getmypid() === $this->pid) { // not a forked child that has returned
            $this->finish();
        }
        exit(0);
    }

    private function finish(): void
    {
        $this->over = true;
        $this->goesOn = false;
        pcntl_signal(SIGTERM, SIG_IGN);
        pcntl_sigprocmask(SIG_SETMASK, []); // in a signal handler all signals are blocked
        $this->call('workerstop', $this, $this->workerId);
    }

    /**
     * PHP is about to end, by exit() or by a fatal error. The waiting replies are written first, so that the message in
     * hand is the one that counts as failed. After exit() workerStop is called as usual.
     */
    private function exiting(): void
    {
        if (getmypid() !== $this->pid || $this->over) {
            return;
        }
        $type = error_get_last()['type'] ?? 0;
        $fatal = ($type & (E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_RECOVERABLE_ERROR)) !== 0;
        if ($this->written !== null && $this->in !== null) {
            $this->flush();
            self::say(($fatal ? 'a fatal error' : 'exit()') . ' in the message handler ends this worker: '
                . 'its message counts as failed, and is delivered again if it has attempts left');
        }
        if (!$fatal && $this->begun) {
            $this->finish();
        }
    }

    // ---- Both.

    private function call(string $event, mixed ...$arguments): void
    {
        if (isset($this->handlers[$event])) {
            ($this->handlers[$event])(...$arguments);
        }
    }

    private function mustWork(string $method): void
    {
        if ($this->pid === 0) {
            throw new \LogicException("$method() is for a worker: start() has not made this process one");
        }
    }

    /**
     * Returns the PID of poolinit. A shell may stand between poolinit and this process.
     */
    private static function parent(): int
    {
        $stat = static function (string $pid): array {
            $text = (string) @file_get_contents("/proc/$pid/stat");
            return explode(' ', substr($text, (int) strrpos($text, ')') + 2));
        };
        [, $parent, $group] = $stat('self') + ['', '0', '0'];
        if ($group !== '0' && (int) $group !== getmypid()) { // the group's leader is poolinit's child
            $parent = $stat($group)[1] ?? $parent;
        }
        return (int) $parent ?: (function_exists('posix_getppid') ? posix_getppid() : 0);
    }

    private static function say(string $text): void
    {
        file_put_contents('php://stderr', "poolinit: $text\n");
    }

    private static function fail(int $code, string $why): never
    {
        self::say("cannot go on: $why");
        exit($code);
    }
}
