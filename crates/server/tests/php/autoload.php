<?php
// Finds the classes of GatewayWorker, Workerman and Coroutine in the checkouts that TENGATE_PHP_PEERS holds.
spl_autoload_register(static function (string $class): void {
    $peers = getenv('TENGATE_PHP_PEERS');
    $folders = [
        'GatewayWorker\\' => "$peers/GatewayWorker/src",
        'Workerman\\Coroutine\\' => "$peers/coroutine/src",
        'Workerman\\' => "$peers/workerman/src",
    ];
    foreach ($folders as $namespace => $folder) {
        $file = $folder . '/' . strtr(substr($class, strlen($namespace)), '\\', '/') . '.php';
        if (str_starts_with($class, $namespace) && is_file($file)) {
            require $file;
            return;
        }
    }
});
