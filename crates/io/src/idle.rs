//! What a polling thread does when a turn found nothing.

use core::time::Duration;

/// When a shard that polls rests. The longer it finds nothing, the deeper: first it only polls again, then it lets the
/// sibling hyper-thread run between two polls, then it sleeps, twice as long each time up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleConfig {
    /// Empty turns after which it pauses between two polls.
    pub spin_turns: u32,
    /// Empty turns with a pause after which it sleeps. `u32::MAX`: it never does, for the shortest delay at the price of a
    /// busy core.
    pub pause_turns: u32,
    /// The first sleep. A message that arrives meanwhile waits that long at most, and the wake-up of some 60 µs.
    pub sleep_min: Duration,
    /// The longest sleep. The receive ring must hold what arrives meanwhile.
    pub sleep_max: Duration,
}

impl Default for IdleConfig {
    /// Sleeps after some hundred microseconds without a frame, 50 µs to 1 ms.
    fn default() -> Self {
        Self {
            spin_turns: 1000,
            pause_turns: 4000,
            sleep_min: Duration::from_micros(50),
            sleep_max: Duration::from_millis(1),
        }
    }
}

/// What to do before the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Poll again.
    None,
    /// Poll again after `core::hint::spin_loop`.
    Pause,
    /// Sleep as long, or until woken by what else the thread waits for.
    Sleep(Duration),
}

/// Counts empty turns and says how to rest.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    config: IdleConfig,
    empty_turns: u32,
    sleep: Duration,
}

impl Idle {
    /// Starts busy.
    pub fn new(config: IdleConfig) -> Self {
        Self { config, empty_turns: 0, sleep: config.sleep_min }
    }

    /// Takes how much the turn found to do, and says what to do before the next. Frames that stay staged are nothing to do:
    /// a device without a peer would keep the thread busy with them.
    pub fn handle_turn(&mut self, found: usize) -> Rest {
        if found > 0 {
            self.empty_turns = 0;
            self.sleep = self.config.sleep_min;
            return Rest::None;
        }
        let IdleConfig { spin_turns, pause_turns, sleep_max, .. } = self.config;
        self.empty_turns = self.empty_turns.saturating_add(1);
        if self.empty_turns <= spin_turns {
            return Rest::None;
        }
        if self.empty_turns <= spin_turns.saturating_add(pause_turns) {
            return Rest::Pause;
        }
        let sleep = self.sleep;
        self.sleep = sleep.saturating_mul(2).min(sleep_max);
        Rest::Sleep(sleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: IdleConfig = IdleConfig {
        spin_turns: 2,
        pause_turns: 1,
        sleep_min: Duration::from_micros(50),
        sleep_max: Duration::from_micros(150),
    };

    #[test]
    fn empty_turns_rest_deeper_and_a_frame_ends_it() {
        let mut idle = Idle::new(CONFIG);
        let sleep = |micros| Rest::Sleep(Duration::from_micros(micros));
        let turns = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        let rests = turns.map(|found| idle.handle_turn(found));
        let first = [Rest::None, Rest::None, Rest::Pause, sleep(50), sleep(100), sleep(150)];
        assert_eq!(rests[..6], first);
        assert_eq!(rests[6..8], [sleep(150), Rest::None]);
        assert_eq!(rests[8..], first[..4]);
    }

    #[test]
    fn endless_pausing_never_sleeps() {
        let mut idle = Idle::new(IdleConfig { pause_turns: u32::MAX, ..CONFIG });
        assert!((0..10_000).all(|_| !matches!(idle.handle_turn(0), Rest::Sleep(_))));
        idle.empty_turns = u32::MAX;
        assert_eq!(idle.handle_turn(0), Rest::Pause);
    }
}
