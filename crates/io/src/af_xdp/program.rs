//! The steering program: which frames are ours, before the kernel's own stack sees them.
//!
//! Ours is TCP to one of our addresses and ports, and what ICMP reports about packets from there ("fragmentation needed",
//! "packet too big", "unreachable"). Everything else goes to the kernel. What is ours and finds no socket is dropped: the
//! kernel knows nothing of the connection and would reset it.
//!
//! The first fragment of a packet that is ours is ours too, so that the kernel cannot put the packet together and answer it;
//! the others have no port and go to the kernel, which forgets them.

use core::net::IpAddr;

use super::assembler::{Assembler, Instruction, Label, Register, Width};
use super::limits::EXTENSIONS_MAX;

/// Bytes of a service's key: an address behind as many zeros as it takes, a port in network order, the IP version, a zero.
pub(crate) const KEY_BYTES: usize = 20;

/// Descriptors of the maps that the program looks into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maps {
    /// [`key`]s of what is ours.
    pub(crate) services: i32,
    /// Sockets by queue.
    pub(crate) sockets: i32,
    /// One value of 64 bits: frames of ours that found no socket.
    pub(crate) without_socket: i32,
}

/// The key of an address and a port.
pub(crate) fn key(address: IpAddr, port: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    // With its version, so that an IPv4 address is not ours in an IPv6 header.
    match address.to_canonical() {
        IpAddr::V4(address) => {
            key[12..16].copy_from_slice(&address.octets());
            key[18] = 4;
        }
        IpAddr::V6(address) => {
            key[..16].copy_from_slice(&address.octets());
            key[18] = 6;
        }
    }
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key
}

/// The program.
pub(crate) fn steering(maps: Maps) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let to_kernel = code.label();
    let mut steering = Steering { to_kernel, found: code.label(), code };
    steering.ethernet();
    steering.code.bind(steering.found);
    steering.steer(maps);
    steering.code.bind(to_kernel);
    steering.code.set(RESULT, XDP_PASS);
    steering.code.exit();
    steering.code.finish()
}

struct Steering {
    code: Assembler,
    /// Not ours.
    to_kernel: Label,
    /// The key is on the stack.
    found: Label,
}

impl Steering {
    /// Finds the IP header behind an Ethernet header and at most one VLAN tag.
    fn ethernet(&mut self) {
        let (tagged, untagged) = (self.code.label(), self.code.label());
        let ipv6 = self.code.label();
        self.code.copy(CONTEXT, 1);
        self.code.load(Width::Word, CURSOR, CONTEXT, CONTEXT_DATA);
        self.code.load(Width::Word, END, CONTEXT, CONTEXT_DATA_END);
        self.need(14);
        self.load_network_half(VALUE, 12);
        self.code.add(CURSOR, 14);
        self.code.jump_equal(VALUE, 0x8100, tagged);
        self.code.jump_unequal(VALUE, 0x88a8, untagged);
        self.code.bind(tagged);
        self.need(4);
        self.load_network_half(VALUE, 2);
        self.code.add(CURSOR, 4);
        self.code.bind(untagged);
        self.code.jump_equal(VALUE, 0x86dd, ipv6);
        self.code.jump_unequal(VALUE, 0x0800, self.to_kernel);
        self.ipv4();
        self.code.bind(ipv6);
        self.ipv6();
    }

    /// The cursor is at an IPv4 header (RFC 791).
    fn ipv4(&mut self) {
        let icmp = self.code.label();
        self.ipv4_header();
        self.code.load(Width::Byte, VALUE, CURSOR, 9);
        self.code.jump_equal(VALUE, PROTOCOL_ICMP, icmp);
        self.code.jump_unequal(VALUE, PROTOCOL_TCP, self.to_kernel);
        self.ipv4_key(16);
        self.code.add_register(CURSOR, HEADER_BYTES);
        self.port_key(2);

        self.code.bind(icmp);
        self.code.add_register(CURSOR, HEADER_BYTES);
        self.need(8);
        self.code.load(Width::Byte, VALUE, CURSOR, 0);
        self.code.jump_unequal(VALUE, ICMP_UNREACHABLE, self.to_kernel);
        self.code.add(CURSOR, 8);
        // What is reported was sent by us.
        self.ipv4_header();
        self.code.load(Width::Byte, VALUE, CURSOR, 9);
        self.code.jump_unequal(VALUE, PROTOCOL_TCP, self.to_kernel);
        self.ipv4_key(12);
        self.code.add_register(CURSOR, HEADER_BYTES);
        self.port_key(0);
    }

    /// Checks the version, leaves the header's length with its options, and sends all but first fragments to the kernel.
    fn ipv4_header(&mut self) {
        self.need(20);
        self.code.load(Width::Byte, HEADER_BYTES, CURSOR, 0);
        self.code.copy(VALUE, HEADER_BYTES);
        self.code.shift_right(VALUE, 4);
        self.code.jump_unequal(VALUE, 4, self.to_kernel);
        self.code.and(HEADER_BYTES, 0xf);
        self.code.shift_left(HEADER_BYTES, 2);
        self.code.jump_below(HEADER_BYTES, 20, self.to_kernel);
        self.load_network_half(VALUE, 6);
        self.code.and(VALUE, 0x1fff);
        self.code.jump_unequal(VALUE, 0, self.to_kernel);
    }

    /// The address at `offset` becomes the key's.
    fn ipv4_key(&mut self, offset: i16) {
        self.version_key(4);
        self.code.set(SCRATCH, 0);
        for word in [0, 4, 8] {
            self.code.store(Width::Word, STACK, KEY_ADDRESS + word, SCRATCH);
        }
        self.code.load(Width::Word, SCRATCH, CURSOR, offset);
        self.code.store(Width::Word, STACK, KEY_ADDRESS + 12, SCRATCH);
    }

    /// The cursor is at an IPv6 header (RFC 8200).
    fn ipv6(&mut self) {
        let (tcp, icmp) = (self.code.label(), self.code.label());
        self.need(40);
        self.ipv6_key(24);
        self.code.load(Width::Byte, VALUE, CURSOR, 6);
        self.code.add(CURSOR, 40);
        for _ in 0..EXTENSIONS_MAX {
            self.code.jump_equal(VALUE, PROTOCOL_TCP, tcp);
            self.code.jump_equal(VALUE, PROTOCOL_ICMPV6, icmp);
            self.ipv6_extension();
        }
        self.code.jump_equal(VALUE, PROTOCOL_ICMPV6, icmp);
        self.code.jump_unequal(VALUE, PROTOCOL_TCP, self.to_kernel);
        self.code.bind(tcp);
        self.port_key(2);

        self.code.bind(icmp);
        let reports = self.code.label();
        self.need(8 + 40);
        self.code.load(Width::Byte, VALUE, CURSOR, 0);
        self.code.jump_equal(VALUE, ICMPV6_UNREACHABLE, reports);
        self.code.jump_unequal(VALUE, ICMPV6_TOO_BIG, self.to_kernel);
        self.code.bind(reports);
        self.code.add(CURSOR, 8);
        // What is reported was sent by us, and we send no extension headers.
        self.code.load(Width::Byte, VALUE, CURSOR, 6);
        self.code.jump_unequal(VALUE, PROTOCOL_TCP, self.to_kernel);
        self.ipv6_key(8);
        self.code.add(CURSOR, 40);
        self.port_key(0);
    }

    /// The cursor is behind a header that names `VALUE` as the next: if that is an extension, moves behind it.
    fn ipv6_extension(&mut self) {
        let (fragment, options, next) = (self.code.label(), self.code.label(), self.code.label());
        self.code.jump_equal(VALUE, EXTENSION_FRAGMENT, fragment);
        self.code.jump_equal(VALUE, EXTENSION_HOP_BY_HOP, options);
        self.code.jump_equal(VALUE, EXTENSION_ROUTING, options);
        self.code.jump_unequal(VALUE, EXTENSION_DESTINATION, self.to_kernel);
        self.code.bind(options);
        self.need(8);
        self.code.load(Width::Byte, VALUE, CURSOR, 0);
        self.code.load(Width::Byte, HEADER_BYTES, CURSOR, 1);
        self.code.add(HEADER_BYTES, 1);
        self.code.shift_left(HEADER_BYTES, 3);
        self.code.add_register(CURSOR, HEADER_BYTES);
        self.code.jump(next);
        self.code.bind(fragment);
        self.need(8);
        self.load_network_half(VALUE, 2);
        self.code.and(VALUE, 0xfff8);
        self.code.jump_unequal(VALUE, 0, self.to_kernel);
        self.code.load(Width::Byte, VALUE, CURSOR, 0);
        self.code.add(CURSOR, 8);
        self.code.bind(next);
    }

    /// The address at `offset` becomes the key's.
    fn ipv6_key(&mut self, offset: i16) {
        self.version_key(6);
        for word in [0, 4, 8, 12] {
            self.code.load(Width::Word, SCRATCH, CURSOR, offset + word);
            self.code.store(Width::Word, STACK, KEY_ADDRESS + word, SCRATCH);
        }
    }

    fn version_key(&mut self, version: u8) {
        self.code.set(SCRATCH, u16::from_ne_bytes([version, 0]).into());
        self.code.store(Width::Half, STACK, KEY_PORT + 2, SCRATCH);
    }

    /// The cursor is at a TCP header: the port at `offset` becomes the key's, which is complete then.
    fn port_key(&mut self, offset: i16) {
        self.need(4);
        self.code.load(Width::Half, SCRATCH, CURSOR, offset);
        self.code.store(Width::Half, STACK, KEY_PORT, SCRATCH);
        self.code.jump(self.found);
    }

    /// Looks the key up and hands the frame to its queue's socket.
    fn steer(&mut self, maps: Maps) {
        let done = self.code.label();
        self.code.load_map(1, maps.services);
        self.code.copy(2, STACK);
        self.code.add(2, KEY_ADDRESS.into());
        self.code.call(MAP_LOOKUP_ELEM);
        self.code.jump_equal(RESULT, 0, self.to_kernel);
        self.code.load_map(1, maps.sockets);
        self.code.load(Width::Word, 2, CONTEXT, CONTEXT_RX_QUEUE_INDEX);
        // The flags are what comes back when there is no socket.
        self.code.set(3, XDP_DROP);
        self.code.call(REDIRECT_MAP);
        self.code.jump_unequal(RESULT, XDP_DROP, done);
        self.code.load_map_value(1, maps.without_socket);
        self.code.set(2, 1);
        self.code.atomic_add(1, 2);
        self.code.bind(done);
        self.code.exit();
    }

    /// Sends frames to the kernel that end before `bytes` behind the cursor.
    fn need(&mut self, bytes: i32) {
        self.code.copy(SCRATCH, CURSOR);
        self.code.add(SCRATCH, bytes);
        self.code.jump_above_register(SCRATCH, END, self.to_kernel);
    }

    fn load_network_half(&mut self, to: Register, offset: i16) {
        self.code.load(Width::Half, to, CURSOR, offset);
        self.code.network_half_to_number(to);
    }
}

const RESULT: Register = 0;
const SCRATCH: Register = 2;
const VALUE: Register = 3;
const HEADER_BYTES: Register = 4;
const CONTEXT: Register = 6;
const END: Register = 8;
const CURSOR: Register = 9;
const STACK: Register = 10;

/// Where the key's address is on the stack.
const KEY_ADDRESS: i16 = -20;
/// Where the key's port is.
const KEY_PORT: i16 = KEY_ADDRESS + 16;

// Offsets in `struct xdp_md`, numbers of functions and actions, from linux/bpf.h.
const CONTEXT_DATA: i16 = 0;
const CONTEXT_DATA_END: i16 = 4;
const CONTEXT_RX_QUEUE_INDEX: i16 = 16;
const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

const PROTOCOL_ICMP: i32 = 1;
const PROTOCOL_TCP: i32 = 6;
const PROTOCOL_ICMPV6: i32 = 58;
const EXTENSION_HOP_BY_HOP: i32 = 0;
const EXTENSION_ROUTING: i32 = 43;
const EXTENSION_FRAGMENT: i32 = 44;
const EXTENSION_DESTINATION: i32 = 60;
/// Destination unreachable, of which code 4 is "fragmentation needed" (RFC 792, RFC 1191).
const ICMP_UNREACHABLE: i32 = 3;
/// RFC 4443.
const ICMPV6_UNREACHABLE: i32 = 1;
/// RFC 4443.
const ICMPV6_TOO_BIG: i32 = 2;

const _: () = assert!(KEY_ADDRESS.unsigned_abs() as usize == KEY_BYTES);

#[cfg(test)]
mod tests;
