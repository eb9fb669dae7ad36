//! The directory of admin sockets: whoever can write to it can pose as a tengate process, so it must be ours alone.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// Where sockets are, unless the configuration says.
pub(crate) fn default_run_dir() -> PathBuf {
    let uid = rustix::process::geteuid();
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match session {
        Some(dir) => Path::new(&dir).join("tengate"),
        None if uid.is_root() => PathBuf::from("/run/tengate"),
        None => PathBuf::from(format!("/tmp/tengate-{}", uid.as_raw())),
    }
}

/// Makes the directory if it is missing, and makes sure that nobody else can write to it.
pub(crate) fn prepare(dir: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).recursive(true).create(dir) {
        Err(error) if !dir.is_dir() => {
            let advice = "choose another with --run-dir or TENGATE_RUN_DIR";
            Err(error).with_context(|| {
                format!("cannot create the run directory {}; {advice}", dir.display())
            })
        }
        _ => verify(dir),
    }
}

/// Refuses a directory that somebody else owns or may write to.
pub(crate) fn verify(dir: &Path) -> anyhow::Result<()> {
    // Not following a link: in /tmp anybody could have made one.
    let meta =
        fs::symlink_metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    ensure!(
        meta.is_dir(),
        "the run directory {} is not a directory; remove it or name another",
        dir.display()
    );
    let uid = rustix::process::geteuid().as_raw();
    if meta.uid() != uid {
        bail!(
            "the run directory {} belongs to user {}; name another with --run-dir",
            dir.display(),
            meta.uid()
        );
    }
    ensure!(
        meta.mode() & 0o077 == 0,
        "the run directory {} is open to other users; chmod 700 {}",
        dir.display(),
        dir.display()
    );
    Ok(())
}
