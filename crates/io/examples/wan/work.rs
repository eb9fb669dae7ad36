//! What client and server do over the link: bytes both can make, so that every one that arrives is compared.

use core::time::Duration;

use tengate_base::Instant;

/// What a client asks for, in front of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// What the bytes are made from.
    pub(crate) seed: u64,
    /// Bytes from the client, behind the request.
    pub(crate) up: u64,
    /// Bytes from the server, behind its verdict.
    pub(crate) down: u64,
    /// How long the server stops reading once it has a quarter of the client's, in milliseconds.
    pub(crate) pause_millis: u64,
}

impl Request {
    /// Bytes of a request.
    pub(crate) const LEN: usize = 32;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let words = [self.seed, self.up, self.down, self.pause_millis].map(u64::to_le_bytes);
        *words.as_flattened().first_chunk().expect("four words")
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().expect("eight bytes"));
        let mut next = || words.next().map_or(0, u64::from_le_bytes);
        Self { seed: next(), up: next(), down: next(), pause_millis: next() }
    }
}

/// Bytes that both ends can make (Marsaglia's xorshift), from the first to the last.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    state: u64,
    /// What is left of the last word.
    rest: [u8; 8],
    rest_len: usize,
}

impl Pattern {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { state: seed | 1 << 63, rest: [0; 8], rest_len: 0 }
    }

    const fn next(&mut self) -> [u8; 8] {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.to_le_bytes()
    }

    /// Hands `visit` the next bytes, as parts of `block`'s lengths.
    fn walk(&mut self, mut block: &mut [u8], mut visit: impl FnMut(&mut [u8], &[u8])) {
        while !block.is_empty() {
            if self.rest_len == 0 {
                let (words, tail) = block.as_chunks_mut::<8>();
                for word in words {
                    visit(word, &self.next());
                }
                block = tail;
                if block.is_empty() {
                    return;
                }
                (self.rest, self.rest_len) = (self.next(), 8);
            }
            let count = self.rest_len.min(block.len());
            let from = 8 - self.rest_len;
            let (part, behind) = block.split_at_mut(count);
            visit(part, &self.rest[from..from + count]);
            self.rest_len -= count;
            block = behind;
        }
    }

    /// Writes the next bytes.
    pub(crate) fn fill(&mut self, block: &mut [u8]) {
        self.walk(block, |part, bytes| part.copy_from_slice(bytes));
    }

    /// Whether these are the next bytes. They are gone afterwards.
    pub(crate) fn matches(&mut self, block: &mut [u8]) -> bool {
        let mut wrong = 0_u8;
        self.walk(block, |part, bytes| {
            part.iter().zip(bytes).for_each(|(got, wanted)| wrong |= got ^ wanted);
        });
        wrong == 0
    }
}

/// What the server says of the client's bytes, in front of its own.
pub(crate) const VERDICT_LEN: usize = 8;

/// The verdict on bytes that were not all as they should be.
const WRONG: u64 = u64::MAX;

/// A server's side of one connection, whatever TCP is below it.
#[derive(Debug)]
pub(crate) struct Session {
    head: Vec<u8>,
    request: Request,
    expected: Pattern,
    got: u64,
    is_wrong: bool,
    has_paused: bool,
    /// Until when it does not read.
    pub(crate) paused_until: Option<Instant>,
    own: Pattern,
    /// Bytes of ours that were not made yet.
    left: u64,
    /// Bytes that were made and not sent.
    made: Vec<u8>,
    has_answered: bool,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            head: Vec::new(),
            request: Request::default(),
            expected: Pattern::new(0),
            got: 0,
            is_wrong: false,
            has_paused: false,
            paused_until: None,
            own: Pattern::new(0),
            left: 0,
            made: Vec::new(),
            has_answered: false,
        }
    }

    /// Takes bytes of the client's.
    pub(crate) fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        let wanted = Request::LEN - self.head.len();
        let (head, body) = bytes.split_at(wanted.min(bytes.len()));
        self.head.extend_from_slice(head);
        if wanted > 0
            && let Some(head) = self.head.first_chunk()
        {
            self.request = Request::decode(head);
            self.expected = Pattern::new(self.request.seed);
            self.own = Pattern::new(self.request.seed + 1);
        }
        if !body.is_empty() {
            self.is_wrong |= !self.expected.matches(&mut body.to_vec());
            self.got += body.len() as u64;
        }
        let is_due = self.got > self.request.up / 4 && self.request.pause_millis > 0;
        if is_due && !self.has_paused {
            self.has_paused = true;
            self.paused_until = Some(now + Duration::from_millis(self.request.pause_millis));
        }
        let is_whole = self.head.len() == Request::LEN && self.got >= self.request.up;
        if is_whole && !self.has_answered {
            self.has_answered = true;
            let is_right = !self.is_wrong && self.got == self.request.up;
            let verdict = if is_right { self.got } else { WRONG };
            self.made.extend_from_slice(&verdict.to_le_bytes());
            self.left = self.request.down;
        }
    }

    /// Whether it does not read now.
    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    /// What it sends next; [`Session::consume`] says how much of it went.
    pub(crate) fn outgoing(&mut self) -> &[u8] {
        if self.made.is_empty() && self.left > 0 {
            let count = self.left.min(BLOCK_LEN);
            self.made.resize(usize::try_from(count).expect("a block"), 0);
            self.own.fill(&mut self.made);
            self.left -= count;
        }
        &self.made
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.made.drain(..count);
    }

    /// Whether everything was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.has_answered && self.left == 0 && self.made.is_empty()
    }
}

/// Bytes made at a time.
const BLOCK_LEN: u64 = 64 << 10;
