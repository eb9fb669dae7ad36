<?php
// Calls of GatewayClient, from outside any worker: takes [["name", arguments…], …] as JSON, prints the list of results.
$peers = getenv('TENGATE_PHP_PEERS');
if (is_dir("$peers/GatewayClient")) {
    foreach (['Context', 'GatewayProtocol', 'Gateway'] as $class) {
        require "$peers/GatewayClient/$class.php";
    }
    $gateway = GatewayClient\Gateway::class;
} else {
    require __DIR__ . '/autoload.php';
    $gateway = GatewayWorker\Lib\Gateway::class;
}
$gateway::$registerAddress = getenv('REGISTER');
$gateway::$secretKey = getenv('SECRET_KEY');
$results = [];
foreach (json_decode($argv[1], true, 512, JSON_THROW_ON_ERROR) as $call) {
    $results[] = $gateway::{array_shift($call)}(...$call);
}
echo json_encode($results, JSON_THROW_ON_ERROR);
