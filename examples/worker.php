#!/usr/bin/env php
<?php
// A worker that writes its own loop, in PHP (with pcntl, as php-cli has it).
//
//   poolinit -n 4 --ready notify --output prefix -- examples/worker.php

$running = true;
pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () use (&$running) { $running = false; });

// sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names.
function tell(string $text): void
{
    $name = getenv('NOTIFY_SOCKET');
    if ($name === false || $name === '') {
        return;
    }
    $socket = stream_socket_client('udg://' . preg_replace('/^@/', "\0", $name));
    if ($socket) {
        fwrite($socket, $text);
    }
}

// Here a real worker would connect to its queue.
tell("READY=1\nSTATUS=waiting for jobs");
printf("started: worker %s of %s, generation %s, pid %d\n", getenv('POOLINIT_WORKER_ID'),
    getenv('POOLINIT_WORKERS'), getenv('POOLINIT_GENERATION'), getmypid());

$jobs = 0;
while ($running) {
    sleep(2); // stands for waiting for a job; a signal ends it early
    if (!$running) {
        break;
    }
    $jobs++;
    echo "job $jobs done\n";
}
echo "stopping after $jobs jobs\n";
tell('STOPPING=1');
