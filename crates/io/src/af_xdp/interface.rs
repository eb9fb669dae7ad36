//! An interface with a socket on each of its queues and the steering program before them.

use core::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::config::{Config, Mode, ZeroCopy};
use super::error::AfXdpError;
use super::limits::{CHUNK_BYTES, FRAME_OVERHEAD_BYTES, HEADROOM_BYTES, MTU_MAX};
use super::program::{KEY_BYTES, Maps, key, steering};
use super::queue::QueueSeat;
use super::sys::{
    InterfaceInfo, LoadError, Map, MapKind, Program, Seat, SocketConfig, Step, interface_info,
    is_zero_copy, socket_statistics,
};

/// An open interface. The steering program is detached, and the sockets close, when this and all queues are gone, or
/// the process.
#[derive(Debug)]
pub struct Interface {
    // First: the program goes before its sockets, so that no frame of ours finds none.
    attachment: Arc<Attachment>,
    sockets: Vec<Arc<OwnedFd>>,
    seats: Vec<QueueSeat>,
    info: InterfaceInfo,
    attached: Attached,
    native_refusal: Option<AfXdpError>,
}

/// The steering program's place before the sockets.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Detaches when it closes.
    _link: OwnedFd,
    without_socket: Map,
}

/// What an interface was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The program runs in the driver; if not, in the kernel's generic code.
    pub native: bool,
    /// The device reads and writes frames where they are; if not, the kernel copies them.
    pub zero_copy: bool,
}

/// What the kernel counted since the interface was opened, of all its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Frames of ours that found no socket: those of queues that came after the interface was opened.
    pub dropped_without_socket: u64,
    /// Frames dropped because the rx ring was full: the shard is too slow.
    pub dropped_ring_full: u64,
    /// Times that no frame was free to receive into. In copy mode a frame is lost each time.
    pub fill_ring_empty: u64,
    /// Frames dropped for other reasons, such as that they were too long.
    pub dropped_other: u64,
    /// Entries of the fill and tx rings that the kernel refused. Ours, if ever.
    pub invalid_descriptors: u64,
    /// Times that the kernel looked for frames to send and there were none.
    pub tx_ring_empty: u64,
}

impl Interface {
    /// Opens an interface: makes its sockets, then attaches the steering program.
    ///
    /// # Errors
    /// See [`AfXdpError`]. Nothing is left behind.
    pub fn open(config: &Config) -> Result<Self, AfXdpError> {
        config.check()?;
        let info = find(config)?;
        let chunk_bytes = chunk_bytes(&info).ok_or_else(|| AfXdpError::Mtu {
            interface: config.interface.clone(),
            mtu: info.mtu,
        })?;
        let steering = Steering::load(config)?;
        let (place, zero_copy) = match config.mode {
            // The generic code always copies.
            Mode::Generic => (Place::Generic, ZeroCopy::Off),
            Mode::Native | Mode::Auto => (Place::Native, config.zero_copy),
        };
        let seats = open_sockets(config, &info, chunk_bytes, zero_copy)?;
        steering.register(&seats)?;
        // Only now, when all sockets are there: the program drops what is ours and finds none.
        let refusal = match steering.attach(config, &info, place) {
            Ok(link) => return Self::assemble(config, info, steering, seats, link, place, None),
            Err(refusal) => refusal,
        };
        let may_be_generic = config.mode == Mode::Auto && zero_copy != ZeroCopy::Required;
        if !may_be_generic || !matches!(refusal, AfXdpError::Native { .. }) {
            return Err(refusal);
        }
        let seats = if copies(&seats)? {
            seats
        } else {
            drop(seats);
            open_sockets(config, &info, chunk_bytes, ZeroCopy::Off)?
        };
        steering.register(&seats)?;
        let link = steering.attach(config, &info, Place::Generic)?;
        Self::assemble(config, info, steering, seats, link, Place::Generic, Some(refusal))
    }

    fn assemble(
        config: &Config,
        info: InterfaceInfo,
        steering: Steering,
        seats: Vec<Seat>,
        link: OwnedFd,
        place: Place,
        native_refusal: Option<AfXdpError>,
    ) -> Result<Self, AfXdpError> {
        let attached = Attached { native: place == Place::Native, zero_copy: !copies(&seats)? };
        let attachment =
            Arc::new(Attachment { _link: link, without_socket: steering.without_socket });
        let sockets: Vec<Arc<OwnedFd>> =
            seats.iter().map(|seat| Arc::clone(seat.socket())).collect();
        let frame_bytes_max = (info.mtu + FRAME_OVERHEAD_BYTES) as usize;
        let seats = (0..config.queue_count).zip(seats).map(|(index, seat)| {
            QueueSeat::new(Arc::clone(&attachment), seat, index, frame_bytes_max)
        });
        let seats = seats.collect();
        Ok(Self { attachment, sockets, seats, info, attached, native_refusal })
    }

    /// The seats of all queues, in the order of their index; empty when they were taken before.
    pub fn take_queues(&mut self) -> Vec<QueueSeat> {
        core::mem::take(&mut self.seats)
    }

    /// Queues, each with a socket.
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.sockets.len()).expect("as many as were configured")
    }

    /// The hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.info.mac
    }

    /// The largest packet in bytes, when the interface was opened.
    pub fn mtu(&self) -> u32 {
        self.info.mtu
    }

    /// Where the program runs and who copies.
    pub fn attached(&self) -> Attached {
        self.attached
    }

    /// Why the program does not run in the driver, if that was tried.
    pub fn native_refusal(&self) -> Option<&AfXdpError> {
        self.native_refusal.as_ref()
    }

    /// Asks the kernel for its counters.
    ///
    /// # Errors
    /// What the kernel says; it has no reason.
    pub fn stats(&self) -> io::Result<InterfaceStats> {
        let dropped_without_socket = self.attachment.without_socket.number_at(0)?;
        let mut stats = InterfaceStats { dropped_without_socket, ..InterfaceStats::default() };
        for socket in &self.sockets {
            let of_socket = socket_statistics(socket)?;
            stats.dropped_ring_full += of_socket.rx_ring_full;
            stats.fill_ring_empty += of_socket.rx_fill_ring_empty_descs;
            stats.dropped_other += of_socket.rx_dropped;
            stats.invalid_descriptors += of_socket.rx_invalid_descs + of_socket.tx_invalid_descs;
            stats.tx_ring_empty += of_socket.tx_ring_empty_descs;
        }
        Ok(stats)
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.native { "native" } else { "generic" };
        let copies = if self.zero_copy { "zero-copy" } else { "copy" };
        write!(f, "{place}, {copies}")
    }
}

/// Finds the interface and sees that it fits.
fn find(config: &Config) -> Result<InterfaceInfo, AfXdpError> {
    let interface = config.interface.clone();
    let info = interface_info(&config.interface)
        .map_err(|error| AfXdpError::System { what: "describe the interface", error })?;
    let Some(info) = info else { return Err(AfXdpError::Missing { interface }) };
    if !info.is_up {
        return Err(AfXdpError::Down { interface });
    }
    let (rx, tx) = info.queues.unwrap_or_else(|| queues_by_name(&config.interface));
    let sockets = config.queue_count;
    if rx.min(tx) < u32::from(sockets) {
        return Err(AfXdpError::QueuesFewer { interface, queues: rx.min(tx), sockets });
    }
    if rx > u32::from(sockets) {
        return Err(AfXdpError::QueuesMore { interface, queues: rx, sockets });
    }
    Ok(info)
}

/// Receive and transmit queues as sysfs lists them, for drivers that do not say. One each, if that is not there.
fn queues_by_name(interface: &str) -> (u32, u32) {
    let (mut rx, mut tx) = (0, 0);
    let listed = fs::read_dir(format!("/sys/class/net/{interface}/queues"));
    for queue in listed.into_iter().flatten().flatten() {
        let name = queue.file_name();
        rx += u32::from(name.as_encoded_bytes().starts_with(b"rx-"));
        tx += u32::from(name.as_encoded_bytes().starts_with(b"tx-"));
    }
    (rx.max(1), tx.max(1))
}

/// The smallest memory of a frame that fits the MTU.
fn chunk_bytes(info: &InterfaceInfo) -> Option<u32> {
    let fits = |bytes: &u32| info.mtu <= bytes - HEADROOM_BYTES - FRAME_OVERHEAD_BYTES;
    CHUNK_BYTES.into_iter().find(fits)
}

/// The steering program and its maps, loaded.
#[derive(Debug)]
struct Steering {
    program: Program,
    sockets: Map,
    without_socket: Map,
}

impl Steering {
    fn load(config: &Config) -> Result<Self, AfXdpError> {
        let refused = |error| AfXdpError::of_step("make BPF maps", NEEDS_BPF, error);
        let pairs = config.addresses.len() * config.ports.len();
        let entries = u32::try_from(pairs).expect("few addresses times few ports");
        let key_bytes = u32::try_from(KEY_BYTES).expect("a short key");
        let services = Map::create(MapKind::Hash, key_bytes, 1, entries).map_err(refused)?;
        for &address in &config.addresses {
            for &port in &config.ports {
                services.insert(&key(address, port), &[1]).map_err(refused)?;
            }
        }
        let queues = config.queue_count.into();
        let sockets = Map::create(MapKind::Xsk, 4, 4, queues).map_err(refused)?;
        let without_socket = Map::create(MapKind::Array, 4, 8, 1).map_err(refused)?;
        let maps = Maps {
            services: services.number(),
            sockets: sockets.number(),
            without_socket: without_socket.number(),
        };
        let program = Program::load(&steering(maps)).map_err(load_fault)?;
        Ok(Self { program, sockets, without_socket })
    }

    fn attach(
        &self,
        config: &Config,
        info: &InterfaceInfo,
        place: Place,
    ) -> Result<OwnedFd, AfXdpError> {
        let attached = self.program.attach(info.index, place as u32);
        attached.map_err(|error| attach_fault(config, place, error))
    }

    /// Puts the sockets into the map, each at its queue. The kernel takes them out when they close.
    fn register(&self, seats: &[Seat]) -> Result<(), AfXdpError> {
        for (queue, seat) in (0_u32..).zip(seats) {
            let socket = seat.socket().as_raw_fd().to_ne_bytes();
            self.sockets
                .insert(&queue.to_ne_bytes(), &socket)
                .map_err(|error| AfXdpError::of_step("register a socket", NEEDS_BPF, error))?;
        }
        Ok(())
    }
}

/// Whether the kernel copies the frames of any of these.
fn copies(seats: &[Seat]) -> Result<bool, AfXdpError> {
    for seat in seats {
        let zero_copy = is_zero_copy(seat.socket())
            .map_err(|error| AfXdpError::System { what: "say how it copies", error })?;
        if !zero_copy {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Binds a socket to each queue.
fn open_sockets(
    config: &Config,
    info: &InterfaceInfo,
    chunk_bytes: u32,
    zero_copy: ZeroCopy,
) -> Result<Vec<Seat>, AfXdpError> {
    let flags = match zero_copy {
        ZeroCopy::Auto => 0,
        ZeroCopy::Off => libc::XDP_COPY,
        ZeroCopy::Required => libc::XDP_ZEROCOPY,
    };
    let open = |queue: u16| {
        let socket = SocketConfig {
            interface_index: info.index,
            queue: queue.into(),
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            chunk_bytes,
            chunks: config.frames,
            flags,
        };
        Seat::open(&socket)
            .map_err(|(step, error)| socket_fault(config, &socket, queue, step, error))
    };
    (0..config.queue_count).map(open).collect()
}

/// What an error of a socket's step means.
fn socket_fault(
    config: &Config,
    socket: &SocketConfig,
    queue: u16,
    step: Step,
    error: io::Error,
) -> AfXdpError {
    let interface = config.interface.clone();
    let needs_copies = config.zero_copy == ZeroCopy::Required;
    match (step, error.raw_os_error()) {
        (Step::Socket, _) => AfXdpError::of_step("make an AF_XDP socket", "CAP_NET_RAW", error),
        (Step::Memory, Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)) => {
            let bytes = u64::from(socket.chunk_bytes) * u64::from(socket.chunks);
            AfXdpError::Memory { bytes, error }
        }
        (Step::Bind, Some(libc::EBUSY)) => AfXdpError::QueueTaken { interface, queue },
        (Step::Bind, Some(libc::ENETDOWN)) => AfXdpError::Down { interface },
        (Step::Bind, Some(libc::EOPNOTSUPP | libc::EINVAL)) if needs_copies => {
            AfXdpError::ZeroCopy { interface, error }
        }
        (Step::Memory | Step::Rings, _) => {
            AfXdpError::of_step("give a socket its rings", "CAP_NET_ADMIN", error)
        }
        (Step::Bind, _) => AfXdpError::of_step("bind a socket to a queue", "CAP_NET_RAW", error),
    }
}

/// What an error of attaching means.
fn attach_fault(config: &Config, place: Place, error: io::Error) -> AfXdpError {
    let interface = config.interface.clone();
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => AfXdpError::Occupied { interface },
        Some(libc::EPERM | libc::EACCES) => {
            AfXdpError::Privilege { what: "attach an XDP program", needs: NEEDS_BPF }
        }
        _ if place == Place::Native => AfXdpError::Native { interface, error },
        _ => AfXdpError::System { what: "attach the steering program", error },
    }
}

fn load_fault(LoadError { error, log }: LoadError) -> AfXdpError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => {
            AfXdpError::of_step("load an XDP program", NEEDS_BPF, error)
        }
        // Headers differ in length, and without the third capability the verifier allows no pointer that does.
        Some(libc::EACCES) if log.contains("prohibited for !root") => {
            AfXdpError::of_step("load an XDP program", NEEDS_BPF, error)
        }
        _ => AfXdpError::Program { error, log },
    }
}

/// Where the program is attached, with the flags of linux/if_link.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Place {
    /// `XDP_FLAGS_SKB_MODE`
    Generic = 1 << 1,
    /// `XDP_FLAGS_DRV_MODE`
    Native = 1 << 2,
}

const NEEDS_BPF: &str = "CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON, or to be root";

const _: () = assert!(MTU_MAX > 1500);

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::env;
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    /// Runs `test` again in a network namespace of its own, where `lo` has an MTU that fits; returns whether this is that.
    fn is_in_namespace(test: &str) -> bool {
        if env::var_os(ROLE).is_some() {
            for arguments in
                [["link", "set", "lo", "mtu", "1500"].as_slice(), &["link", "set", "lo", "up"]]
            {
                assert!(Command::new("ip").args(arguments).status().unwrap().success());
            }
            return true;
        }
        let may = Command::new("unshare").args(["--net", "true"]).status();
        if !may.is_ok_and(|status| status.success()) {
            // Past the runner, which keeps what `eprintln` says to itself.
            let reason = b"skipped: needs root and util-linux to make a network namespace\n";
            io::stderr().write_all(reason).unwrap();
            return false;
        }
        let status = Command::new("unshare")
            .arg("--net")
            .arg(env::current_exe().unwrap())
            .args(["--exact", &format!("af_xdp::interface::tests::{test}"), "--nocapture"])
            .env(ROLE, "in the namespace")
            .status();
        assert!(status.unwrap().success(), "the test failed in its namespace");
        false
    }

    fn config(mode: Mode) -> Config {
        let config = Config::new("lo", vec![Ipv4Addr::LOCALHOST.into()], vec![7272], 1);
        Config { mode, ..config }
    }

    #[test]
    fn a_driver_without_native_mode_gets_the_generic_one_if_that_may_be() {
        if !is_in_namespace("a_driver_without_native_mode_gets_the_generic_one_if_that_may_be") {
            return;
        }
        let interface = Interface::open(&config(Mode::Auto)).unwrap();
        assert_eq!(interface.attached().to_string(), "generic, copy");
        let refusal = interface.native_refusal().unwrap().to_string();
        assert!(refusal.contains("its driver has none; take generic mode"), "{refusal}");
        drop(interface);
        let refusal = Interface::open(&config(Mode::Native)).unwrap_err();
        assert!(matches!(refusal, AfXdpError::Native { .. }), "{refusal}");
        assert!(Interface::open(&config(Mode::Generic)).unwrap().native_refusal().is_none());
    }

    #[test]
    fn another_program_on_the_interface_is_left_alone() {
        if !is_in_namespace("another_program_on_the_interface_is_left_alone") {
            return;
        }
        let another = Steering::load(&config(Mode::Auto)).unwrap();
        let info = interface_info("lo").unwrap().unwrap();
        let link = another.attach(&config(Mode::Auto), &info, Place::Generic).unwrap();
        for mode in [Mode::Auto, Mode::Generic] {
            let refusal = Interface::open(&config(mode)).unwrap_err();
            assert!(matches!(refusal, AfXdpError::Occupied { .. }), "{mode:?}: {refusal}");
        }
        drop(link);
        assert!(Interface::open(&config(Mode::Auto)).is_ok());
    }

    const ROLE: &str = "TENGATE_TEST_ROLE";
}
