//! PHP values against the real PHP, and on their own.

use alloc::vec::Vec;
use core::cell::RefCell;

use proptest::collection::vec as vec_of;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::oracle::Oracle;
use super::{
    Array, ArrayFull, Key, Limits, UnserializeError, Value, array_replace_recursive, serialize,
    unserialize, write,
};

#[test]
fn a_string_that_spells_an_integer_is_an_integer_key() {
    for (text, int) in [
        ("0", 0),
        ("42", 42),
        ("-5", -5),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(Key::from(text), Key::Int(int));
    }
}

#[test]
fn a_string_that_php_would_print_differently_is_a_string_key() {
    for text in KEYS_THAT_STAY_STRINGS {
        assert_eq!(Key::from(text), Key::Str(text.as_bytes().to_vec()), "{text}");
    }
}

#[test]
fn php_agrees_on_array_keys() {
    let Some(mut php) = Oracle::start() else { return };
    let mut check = |key: &[u8]| {
        let mut ours = Vec::new();
        write::array_open(1, &mut ours);
        write::key_bytes(key, &mut ours);
        write::null(&mut ours);
        write::array_close(&mut ours);
        assert_eq!(php.array_with_key(key), ours);
    };
    for key in KEYS_THAT_STAY_STRINGS {
        check(key.as_bytes());
    }
    for key in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX] {
        check(alloc::format!("{key}").as_bytes());
    }
    run(&"-?[0-9]{1,20}|[ -~]{0,6}", |key| check(key.as_bytes()));
}

#[test]
fn php_reads_what_we_write_and_writes_the_same() {
    let Some(mut php) = Oracle::start() else { return };
    run(&value(), |value| {
        let ours = serialized(&value);
        assert_eq!(php.reserialize(&ours).expect("PHP reads it"), ours);
    });
}

#[test]
fn php_prints_doubles_as_we_do() {
    let Some(mut php) = Oracle::start() else { return };
    let mut check = |double: f64| {
        let ours = serialized(&Value::Double(double));
        assert_eq!(php.reserialize(&ours), Some(ours), "{double:e}");
    };
    for exponent in -320..=308 {
        for mantissa in ["1", "-1.5", "9.999999999999999", "1.2345678901234567"] {
            check(alloc::format!("{mantissa}e{exponent}").parse().unwrap());
        }
    }
    run(&any::<f64>(), &mut check);
    // Sums of few powers of two are often half-way between two shortest forms.
    run(&(1u64 << 52..1 << 53, -4i32..1), |(mantissa, exponent)| {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        check(mantissa as f64 * f64::from(exponent).exp2());
    });
}

#[test]
fn doubles_print_with_the_fewest_digits() {
    for (double, text) in [
        (0.1, "d:0.1;"),
        (1.0e25, "d:1.0E+25;"),
        (1.25e-7, "d:1.25E-7;"),
        (100_000.0, "d:100000;"),
        (-1234.5, "d:-1234.5;"),
        (0.0001, "d:0.0001;"),
        (0.000_01, "d:1.0E-5;"),
        (1e16, "d:10000000000000000;"),
        (1e17, "d:1.0E+17;"),
        // Half-way between two shortest forms: the even one.
        (-1_673_656_953_473_446.0 - 0.25, "d:-1673656953473446.2;"),
        (-0.0, "d:-0;"),
        (f64::INFINITY, "d:INF;"),
        (f64::NEG_INFINITY, "d:-INF;"),
        (f64::NAN, "d:NAN;"),
    ] {
        assert_eq!(serialized(&Value::Double(double)), text.as_bytes());
    }
}

#[test]
fn what_php_reads_we_read_alike() {
    let Some(mut php) = Oracle::start() else { return };
    let mut check = |bytes: &[u8]| {
        let ours = read(bytes).ok().map(|value| serialized(&value));
        let text = alloc::string::String::from_utf8_lossy(bytes);
        assert_eq!(ours, php.reserialize(bytes), "{text}");
    };
    for text in ODD_INPUTS {
        check(text.as_bytes());
    }
    // Bytes that are nearly right: a good value with a few bytes changed, without the tags we refuse.
    let damaged = (value(), vec_of((any::<prop::sample::Index>(), "[abdisN0-9:;{}\"+.eE-]"), 1..4));
    run(&damaged, |(value, changes)| {
        let mut bytes = serialized(&value);
        for (at, with) in changes {
            let at = at.index(bytes.len());
            bytes[at] = with.as_bytes()[0];
        }
        check(&bytes);
    });
}

#[test]
fn what_was_serialized_reads_back_the_same() {
    run(&value(), |value| {
        let bytes = serialized(&value);
        assert_eq!(serialized(&read(&bytes).unwrap()), bytes);
        assert_eq!(read(&bytes).unwrap(), value);
    });
}

#[test]
fn input_cut_at_any_byte_is_an_error() {
    run(&value(), |value| {
        let bytes = serialized(&value);
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(UnserializeError::Truncated), "cut at {cut}");
        }
    });
}

#[test]
fn arbitrary_bytes_do_not_panic() {
    run(&vec_of(any::<u8>(), 0..64), |bytes| drop(read(&bytes)));
}

#[test]
fn objects_and_references_are_refused() {
    for text in [
        "O:8:\"stdClass\":0:{}",
        "C:1:\"A\":0:{}",
        "E:3:\"A:B\";",
        "a:2:{i:0;i:1;i:1;R:2;}",
        "a:1:{i:0;r:1;}",
        "S:1:\"\\61\";",
    ] {
        assert!(matches!(read(text.as_bytes()), Err(UnserializeError::Refused { .. })), "{text}");
    }
}

#[test]
fn arrays_nested_beyond_the_limit_are_refused() {
    let nested =
        |depth: usize| [&b"a:1:{i:0;".repeat(depth)[..], b"N;", &b"}".repeat(depth)].concat();
    let limits = Limits { depth_max: 3, ..Limits::default() };
    assert!(unserialize(&nested(3), &limits).is_ok());
    assert_eq!(unserialize(&nested(4), &limits), Err(UnserializeError::Depth));
    assert_eq!(read(&nested(1_000_000)), Err(UnserializeError::Depth));
}

#[test]
fn an_array_cannot_claim_more_entries_than_allowed() {
    let limits = Limits { entry_count_max: 2, ..Limits::default() };
    assert!(unserialize(b"a:1:{i:0;a:1:{i:0;N;}}", &limits).is_ok());
    assert_eq!(
        unserialize(b"a:1:{i:0;a:2:{i:0;N;i:1;N;}}", &limits),
        Err(UnserializeError::EntryCount)
    );
    assert_eq!(read(b"a:18446744073709551615:{"), Err(UnserializeError::EntryCount));
}

#[test]
fn php_replaces_recursively_as_we_do() {
    let Some(mut php) = Oracle::start() else { return };
    run(&(array(), array()), |(base, replacement)| {
        let theirs = php.replace_recursive(
            &serialized(&Value::Array(base.clone())),
            &serialized(&Value::Array(replacement.clone())),
        );
        assert_eq!(serialized(&Value::Array(array_replace_recursive(base, replacement))), theirs);
    });
}

#[test]
fn replacing_keeps_places_and_descends_into_arrays() {
    let base = read(b"a:3:{s:1:\"a\";i:1;s:1:\"b\";a:2:{i:0;i:1;i:1;i:2;}s:1:\"c\";i:3;}");
    let replacement = read(b"a:3:{s:1:\"b\";a:1:{i:1;i:9;}s:1:\"d\";N;s:1:\"a\";a:0:{}}");
    let (Ok(Value::Array(base)), Ok(Value::Array(replacement))) = (base, replacement) else {
        panic!("both are arrays");
    };
    let expected =
        b"a:4:{s:1:\"a\";a:0:{}s:1:\"b\";a:2:{i:0;i:1;i:1;i:9;}s:1:\"c\";i:3;s:1:\"d\";N;}";
    assert_eq!(serialized(&Value::Array(array_replace_recursive(base, replacement))), expected);
}

#[test]
fn push_takes_the_integer_after_the_largest() {
    let mut array = Array::new();
    array.insert(Key::Int(-5), Value::Null);
    assert!(array.push(Value::Null).is_ok());
    array.insert(Key::Int(7), Value::Null);
    assert!(array.push(Value::Null).is_ok());
    let keys: Vec<_> = array.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [Key::Int(-5), Key::Int(-4), Key::Int(7), Key::Int(8)]);
    array.insert(Key::Int(i64::MAX), Value::Null);
    assert_eq!(array.push(Value::Null), Err(ArrayFull));
    assert_eq!(array.len(), 5);
}

#[test]
fn a_removed_entry_leaves_the_others_in_order() {
    let mut array: Array = (0..20).map(|int| (Key::Int(int), Value::Int(int))).collect();
    assert_eq!(array.remove(&Key::Int(3)), Some(Value::Int(3)));
    assert_eq!(array.remove(&Key::Int(3)), None);
    let left: Vec<i64> = (0..20).filter(|int| *int != 3).collect();
    assert!(array.iter().map(|(key, _)| key.clone()).eq(left.iter().map(|int| Key::Int(*int))));
    assert!(left.iter().all(|int| array.get(&Key::Int(*int)) == Some(&Value::Int(*int))));
}

#[test]
fn an_array_finds_every_key_at_every_size() {
    let mut array = Array::new();
    for int in 0..100 {
        array.insert(Key::Int(int * 3), Value::Int(int));
        array.insert(Key::from(alloc::format!("k{int}").as_str()), Value::Int(-int));
        for earlier in 0..=int {
            assert_eq!(array.get(&Key::Int(earlier * 3)), Some(&Value::Int(earlier)));
            let name = alloc::format!("k{earlier}");
            assert_eq!(array.get(&Key::from(name.as_str())), Some(&Value::Int(-earlier)));
        }
        assert_eq!(array.get(&Key::Int(int * 3 + 1)), None);
    }
    assert_eq!(array.insert(Key::Int(3), Value::Null), Some(Value::Int(1)));
    assert_eq!(array.len(), 200);
    assert_eq!(array.values().nth(2), Some(&Value::Null));
}

/// Strings that look like integers and are not what PHP prints for one.
const KEYS_THAT_STAY_STRINGS: [&str; 14] = [
    "",
    "-",
    "-0",
    "+1",
    "042",
    "-042",
    "00",
    "1 ",
    " 1",
    "1.0",
    "1e3",
    "0x1A",
    "9223372036854775808",
    "-9223372036854775809",
];

/// Input at the edges of PHP's grammar, good and bad.
const ODD_INPUTS: &[&str] = &[
    "i:9223372036854775808;",
    "i:-9223372036854775809;",
    "i:+5;",
    "i:007;",
    "i:-0;",
    "i:;",
    "i: 5;",
    " i:5;",
    "b:2;",
    "b:00;",
    "b:;",
    "d:.5;",
    "d:5.;",
    "d:.;",
    "d:;",
    "d:-;",
    "d:1e5;",
    "d:1E+5;",
    "d:1.5e;",
    "d:1e400;",
    "d:+INF;",
    "d:-INF;",
    "d:-NAN;",
    "d:inf;",
    "d:0x1;",
    "N",
    "N;x",
    "n;",
    "i:5;junk",
    "s:1:\"a\"",
    "s:1:\"a\"x",
    "s:+1:\"a\";",
    "s:-1:\"a\";",
    "s::\"\";",
    "s:01:\"a\";",
    "s:2:\"\";\";",
    "a:0:{}",
    "a:00:{}",
    "a:0:{",
    "a:+1:{i:0;i:1;}",
    "a:-1:{}",
    "a:1:{i:0;i:1;};",
    "a:2:{i:0;i:1;}",
    "a:1:{i:0;i:1;i:1;i:2;}",
    "a:1:{s:1:\"1\";i:2;}",
    "a:2:{i:0;i:1;i:0;i:2;}junk",
    "a:3:{i:0;i:1;s:1:\"x\";i:2;s:1:\"0\";i:3;}",
    "a:1:{b:1;i:2;}",
    "a:1:{N;i:2;}",
    "a:1:{d:1.5;i:2;}",
    "a:1:{a:0:{}i:2;}",
    "a:1:{i:99999999999999999999;i:1;}",
];

fn read(bytes: &[u8]) -> Result<Value, UnserializeError> {
    unserialize(bytes, &Limits::default())
}

fn serialized(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    serialize(value, &mut out);
    out
}

/// Runs a check on generated input, shrinking what fails. The check may keep state: an oracle, say.
pub(super) fn run<S: Strategy>(strategy: &S, check: impl FnMut(S::Value)) {
    let check = RefCell::new(check);
    let config = Config { cases: 512, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(strategy, |input| {
        (check.borrow_mut())(input);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        (-2i64..6).prop_map(Key::Int),
        any::<i64>().prop_map(Key::Int),
        vec_of(any::<u8>(), 0..5).prop_map(|bytes| Key::from(&bytes[..])),
        "[ab]".prop_map(|text| Key::from(text.as_str())),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>()
            .prop_filter("NaN differs from itself", |double| !double.is_nan())
            .prop_map(Value::Double),
        vec_of(any::<u8>(), 0..12).prop_map(Value::Str),
    ];
    scalar.prop_recursive(4, 40, 12, |inner| {
        vec_of((key(), inner), 0..12)
            .prop_map(|entries| Value::Array(entries.into_iter().collect()))
    })
}

fn array() -> impl Strategy<Value = Array> {
    vec_of((key(), value()), 0..12).prop_map(|entries| entries.into_iter().collect())
}
