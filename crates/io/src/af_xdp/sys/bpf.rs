//! Maps and programs in the kernel: bpf(2).

use core::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::super::assembler::Instruction;
use super::super::limits::LOG_BYTES;

/// Kinds of BPF maps, with the numbers of linux/bpf.h.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum MapKind {
    Hash = 1,
    Array = 2,
    Xsk = 17,
}

/// A BPF map.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key_bytes: u32,
    value_bytes: u32,
}

impl Map {
    pub(crate) fn create(
        kind: MapKind,
        key_bytes: u32,
        value_bytes: u32,
        entries: u32,
    ) -> io::Result<Self> {
        let mut create = MapCreate { kind: kind as u32, key_bytes, value_bytes, entries, flags: 0 };
        // SAFETY: the command's attributes have no pointer.
        let fd = unsafe { bpf(BPF_MAP_CREATE, &mut create) }?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, key_bytes, value_bytes })
    }

    /// The descriptor's number, for programs.
    pub(crate) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!((key.len(), value.len()), (self.key_bytes as usize, self.value_bytes as usize));
        let mut element = MapElement {
            map: self.fd.as_raw_fd().unsigned_abs(),
            padding: 0,
            key: address_of(key.as_ptr()),
            value: address_of(value.as_ptr()),
            flags: 0,
        };
        // SAFETY: key and value are readable for the map's sizes, as asserted, and the kernel copies them.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut element) }?;
        Ok(())
    }

    /// A value of eight bytes.
    pub(crate) fn number_at(&self, key: u32) -> io::Result<u64> {
        assert_eq!((self.key_bytes, self.value_bytes), (4, 8), "a map from numbers to numbers");
        let mut value = 0_u64;
        let mut element = MapElement {
            map: self.fd.as_raw_fd().unsigned_abs(),
            padding: 0,
            key: address_of(&raw const key),
            value: address_of(&raw mut value),
            flags: 0,
        };
        // SAFETY: `key` is readable and `value` writable for the map's sizes, as asserted.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut element) }?;
        Ok(value)
    }
}

/// A loaded XDP program.
#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

/// Why the kernel refused a program.
#[derive(Debug)]
pub(crate) struct LoadError {
    pub(crate) error: io::Error,
    /// What its verifier says.
    pub(crate) log: String,
}

impl Program {
    pub(crate) fn load(code: &[Instruction]) -> Result<Self, LoadError> {
        let mut load = ProgramLoad {
            kind: BPF_PROG_TYPE_XDP,
            len: u32::try_from(code.len()).expect("a short program"),
            code: address_of(code.as_ptr()),
            license: address_of(LICENSE.as_ptr()),
            log_level: 0,
            log_bytes: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: *b"tengate_steering",
        };
        load.name[15] = 0;
        // SAFETY: `code` is readable for `len` instructions and the licence is a C string; there is no log.
        let loaded = unsafe { bpf(BPF_PROG_LOAD, &mut load) };
        let error = match loaded {
            // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
            Ok(fd) => return Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(error) => error,
        };
        let mut log = vec![0_u8; LOG_BYTES];
        load.log_level = 1;
        load.log_bytes = u32::try_from(log.len()).expect("a small buffer");
        load.log = address_of(log.as_mut_ptr());
        // SAFETY: as above, and `log` is writable for its length.
        if let Ok(fd) = unsafe { bpf(BPF_PROG_LOAD, &mut load) } {
            // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
            return Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
        Err(LoadError { error, log: log.to_string_lossy().trim_end().to_owned() })
    }

    /// Attaches the program to an interface; it is detached when what this returns is closed.
    pub(crate) fn attach(&self, interface_index: u32, flags: u32) -> io::Result<OwnedFd> {
        let mut create = LinkCreate {
            program: self.0.as_raw_fd().unsigned_abs(),
            target: interface_index,
            attach_type: BPF_XDP,
            flags,
        };
        // SAFETY: the command's attributes have no pointer.
        let fd = unsafe { bpf(BPF_LINK_CREATE, &mut create) }?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Runs the program on a frame that came from nowhere, and returns what it says.
    #[cfg(test)]
    pub(crate) fn run(&self, frame: &[u8]) -> io::Result<u32> {
        let mut run = ProgramRun {
            program: self.0.as_raw_fd().unsigned_abs(),
            result: 0,
            frame_bytes: u32::try_from(frame.len()).unwrap(),
            output_bytes: 0,
            frame: address_of(frame.as_ptr()),
            output: 0,
            repeat: 1,
            duration: 0,
        };
        // SAFETY: `frame` is readable for its length, and no output is asked for.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut run) }?;
        Ok(run.result)
    }
}

/// One call of bpf(2). Newer kernels know more attributes than these, which are zero for them.
///
/// # Safety
/// The attributes must be those of the command, and their pointers must be good for what it does with them.
unsafe fn bpf<T>(command: c_int, attributes: &mut T) -> io::Result<i32> {
    let attributes: *mut T = attributes;
    // SAFETY: `attributes` is readable and writable for its size; the caller vouches for its pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

fn address_of<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    len: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[cfg(test)]
#[repr(C)]
struct ProgramRun {
    program: u32,
    result: u32,
    frame_bytes: u32,
    output_bytes: u32,
    frame: u64,
    output: u64,
    repeat: u32,
    duration: u32,
}

const LICENSE: &CStr = c"Dual MIT/GPL";
const BPF_MAP_CREATE: c_int = 0;
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_MAP_UPDATE_ELEM: c_int = 2;
const BPF_PROG_LOAD: c_int = 5;
#[cfg(test)]
const BPF_PROG_TEST_RUN: c_int = 10;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

const _: () = assert!(size_of::<MapElement>() == 32 && size_of::<ProgramLoad>() == 64);
