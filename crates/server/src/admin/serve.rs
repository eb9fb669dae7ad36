//! The admin socket of a running process: answers questions of the same user, one JSON object a line.

use core::future::Future;
use core::time::Duration;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::debug;

use super::run_dir;
use super::snapshot::Question;

/// Longest question, in bytes.
const QUESTION_BYTES_MAX: u64 = 1024;
/// How long a questioner may stay silent.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A bound admin socket; its file goes away with it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

/// What answers.
pub(crate) trait Answers: Clone + Send + 'static {
    /// The answer to a question, as JSON.
    fn answer(&self, question: Question) -> impl Future<Output = String> + Send;
}

/// Why a question has no answer.
#[derive(Debug, Serialize)]
struct Refusal {
    error: String,
}

impl Socket {
    /// Binds `<dir>/<role>-<pid>.sock`, for this user only.
    pub(crate) fn bind(dir: &Path, role: &str) -> anyhow::Result<Self> {
        run_dir::prepare(dir)?;
        let path = dir.join(format!("{role}-{}.sock", std::process::id()));
        // Left by an earlier process that had this number.
        let _ = fs::remove_file(&path);
        let refused = || format!("cannot open the admin socket {}", path.display());
        let listener = UnixListener::bind(&path).with_context(refused)?;
        // The directory already keeps others out; between bind and here nobody else could reach the socket.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).with_context(refused)?;
        Ok(Self { listener, path })
    }

    /// Answers until the process ends.
    pub(crate) async fn serve(self, answers: impl Answers) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, answers).await {
                            debug!(%error, "an admin connection broke");
                        }
                    });
                }
                // Out of descriptors: clients have them all. Ask again later instead of spinning.
                Err(error) => {
                    debug!(%error, "the admin socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, answers: impl Answers) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let read =
            timeout(IDLE_MAX, (&mut lines).take(QUESTION_BYTES_MAX).read_line(&mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let mut answer = match serde_json::from_str(&line) {
            Ok(question) => answers.answer(question).await,
            Err(error) => serde_json::to_string(&Refusal {
                error: format!("ask is not understood: {error}"),
            })?,
        };
        answer.push('\n');
        writer.write_all(answer.as_bytes()).await?;
        if !line.ends_with('\n') {
            return Ok(());
        }
    }
}
