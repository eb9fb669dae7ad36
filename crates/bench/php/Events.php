<?php
use GatewayWorker\Lib\Gateway;

// The same business code as `tengate-bench worker`: a uid for each client, echo, broadcast.
class Events
{
    public static function onConnect($client_id)
    {
        Gateway::bindUid($client_id, $client_id);
    }

    public static function onMessage($client_id, $message)
    {
        if ($message[0] === '*') {
            Gateway::sendToAll($message);
        } else {
            Gateway::sendToClient($client_id, $message);
        }
    }
}
