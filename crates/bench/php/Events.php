<?php
use GatewayWorker\Lib\Gateway;

// The same business code as `tengate-bench worker`: a uid for each client, and what a message's first byte asks for.
class Events
{
    public static function onConnect($client_id)
    {
        Gateway::bindUid($client_id, $client_id);
    }

    public static function onMessage($client_id, $message)
    {
        switch ($message[0] ?? '') {
            case '*':
                Gateway::sendToAll($message);
                return;
            case '#':
                $bar = strpos($message, '|');
                if ($bar !== false) {
                    Gateway::sendToGroup(substr($message, 1, $bar - 1), substr($message, $bar + 1));
                    return;
                }
                break;
            case '@':
                $bar = strpos($message, '|');
                if ($bar !== false) {
                    Gateway::sendToUid(substr($message, 1, $bar - 1), substr($message, $bar + 1));
                    return;
                }
                break;
            case '+':
                Gateway::joinGroup($client_id, substr($message, 1));
                break;
            case '=':
                Gateway::bindUid($client_id, substr($message, 1));
                break;
        }
        Gateway::sendToClient($client_id, $message);
    }
}
