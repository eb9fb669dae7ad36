//! Puts file, environment and flags together and reads the result, collecting every finding.
//!
//! serde stops at the first key it does not understand. To report all of them, that key is noted, taken out of the
//! tree, and the tree is read again until nothing is wrong with it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "of TOML's values only tables and arrays hold others"
)]

use core::ops::Range;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::Config;
use super::source::{Finding, Severity, Sources};

/// Before the section's name in an environment variable.
const ENV_PREFIX: &str = "TENGATE_";
/// Between the parts of a key's path in an environment variable.
const ENV_SEPARATOR: &str = "__";
/// More findings than this help nobody; it also bounds the reading again.
const FINDINGS_MAX: usize = 100;

/// What the configuration is read from.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// The file and its text.
    pub(crate) file: Option<(PathBuf, String)>,
    /// Environment variables and flags, in rising precedence.
    pub(crate) overrides: Vec<Override>,
}

/// One environment variable or flag that stands for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// As the user knows it: `TENGATE_GATEWAY__SHARDS` or `--shards`.
    pub(crate) name: String,
    /// Where it belongs: `["gateway", "shards"]`. A number is the index in an array of tables.
    pub(crate) path: Vec<String>,
    /// A TOML value, or just the text of a string.
    pub(crate) text: String,
}

impl Override {
    /// The key an environment variable stands for: `TENGATE_GATEWAY__INNER__LISTEN` is `listen` in [gateway.inner].
    /// A name without separator is none.
    pub(crate) fn from_env(name: String, text: String) -> Option<Self> {
        let rest = name.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains(ENV_SEPARATOR))?;
        let path = rest.split(ENV_SEPARATOR).map(str::to_lowercase).collect();
        Some(Self { name, path, text })
    }
}

/// A configuration that was understood as far as possible.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) findings: Vec<Finding>,
    pub(crate) sources: Sources,
}

impl Loaded {
    /// Whether something cannot be used.
    pub(crate) fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Reads the configuration. What is not understood is a finding and keeps its default.
pub(crate) fn load(inputs: &Inputs) -> Loaded {
    let (name, text) = inputs
        .file
        .as_ref()
        .map_or_else(|| (Path::new(""), ""), |(path, text)| (path.as_path(), text.as_str()));
    let mut sources = Sources::new(name.display().to_string(), text.to_owned());
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut syntax: Vec<Finding> = errors.iter().map(syntax_finding).collect();
    syntax.dedup_by_key(|finding| sources.line(&finding.span));
    let mut root = Spanned::new(document.span(), DeValue::Table(document.into_inner()));

    for setting in &inputs.overrides {
        let span = sources.add(&setting.name);
        let path: Vec<&str> = setting.path.iter().map(String::as_str).collect();
        put(&mut root, &path, &span, decode_value(&setting.text));
    }
    let mut findings = Vec::new();
    let config = read(&mut root, &sources, inputs, &mut findings);
    // Where the syntax is broken the parser put a value of its own, and what it makes of that line is not the user's.
    let broken: Vec<usize> = syntax.iter().map(|finding| sources.line(&finding.span)).collect();
    findings.retain(|finding| {
        broken.is_empty()
            || !finding.span.is_empty() && !broken.contains(&sources.line(&finding.span))
    });
    findings.extend(syntax);
    findings.sort_by_key(|finding| finding.span.start);
    Loaded { config, findings, sources }
}

/// Reads the tree until nothing in it is refused.
fn read<'a>(
    root: &mut Spanned<DeValue<'a>>,
    sources: &Sources,
    inputs: &'a Inputs,
    findings: &mut Vec<Finding>,
) -> Config {
    while findings.len() < FINDINGS_MAX {
        let error = match Config::deserialize(ValueDeserializer::from(root.clone())) {
            Ok(config) => return config,
            Err(error) => error,
        };
        let at = error.span().unwrap_or_else(|| root.span());
        if retry_as_string(root, &at, sources, inputs) {
            continue;
        }
        let (problem, advice) = explain(error.message());
        let finding = Finding::error(at.clone(), problem, advice);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
        if !remove_at(root, &at) {
            break;
        }
    }
    Config::default()
}

/// An override is first taken as a TOML value, so that numbers and lists work. Where that was refused, its text may
/// still be the string that was wanted: `TENGATE_GATEWAY__SECRET_KEY=12345`.
fn retry_as_string<'a>(
    root: &mut Spanned<DeValue<'a>>,
    at: &Range<usize>,
    sources: &Sources,
    inputs: &'a Inputs,
) -> bool {
    let Some(index) = sources.override_index(at) else { return false };
    let Some(setting) = inputs.overrides.get(index) else { return false };
    let Some(value) = value_at(root, at) else { return false };
    if matches!(value.get_ref(), DeValue::String(_) | DeValue::Array(_)) {
        return false;
    }
    *value.get_mut() = DeValue::String(Cow::Borrowed(&setting.text));
    true
}

fn decode_value(text: &str) -> DeValue<'_> {
    DeValue::parse(text).map_or(DeValue::String(Cow::Borrowed(text)), Spanned::into_inner)
}

/// Overrides one key. A secret key given one way replaces the one given the other way.
fn put<'a>(
    root: &mut Spanned<DeValue<'a>>,
    path: &[&str],
    span: &Range<usize>,
    value: DeValue<'a>,
) {
    insert(root, path, span, value);
    let (rival, section) = match path {
        [section @ .., "secret_key"] => ("secret_key_file", section),
        [section @ .., "secret_key_file"] => ("secret_key", section),
        _ => return,
    };
    let mut slot = Some(root);
    for key in section {
        slot = slot.and_then(|slot| match slot.get_mut() {
            DeValue::Table(table) => table.get_mut(*key),
            _ => None,
        });
    }
    if let Some(DeValue::Table(table)) = slot.map(Spanned::get_mut) {
        table.remove(rival);
    }
}

/// Puts a value into the tree, replacing what was there. A number in the path is an index of an array of tables.
fn insert<'a>(
    slot: &mut Spanned<DeValue<'a>>,
    path: &[&str],
    span: &Range<usize>,
    value: DeValue<'a>,
) {
    let [key, rest @ ..] = path else {
        *slot = with_span(value, span);
        return;
    };
    match slot.get_mut() {
        DeValue::Array(items) if key.parse::<usize>().is_ok_and(|index| index <= items.len()) => {
            let index = key.parse().unwrap_or(items.len());
            if index == items.len() {
                items.push(empty_table(span));
            }
            if let Some(item) = items.get_mut(index) {
                insert(item, rest, span, value);
            }
        }
        DeValue::Table(table) => {
            let key = Spanned::new(span.clone(), Cow::Owned((*key).to_owned()));
            let below = table.entry(key).or_insert_with(|| match rest {
                [index, ..] if index.parse::<usize>().is_ok() => {
                    Spanned::new(span.clone(), DeValue::Array(DeArray::new()))
                }
                _ => empty_table(span),
            });
            insert(below, rest, span, value);
        }
        _ => {
            // Something else stands where a table should: the override wins over it.
            *slot = empty_table(span);
            insert(slot, path, span, value);
        }
    }
}

fn empty_table<'a>(span: &Range<usize>) -> Spanned<DeValue<'a>> {
    Spanned::new(span.clone(), DeValue::Table(DeTable::new()))
}

/// Gives a value and all inside it the span of the override it came from.
fn with_span<'a>(value: DeValue<'a>, span: &Range<usize>) -> Spanned<DeValue<'a>> {
    let value = match value {
        DeValue::Array(items) => DeValue::Array(
            items.into_iter().map(|item| with_span(item.into_inner(), span)).collect(),
        ),
        DeValue::Table(entries) => {
            let entries = entries.into_iter().map(|(key, value)| {
                (Spanned::new(span.clone(), key.into_inner()), with_span(value.into_inner(), span))
            });
            DeValue::Table(entries.collect())
        }
        scalar => scalar,
    };
    Spanned::new(span.clone(), value)
}

/// The innermost value at a span that is no table.
fn value_at<'t, 'a>(
    slot: &'t mut Spanned<DeValue<'a>>,
    at: &Range<usize>,
) -> Option<&'t mut Spanned<DeValue<'a>>> {
    if slot.span() == *at && !slot.get_ref().is_table() {
        return Some(slot);
    }
    match slot.get_mut() {
        DeValue::Table(table) => table.iter_mut().find_map(|(_, value)| value_at(value, at)),
        DeValue::Array(items) => items.iter_mut().find_map(|item| value_at(item, at)),
        _ => None,
    }
}

/// Removes the innermost entry or element whose key or value has this span. Tells whether there was one.
fn remove_at(slot: &mut Spanned<DeValue<'_>>, at: &Range<usize>) -> bool {
    match slot.get_mut() {
        DeValue::Table(table) => {
            if table.iter_mut().any(|(_, value)| remove_at(value, at)) {
                return true;
            }
            let mut entries = table.iter();
            let found = entries.find(|(key, value)| key.span() == *at || value.span() == *at);
            let key = found.map(|(key, _)| key.get_ref().to_string());
            key.is_some_and(|key| table.remove(key.as_str()).is_some())
        }
        DeValue::Array(items) => {
            if items.iter_mut().any(|item| remove_at(item, at)) {
                return true;
            }
            let len = items.len();
            *items = core::mem::replace(items, DeArray::new())
                .into_iter()
                .filter(|item| item.span() != *at)
                .collect();
            items.len() < len
        }
        _ => false,
    }
}

fn syntax_finding(error: &toml::de::Error) -> Finding {
    Finding::error(
        error.span().unwrap_or(0..0),
        error.message(),
        "the file is not TOML here, see https://toml.io",
    )
}

/// Turns a message of serde into what is wrong and what would be right.
fn explain(message: &str) -> (String, String) {
    if let Some((found, expected)) = quoted(message, "unknown field ") {
        return (format!("unknown key `{found}`"), suggestion(found, &expected, "keys known here"));
    }
    if let Some((found, expected)) = quoted(message, "unknown variant ") {
        return (
            format!("`{found}` is not a value of this key"),
            suggestion(found, &expected, "it takes one of"),
        );
    }
    if let Some(field) = message.strip_prefix("duplicate field ") {
        return (format!("{field} is given twice"), "keep one of them".to_owned());
    }
    let found =
        message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|rest| rest.split_once(", expected ")) else {
        return (message.to_owned(), String::new());
    };
    let expected = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "usize" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" | "path string" => "text in quotes",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a section with keys",
        other => other,
    };
    (format!("{found} does not fit here"), format!("expected {expected}"))
}

/// Splits `<prefix>`x`, expected `a` or one of `a`, `b``.
fn quoted<'m>(message: &'m str, prefix: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let (found, rest) = message.strip_prefix(prefix)?.strip_prefix('`')?.split_once('`')?;
    Some((found, rest.split('`').skip(1).step_by(2).collect()))
}

/// The nearest known word, or all of them when none is near.
fn suggestion(found: &str, known: &[&str], all: &str) -> String {
    let similar = known.iter().map(|word| (strsim::jaro_winkler(found, word), word));
    match similar.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
        Some((score, word)) if score > 0.8 => format!("did you mean `{word}`?"),
        _ => format!("{all}: {}", known.join(", ")),
    }
}
