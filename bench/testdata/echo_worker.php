<?php
ini_set('default_socket_timeout', '-1');
$f = fopen('php://fd/3', 'r+');
stream_set_read_buffer($f, 65536);
stream_set_write_buffer($f, 0);
while (($header = fread($f, 4)) !== false && strlen($header) === 4) {
    $size = unpack('N', $header)[1];
    $body = '';
    while (strlen($body) < $size) {
        $body .= fread($f, $size - strlen($body));
    }
    fwrite($f, $header . $body);
}
