<?php

// Sends each line of stdin, and prints what becomes of it.

declare(strict_types=1);

require getenv('SDK');

// A program may make exceptions of all warnings.
set_error_handler(fn (int $level, string $text) => throw new ErrorException($text));

$seconds = fn (string $name): float => (float) (getenv($name) ?: 60);
try {
    $client = new Poolinit\Client(
        $argv[1],
        timeout: getenv('TIMEOUT') === 'null' ? null : $seconds('TIMEOUT'),
        connectTimeout: $seconds('CONNECT_TIMEOUT'),
        tls: getenv('CA') ? ['cafile' => getenv('CA')] : null,
    );
} catch (InvalidArgumentException $e) {
    fwrite(STDERR, $e->getMessage() . "\n");
    exit(1);
}
while (($line = fgets(STDIN)) !== false) {
    try {
        echo $client->send(rtrim($line, "\n")), "\n";
    } catch (Poolinit\Failure $e) {
        echo 'failure ', $e->getCode(), ' ', $e->text, "\n";
    } catch (Poolinit\NoReply $e) {
        echo 'error NoReply ', $e->getMessage(), "\n";
    }
}
$client->close();
try {
    $client->send('');
} catch (LogicException) {
    exit(0);
}
exit(3);
