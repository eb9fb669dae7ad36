<?php
// Two BusinessWorkers, until SIGINT. Their folder, register and key come from the environment.
require __DIR__ . '/autoload.php';
require __DIR__ . '/Events.php';

use GatewayWorker\BusinessWorker;
use Workerman\Worker;

Worker::$pidFile = getenv('FOLDER') . '/php.pid';
Worker::$logFile = getenv('FOLDER') . '/php.log';
Worker::$statusFile = getenv('FOLDER') . '/php.status';
$worker = new BusinessWorker();
$worker->name = 'Php';
$worker->count = 2;
$worker->registerAddress = getenv('REGISTER');
$worker->secretKey = getenv('SECRET_KEY');
$worker->eventHandler = Events::class;
Worker::runAll();
