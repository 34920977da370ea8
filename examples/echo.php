#!/usr/bin/env php
<?php
// A worker in PHP, with nothing but the socket on fd 3: it answers each message
// with itself. An empty one it refuses.
//
//   poolinit -n 4 --listen tcp://127.0.0.1:8089 -- examples/echo.php
//   echo hello | poolinit send tcp://127.0.0.1:8089

// The stop signal follows the end of the messages, which ends the loop.
if (function_exists('pcntl_signal')) {
    pcntl_signal(SIGTERM, SIG_IGN);
}

ini_set('default_socket_timeout', '-1'); // messages may be far apart; PHP would take 60 s of silence for the end
$channel = fopen('php://fd/' . getenv('POOLINIT_FD'), 'r+b');
stream_set_write_buffer($channel, 0);

/** Returns the reply; an exception is a failure. */
function handle(string $body): string
{
    if ($body === '') {
        throw new InvalidArgumentException('there is nothing in it');
    }
    return $body;
}

/** Reads so many bytes, or what there is before the end. */
function read_all($channel, int $n): string
{
    $data = '';
    while (strlen($data) < $n && ($more = fread($channel, $n - strlen($data))) !== false && $more !== '') {
        $data .= $more;
    }
    return $data;
}

function answer($channel, string $body, bool $failed = false): void
{
    $data = pack('N', strlen($body) | ($failed ? 0x80000000 : 0)) . $body;
    while ($data !== '' && ($n = fwrite($channel, $data)) !== false) {
        $data = substr($data, $n);
    }
}

printf("started: worker %s of %s, generation %s, pid %d\n", getenv('POOLINIT_WORKER_ID'),
    getenv('POOLINIT_WORKERS'), getenv('POOLINIT_GENERATION'), getmypid());
$n = 0;
while (strlen($header = read_all($channel, 4)) === 4) {
    $message = read_all($channel, unpack('N', $header)[1]);
    $n++;
    try {
        answer($channel, handle($message));
    } catch (InvalidArgumentException $e) { // it will not get better
        answer($channel, 'refused: ' . $e->getMessage(), true);
    } catch (Throwable $e) { // worth another attempt
        fwrite(STDERR, "$e\n");
        answer($channel, 'error: ' . $e->getMessage(), true);
    }
}
echo "stopping after $n messages\n";
