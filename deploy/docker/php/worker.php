<?php

// A worker that answers each message in capitals, and refuses an empty one.

declare(strict_types=1);

require __DIR__ . '/Pool.php';

$pool = new Poolinit\Pool();
$pool->on('workerStart', function (Poolinit\Pool $pool, int $workerId): void {
    echo "worker $workerId of {$pool->workers} is started\n"; // here it would connect to its database
});
$pool->on('message', function (Poolinit\Pool $pool, string $message): string {
    if ($message === '') {
        throw new Poolinit\Refuse('there is nothing in it');
    }
    return strtoupper($message); // an exception: the message is delivered again
});
$pool->start();
