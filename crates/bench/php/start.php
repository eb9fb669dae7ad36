<?php
// A GatewayWorker cluster for measurements: a register, one gateway process, one worker process.
// TENGATE_PHP_PEERS names a folder with checkouts of GatewayWorker, workerman and coroutine; PORT is the first of three.
// With REGISTER only the worker, for a gateway of somebody else's.
$peers = getenv('TENGATE_PHP_PEERS');
$port = (int) getenv('PORT');
spl_autoload_register(function ($class) use ($peers) {
    $roots = [
        'GatewayWorker\\' => ['GatewayWorker/src'],
        'Workerman\\Coroutine\\' => ['coroutine/src'],
        'Workerman\\' => ['workerman/src', 'coroutine/src'],
    ];
    foreach ($roots as $prefix => $folders) {
        if (strncmp($class, $prefix, strlen($prefix)) !== 0) {
            continue;
        }
        $path = str_replace('\\', '/', substr($class, strlen($prefix))) . '.php';
        foreach ($folders as $folder) {
            if (is_file("$peers/$folder/$path")) {
                require "$peers/$folder/$path";
                return;
            }
        }
    }
});
require __DIR__ . '/Events.php';

use GatewayWorker\BusinessWorker;
use GatewayWorker\Gateway;
use GatewayWorker\Register;
use Workerman\Worker;

Worker::$pidFile = sys_get_temp_dir() . "/tengate-bench-$port.pid";
Worker::$logFile = '/dev/null';
$register = getenv('REGISTER');
if (!$register) {
    $register = '127.0.0.1:' . ($port + 1);
    new Register("text://$register");
    $gateway = new Gateway("websocket://127.0.0.1:$port");
    $gateway->name = 'BenchGateway';
    $gateway->count = 1;
    $gateway->lanIp = '127.0.0.1';
    $gateway->startPort = $port + 2;
    $gateway->registerAddress = $register;
}
$worker = new BusinessWorker();
$worker->name = "BenchWorker-$port";
$worker->count = 1;
$worker->registerAddress = $register;
$worker->eventHandler = 'Events';
Worker::runAll();
