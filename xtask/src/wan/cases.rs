//! Which links, and what is done over them.

use core::time::Duration;

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// The link, for a reader.
    pub(super) link: &'static str,
    /// And for `crates/io/examples/wan/link.rs`: parts of 10 000, microseconds one way, megabits a second, bytes.
    pub(super) faults: &'static str,
    pub(super) work: Work,
    /// How often, for the median.
    pub(super) rounds: usize,
}

/// What is done; sizes are MiB.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Download(u64),
    Upload(u64),
    /// The client stops reading a download for so long, then goes on.
    PausedDownload(u64, Duration),
    /// The server stops reading an upload.
    PausedUpload(u64, Duration),
    /// So many requests of 1 to 64 KiB, so many at once, each answered with as much.
    Requests(u64, u64),
}

impl Work {
    pub(super) fn name(self) -> String {
        match self {
            Self::Download(_) => "download".to_owned(),
            Self::Upload(_) => "upload".to_owned(),
            Self::PausedDownload(_, pause) => format!("download, client stops {pause:?}"),
            Self::PausedUpload(_, pause) => format!("upload, server stops {pause:?}"),
            Self::Requests(count, at_once) if count == at_once => {
                format!("{count} requests at once")
            }
            Self::Requests(count, at_once) => format!("{count} requests, {at_once} at once"),
        }
    }

    /// Without a byte for so long it is stalled. When thousands begin at once, most of what they send is lost on a link with a
    /// queue, and time-outs double until they fit; Linux's too.
    pub(super) const fn patience(self) -> Duration {
        match self {
            Self::Requests(..) => Duration::from_secs(120),
            Self::Download(_)
            | Self::Upload(_)
            | Self::PausedDownload(..)
            | Self::PausedUpload(..) => Duration::from_secs(15),
        }
    }

    /// The arguments of `wan ask` behind the address: count, how many at once, bytes up and down, pauses of client and server.
    pub(super) fn plan(self) -> [u64; 6] {
        let millis = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Download(mib) => [1, 1, 0, mib << 20, 0, 0],
            Self::Upload(mib) => [1, 1, mib << 20, 0, 0, 0],
            Self::PausedDownload(mib, pause) => [1, 1, 0, mib << 20, millis(pause), 0],
            Self::PausedUpload(mib, pause) => [1, 1, mib << 20, 0, 0, millis(pause)],
            Self::Requests(count, at_once) => [count, at_once, 0, 0, 0, 0],
        }
    }
}

/// A link, what is downloaded and uploaded over it, and how often; in the quick run and in the whole one. 0: not at all.
struct Bulk {
    link: &'static str,
    faults: &'static str,
    quick_mib: u64,
    mib: u64,
    rounds: usize,
}

const BULKS: &[Bulk] = &[
    bulk("no faults", "loss=0", 64, 1024, 1),
    bulk("0.1 % lost", "loss=10", 64, 1024, 1),
    bulk("1 % lost", "loss=100", 16, 128, 3),
    bulk("5 % lost", "loss=500", 1, 16, 3),
    bulk("200 Mbit/s, 2 ms", "delay=1000 rate=200 queue=262144", 0, 128, 1),
    bulk("200 Mbit/s, 20 ms", "delay=10000 rate=200 queue=524288", 16, 128, 1),
    bulk("200 Mbit/s, 200 ms", "delay=100000 rate=200 queue=5242880", 0, 256, 1),
    bulk("200 Mbit/s, 20 ms, 0.1 % lost", "delay=10000 rate=200 queue=524288 loss=10", 0, 32, 3),
    bulk("200 Mbit/s, 20 ms, 1 % lost", "delay=10000 rate=200 queue=524288 loss=100", 1, 8, 3),
    bulk("2 % up to 1 ms late", "reorder=200 late=1000", 16, 256, 3),
    bulk(
        "200 Mbit/s, 20 ms, 2 % up to 1 ms late",
        "delay=10000 rate=200 queue=524288 reorder=200 late=1000",
        16,
        64,
        3,
    ),
    bulk(
        "200 Mbit/s, 20 ms, 2 % up to 20 ms late",
        "delay=10000 rate=200 queue=524288 reorder=200 late=20000",
        0,
        64,
        3,
    ),
    bulk("2 % twice", "repeat=200", 16, 256, 3),
    bulk(
        "200 Mbit/s, 50 ms, 0.5 % lost, 1 % up to 5 ms late, 1 % twice",
        "delay=25000 rate=200 queue=1048576 loss=50 reorder=100 late=5000 repeat=100",
        1,
        8,
        3,
    ),
];

const fn bulk(
    link: &'static str,
    faults: &'static str,
    quick_mib: u64,
    mib: u64,
    rounds: usize,
) -> Bulk {
    Bulk { link, faults, quick_mib, mib, rounds }
}

/// Links for pauses and for requests.
const FEW: &[(&str, &str)] = &[
    ("no faults", "loss=0"),
    ("1 % lost", "loss=100"),
    ("1 Gbit/s, 20 ms", "delay=10000 rate=1000 queue=2621440"),
    ("1 Gbit/s, 20 ms, 1 % lost", "delay=10000 rate=1000 queue=2621440 loss=100"),
];

/// All rows.
pub(super) fn all(is_quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    let (pause, requests, few) = if is_quick {
        (Duration::from_secs(1), 500, &FEW[..2])
    } else {
        (Duration::from_secs(10), 10_000, FEW)
    };
    for bulk in BULKS {
        let (mib, rounds) = if is_quick { (bulk.quick_mib, 1) } else { (bulk.mib, bulk.rounds) };
        let (link, faults) = (bulk.link, bulk.faults);
        for work in [Work::Download(mib), Work::Upload(mib)] {
            if mib > 0 {
                cases.push(Case { link, faults, work, rounds });
            }
        }
    }
    // What is read before and after the pause is more than both ends' buffers hold.
    for &(link, faults) in &few[..2] {
        for work in [Work::PausedDownload(32, pause), Work::PausedUpload(32, pause)] {
            cases.push(Case { link, faults, work, rounds: 1 });
        }
    }
    for &(link, faults) in few {
        for at_once in [50, requests] {
            let work = Work::Requests(requests, at_once);
            cases.push(Case { link, faults, work, rounds: 1 });
        }
    }
    cases
}
