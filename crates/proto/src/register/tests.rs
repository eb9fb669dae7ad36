//! The register and its clients, driven through their handles.

mod client;
mod server;
