//! Values a person writes in the configuration: durations, sizes, addresses, networks, secrets, core lists.
//!
//! Each type explains itself when it is given something else, because its message is what `tengate check` prints.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A length of time: `"10s"`, `"500ms"`, `"50us"`, `"2m"`, `"1h"`, or a plain number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Period(pub(crate) Duration);

/// A number of bytes: `65536`, `"64KiB"`, `"10MiB"`, `"1MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// An address to listen on, `ip:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listen(pub(crate) SocketAddr);

/// A peer to connect to, `ip:port` or `name:port`; names are resolved at each connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAddress {
    /// An ip address or a host name.
    pub(crate) host: String,
    /// 1 to 65535.
    pub(crate) port: u16,
}

/// One value or a list of them, as GatewayWorker takes its register address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

/// A shared secret. Never printed, never serialized.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

/// Which cores shards are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PinCores {
    /// The kernel moves threads as it likes.
    No,
    /// Shard 0 on the first core this process may use, shard 1 on the second, and so on.
    InOrder,
    /// Shard i on the i-th core of the list.
    List(Vec<usize>),
}

/// A range of shards in the cluster, both ends included: `"0-1023"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcIds {
    pub(crate) first: u16,
    /// Not below `first`.
    pub(crate) last: u16,
}

/// An address and the network it is in: `"10.0.0.5/24"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    /// Leading bits that neighbours share: 1 to 32, or to 128 for IPv6.
    pub(crate) prefix_len: u8,
}

/// A hardware address: `"02:00:00:00:00:05"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MacAddress(pub(crate) [u8; 6]);

/// Bytes written as hexadecimal digits: `"fffe"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Period {
    /// A whole number of seconds.
    pub(crate) const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// A whole number of microseconds.
    pub(crate) const fn micros(micros: u64) -> Self {
        Self(Duration::from_micros(micros))
    }

    fn decode(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let seconds = match unit {
            "us" => 0.000_001,
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Self::from_secs(number * seconds)
    }

    fn from_secs(secs: f64) -> Option<Self> {
        Duration::try_from_secs_f64(secs).ok().map(Self)
    }
}

impl Size {
    /// A text such as `"10MiB"`.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let (number, unit) =
            text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor: u64 = match unit.trim_start() {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor).map(Self)
    }
}

impl PeerAddress {
    fn decode(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&port| port != 0)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bare {
            Some(ip) => ip.parse::<core::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            }
        };
        good.then(|| Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl ProcIds {
    fn decode(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some(Self { first, last })
    }
}

impl Cidr {
    fn decode(text: &str) -> Option<Self> {
        let (address, prefix_len) = text.split_once('/')?;
        let (address, prefix_len) = (address.parse().ok()?, prefix_len.parse().ok()?);
        let bits = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        (1..=bits).contains(&prefix_len).then_some(Self { address, prefix_len })
    }

    /// Whether an address is in the same network.
    pub(crate) fn contains(&self, other: IpAddr) -> bool {
        let shared_bits = match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        shared_bits >= u32::from(self.prefix_len)
    }
}

impl MacAddress {
    fn decode(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let digits = parts.next().filter(|part| part.len() == 2)?;
            *byte = decode_hex(digits)?.0.first().copied()?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{last:02x}")
    }
}

impl fmt::Display for ProcIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeriodVisitor;
        impl Visitor<'_> for PeriodVisitor {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"10s\", \"500ms\", \"2m\" or a number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                Period::decode(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, secs: i64) -> Result<Period, E> {
                let found = de::Unexpected::Signed(secs);
                u64::try_from(secs).map(Period::secs).map_err(|_| E::invalid_value(found, &self))
            }

            fn visit_f64<E: de::Error>(self, secs: f64) -> Result<Period, E> {
                Period::from_secs(secs)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(secs), &self))
            }
        }
        deserializer.deserialize_any(PeriodVisitor)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes such as 65536, \"64KiB\" or \"10MiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::decode(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let found = de::Unexpected::Signed(bytes);
                u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(found, &self))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for PinCores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PinVisitor;
        impl<'de> Visitor<'de> for PinVisitor {
            type Value = PinCores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a list of cores such as [0, 2]")
            }

            fn visit_bool<E: de::Error>(self, pin: bool) -> Result<PinCores, E> {
                Ok(if pin { PinCores::InOrder } else { PinCores::No })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PinCores, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = seq.next_element()? {
                    cores.push(core);
                }
                Ok(PinCores::List(cores))
            }
        }
        deserializer.deserialize_any(PinVisitor)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(core::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value in quotes, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(de::value::StrDeserializer::new(text))
                    .map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = seq.next_element()? {
                    many.push(one);
                }
                Ok(OneOrMany(many))
            }
        }
        deserializer.deserialize_any(ListVisitor(core::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;
        // The default messages of serde quote the value; these must not.
        impl Visitor<'_> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret key in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom("expected a secret key in quotes"))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom("expected a secret key in quotes"))
            }
        }
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Implements `Deserialize` for a type read from one string, with the sentence that says what it looks like.
macro_rules! deserialize_text {
    ($type:ty, $decode:expr, $expected:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;
                impl Visitor<'_> for TextVisitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        $decode(text)
                            .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(TextVisitor)
            }
        }
    };
}

deserialize_text!(
    Listen,
    |text: &str| text.parse().ok().map(Listen),
    "an address to listen on, ip:port, such as \"127.0.0.1:8282\" or \"[::]:8282\""
);
deserialize_text!(
    PeerAddress,
    PeerAddress::decode,
    "an address to connect to, such as \"127.0.0.1:1236\" or \"register:1236\""
);
deserialize_text!(
    ProcIds,
    ProcIds::decode,
    "a range, first and last, the smaller one first, such as \"0-1023\""
);
deserialize_text!(
    Cidr,
    Cidr::decode,
    "an address with the length of its network's prefix, such as \"10.0.0.5/24\" or \"2001:db8::5/64\""
);
deserialize_text!(
    MacAddress,
    MacAddress::decode,
    "a hardware address such as \"02:00:00:00:00:05\""
);
deserialize_text!(Hex, decode_hex, "bytes in hexadecimal, two digits each, such as \"fffe\"");

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Serialize for ProcIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for PinCores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => false.serialize(serializer),
            Self::InOrder => true.serialize(serializer),
            Self::List(cores) => cores.serialize(serializer),
        }
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn decode_hex(text: &str) -> Option<Hex> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| Hex(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_people_write_them() {
        let periods = [
            ("10s", 10_000),
            ("500ms", 500),
            ("2000us", 2),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7", 7_000),
        ];
        for (text, millis) in periods {
            assert_eq!(Period::decode(text), Some(Period(Duration::from_millis(millis))), "{text}");
        }
        let sizes = [
            ("0", 0),
            ("64KiB", 65_536),
            ("10 MiB", 10_485_760),
            ("1MB", 1_000_000),
            ("2GiB", 2 << 30),
        ];
        for (text, bytes) in sizes {
            assert_eq!(Size::decode(text), Some(Size(bytes)), "{text}");
        }
        for text in ["", "s", "10 parsecs", "-1s", "1e400s", "99999999999999999999999h"] {
            assert_eq!(Period::decode(text), None, "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "10mb", "99999999999GiB"] {
            assert_eq!(Size::decode(text), None, "{text}");
        }
    }

    #[test]
    fn peer_addresses_are_a_host_and_a_port() {
        for text in ["127.0.0.1:1236", "register:1236", "reg-1.internal:1", "[::1]:1236"] {
            assert_eq!(
                PeerAddress::decode(text).map(|peer| peer.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in
            ["1236", ":1236", "host:", "host:0", "host:70000", "::1:80", "a b:80", "text://host:80"]
        {
            assert_eq!(PeerAddress::decode(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_have_a_first_and_a_last() {
        for (text, first, last) in [("0-1023", 0, 1023), ("7-7", 7, 7), ("1 - 2", 1, 2)] {
            assert_eq!(ProcIds::decode(text), Some(ProcIds { first, last }), "{text}");
        }
        for text in ["", "-", "5", "2-1", "-1-3", "0-65536", "a-b"] {
            assert_eq!(ProcIds::decode(text), None, "{text}");
        }
    }

    #[test]
    fn networks_have_an_address_and_a_prefix() {
        let decode = |text| Cidr::decode(text);
        for text in ["10.0.0.5/24", "10.0.0.5/32", "2001:db8::5/64", "::1/128"] {
            assert_eq!(decode(text).map(|cidr| cidr.to_string()).as_deref(), Some(text));
        }
        for text in ["10.0.0.5", "10.0.0.5/0", "10.0.0.5/33", "::1/129", "host/24", "/24"] {
            assert_eq!(decode(text), None, "{text}");
        }
        let holds = |network, address: &str| {
            decode(network).is_some_and(|cidr| cidr.contains(address.parse().unwrap()))
        };
        assert!(holds("10.0.0.5/24", "10.0.0.255") && holds("2001:db8::5/64", "2001:db8::1"));
        assert!(!holds("10.0.0.5/24", "10.0.1.5") && !holds("10.0.0.5/24", "::1"));
        assert!(holds("10.0.0.5/32", "10.0.0.5") && !holds("10.0.0.5/32", "10.0.0.4"));
    }

    #[test]
    fn hardware_addresses_have_six_bytes() {
        for text in ["02:00:00:00:00:05", "0a:1b:2c:3d:4e:5f"] {
            assert_eq!(MacAddress::decode(text).map(|mac| mac.to_string()).as_deref(), Some(text));
        }
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:05:06", "2:0:0:0:0:5", "020000000005"] {
            assert_eq!(MacAddress::decode(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_comes_in_pairs() {
        assert_eq!(decode_hex("fffe"), Some(Hex(vec![0xff, 0xfe])));
        assert_eq!(decode_hex(""), Some(Hex(Vec::new())));
        assert_eq!(decode_hex("fff"), None);
        assert_eq!(decode_hex("xx"), None);
    }
}
