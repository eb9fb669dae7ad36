//! The kernel's interfaces for AF_XDP and BPF, each behind a safe function: sockets and their rings here, the rest
//! in `sys/`. With the other two `sys.rs` the only `unsafe` code of the project.
//!
//! A frame's memory belongs to one of four at any time: the pool ([`Umem`]), a [`Frames`], the kernel for receiving (fill
//! and rx ring) or the kernel for sending (tx and completion ring). Chunk numbers move between them and are never copied, which
//! is why lending their bytes is sound.

use core::cell::RefCell;
use core::ffi::{c_int, c_void};
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use super::limits::{BIND_INTERVAL, BIND_TRIES};

mod bpf;
mod interface;

pub(crate) use bpf::{LoadError, Map, MapKind, Program};
pub(crate) use interface::{InterfaceInfo, interface_info};

/// Anonymous or shared memory; unmapped when it goes.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is of the process, not of a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Memory of zeros.
    fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::new(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn new(bytes: usize, flags: c_int, fd: c_int, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | libc::MAP_POPULATE;
        // SAFETY: a new mapping where the kernel likes touches no other memory.
        let start = unsafe { libc::mmap(NOWHERE, bytes, access, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// A pointer to a `T` within the mapping.
    fn at<T>(&self, offset: u64) -> NonNull<T> {
        let offset = usize::try_from(offset).expect("the kernel's offsets are small");
        assert!(offset + size_of::<T>() <= self.bytes, "an offset within the mapping");
        assert!(offset.is_multiple_of(align_of::<T>()), "the kernel aligns its rings");
        // SAFETY: the offset is within the mapping, as asserted.
        unsafe { self.start.add(offset) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is our mapping, and whoever points into it keeps it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A queue's frames: chunks of one size, and which of them nobody uses.
#[derive(Debug)]
pub(crate) struct Umem {
    memory: Mapping,
    chunk_bytes: u32,
    chunks: u32,
    free: RefCell<Vec<u32>>,
}

impl Umem {
    fn new(chunk_bytes: u32, chunks: u32) -> io::Result<Self> {
        let memory = Mapping::anonymous(chunk_bytes as usize * chunks as usize)?;
        Ok(Self { memory, chunk_bytes, chunks, free: RefCell::new((0..chunks).rev().collect()) })
    }

    fn take(&self) -> Option<u32> {
        self.free.borrow_mut().pop()
    }

    fn give_back(&self, chunk: u32) {
        self.free.borrow_mut().push(chunk);
    }

    fn free_len(&self) -> u32 {
        u32::try_from(self.free.borrow().len()).expect("no more than there are chunks")
    }

    /// The chunk of an address the kernel gave back, and how far into it the address is.
    fn chunk_of(&self, address: u64) -> (u32, u32) {
        let size = u64::from(self.chunk_bytes);
        let chunk = u32::try_from(address / size).unwrap_or(u32::MAX);
        assert!(chunk < self.chunks, "the kernel gives back what it got");
        (chunk, u32::try_from(address % size).expect("below the size of a chunk"))
    }

    /// Where a frame begins, of which `len` bytes are in use.
    fn bytes(&self, chunk: u32, offset: u32, len: u32) -> NonNull<u8> {
        let fits = chunk < self.chunks && offset.saturating_add(len) <= self.chunk_bytes;
        assert!(fits, "a frame is within its chunk");
        let from = chunk as usize * self.chunk_bytes as usize + offset as usize;
        // SAFETY: the offset is within the mapping, which has all chunks.
        unsafe { self.memory.start.add(from) }
    }
}

/// Received frames this thread owns, in order. They go back to their pool when this is cleared or dropped.
#[derive(Debug)]
pub(crate) struct Frames {
    frames: Vec<Frame>,
    umem: Option<Rc<Umem>>,
}

/// A part of a chunk that is ours alone. Not copied.
#[derive(Debug)]
struct Frame {
    chunk: u32,
    offset: u32,
    len: u32,
}

impl Frames {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { frames: Vec::with_capacity(capacity), umem: None }
    }

    /// The bytes of each frame.
    pub(crate) fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        let umem = self.umem.as_deref();
        self.frames.iter_mut().map(move |frame| {
            let umem = umem.expect("frames are of a pool");
            let start = umem.bytes(frame.chunk, frame.offset, frame.len);
            // SAFETY: the chunk is ours alone until it goes back, which needs this list again; the range is within the
            // pool's mapping, as `bytes` asserted, and `umem` keeps that. The kernel zeroed all of it at first.
            unsafe { slice::from_raw_parts_mut(start.as_ptr(), frame.len as usize) }
        })
    }

    /// Gives all frames back to their pool.
    pub(crate) fn clear(&mut self) {
        let Some(umem) = &self.umem else { return };
        let mut free = umem.free.borrow_mut();
        free.extend(self.frames.drain(..).map(|frame| frame.chunk));
    }

    /// Keeps the pool whose frames this is about to hold.
    fn belong_to(&mut self, umem: &Rc<Umem>) {
        self.clear();
        if !self.umem.as_ref().is_some_and(|own| Rc::ptr_eq(own, umem)) {
            self.umem = Some(Rc::clone(umem));
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One of the four rings that a socket shares with the kernel. One side moves `producer` behind entries it wrote, the other
/// `consumer` behind those it read.
#[derive(Debug)]
struct Ring<T> {
    mapping: Mapping,
    producer: u64,
    consumer: u64,
    flags: u64,
    entries: u64,
    mask: u32,
    /// Our index, which the kernel may not know yet.
    own: u32,
    /// The kernel's index when we last looked.
    other: u32,
    kind: core::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn map(
        fd: BorrowedFd<'_>,
        size: u32,
        page_offset: libc::off_t,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        assert!(size.is_power_of_two(), "the kernel takes no other ring");
        let entries = usize::try_from(offsets.desc).expect("the kernel's offsets are small");
        let bytes = entries + size as usize * size_of::<T>();
        let mapping = Mapping::new(bytes, libc::MAP_SHARED, fd.as_raw_fd(), page_offset)?;
        Ok(Self {
            mapping,
            producer: offsets.producer,
            consumer: offsets.consumer,
            flags: offsets.flags,
            entries: offsets.desc,
            mask: size - 1,
            own: 0,
            other: 0,
            kind: core::marker::PhantomData,
        })
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }

    fn index(&self, offset: u64) -> &AtomicU32 {
        let index = self.mapping.at::<AtomicU32>(offset);
        // SAFETY: the index lies in the mapping `self` owns, is aligned, and both sides touch it with atomic operations.
        unsafe { index.as_ref() }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        self.mapping.at(self.entries + u64::from(index & self.mask) * size_of::<T>() as u64)
    }

    /// Whether the kernel has to be called before it goes on with this ring.
    fn needs_wakeup(&self) -> bool {
        self.index(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// Writes the next entry, unseen by the kernel before [`publish`](Self::publish). Nothing, when the ring is full.
    fn push(&mut self, value: T) -> bool {
        if self.own.wrapping_sub(self.other) == self.size() {
            self.other = self.index(self.consumer).load(Ordering::Acquire);
            if self.own.wrapping_sub(self.other) == self.size() {
                return false;
            }
        }
        let entry = self.entry(self.own);
        // SAFETY: the kernel has read this entry and does not look at it again before `producer` passes it.
        unsafe { entry.write(value) };
        self.own = self.own.wrapping_add(1);
        true
    }

    fn publish(&mut self) {
        self.index(self.producer).store(self.own, Ordering::Release);
    }

    /// Entries we published and the kernel has not taken.
    fn untaken(&self) -> u32 {
        let consumer = self.index(self.consumer).load(Ordering::Acquire);
        self.index(self.producer).load(Ordering::Relaxed).wrapping_sub(consumer)
    }

    /// Whether the kernel has put something there.
    fn has_entry(&mut self) -> bool {
        if self.own == self.other {
            self.other = self.index(self.producer).load(Ordering::Acquire);
        }
        self.own != self.other
    }

    /// Reads the next entry; the kernel may use its place after [`release`](Self::release).
    fn pop(&mut self) -> Option<T> {
        if !self.has_entry() {
            return None;
        }
        let entry = self.entry(self.own);
        // SAFETY: the kernel wrote this entry before it moved `producer`, and leaves it alone until `consumer` passes it.
        let value = unsafe { entry.read() };
        self.own = self.own.wrapping_add(1);
        Some(value)
    }

    fn release(&mut self) {
        self.index(self.consumer).store(self.own, Ordering::Release);
    }
}

/// How a socket is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketConfig {
    pub(crate) interface_index: u32,
    pub(crate) queue: u32,
    pub(crate) rx_descriptors: u32,
    pub(crate) tx_descriptors: u32,
    pub(crate) chunk_bytes: u32,
    pub(crate) chunks: u32,
    /// Flags of the binding.
    pub(crate) flags: u16,
}

/// The step at which a socket could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Socket,
    Memory,
    Rings,
    Bind,
}

/// A bound socket with its rings and its frames, of which the fill ring has all it may have.
#[derive(Debug)]
pub(crate) struct Seat {
    rings: Rings,
    umem: Umem,
}

/// A seat that a thread took.
#[derive(Debug)]
pub(crate) struct Xsk {
    rings: Rings,
    umem: Rc<Umem>,
}

#[derive(Debug)]
struct Rings {
    /// The interface asks it for its counters, so it may outlive the rest; then the kernel still has the memory's pages.
    socket: Arc<OwnedFd>,
    fill: Ring<u64>,
    completion: Ring<u64>,
    rx: Ring<libc::xdp_desc>,
    tx: Ring<libc::xdp_desc>,
    /// Frames in the fill and rx rings; at most as many as the rx ring has places.
    receiving: u32,
    /// Frames staged, in the tx ring, with the device, and in the completion ring; at most as many as the tx ring has
    /// places.
    sending: u32,
}

/// Where a queue's frames are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauges {
    pub(crate) total: u32,
    pub(crate) free: u32,
    pub(crate) receiving: u32,
    pub(crate) sending: u32,
}

impl Seat {
    /// Makes a socket, gives it memory and rings, and binds it to its queue.
    pub(crate) fn open(config: &SocketConfig) -> Result<Self, (Step, io::Error)> {
        let at = |step| move |error| (step, error);
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = check(fd).map_err(at(Step::Socket))?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let umem = Umem::new(config.chunk_bytes, config.chunks).map_err(at(Step::Memory))?;
        register(&socket, &umem).map_err(at(Step::Memory))?;
        let mut rings = Rings::map(socket, config).map_err(at(Step::Rings))?;
        assert!(rings.refill(&umem), "the kernel has not begun to use the fill ring");
        bind(&rings.socket, config).map_err(at(Step::Bind))?;
        Ok(Self { rings, umem })
    }

    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.rings.socket
    }

    pub(crate) fn claim(self) -> Xsk {
        Xsk { rings: self.rings, umem: Rc::new(self.umem) }
    }
}

impl Rings {
    fn map(socket: OwnedFd, config: &SocketConfig) -> io::Result<Self> {
        let (rx, tx) = (config.rx_descriptors, config.tx_descriptors);
        let sizes = [
            (libc::XDP_UMEM_FILL_RING, rx),
            (libc::XDP_UMEM_COMPLETION_RING, tx),
            (libc::XDP_RX_RING, rx),
            (libc::XDP_TX_RING, tx),
        ];
        for (name, size) in sizes {
            set_option(&socket, libc::SOL_XDP, name, &size)?;
        }
        // In copy mode the kernel charges sent frames to the socket's buffer, so that must hold all of them.
        let bytes = tx.saturating_mul(CHARGE_BYTES).min(i32::MAX.unsigned_abs() / 2);
        set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)?;
        // Newer kernels send as many at a call as they are told to, others 32.
        _ = set_option(&socket, libc::SOL_XDP, MAX_TX_BUDGET, &tx);
        let offsets: libc::xdp_mmap_offsets = option(&socket, libc::XDP_MMAP_OFFSETS)?;
        let fd = socket.as_fd();
        let [fill_page, completion_page] =
            [libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING]
                .map(|offset| libc::off_t::try_from(offset).expect("64 bits wide"));
        Ok(Self {
            fill: Ring::map(fd, rx, fill_page, &offsets.fr)?,
            completion: Ring::map(fd, tx, completion_page, &offsets.cr)?,
            rx: Ring::map(fd, rx, libc::XDP_PGOFF_RX_RING, &offsets.rx)?,
            tx: Ring::map(fd, tx, libc::XDP_PGOFF_TX_RING, &offsets.tx)?,
            socket: Arc::new(socket),
            receiving: 0,
            sending: 0,
        })
    }

    /// Gives the kernel as many empty frames to receive into as it may have and there are; returns whether it took them.
    fn refill(&mut self, umem: &Umem) -> bool {
        let before = self.receiving;
        let mut took_all = true;
        while self.receiving < self.fill.size()
            && let Some(chunk) = umem.take()
        {
            // The kernel shows a frame in the rx ring before it says that the place in the fill ring is free, so that ring may
            // still look full. The next time will do.
            if !self.fill.push(u64::from(chunk) * u64::from(umem.chunk_bytes)) {
                umem.give_back(chunk);
                took_all = false;
                break;
            }
            self.receiving += 1;
        }
        if self.receiving != before {
            self.fill.publish();
        }
        took_all
    }

    /// Takes back frames that were sent.
    fn reap(&mut self, umem: &Umem) {
        let before = self.sending;
        while let Some(address) = self.completion.pop() {
            umem.give_back(umem.chunk_of(address).0);
            self.sending -= 1;
        }
        if self.sending != before {
            self.completion.release();
        }
    }
}

impl Xsk {
    /// Gives back what `frames` holds and fills it with what arrived, at most its capacity.
    pub(crate) fn receive(&mut self, frames: &mut Frames) -> usize {
        frames.belong_to(&self.umem);
        while frames.frames.len() < frames.frames.capacity()
            && let Some(descriptor) = self.rings.rx.pop()
        {
            let (chunk, offset) = self.umem.chunk_of(descriptor.addr);
            frames.frames.push(Frame { chunk, offset, len: descriptor.len });
            self.rings.receiving -= 1;
        }
        if !frames.frames.is_empty() {
            self.rings.rx.release();
        }
        self.rings.refill(&self.umem);
        frames.frames.len()
    }

    /// Gives the kernel what it may have to receive into; returns whether it took that and no frame waits to be received.
    pub(crate) fn prepare_wait(&mut self) -> bool {
        self.rings.refill(&self.umem) && !self.rings.rx.has_entry()
    }

    /// Whether the driver waits to be told that there are frames to receive into.
    pub(crate) fn receive_needs_wakeup(&self) -> bool {
        self.rings.fill.needs_wakeup()
    }

    /// Whether the tx ring has a place, as far as is known without looking.
    pub(crate) fn can_stage(&self) -> bool {
        self.rings.sending < self.rings.tx.size()
    }

    /// Puts a frame of `len` bytes, at most a chunk, into the tx ring and lends its bytes, which hold an older frame's before.
    /// The kernel does not see it before [`publish`](Self::publish).
    pub(crate) fn stage(&mut self, len: u32) -> Result<&mut [u8], StageError> {
        let rings = &mut self.rings;
        if rings.sending == rings.tx.size() {
            rings.reap(&self.umem);
            if rings.sending == rings.tx.size() {
                return Err(StageError::Full);
            }
        }
        let chunk = self.umem.take().or_else(|| {
            rings.reap(&self.umem);
            self.umem.take()
        });
        let chunk = chunk.ok_or(StageError::NoChunk)?;
        let start = self.umem.bytes(chunk, 0, len);
        let address = u64::from(chunk) * u64::from(self.umem.chunk_bytes);
        // As with the fill ring, a frame that came back may still seem to have its place.
        if !rings.tx.push(libc::xdp_desc { addr: address, len, options: 0 }) {
            self.umem.give_back(chunk);
            return Err(StageError::Full);
        }
        rings.sending += 1;
        // SAFETY: the chunk was nobody's, and the kernel does not see it before it is published, which needs `self` again;
        // the range is within the mapping, as `bytes` asserted, and was zeroed at first.
        Ok(unsafe { slice::from_raw_parts_mut(start.as_ptr(), len as usize) })
    }

    /// Shows the staged frames to the kernel; returns how many there are that it has not taken.
    pub(crate) fn publish(&mut self) -> u32 {
        self.rings.tx.publish();
        self.rings.tx.untaken()
    }

    /// Frames shown to the kernel that it has not taken.
    pub(crate) fn untaken(&self) -> u32 {
        self.rings.tx.untaken()
    }

    /// Whether the kernel has to be called before it sends.
    pub(crate) fn send_needs_wakeup(&self) -> bool {
        self.rings.tx.needs_wakeup()
    }

    /// Takes back frames that were sent.
    pub(crate) fn reap(&mut self) {
        self.rings.reap(&self.umem);
    }

    /// Makes the kernel send what is in the tx ring.
    pub(crate) fn kick_send(&self) -> io::Result<()> {
        let fd = self.rings.socket.as_raw_fd();
        // SAFETY: no bytes and no address are passed.
        let sent = unsafe { libc::sendto(fd, NOWHERE, 0, libc::MSG_DONTWAIT, EMPTY, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes the driver receive into what is in the fill ring.
    pub(crate) fn kick_receive(&self) -> io::Result<()> {
        let fd = self.rings.socket.as_raw_fd();
        let (from, from_len) = (core::ptr::null_mut(), core::ptr::null_mut());
        // SAFETY: there is no room for bytes and none for an address.
        let received =
            unsafe { libc::recvfrom(fd, NOWHERE, 0, libc::MSG_DONTWAIT, from, from_len) };
        if received < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        Gauges {
            total: self.umem.chunks,
            free: self.umem.free_len(),
            receiving: self.rings.receiving,
            sending: self.rings.sending,
        }
    }

    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.rings.socket
    }
}

/// Why a frame was not staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageError {
    /// As many are on their way as may be.
    Full,
    /// No chunk is free.
    NoChunk,
}

fn register(socket: &OwnedFd, umem: &Umem) -> io::Result<()> {
    let start = umem.memory.start.as_ptr().expose_provenance();
    let registration = libc::xdp_umem_reg {
        addr: start as u64,
        len: umem.memory.bytes as u64,
        chunk_size: umem.chunk_bytes,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
}

fn bind(socket: &OwnedFd, config: &SocketConfig) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: AF_XDP,
        sxdp_flags: config.flags | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: config.interface_index,
        sxdp_queue_id: config.queue,
        sxdp_shared_umem_fd: 0,
    };
    let (fd, bytes) = (socket.as_raw_fd(), socklen::<libc::sockaddr_xdp>());
    // SAFETY: `address` is readable for its size, and the kernel copies it.
    let bind = || check(unsafe { libc::bind(fd, (&raw const address).cast(), bytes) });
    // A queue is free some milliseconds after its last socket closed, also when that was another process.
    let mut tries = BIND_TRIES;
    loop {
        match bind() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries > 0 => tries -= 1,
            bound => return bound.map(|_zero| ()),
        }
        thread::park_timeout(BIND_INTERVAL);
    }
}

/// What the kernel counted of a socket.
pub(crate) fn socket_statistics(socket: &OwnedFd) -> io::Result<libc::xdp_statistics> {
    option(socket, libc::XDP_STATISTICS)
}

/// Whether the device reads and writes the socket's frames itself.
pub(crate) fn is_zero_copy(socket: &OwnedFd) -> io::Result<bool> {
    let options: libc::xdp_options = option(socket, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// A structure of integers, for which every bit pattern is a value.
trait Plain: Copy {}
impl Plain for u32 {}
impl Plain for libc::xdp_umem_reg {}
impl Plain for libc::xdp_mmap_offsets {}
impl Plain for libc::xdp_statistics {}
impl Plain for libc::xdp_options {}

fn zeroed<T: Plain>() -> T {
    // SAFETY: a `Plain` consists of integers, for which zero is a value.
    unsafe { core::mem::zeroed() }
}

fn set_option<T: Plain>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let value: *const T = value;
    // SAFETY: `value` is readable for its size. What it points to, the kernel pins as long as it needs it.
    check(unsafe { libc::setsockopt(fd, level, name, value.cast(), socklen::<T>()) })?;
    Ok(())
}

/// Reads an option of an AF_XDP socket. An older kernel may fill only the front; the rest is zero.
fn option<T: Plain>(socket: &OwnedFd, name: c_int) -> io::Result<T> {
    let mut value = zeroed::<T>();
    let mut len = socklen::<T>();
    let (fd, room) = (socket.as_raw_fd(), (&raw mut value).cast());
    // SAFETY: `value` is writable for `len` bytes, and takes any bits.
    check(unsafe { libc::getsockopt(fd, libc::SOL_XDP, name, room, &raw mut len) })?;
    Ok(value)
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small structure")
}

/// Turns -1 into the error the kernel left.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

const NOWHERE: *mut c_void = core::ptr::null_mut();
const EMPTY: *const libc::sockaddr = core::ptr::null();
const AF_XDP: u16 = 44;
/// What a frame in flight counts for in a socket's send buffer, at most.
const CHARGE_BYTES: u32 = 8192;
/// `XDP_MAX_TX_SKB_BUDGET`, from Linux 6.17 on.
const MAX_TX_BUDGET: c_int = 9;

const _: () = assert!(AF_XDP as c_int == libc::AF_XDP);
const _: () = assert!(size_of::<libc::xdp_desc>() == 16);

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const DESCRIPTORS: u32 = 64;

    /// A ring that only this process knows, which plays the kernel too.
    fn ring<T: Copy>() -> Ring<T> {
        let bytes = 192 + DESCRIPTORS as usize * size_of::<T>();
        Ring {
            mapping: Mapping::anonymous(bytes).unwrap(),
            producer: 0,
            consumer: 64,
            flags: 128,
            entries: 192,
            mask: DESCRIPTORS - 1,
            own: 0,
            other: 0,
            kind: core::marker::PhantomData,
        }
    }

    fn xsk() -> Xsk {
        let rings = Rings {
            socket: Arc::new(File::open("/dev/null").unwrap().into()),
            fill: ring(),
            completion: ring(),
            rx: ring(),
            tx: ring(),
            receiving: 0,
            sending: 0,
        };
        Xsk { rings, umem: Rc::new(Umem::new(2048, 2 * DESCRIPTORS).unwrap()) }
    }

    /// The kernel puts a value where we read.
    fn produce<T: Copy>(ring: &Ring<T>, value: T) {
        let index = ring.index(ring.producer).load(Ordering::Relaxed);
        // SAFETY: the entry is within the mapping, which this thread alone uses.
        unsafe { ring.entry(index).write(value) };
        ring.index(ring.producer).store(index.wrapping_add(1), Ordering::Release);
    }

    /// The kernel has read that many.
    fn consume<T: Copy>(ring: &Ring<T>, count: u32) {
        ring.index(ring.consumer).fetch_add(count, Ordering::Release);
    }

    fn sum(xsk: &Xsk, frames: &Frames) -> u32 {
        let Gauges { free, receiving, sending, .. } = xsk.gauges();
        free + receiving + sending + u32::try_from(frames.frames.len()).unwrap()
    }

    #[test]
    fn a_fill_ring_that_still_looks_full_costs_no_frame() {
        let mut xsk = xsk();
        let mut frames = Frames::with_capacity(8);
        assert_eq!(xsk.receive(&mut frames), 0);
        assert_eq!(xsk.gauges().receiving, DESCRIPTORS);
        for round in 0..3 * DESCRIPTORS {
            let chunk = 2 * DESCRIPTORS - 1 - round % 8;
            // The frame is there before the kernel says that it took it from the fill ring.
            if xsk.rings.receiving == DESCRIPTORS {
                let addr = u64::from(chunk) * 2048 + 256;
                produce(&xsk.rings.rx, libc::xdp_desc { addr, len: 60, options: 0 });
            }
            let received = xsk.receive(&mut frames);
            assert_eq!(frames.iter_mut().map(|frame| frame.len()).sum::<usize>(), received * 60);
            assert_eq!(sum(&xsk, &frames), 2 * DESCRIPTORS);
            assert_eq!(xsk.prepare_wait(), received == 0, "no sleep while the ring lags");
            consume(&xsk.rings.fill, u32::try_from(received).unwrap());
        }
        frames.clear();
        assert!(xsk.prepare_wait());
        assert_eq!(xsk.gauges().receiving, DESCRIPTORS);
    }

    #[test]
    fn frames_to_send_come_back_in_any_order() {
        let mut xsk = xsk();
        let frames = Frames::with_capacity(1);
        for _ in 0..DESCRIPTORS {
            xsk.stage(60).unwrap().fill(7);
        }
        assert_eq!(xsk.stage(60), Err(StageError::Full));
        assert_eq!((xsk.publish(), xsk.gauges().sending), (DESCRIPTORS, DESCRIPTORS));
        for chunk in 0..DESCRIPTORS {
            produce(&xsk.rings.completion, u64::from(chunk ^ 21) * 2048);
        }
        // They came back, and the tx ring still looks full.
        assert_eq!(xsk.stage(60), Err(StageError::Full));
        assert_eq!((xsk.gauges().sending, sum(&xsk, &frames)), (0, 2 * DESCRIPTORS));
        consume(&xsk.rings.tx, DESCRIPTORS);
        assert_eq!(xsk.stage(60).map(|frame| frame.len()), Ok(60));
        assert_eq!((xsk.publish(), xsk.untaken()), (1, 1));
    }
}
