//! A load driven by several processes: each has a part of the clients, and the first one leads.
//!
//! The leader starts its own program again for each part, with the same arguments and a hidden one. The two talk in lines
//! of JSON over pipes: a step to do, then how far it is, then what came of it. A single process does the same steps
//! without any pipe.

use core::ops::AddAssign;
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{self, Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::report;

/// The half of a mode that drives clients; there is one in each process.
pub(crate) trait Part: Sized {
    /// What it can be told to do.
    type Step: Serialize + DeserializeOwned;
    /// What comes of a step; those of all parts are added up.
    type Tally: Serialize + DeserializeOwned + AddAssign;

    /// Does a step, telling `progress` how many of its clients are done.
    fn step(&mut self, step: &Self::Step, progress: &mut dyn FnMut(u64)) -> Result<Self::Tally>;
}

/// Which part of the clients a process has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// From 0.
    pub(crate) index: usize,
    pub(crate) count: usize,
}

/// All parts of a load.
pub(crate) enum Crew<P> {
    Here(P),
    Away(Vec<Member>),
}

/// A part in a process of its own; it ends when this goes.
pub(crate) struct Member {
    child: Child,
    /// Whether it has been told a step that it has not answered.
    is_busy: bool,
    answers: BufReader<ChildStdout>,
}

/// A line from a part.
#[derive(Serialize, Deserialize)]
enum Answer<T> {
    Progress(u64),
    Done(T),
    Failed(String),
}

impl Share {
    /// How many of `total` things are this part's.
    pub(crate) fn of(self, total: usize) -> usize {
        total / self.count + usize::from(self.index < total % self.count)
    }
}

/// Makes the parts of a load. `None` when this process is a part itself and has done what it was told.
pub(crate) fn start<P: Part>(
    load: &Load,
    make: impl FnOnce(Share) -> Result<P>,
) -> Result<Option<Crew<P>>> {
    let count = load.processes;
    if let Some(index) = load.part {
        obey(make(Share { index, count }))?;
        return Ok(None);
    }
    if count == 1 {
        return Ok(Some(Crew::Here(make(Share { index: 0, count })?)));
    }
    (0..count).map(Member::start).collect::<Result<_>>().map(|members| Some(Crew::Away(members)))
}

impl<P: Part> Crew<P> {
    /// The processes that drive clients.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Here(_) => vec![process::id()],
            Self::Away(members) => members.iter().map(|member| member.child.id()).collect(),
        }
    }

    /// All parts do a step at the same time.
    pub(crate) fn step(&mut self, step: &P::Step) -> Result<P::Tally> {
        self.step_with_progress(step, |_| {})
    }

    /// As [`step`](Self::step), with a bar on a terminal that counts `total` clients.
    pub(crate) fn step_with_bar(
        &mut self,
        step: &P::Step,
        what: &'static str,
        total: usize,
    ) -> Result<P::Tally> {
        let bar = report::progress(what, total as u64);
        let tally = self.step_with_progress(step, |done| bar.set_position(done));
        bar.finish_and_clear();
        tally
    }

    /// As [`step`](Self::step), with a clock on a terminal.
    pub(crate) fn step_with_clock(
        &mut self,
        step: &P::Step,
        what: &'static str,
        seconds: f64,
    ) -> Result<P::Tally> {
        let clock = report::clock(format!("{what} for {seconds} s:"));
        let tally = self.step(step);
        clock.finish_and_clear();
        tally
    }

    fn step_with_progress(
        &mut self,
        step: &P::Step,
        mut progress: impl FnMut(u64),
    ) -> Result<P::Tally> {
        let members = match self {
            Self::Here(part) => return part.step(step, &mut progress),
            Self::Away(members) => members,
        };
        for member in &mut *members {
            member.tell(step)?;
        }
        let mut total: Option<P::Tally> = None;
        let mut done_before = 0;
        for (index, member) in members.iter_mut().enumerate() {
            let mut done = 0;
            let tally = member.wait(|count| {
                done = count;
                progress(done_before + done);
            });
            let tally = tally.with_context(|| format!("process {index}"))?;
            done_before += done;
            match &mut total {
                Some(total) => *total += tally,
                None => total = Some(tally),
            }
        }
        total.context("--processes must be at least 1")
    }
}

impl Member {
    fn start(index: usize) -> Result<Self> {
        let mut command = Command::new(env::current_exe().context("finding this program")?);
        command.args(env::args_os().skip(1)).args(["--part", &index.to_string()]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting this program again, for --processes")?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        Ok(Self { child, is_busy: false, answers: BufReader::new(stdout) })
    }

    fn tell(&mut self, step: &impl Serialize) -> Result<()> {
        self.is_busy = true;
        let stdin = self.child.stdin.as_mut().context("a pipe was asked for")?;
        write_line(stdin, step)
    }

    fn wait<T: DeserializeOwned>(&mut self, mut progress: impl FnMut(u64)) -> Result<T> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("it ended without a result");
            }
            match serde_json::from_str(&line).context("its answer")? {
                Answer::Progress(count) => progress(count),
                Answer::Done(tally) => {
                    self.is_busy = false;
                    return Ok(tally);
                }
                Answer::Failed(why) => bail!(why),
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // One that waits for a step ends by itself and in order; another may be at it for long.
        drop(self.child.stdin.take());
        if self.is_busy {
            // It may have failed and ended, and then there is nothing to kill.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A part's side: does the leader's steps until it goes.
fn obey<P: Part>(part: Result<P>) -> Result<()> {
    let mut stdout = io::stdout();
    let mut part = match part {
        Ok(part) => part,
        Err(error) => return write_line(&mut stdout, &Answer::<()>::Failed(format!("{error:#}"))),
    };
    for line in io::stdin().lines() {
        let step = serde_json::from_str(&line?).context("the leader's step")?;
        let done = part.step(&step, &mut |count| {
            // A leader that is gone closes the next line, too.
            if count.is_multiple_of(PROGRESS_STEP) {
                let _ = write_line(&mut io::stdout(), &Answer::<()>::Progress(count));
            }
        });
        let answer = done.map_or_else(|error| Answer::Failed(format!("{error:#}")), Answer::Done);
        write_line(&mut stdout, &answer)?;
    }
    Ok(())
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value)? + "\n";
    out.write_all(line.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Clients between two lines about progress.
const PROGRESS_STEP: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for (total, count) in [(0, 1), (1, 3), (10, 3), (20_000, 7)] {
            let shares: Vec<usize> =
                (0..count).map(|index| Share { index, count }.of(total)).collect();
            assert_eq!(shares.iter().sum::<usize>(), total);
            assert!(shares.iter().all(|share| share.abs_diff(total / count) <= 1));
        }
    }
}
