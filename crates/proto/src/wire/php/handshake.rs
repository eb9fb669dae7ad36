//! The body of ON_WEBSOCKET_CONNECT: a handshake request as PHP's `$_GET`, `$_SERVER` and `$_COOKIE`
//! (docs/protocol.md#websocket-connect).

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::query::{query_of, variables_of};
use super::{Array, Key, Value, serialize, write};

/// A handshake request, decoded no further than HTTP needs.
#[derive(Clone, Debug)]
pub struct HandshakeRequest<'a, H> {
    /// `GET`.
    pub method: &'a [u8],
    /// The request target: path and query.
    pub target: &'a [u8],
    /// The version, `1.1`.
    pub version: &'a [u8],
    /// Names and values of the headers, in order. They are compared with each other, so keep them to a few hundred.
    pub headers: H,
}

/// Appends the body that tells a worker of a client's handshake: an array of `get`, `server` and `cookie`.
///
/// The query is read as PHP's `parse_str` does, with its limits. Cookies are taken as they are, neither decoded nor
/// unquoted. Headers of one name are joined with a comma; of names that differ only in `-` and `_` the last counts.
pub fn on_websocket_connect_body<'a, H>(
    request: HandshakeRequest<'a, H>,
    remote: SocketAddr,
    server_port: u16,
    out: &mut Vec<u8>,
) where
    H: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    let query = query_of(request.target);
    let headers = joined(request.headers);
    write::array_open(3, out);
    write::string(b"get", out);
    serialize(&Value::Array(variables_of(&query)), out);
    write::string(b"server", out);
    let variables = header_variables(&headers);
    write::array_open(FIXED_COUNT + variables.len(), out);
    entry(b"QUERY_STRING", &query, out);
    entry(b"REQUEST_METHOD", request.method, out);
    entry(b"REQUEST_URI", request.target, out);
    entry(b"SERVER_PROTOCOL", &[b"HTTP/", request.version].concat(), out);
    header_entry(b"SERVER_NAME", &headers, b"host", out);
    header_entry(b"CONTENT_TYPE", &headers, b"content-type", out);
    entry(b"REMOTE_ADDR", &address_text(remote.ip()), out);
    write::string(b"REMOTE_PORT", out);
    write::int(remote.port().into(), out);
    write::string(b"SERVER_PORT", out);
    write::int(server_port.into(), out);
    let mut variable = PREFIX.to_vec();
    for (name, value) in variables {
        variable.truncate(PREFIX.len());
        variable.extend(variable_name(name));
        entry(&variable, value, out);
    }
    write::array_close(out);
    write::string(b"cookie", out);
    serialize(&Value::Array(cookies(&headers)), out);
    write::array_close(out);
}

/// A header: its name as it first came, its values joined.
type Header<'a> = (&'a [u8], Cow<'a, [u8]>);

/// Headers by name without regard to case, in the order of first appearance, values joined with commas.
fn joined<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<Header<'a>> {
    let mut joined: Vec<Header<'a>> = Vec::with_capacity(headers.size_hint().0);
    for (name, value) in headers {
        match joined.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, values)) => {
                let values = values.to_mut();
                values.push(b',');
                values.extend_from_slice(value);
            }
            None => joined.push((name, Cow::Borrowed(value))),
        }
    }
    joined
}

/// The headers that become `HTTP_` variables, in order: each name as it came, and its value. Of headers whose names make
/// one variable, the first has the place and the last the value.
fn header_variables<'a>(headers: &'a [Header<'_>]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut variables: Vec<(&[u8], &[u8])> = Vec::with_capacity(headers.len());
    // Names that are the same but for their case have been joined, so only this makes two alike.
    let may_be_alike = headers.iter().any(|(name, _)| name.contains(&b'_'));
    for (name, value) in headers {
        let mut known = variables.iter_mut().filter(|_| may_be_alike);
        match known.find(|(known, _)| is_same_variable(known, name)) {
            Some((_, known)) => *known = value,
            None => variables.push((name, value)),
        }
    }
    variables
}

/// Whether two header names make one variable.
fn is_same_variable(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && variable_name(one).eq(variable_name(other))
}

/// A header's name as a variable has it, after its prefix.
fn variable_name(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() })
}

/// The cookies, as Workerman splits them: names trimmed, values untouched, what has no `=` left out.
fn cookies(headers: &[Header<'_>]) -> Array {
    let pairs = header(headers, b"cookie").unwrap_or_default().split(|byte| *byte == b';');
    let cookie = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let name = trimmed(&pair[..at]);
        Some((Key::from_php_string(name), Value::from(&pair[at + 1..])))
    };
    pairs.filter_map(cookie).collect()
}

/// What PHP's `trim` leaves.
fn trimmed(mut text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| b" \n\r\t\x0b\0".contains(byte);
    while let [first, rest @ ..] = text
        && is_blank(first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(last)
    {
        text = rest;
    }
    text
}

fn header<'a>(headers: &'a [Header<'_>], name: &[u8]) -> Option<&'a [u8]> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

fn entry(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    write::string(key, out);
    write::string(value, out);
}

/// A variable that repeats a header, or is null without it.
fn header_entry(key: &[u8], headers: &[Header<'_>], name: &[u8], out: &mut Vec<u8>) {
    write::string(key, out);
    match header(headers, name) {
        Some(value) => write::string(value, out),
        None => write::null(out),
    }
}

/// An address as PHP's sockets name it: IPv6 in brackets.
fn address_text(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => {
            // Every handshake has one, and core::fmt takes thirty times as long.
            let mut text = Vec::with_capacity("255.255.255.255".len());
            for octet in ip.octets() {
                text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                text.push(b'.');
            }
            text.pop();
            text
        }
        IpAddr::V6(ip) => alloc::format!("[{ip}]").into_bytes(),
    }
}

/// What the variable of a header begins with.
const PREFIX: &[u8] = b"HTTP_";
/// Server variables that every handshake has.
const FIXED_COUNT: usize = 9;

#[cfg(test)]
mod tests;
