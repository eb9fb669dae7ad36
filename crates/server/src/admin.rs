//! How a running process is asked what it does.

use std::path::PathBuf;

use crate::Failure;
use crate::cli::Query;

pub(crate) fn print_status(_run_dir: Option<PathBuf>, _query: &Query) -> Result<(), Failure> {
    Ok(())
}

pub(crate) fn print_connections(_run_dir: Option<PathBuf>, _query: &Query) -> Result<(), Failure> {
    Ok(())
}
