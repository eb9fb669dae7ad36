//! The SDK against the real PHP Register and Gateway.
//!
//! Needs PHP and a folder with checkouts of GatewayWorker, workerman and coroutine, named by `TENGATE_PHP_PEERS`; without
//! it the test says that it is skipped.

#[cfg(test)]
mod tests;
