<?php

// What the tests of tagged messages run. A message's first word says what becomes of it.

declare(strict_types=1);

require __DIR__ . '/Pool.php';

use Poolinit\Meta;
use Poolinit\Pool;
use Poolinit\Refuse;
use Poolinit\Retry;

function await_file(string $name): void
{
    echo "waiting\n";
    while (!file_exists($name)) {
        usleep(5000);
        clearstatcache();
    }
}

$pool = new Pool(1);
$pool->set(['healthy-after' => '0s']);
if (getenv('POOL_URL')) {
    $pool->listen(getenv('POOL_URL'));
}
$pool->on('workerStart', function (Pool $pool, int $id): void {
    echo "up worker=$id of=$pool->workers generation=$pool->generation\n";
});
$pool->on('workerStop', function (Pool $pool, int $id): void {
    echo "down worker=$id\n";
});
$kept = null;
$pool->on('message', function (Pool $pool, string $body, Meta $meta) use (&$kept): mixed {
    [$word, $rest] = explode(' ', $body, 2) + ['', ''];
    $seconds = fn (?DateTimeImmutable $time): string => $time === null ? 'None' : $time->format('U.v');
    return match ($word) {
        'refuse' => throw new Refuse($rest),
        'retry' => throw new Retry((float) $rest, 'not yet'),
        'retry-text' => throw new Retry($rest, 'not yet'),
        'retry-first' => $meta->attempt === 1 ? throw new Retry($rest, 'not yet') : $body,
        'fail' => throw new ValueError($rest),
        'odd' => throw new class ('odd') extends Error {
        },
        'wrong' => [],
        'none' => null,
        'exit' => exit((int) $rest),
        'stop' => $pool->stop() ?? $body,
        'write' => $pool->write('wrote ') ?? $rest,
        'meta' => implode('|', [$meta->id, $meta->attempt, $meta->source, $meta->key, $seconds($meta->time),
            $seconds($meta->deadline), $meta->headers['a'] ?? '']),
        'attempt' => "$meta->attempt $meta->source " . var_export($meta->id !== '', true) . ' ' . var_export($meta->time !== null, true),
        'keep' => ($kept = $meta) ? $body : '',
        'touch-kept' => var_export($kept->touch(), true),
        'touch' => var_export($meta->touch(), true),
        'touch-pool' => var_export($pool->touch(), true),
        'detach' => $pool->detach('detached') ?? $body,
        'running' => var_export($pool->running, true),
        'wait', 'never' => await_file($rest) ?? $body,
        'touching' => array_map(fn (): bool => usleep((int) ((float) $rest * 1e6)) ?? $meta->touch(), range(1, 5)) ? $body : '',
        'sleep' => usleep((int) ((float) $rest * 1e6)) ?? $body,
        default => $body,
    };
});
$pool->start();
