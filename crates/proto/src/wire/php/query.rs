//! The query of a request target and its variables, as PHP's `parse_url` and `parse_str` read them.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use super::{Array, Key, Value};

/// The query of a request target: what stands between `?` and `#`, control characters replaced by `_`; empty when there is
/// none or when PHP does not take the target for a URL.
pub(super) fn query_of(target: &[u8]) -> Cow<'_, [u8]> {
    let Some(path_start) = path_start(target) else { return Cow::Borrowed(b"") };
    let tail = &target[path_start..];
    let tail = &tail[..find(tail, b"#").unwrap_or(tail.len())];
    let Some(mark) = find(tail, b"?") else { return Cow::Borrowed(b"") };
    let query = &tail[mark + 1..];
    if query.iter().any(u8::is_ascii_control) {
        let replace = |byte: &u8| if byte.is_ascii_control() { b'_' } else { *byte };
        return Cow::Owned(query.iter().map(replace).collect());
    }
    Cow::Borrowed(query)
}

/// The variables of a query: at most [`VARIABLES_MAX`], arrays at most [`NESTING_MAX`] deep (PHP's defaults).
pub(super) fn variables_of(query: &[u8]) -> Array {
    let mut variables = Array::new();
    for pair in
        query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).take(VARIABLES_MAX)
    {
        let (name, value) = match find(pair, b"=") {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        let mut name = url_decode(name);
        // PHP reads the name as a C string.
        name.truncate(find(&name, b"\0").unwrap_or(name.len()));
        register(&mut variables, &name, Value::Str(url_decode(value)));
    }
    variables
}

/// Where the path of a target begins, or `None` when there is no path or the target is no URL for PHP.
///
/// A browser's target is a path and begins with `/`; the rest is for targets like `http://host/path` and `//host:80/path`,
/// where a colon may end a scheme or begin a port.
fn path_start(target: &[u8]) -> Option<usize> {
    let is_relative = target.starts_with(b"//");
    let Some(colon) = find(target, b":") else {
        return if is_relative { path_after_host(target, 2, false) } else { Some(0) };
    };
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    if colon > 0 && target[..colon].iter().all(is_scheme) {
        return path_after_scheme(target, colon);
    }
    let path_end = find(target, b"?#").unwrap_or(target.len());
    if colon == 0 || (colon + 1 < target.len() && colon < path_end) {
        return path_after_port(target, colon);
    }
    if is_relative { path_after_host(target, 2, false) } else { Some(0) }
}

/// The path of a target whose part before `colon` can be a scheme, or a host with a port behind it.
fn path_after_scheme(target: &[u8], colon: usize) -> Option<usize> {
    match &target[colon + 1..] {
        [] => None,
        [b'/', b'/', rest @ ..] => {
            let is_local =
                target[..colon].eq_ignore_ascii_case(b"file") && rest.first() == Some(&b'/');
            if is_local { Some(colon + 3) } else { path_after_host(target, colon + 3, false) }
        }
        [b'/', ..] => Some(colon + 1),
        rest => {
            let digit_count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let is_port = digit_count <= PORT_DIGITS_MAX
                && matches!(rest.get(digit_count), None | Some(b'/'));
            if is_port { path_after_port(target, colon) } else { Some(colon + 1) }
        }
    }
}

/// The path of a target without a scheme, whose `colon` may begin a port.
fn path_after_port(target: &[u8], colon: usize) -> Option<usize> {
    let rest = &target[colon + 1..];
    let host_start = if target.starts_with(b"//") { 2 } else { 0 };
    let digit_count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_port = (1..=PORT_DIGITS_MAX).contains(&digit_count)
        && matches!(rest.get(digit_count), None | Some(b'/'));
    if is_port {
        let port = port(&rest[..digit_count])?;
        return path_after_host(target, host_start, port != 0);
    }
    if rest.is_empty() {
        return None;
    }
    if host_start > 0 { path_after_host(target, host_start, false) } else { Some(0) }
}

/// The path behind the host that begins at `start`, if both are there and the port, unless known already, is one.
fn path_after_host(target: &[u8], start: usize, has_port: bool) -> Option<usize> {
    let end = find(&target[start..], b"/?#").map_or(target.len(), |at| start + at);
    let authority = &target[start..end];
    let host = authority
        .iter()
        .rposition(|byte| *byte == b'@')
        .map_or(authority, |at| &authority[at + 1..]);
    let is_ipv6 = host.starts_with(b"[") && host.ends_with(b"]");
    let colon = if is_ipv6 { None } else { host.iter().rposition(|byte| *byte == b':') };
    if let Some(colon) = colon
        && !has_port
        && colon + 1 < host.len()
    {
        port(&host[colon + 1..])?;
    }
    let is_named = colon.unwrap_or(host.len()) > 0;
    (is_named && end < target.len()).then_some(end)
}

/// A port as C's `strtol` reads it, which stops at the first byte that is no digit.
fn port(text: &[u8]) -> Option<u16> {
    if text.len() > PORT_DIGITS_MAX {
        return None;
    }
    let text = text.trim_ascii_start();
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let digit_count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = core::str::from_utf8(&text[..digit_count]).ok()?;
    digits.parse().ok().filter(|port| !is_negative || *port == 0)
}

/// Adds one variable, whose decoded name may be a path: `a[b][]`.
fn register(variables: &mut Array, name: &[u8], value: Value) {
    let name = &name[name.iter().take_while(|byte| **byte == b' ').count()..];
    let base_len = find(name, b"[").unwrap_or(name.len());
    let mut base = mangled(&name[..base_len]);
    if base.is_empty() || gained_cookie_prefix(name, &base) {
        return;
    }
    let mut steps = Vec::new();
    let mut rest = &name[base_len..];
    while let [b'[', inside @ ..] = rest {
        if steps.len() == NESTING_MAX {
            variables.remove(&Key::from_php_string(&base));
            return;
        }
        let skipped =
            usize::from(inside.first().is_some_and(|byte| b" \t\n\x0b\x0c\r".contains(byte)));
        let Some(len) = find(&inside[skipped..], b"]").map(|at| skipped + at) else {
            // A bracket that never closes is part of a plain name; behind closed ones it is dropped.
            if steps.is_empty() {
                base.push(b'_');
                base.extend(mangled(inside));
                if gained_cookie_prefix(name, &base) {
                    return;
                }
            }
            break;
        };
        steps.push(if len == skipped { None } else { Some(Key::from_php_string(&inside[..len])) });
        rest = &inside[len + 1..];
    }
    put(variables, Key::from_php_string(&base), steps, value);
}

/// Puts a value where the steps lead from `base`; `None` is the next integer. What is in the way and no array goes.
fn put(variables: &mut Array, base: Key, steps: Vec<Option<Key>>, value: Value) {
    let mut array = variables;
    let mut at = Some(base);
    for step in steps {
        let place = match at {
            None => array.push(Value::Null),
            Some(key) => Ok(array.get_or_insert(key, Value::Null)),
        };
        let Ok(place) = place else { return };
        if !matches!(place, Value::Array(_)) {
            *place = Value::Array(Array::new());
        }
        let Value::Array(inner) = place else { return };
        array = inner;
        at = step;
    }
    match at {
        // A full array drops the value, as PHP does.
        None => drop(array.push(value).ok()),
        Some(key) => drop(array.insert(key, value)),
    }
}

/// A name as PHP stores it: spaces, dots and brackets become underscores.
fn mangled(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if b" .[".contains(byte) { b'_' } else { *byte }).collect()
}

/// Whether only mangling gave the name a prefix that browsers promise things about, which would let a site be fooled.
fn gained_cookie_prefix(name: &[u8], mangled: &[u8]) -> bool {
    [&b"__Host-"[..], b"__Secure-"]
        .iter()
        .any(|prefix| mangled.starts_with(prefix) && !name.starts_with(prefix))
}

/// Undoes `+` and `%41`; a percent sign without two hexadecimal digits stays.
fn url_decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, tail))
            }
            _ => None,
        };
        match escaped {
            Some((byte, tail)) => {
                decoded.push(byte);
                rest = tail;
            }
            None => decoded.push(if *first == b'+' { b' ' } else { *first }),
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The first position of any of `wanted`.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| wanted.contains(byte))
}

/// PHP's `max_input_vars`.
const VARIABLES_MAX: usize = 1000;
/// PHP's `max_input_nesting_level`.
const NESTING_MAX: usize = 64;
/// Digits of 65535.
const PORT_DIGITS_MAX: usize = 5;
