<?php

/**
 * A client of a pool that listens with reply=always in its URL.
 *
 *     $client = new Poolinit\Client('tcp://127.0.0.1:8089');
 *     $reply = $client->send('hello');
 *
 * This file is the whole client. It needs no extension, and runs in a web server as well. See README.md.
 */

declare(strict_types=1);

namespace Poolinit;

use function hrtime;
use function strlen;
use function substr;

/**
 * send() throws it when the pool answers that it has not handled the message.
 */
final class Failure extends \RuntimeException
{
    /** No worker has had it; the client sends it again by itself. */
    public const STOPPING = 'stopping';
    /** The pool has stopped, and handles it after its next start. */
    public const SPOOLED = 'spooled';
    /** The pool stopped while a worker had it. */
    public const INTERRUPTED = 'interrupted';
    /** Every attempt failed. An unknown code means the same. */
    public const GIVEN_UP = 'given-up';
    /** The worker refused it. */
    public const REFUSED = 'refused';
    /** It is longer than --max-message. */
    public const TOO_BIG = 'too-big';
    /** --deliver lines, and it has an end of line. */
    public const NOT_A_LINE = 'not-a-line';
    /** It waited for longer than expires=. */
    public const EXPIRED = 'expired';
    /** Send it again after the time that the text begins with. */
    public const RETRY = 'retry';
    /** The pool's URL has tagged=true, which this client does not speak. */
    public const NOT_TAGGED = 'not-tagged';

    /**
     * @param string $failure the value of getCode(): one of the constants, or a newer code. A program may rely on it, never on the text.
     */
    public function __construct(string $failure, public readonly string $text)
    {
        parent::__construct("$failure: $text");
        $this->code = $failure;
    }
}

/**
 * send() throws it when the pool cannot be reached or does not answer. Unless there has never been a connection,
 * the message may have been handled.
 */
final class NoReply extends \RuntimeException
{
}

/**
 * The client sends a message again, on a new connection, if a stopping pool did not take it, or if the connection
 * broke before its reply: a message is handled at least once.
 */
final class Client
{
    /** The longest reply that poolinit takes from a worker, in bytes. */
    private const MAX_REPLY = 64 << 20;

    /** How much is written at a time. */
    private const CHUNK = 1 << 20;

    /** How much is read at a time; a body of up to this size is written together with its header. */
    private const SMALL = 64 << 10;

    /** For stream_socket_client(). */
    private string $remote;

    /** @var array<string, array<string, mixed>> of a stream's context */
    private array $context = ['socket' => ['tcp_nodelay' => true]];

    /** @var ?resource the connection; null: not connected */
    private $socket = null;

    private int $pid = 0; // of the process that owns the connection
    private bool $known = false; // a connection has been made before
    private bool $closed = false;
    private bool $busy = false;
    private string $error = ''; // the last warning of PHP

    /**
     * @param string $url tcp://HOST:PORT or unix:///PATH; the parameters of the pool's --listen URL may follow
     * @param ?float $timeout the longest silence of the pool, in seconds; null: for ever
     * @param float $connectTimeout how long the pool may be away, in seconds
     * @param ?array<string, mixed> $tls for a pool with cert= in its URL: PHP's SSL context options, such as
     *     ['cafile' => '/etc/pool/ca.crt']. With a unix socket they need a peer_name
     */
    public function __construct(
        private string $url,
        private ?float $timeout = 60.0,
        private float $connectTimeout = 10.0,
        private ?array $tls = null,
    ) {
        if (($timeout !== null && !($timeout > 0)) || !($connectTimeout > 0)) {
            throw new \InvalidArgumentException('a timeout is longer than 0 s');
        }
        [$this->remote, $host] = self::address($url);
        $this->context['ssl'] = ($tls ?? []) + ['peer_name' => $host];
    }

    /**
     * Sends a message, any bytes, and returns its reply.
     *
     * @throws Failure if the pool says that the message failed
     * @throws NoReply if the pool cannot be reached, or does not answer
     */
    public function send(string $body): string
    {
        if (strlen($body) > 0x7fffffff) {
            throw new \LengthException('a message is shorter than 2 GiB');
        }
        if ($this->closed) {
            throw new \LogicException('the client is closed');
        }
        if ($this->busy) {
            throw new \LogicException('another message is on its way'); // a signal handler has interrupted it
        }
        if ($this->pid !== getmypid()) {
            $this->drop(); // a forked child must not read its parent's replies
        }
        $this->busy = true;
        $whole = false;
        try {
            $reply = $this->untilHandled($body);
            $whole = true;
            return $reply;
        } catch (Failure $e) {
            // After these the connection ends.
            $whole = !in_array($e->getCode(), [Failure::STOPPING, Failure::TOO_BIG, Failure::NOT_TAGGED], true);
            throw $e;
        } finally {
            $this->busy = false;
            if (!$whole) {
                $this->drop(); // a late reply would be read as that of the next message
            }
        }
    }

    /**
     * Closes the connection, for good.
     */
    public function close(): void
    {
        $this->closed = true;
        $this->drop();
    }

    private function untilHandled(string $body): string
    {
        $since = $pause = 0;
        while (true) {
            try {
                return $this->exchange($body);
            } catch (Failure $e) {
                if ($e->getCode() !== Failure::STOPPING) {
                    throw $e;
                }
                $problem ??= $e;
            } catch (Broken $e) {
                if (!$this->known) {
                    throw new NoReply($e->getMessage());
                }
                // From here on a worker may have had the message.
                $problem = new NoReply($e->getMessage());
            }
            $this->drop();
            $since = $since ?: hrtime(true);
            if (hrtime(true) - $since >= $this->connectTimeout * 1e9) {
                throw $problem;
            }
            usleep($pause);
            $pause = min(max(2 * $pause, 20_000), 1_000_000);
        }
    }

    /**
     * Sends a message once.
     */
    private function exchange(string $body): string
    {
        // No warnings: this code handles the errors, and a program's error handler may throw.
        set_error_handler(function (int $level, string $text, string $file): bool {
            $this->error = $text;
            return $file === __FILE__;
        });
        try {
            [$failed, $reply] = $this->roundTrip($body);
        } finally {
            restore_error_handler();
        }
        if ($failed) {
            [$code, $text] = explode(': ', $reply, 2) + ['', ''];
            throw new Failure($code, $text);
        }
        return $reply;
    }

    /**
     * @return array{bool, string} whether it failed, and the reply
     */
    private function roundTrip(string $body): array
    {
        if ($this->socket !== null && $this->isStale()) {
            $this->drop();
        }
        if ($this->socket === null) {
            $this->connect();
        }
        $broken = null;
        try {
            $this->write($body);
        } catch (Broken $e) {
            $broken = $e; // first read what the pool sent before that
        }
        try {
            $header = $this->read(4);
            $failed = (ord($header[0]) & 0x80) !== 0;
            $size = unpack('N', $header)[1] & 0x7fffffff;
            if ($size > self::MAX_REPLY) {
                throw new NoReply("$this->url: the server sent something that is not a reply");
            }
            return [$failed, $this->read($size)];
        } catch (Broken $e) {
            throw $broken ?? $e;
        }
    }

    /**
     * Whether something has come that no message waits for: the end, or a reply too many, which is not the next
     * message's.
     */
    private function isStale(): bool
    {
        stream_set_blocking($this->socket, false);
        $more = fread($this->socket, 1);
        stream_set_blocking($this->socket, true);
        return ($more !== '' && $more !== false) || feof($this->socket);
    }

    private function write(string $body): void
    {
        $header = pack('N', strlen($body));
        if (strlen($body) <= self::SMALL) {
            $this->writeAll($header . $body);
            return;
        }
        $this->writeAll($header);
        $this->writeAll($body);
    }

    private function writeAll(string $data): void
    {
        for ($at = 0; $at < strlen($data); $at += $n) {
            $n = fwrite($this->socket, strlen($data) <= self::CHUNK && $at === 0 ? $data : substr($data, $at, self::CHUNK));
            if ($n === false || $n === 0) {
                $this->mustNotBeSilent();
                throw new Broken("$this->url: $this->error");
            }
        }
    }

    private function read(int $size): string
    {
        $parts = [];
        for ($rest = $size; $rest > 0; $rest -= strlen($part)) {
            $part = fread($this->socket, min($rest, self::SMALL)); // the data that has arrived
            if ($part === false || $part === '') {
                $this->mustNotBeSilent();
                throw new Broken("$this->url: the pool closed the connection without a reply");
            }
            $parts[] = $part;
        }
        return implode('', $parts);
    }

    private function mustNotBeSilent(): void
    {
        if (stream_get_meta_data($this->socket)['timed_out']) {
            throw new NoReply("$this->url: nothing was heard within $this->timeout s "
                . '(only a pool with reply=always in its URL answers every message)');
        }
    }

    private function connect(): void
    {
        $context = stream_context_create($this->context);
        $socket = stream_socket_client($this->remote, $errno, $error, $this->connectTimeout, STREAM_CLIENT_CONNECT, $context);
        if ($socket === false) {
            throw new Broken("$this->url: " . ($error ?: $this->error));
        }
        if ($this->tls !== null) {
            self::setTimeout($socket, $this->connectTimeout);
            if (stream_socket_enable_crypto($socket, true, STREAM_CRYPTO_METHOD_TLS_CLIENT) !== true) {
                throw new Broken("$this->url: $this->error");
            }
        }
        self::setTimeout($socket, $this->timeout);
        stream_set_chunk_size($socket, self::SMALL);
        $this->socket = $socket;
        $this->pid = (int) getmypid();
        $this->known = true;
    }

    /**
     * @param resource $socket its default timeout is PHP's default_socket_timeout
     * @param ?float $timeout null: for ever
     */
    private static function setTimeout($socket, ?float $timeout): void
    {
        $timeout = min($timeout ?? -1.0, 1e6);
        stream_set_timeout($socket, (int) $timeout, $timeout < 0 ? 0 : (int) (fmod($timeout, 1) * 1e6));
    }

    private function drop(): void
    {
        if ($this->socket !== null) {
            fclose($this->socket);
            $this->socket = null;
        }
    }

    /**
     * @return array{string, string} the address for stream_socket_client(), and the name of the host
     */
    private static function address(string $url): array
    {
        [$place, $parameters] = explode('?', $url, 2) + ['', ''];
        parse_str($parameters, $query);
        if (($query['reply'] ?? '') === 'never') {
            throw new \InvalidArgumentException("\"$url\": a pool with reply=never has no replies");
        }
        if (!in_array($query['tagged'] ?? 'false', ['false', '0'], true)) {
            throw new \InvalidArgumentException("\"$url\": this client does not speak tagged frames");
        }
        if (!in_array($query['once'] ?? 'false', ['false', '0'], true)) {
            throw new \InvalidArgumentException("\"$url\": once=true is one message a connection, "
                . 'and this client sends many');
        }
        if (preg_match('~^unix://(/.+)$~D', $place, $m)) {
            return ['unix://' . rawurldecode($m[1]), ''];
        }
        $host = '[^/@:\[\]]+|\[[0-9a-fA-F:.]+\]';
        if (preg_match("~^tcp://($host):(\d{1,5})$~D", $place, $m) && $m[2] >= 1 && $m[2] <= 65535) {
            return [$place, trim($m[1], '[]')];
        }
        throw new \InvalidArgumentException("\"$url\" is no address of a pool, such as tcp://127.0.0.1:8089 or "
            . 'unix:///run/pool.sock');
    }
}

/**
 * A connection broke, or could not be made: the message is sent again.
 *
 * @internal
 */
final class Broken extends \RuntimeException
{
}
