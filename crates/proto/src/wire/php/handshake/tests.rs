//! Handshakes against the real PHP's `parse_url` and `parse_str`, and against recorded rules.

use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::oracle::Oracle;
use super::super::tests::run;
use super::super::{Limits, unserialize};
use super::*;

#[test]
fn php_finds_the_same_query() {
    let Some(mut php) = Oracle::start() else { return };
    let mut check = |target: &str| {
        let ours = query_of(target.as_bytes());
        let theirs = php.query_of(target.as_bytes());
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{target:?}");
    };
    for target in ODD_TARGETS {
        check(target);
    }
    run(&"/?[a-z/]{0,4}(:[0-9]{0,6})?[/?#:@a.+%\\[\\]-]{0,6}[?]?[a-z=&\x7f\t]{0,4}", |target| {
        check(&target)
    });
    run(
        &"(http|file|a[.]b|FILE|x)?:?/{0,3}([a-z@]{0,3}(:[0-9+ a-]{0,6})?)?[/?#]{0,3}[:a]{0,3}[?]?[a-z]{0,3}",
        |target| {
            check(&target);
        },
    );
}

#[test]
fn php_reads_the_same_variables() {
    let Some(mut php) = Oracle::start() else { return };
    let mut check = |query: &str| {
        let mut ours = Vec::new();
        serialize(&Value::Array(variables_of(query.as_bytes())), &mut ours);
        let theirs = php.variables_of(query.as_bytes());
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{query:?}");
    };
    for query in ODD_QUERIES {
        check(query);
    }
    for depth in [63, 64, 65, 66] {
        check(&alloc::format!("a=1&b=2&a{}=3", "[x]".repeat(depth)));
        check(&alloc::format!("a[]=1&b=2&a{}[", "[]".repeat(depth)));
    }
    for count in [999, 1000, 1001, 1002] {
        check(&alloc::format!("{}last=1", "a[]=1&".repeat(count)));
        check(&alloc::format!("{}last=1", "=1&&".repeat(count)));
    }
    run(&"([ab01._ ]{0,2}(\\[[ab01. ]{0,2}\\]?){0,3}(=[a+%]{0,2})?(&|%5B|%00)){0,6}", |query| {
        check(&query)
    });
    run(&"[ab0&=%+\\[\\]. 2BD_-]{0,24}", |query| check(&query));
    run(&"(__|[._\\[ ]{1,3})(Host|Secure)[-.\\[]a(\\[x\\])?=1", |query| check(&query));
}

#[test]
fn a_request_becomes_three_arrays() {
    let value =
        body_of("/chat?room=7&a[]=x", &[("Host", "h:80"), ("Cookie", "a=1; b = 2;c; 7=x=y;a=3")]);
    let Value::Array(body) = value else { panic!("the body is an array") };
    let keys: Vec<&Key> = body.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&Key::from("get"), &Key::from("server"), &Key::from("cookie")]);
    let cookie: Array = [("a", "3"), ("b", " 2"), ("7", "x=y")]
        .map(|(key, value)| (key.into(), value.into()))
        .into_iter()
        .collect();
    assert_eq!(body.get(&"cookie".into()), Some(&Value::Array(cookie)));
}

#[test]
fn headers_of_one_name_are_joined_and_of_one_variable_replaced() {
    let headers = [("X-A", "1"), ("x_a", "2"), ("x-a", "3"), ("X-B", "4"), ("Content-Type", "t")];
    let Value::Array(body) = body_of("/", &headers) else { panic!("the body is an array") };
    let Some(Value::Array(server)) = body.get(&"server".into()) else {
        panic!("server is an array")
    };
    assert_eq!(server.get(&"HTTP_X_A".into()), Some(&Value::from("2")));
    assert_eq!(server.get(&"HTTP_X_B".into()), Some(&Value::from("4")));
    assert_eq!(server.get(&"CONTENT_TYPE".into()), Some(&Value::from("t")));
    assert_eq!(server.get(&"SERVER_NAME".into()), Some(&Value::Null));
    let joined: Array =
        [("HTTP_X_A", "1,3")].map(|(key, value)| (key.into(), value.into())).into_iter().collect();
    let Value::Array(body) = body_of("/", &[("X-A", "1"), ("x-a", "3")]) else {
        panic!("the body is an array")
    };
    let Some(Value::Array(server)) = body.get(&"server".into()) else {
        panic!("server is an array")
    };
    assert_eq!(server.get(&"HTTP_X_A".into()), joined.get(&"HTTP_X_A".into()));
}

#[test]
fn an_ipv6_client_is_named_in_brackets() {
    assert_eq!(address_text("::1".parse().unwrap()), b"[::1]");
    assert_eq!(address_text("10.0.0.1".parse().unwrap()), b"10.0.0.1");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_becomes_a_value_that_reads_back(target: Vec<u8>, headers: Vec<(Vec<u8>, Vec<u8>)>) {
        let headers = headers.iter().map(|(name, value)| (&name[..], &value[..]));
        let request = HandshakeRequest { method: b"GET", target: &target, version: b"1.1", headers };
        let mut out = Vec::new();
        on_websocket_connect_body(request, ([127, 0, 0, 1], 1).into(), 2, &mut out);
        let value = unserialize(&out, &Limits::default()).unwrap();
        let mut again = Vec::new();
        serialize(&value, &mut again);
        prop_assert_eq!(out, again);
    }
}

fn body_of(target: &str, headers: &[(&str, &str)]) -> Value {
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let request =
        HandshakeRequest { method: b"GET", target: target.as_bytes(), version: b"1.1", headers };
    let mut out = Vec::new();
    on_websocket_connect_body(request, ([127, 0, 0, 1], 1234).into(), 80, &mut out);
    unserialize(&out, &Limits::default()).unwrap()
}

const ODD_TARGETS: &[&str] = &[
    "/",
    "",
    "?",
    "*",
    "/chat?room=7&x=%E4%BD%A0#frag?no",
    "/#a?b",
    "/a?b?c",
    "/a:80?b",
    "/a:80/?b",
    "/a:99999/?b",
    "/a:b?c",
    "/a?b:c",
    "/a?b:80",
    "/a:",
    ":80?a",
    ":80/?a",
    ":",
    "//h?a",
    "//?a",
    "//h:80?a",
    "//h:0/?a",
    "//:80/?a",
    "//h:x?a",
    "//h:1x?a",
    "//h:123456?a",
    "//u:p@h?a",
    "//@?a",
    "//[::1]?a",
    "//[::1]:80?a",
    "///?a",
    "http://h?a",
    "http://h/p?a#f",
    "http://?a",
    "http:/p?a",
    "http:p?a",
    "http:",
    "file:///p?a",
    "file:///c:/p?a",
    "h:80",
    "h:80/p?a",
    "h:80?a",
    "/?a\tb\u{7f}",
    "host.com?a",
];

const ODD_QUERIES: &[&str] = &[
    "",
    "a",
    "a=",
    "=",
    "=1",
    "&&a=1&",
    "a=b=c",
    "a=1&a=2",
    "a[b=1",
    "a[b.c d[e=1",
    "a[b][c=1",
    "a[][c=1",
    "a.b[c.d]=1",
    "a[ ]=1",
    "a[ b]=1",
    "a[b]c=1",
    "a[b]c[d]=1",
    " a=1",
    "a%00b=1",
    "a[%00]=1",
    "a=%00b",
    "[a]=1",
    "[=1",
    ".=1",
    "a[0]=x&a[]=y&a[01]=z",
    "a=1&a[]=2",
    "a[]=1&a=2",
    "a%5Bb%5D=1",
    "a+b=1+2",
    "__Host-a=1",
    "..Host-a=1",
    "_.Host-a=1",
    "_[Host-a=1",
    "_[Secure-a=1",
    "[_Host-a=1",
    "__Host-a[b=1",
    "_[Host-a[x]=1",
    "a[b]]=1",
    "a]=1",
    "a[[b]]=1",
    "a[[]=1",
    "a[]]=1",
    "a%=1",
    "a=%zz%4%",
    "0[0]=1",
    "-0=1",
    "a[9223372036854775807]=1&a[]=2&a[][b]=3",
    "a[-5]=1&a[]=2",
    "a[%20=1",
    "a[\tx]=1",
    "a[\t]=1",
    "a[",
    "a[ ",
    "a[]",
    "a[][",
    "a[x][y]=1&a[x]=2&a[x][z]=3",
    "%5b%5D=1",
    "a;b=1;c=2",
    "a[b%5d=1",
];
