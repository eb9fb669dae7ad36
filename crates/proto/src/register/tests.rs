//! The register and its clients, driven through their handles.

mod bench;
mod client;
mod server;
mod dispatched;
mod leases;
mod homes;
