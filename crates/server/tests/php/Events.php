<?php
// Business code in PHP: does what a client asks in words; an answer begins with the first of them.
use GatewayWorker\Lib\Gateway;

class Events
{
    public static function onWebSocketConnect(string $client, array $request): void
    {
        $_SESSION = ['path' => $request['server']['REQUEST_URI']];
    }

    public static function onMessage(string $client, string $message): void
    {
        [$command, $one, $two] = explode(' ', $message, 3) + ['', '', ''];
        $answer = match ($command) {
            'echo' => "echo $one " . getmypid(),
            'id' => "id $client",
            'remember' => self::remember($one, $two),
            'session' => 'session ' . json_encode($_SESSION),
            'be' => self::quietly(fn () => Gateway::bindUid($client, $one)),
            'tell' => self::quietly(fn () => Gateway::sendToUid($one, $two)),
            'online' => 'online ' . json_encode(Gateway::isUidOnline($one)),
            'join' => self::quietly(fn () => Gateway::joinGroup($client, $one)),
            'members' => 'members ' . Gateway::getClientIdCountByGroup($one),
            'group' => self::quietly(fn () => Gateway::sendToGroup($one, $two)),
            'all' => self::quietly(fn () => Gateway::sendToAll("$one $two")),
        };
        if ($answer !== null) {
            Gateway::sendToCurrentClient($answer);
        }
    }

    public static function onClose(string $client): void
    {
        if (isset($_SESSION['name'])) {
            Gateway::sendToAll("{$_SESSION['name']} left");
        }
    }

    private static function remember(string $key, string $value): string
    {
        $_SESSION[$key] = $value;
        return 'remember ok';
    }

    private static function quietly(callable $call): ?string
    {
        $call();
        return null;
    }
}
