//! Which cores this process may use.

use std::io;

use crate::sys;

/// The cores this thread may run on, ascending.
///
/// # Errors
/// What the kernel says; on Linux the call fails only on machines of more than 1024 cores.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let set = sys::affinity()?;
    Ok((0..sys::CORES_MAX).filter(|&core| sys::core_is_set(core, &set)).collect())
}
