//! DPDK behind safe types; with the other two `sys.rs` the only `unsafe` code of the project.
//!
//! What makes the types sound: the EAL is up before any of them exists ([`EalUp`]); a port is opened once and closed by the
//! last owner of its [`Device`], be it a queue, a list of frames or the port; one [`Pair`] exists for each queue pair, so
//! no queue is used by two threads; and a [`Frames`] is the only owner of its mbufs and gives them back when it goes.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, Ordering};
use std::ffi::CString;
use std::io;
use std::sync::Arc;

use super::limits::{FRAMES_MAX, PORTS_MAX};

/// Proof that the EAL is initialised, which nothing undoes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EalUp(());

impl EalUp {
    /// Initialises the EAL with command-line arguments, the program's name first. Call it once a process.
    pub(crate) fn init(arguments: Vec<CString>) -> io::Result<Self> {
        // The EAL reorders the array and keeps pointers into it and the strings, so both live as long as the process.
        let mut pointers: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
        let count = c_int::try_from(pointers.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        pointers.push(core::ptr::null_mut());
        let pointers = Vec::leak(pointers);
        // SAFETY: `pointers` has `count` C strings and a null behind them, writable and never freed.
        check(unsafe { tengate_eal_init(count, pointers.as_mut_ptr()) })?;
        Ok(Self(()))
    }

    /// Creates a software device from its name and arguments.
    pub(crate) fn probe(self, device: &CStr) -> io::Result<()> {
        // SAFETY: the EAL is up; `device` is a C string, which DPDK copies.
        check(unsafe { tengate_device_probe(device.as_ptr()) })
    }

    /// The next port from `from` on, if any, and its name.
    pub(crate) fn port_from(self, from: u16) -> Option<(u16, String)> {
        let mut name = [0_u8; NAME_BYTES];
        // SAFETY: the EAL is up; `name` has the room DPDK wants for a port's name, and is terminated by DPDK.
        let port = unsafe { tengate_port_next(from, name.as_mut_ptr().cast()) };
        let name = CStr::from_bytes_until_nul(&name).ok()?;
        (port < PORTS_MAX).then(|| (port, name.to_string_lossy().into_owned()))
    }

    fn port_named(self, name: &CStr) -> io::Result<u16> {
        let mut port = 0;
        // SAFETY: the EAL is up, `name` is a C string, `port` is writable.
        check(unsafe { tengate_port_find(name.as_ptr(), &raw mut port) })?;
        Ok(port)
    }
}

/// Takes what DPDK logged last, as text of whole or broken lines, at most [`LOG_BYTES`].
pub(crate) fn take_log() -> String {
    let mut text = vec![0; LOG_BYTES];
    // SAFETY: `text` is writable for LOG_BYTES, the most the shim writes.
    let len = unsafe { tengate_log_take(text.as_mut_ptr().cast()) };
    text.truncate(len);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Gives the calling thread its own caches in every pool, until it ends.
pub(crate) fn register_thread(_eal: EalUp) -> io::Result<()> {
    /// Ends the registration with its thread, so that the slot serves the next.
    struct Registered;

    impl Drop for Registered {
        fn drop(&mut self) {
            // SAFETY: the EAL stays up; a thread that is not registered is left alone.
            unsafe { tengate_thread_unregister() };
        }
    }

    thread_local! {
        static REGISTERED: core::cell::OnceCell<Registered> = const { core::cell::OnceCell::new() };
    }
    // SAFETY: the EAL is up, which the argument proves.
    check(unsafe { tengate_thread_register() })?;
    REGISTERED.with(|registered| {
        registered.get_or_init(|| Registered);
    });
    Ok(())
}

/// A pool of mbufs.
struct Pool(NonNull<RawPool>);

// SAFETY: DPDK's pools may be used from any thread at any time; the caches are of the calling thread.
unsafe impl Send for Pool {}
// SAFETY: as for `Send`.
unsafe impl Sync for Pool {}

impl Pool {
    fn create(
        _eal: EalUp,
        name: &CStr,
        buffers: u32,
        data_bytes: u16,
        socket: c_int,
    ) -> io::Result<Self> {
        let mut pool = core::ptr::null_mut();
        // SAFETY: the EAL is up, `name` is a C string that DPDK copies, `pool` is writable.
        check(unsafe {
            tengate_pool_create(name.as_ptr(), buffers, data_bytes, socket, &raw mut pool)
        })?;
        NonNull::new(pool).map(Self).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }

    fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { tengate_pool_available(self.0.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: every owner of an mbuf of this pool keeps its `Device`, so none is left; the port is closed before.
        unsafe { tengate_pool_free(self.0.as_ptr()) };
    }
}

impl core::fmt::Debug for Pool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Pool").field(&self.0).finish()
    }
}

/// An open port: started, with a pool for each queue pair.
#[derive(Debug)]
pub(crate) struct Device {
    // Fields drop in this order: the port gives its mbufs back before the pools go.
    port: OpenPort,
    pools: Vec<Pool>,
    eal: EalUp,
}

/// A port that is ours alone; closes when it goes, unless it was never started.
#[derive(Debug)]
struct OpenPort {
    number: u16,
    started: bool,
}

/// The ports that are open, a bit each, so that none is opened twice.
static OPEN: AtomicU32 = AtomicU32::new(0);

impl OpenPort {
    fn claim(port: u16) -> Result<Self, DeviceError> {
        assert!(port < PORTS_MAX, "DPDK was built for more ports than the shim");
        let bit = 1 << port;
        if OPEN.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return Err(DeviceError::Taken);
        }
        Ok(Self { number: port, started: false })
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        if self.started {
            // SAFETY: the EAL is up. No thread uses the port or its queues, because each such user keeps the `Device`.
            unsafe { tengate_port_close(self.number) };
        }
        OPEN.fetch_and(!(1 << self.number), Ordering::AcqRel);
    }
}

/// Why a port did not open.
#[derive(Debug)]
pub(crate) enum DeviceError {
    Missing,
    Taken,
    Info(io::Error),
    Queues { max: u16 },
    Mtu { max: u16 },
    Pool(io::Error),
    Start(io::Error),
}

impl Device {
    /// Opens the named port with the queue pairs of `config`, each with a pool of `buffers` mbufs of `data_bytes`.
    pub(crate) fn open(
        eal: EalUp,
        name: &CStr,
        config: &RawConfig,
        buffers: u32,
        data_bytes: u16,
    ) -> Result<(Arc<Self>, Vec<Pair>), DeviceError> {
        let port = eal.port_named(name).map_err(|_| DeviceError::Missing)?;
        let info = raw_info(eal, port).map_err(DeviceError::Info)?;
        if config.queue_pairs > info.queue_pairs_max {
            return Err(DeviceError::Queues { max: info.queue_pairs_max });
        }
        if config.mtu > info.mtu_max {
            return Err(DeviceError::Mtu { max: info.mtu_max });
        }
        let mut port = OpenPort::claim(port)?;
        let mut pools = Vec::with_capacity(config.queue_pairs.into());
        for queue in 0..config.queue_pairs {
            let name = CString::new(format!("port{}_queue{queue}", port.number))
                .expect("a name made here has no zero byte");
            let pool = Pool::create(eal, &name, buffers, data_bytes, info.socket);
            pools.push(pool.map_err(DeviceError::Pool)?);
        }
        port.started = true;
        let device = Self { port, pools, eal };
        let mut raw: Vec<*mut RawPool> = device.pools.iter().map(|pool| pool.0.as_ptr()).collect();
        // SAFETY: the port is ours; `raw` has a live pool for each queue pair, and `device` keeps them.
        check(unsafe { tengate_port_start(device.port.number, config, raw.as_mut_ptr()) })
            .map_err(DeviceError::Start)?;
        let device = Arc::new(device);
        let pairs = (0..config.queue_pairs)
            .map(|index| Pair { device: Arc::clone(&device), index })
            .collect();
        Ok((device, pairs))
    }

    pub(crate) fn info(&self) -> io::Result<RawInfo> {
        raw_info(self.eal, self.port.number)
    }

    pub(crate) fn link(&self) -> io::Result<RawLink> {
        let mut link = RawLink::default();
        // SAFETY: the port is open; `link` is writable.
        check(unsafe { tengate_port_link(self.port.number, &raw mut link) })?;
        Ok(link)
    }

    pub(crate) fn stats(&self) -> io::Result<RawStats> {
        let mut stats = RawStats::default();
        // SAFETY: the port is open; `stats` is writable.
        check(unsafe { tengate_port_stats(self.port.number, &raw mut stats) })?;
        Ok(stats)
    }

    /// Buffers in no one's hands, of all queues.
    pub(crate) fn buffers_available(&self) -> u32 {
        self.pools.iter().map(Pool::available).sum()
    }
}

fn raw_info(_eal: EalUp, port: u16) -> io::Result<RawInfo> {
    let mut info = RawInfo::default();
    // SAFETY: the EAL is up, DPDK checks the port's number; `info` is writable.
    check(unsafe { tengate_port_info(port, &raw mut info) })?;
    Ok(info)
}

/// One receive and one transmit queue of a port, and their pool. There is one for each index, and it has no copy.
#[derive(Debug)]
pub(crate) struct Pair {
    device: Arc<Device>,
    index: u16,
}

impl Pair {
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// Buffers of this queue pair in no one's hands.
    pub(crate) fn buffers_available(&self) -> u32 {
        self.pool().available()
    }

    /// Receives into `frames`, giving back what it holds, at most its capacity.
    pub(crate) fn receive(&mut self, frames: &mut Frames) -> Received {
        frames.clear();
        frames.belong_to(&self.device);
        let max = u16::try_from(frames.frames.capacity().min(FRAMES_MAX)).unwrap_or(u16::MAX);
        let (port, pool) = (self.device.port.number, self.pool().0.as_ptr());
        let room = frames.frames.as_mut_ptr();
        // SAFETY: the port is open and this is the queue's only user; `frames` is empty and has room for `max` frames.
        let received = unsafe { tengate_receive(port, self.index, pool, room, max) };
        // SAFETY: the shim filled that many, at most `max`, each with an mbuf that is ours alone.
        unsafe { frames.frames.set_len(received.frames.into()) };
        received
    }

    /// Fills the free capacity of `frames` with empty buffers, all or none; returns whether.
    pub(crate) fn allocate(&mut self, frames: &mut Frames) -> bool {
        frames.belong_to(&self.device);
        let spare = frames.frames.spare_capacity_mut();
        let count = u16::try_from(spare.len().min(FRAMES_MAX)).unwrap_or(u16::MAX);
        let room = spare.as_mut_ptr().cast();
        // SAFETY: the pool lives; `room` is writable for `count` frames.
        if unsafe { tengate_allocate(self.pool().0.as_ptr(), room, count) } != 0 {
            return false;
        }
        let len = frames.frames.len() + usize::from(count);
        // SAFETY: the shim filled `count` frames behind the present ones, within the capacity, each ours alone.
        unsafe { frames.frames.set_len(len) };
        true
    }

    /// Hands frames to the device, oldest first, and forgets those it took; returns how many.
    pub(crate) fn transmit(&mut self, frames: &mut Frames) -> usize {
        let count = frames.frames.len().min(FRAMES_MAX);
        let offered = u16::try_from(count).unwrap_or(u16::MAX);
        if offered == 0 {
            return 0;
        }
        let own = frames.device.as_ref().is_some_and(|device| Arc::ptr_eq(device, &self.device));
        assert!(own, "frames are sent by the port they are of");
        let first = frames.frames.as_ptr();
        // SAFETY: the port is open and this is the queue's only user; `first` has `offered` frames that are ours alone.
        let taken =
            unsafe { tengate_transmit(self.device.port.number, self.index, first, offered) };
        let taken = usize::from(taken).min(count);
        // The device owns what it took, so these are forgotten, not given back.
        frames.frames.drain(..taken);
        taken
    }

    fn pool(&self) -> &Pool {
        &self.device.pools[usize::from(self.index)]
    }
}

/// Mbufs this thread owns, in order. They go back to their pool when this is cleared or dropped.
#[derive(Debug)]
pub(crate) struct Frames {
    frames: Vec<Frame>,
    device: Option<Arc<Device>>,
}

impl Frames {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { frames: Vec::with_capacity(capacity), device: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.frames.len() == self.frames.capacity()
    }

    /// The bytes in use of each frame.
    pub(crate) fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.frames.iter_mut().map(|frame| {
            // SAFETY: the mbuf is ours alone, and `bytes` lies in its data room, of which `len` bytes are in use.
            unsafe { slice::from_raw_parts_mut(frame.bytes, frame.len as usize) }
        })
    }

    /// Moves the last frame of `from` to the end of this list, with `len` bytes in use, and lends them. Nothing when
    /// `from` is empty, this is full, or the frame has less room.
    pub(crate) fn take_from(&mut self, from: &mut Self, len: usize) -> Option<&mut [u8]> {
        let room = from.frames.last()?.room as usize;
        if len > room || self.is_full() {
            return None;
        }
        self.belong_to(from.device.as_ref()?);
        let mut frame = from.frames.pop()?;
        frame.len = u32::try_from(len).ok()?;
        self.frames.push(frame);
        // SAFETY: the mbuf is ours alone, and has room for `len` bytes from `bytes` on, which its pool initialised.
        Some(unsafe { slice::from_raw_parts_mut(frame.bytes, len) })
    }

    /// Gives all mbufs back to their pool.
    pub(crate) fn clear(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        // SAFETY: the mbufs are ours alone, and their pool lives, because `device` keeps it.
        unsafe { tengate_free(self.frames.as_ptr(), self.frames.len()) };
        self.frames.clear();
    }

    /// Keeps the device whose mbufs this holds or is about to hold.
    fn belong_to(&mut self, device: &Arc<Device>) {
        if self.device.as_ref().is_some_and(|own| Arc::ptr_eq(own, device)) {
            return;
        }
        self.clear();
        self.device = Some(Arc::clone(device));
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Turns a negative errno value into an error.
fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// `struct rte_mempool`, of which nothing is known here.
#[repr(C)]
struct RawPool {
    _opaque: [u8; 0],
}

/// `struct tengate_frame`. Copies are made only while moving one from list to list.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Frame {
    mbuf: *mut c_void,
    bytes: *mut u8,
    len: u32,
    room: u32,
}

/// `struct tengate_received`: what a receive found.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Received {
    /// Frames of one segment.
    pub(crate) frames: u16,
    /// Frames of several, given back.
    pub(crate) multi_segment: u16,
    /// Not 0 when the pool was empty.
    pub(crate) exhausted: u32,
}

/// `struct tengate_port_config`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RawConfig {
    pub(crate) queue_pairs: u16,
    pub(crate) rx_descriptors: u16,
    pub(crate) tx_descriptors: u16,
    pub(crate) mtu: u16,
}

/// `struct tengate_port_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawInfo {
    pub(crate) rx_offloads: u64,
    pub(crate) tx_offloads: u64,
    pub(crate) rss_types: u64,
    pub(crate) socket: i32,
    pub(crate) queue_pairs_max: u16,
    pub(crate) mtu_max: u16,
    pub(crate) mtu: u16,
    pub(crate) mac: [u8; 6],
}

/// `struct tengate_port_stats`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawStats {
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) missed: u64,
    pub(crate) receive_errors: u64,
    pub(crate) no_buffer: u64,
    pub(crate) send_errors: u64,
}

/// `struct tengate_link`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct RawLink {
    pub(crate) up: u32,
    pub(crate) mbits: u32,
}

const NAME_BYTES: usize = 64;
const LOG_BYTES: usize = 2048;

const _: () = assert!(size_of::<Frame>() == 24 && size_of::<Received>() == 8);
const _: () = assert!(size_of::<RawConfig>() == 8 && size_of::<RawInfo>() == 40);
const _: () = assert!(size_of::<RawStats>() == 64 && size_of::<RawLink>() == 8);

// SAFETY: these are the signatures in dpdk/shim.c, whose assertions pin the same layouts.
unsafe extern "C" {
    fn tengate_eal_init(count: c_int, arguments: *mut *mut c_char) -> c_int;
    fn tengate_log_take(text: *mut c_char) -> usize;
    fn tengate_device_probe(device: *const c_char) -> c_int;
    fn tengate_thread_register() -> c_int;
    fn tengate_thread_unregister();
    fn tengate_port_next(from: u16, name: *mut c_char) -> u16;
    fn tengate_port_find(name: *const c_char, port: *mut u16) -> c_int;
    fn tengate_port_info(port: u16, info: *mut RawInfo) -> c_int;
    fn tengate_pool_create(
        name: *const c_char,
        buffers: u32,
        data_bytes: u16,
        socket: c_int,
        pool: *mut *mut RawPool,
    ) -> c_int;
    fn tengate_pool_free(pool: *mut RawPool);
    fn tengate_pool_available(pool: *const RawPool) -> u32;
    fn tengate_port_start(port: u16, config: *const RawConfig, pools: *mut *mut RawPool) -> c_int;
    fn tengate_port_close(port: u16);
    fn tengate_port_link(port: u16, link: *mut RawLink) -> c_int;
    fn tengate_port_stats(port: u16, stats: *mut RawStats) -> c_int;
    fn tengate_receive(
        port: u16,
        queue: u16,
        pool: *mut RawPool,
        frames: *mut Frame,
        max: u16,
    ) -> Received;
    fn tengate_allocate(pool: *mut RawPool, frames: *mut Frame, count: u16) -> c_int;
    fn tengate_transmit(port: u16, queue: u16, frames: *const Frame, count: u16) -> u16;
    fn tengate_free(frames: *const Frame, count: usize);
}
