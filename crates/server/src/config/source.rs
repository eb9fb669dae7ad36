//! Where settings come from, and how a finding is shown at its place.
//!
//! All sources share one range of byte offsets, so that one kind of span points into the file, an environment variable
//! or a flag. The file begins at 0; each override takes the range after what was added before it.

use core::fmt::Write as _;
use core::ops::Range;

/// The texts settings were read from.
#[derive(Debug)]
pub(crate) struct Sources {
    file_name: String,
    file_text: String,
    overrides: Vec<Origin>,
}

/// One environment variable or flag.
#[derive(Debug)]
struct Origin {
    /// `TENGATE_GATEWAY__SHARDS` or `--shards`.
    name: String,
    span: Range<usize>,
}

/// Something to tell about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Empty when the finding concerns a default.
    pub(crate) span: Range<usize>,
    /// What is wrong.
    pub(crate) problem: String,
    /// What would be right.
    pub(crate) advice: String,
}

/// Whether tengate can start with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// It cannot.
    Error,
    /// It can, but probably should not.
    Warning,
}

impl Finding {
    pub(crate) fn error(
        span: Range<usize>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Error, span, problem: problem.into(), advice: advice.into() }
    }

    pub(crate) fn warning(
        span: Range<usize>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, span, problem: problem.into(), advice: advice.into() }
    }
}

impl Sources {
    pub(crate) fn new(file_name: String, file_text: String) -> Self {
        Self { file_name, file_text, overrides: Vec::new() }
    }

    /// Takes the next range of offsets for an environment variable or a flag.
    pub(crate) fn add(&mut self, name: &str) -> Range<usize> {
        let start =
            self.overrides.last().map_or(self.file_text.len(), |origin| origin.span.end) + 1;
        let span = start..start + 1;
        self.overrides.push(Origin { name: name.to_owned(), span: span.clone() });
        span
    }

    /// The variable or flag a span stands for; `None` when it stands in the file or nowhere.
    fn override_at(&self, span: &Range<usize>) -> Option<&str> {
        self.override_index(span).map(|index| self.overrides[index].name.as_str())
    }

    /// Which override, in the order they were added, a span stands for.
    pub(crate) fn override_index(&self, span: &Range<usize>) -> Option<usize> {
        self.overrides.iter().position(|origin| origin.span.start == span.start)
    }

    /// `file:line:column`, the variable's or the flag's name; empty for defaults.
    pub(crate) fn place(&self, span: &Range<usize>) -> String {
        if let Some(name) = self.override_at(span) {
            return name.to_owned();
        }
        if span.is_empty() && span.start == 0 {
            return String::new();
        }
        let (line, column) = self.position(span.start);
        format!("{}:{line}:{column}", self.file_name)
    }

    /// The line of the file a span begins in, from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.position(span.start).0
    }

    /// The finding as `tengate check` prints it: severity, place, problem, the line with a caret, and advice.
    pub(crate) fn render(&self, finding: &Finding) -> String {
        let word = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = self.place(&finding.span);
        let mut out = match place.as_str() {
            "" => format!("{word}: {}\n", finding.problem),
            place => format!("{word}: {place}: {}\n", finding.problem),
        };
        let in_file = !place.is_empty() && self.override_at(&finding.span).is_none();
        if in_file {
            self.render_line(&finding.span, &mut out);
        }
        if !finding.advice.is_empty() {
            let indent =
                if in_file { 1 + self.position(finding.span.start).0.to_string().len() } else { 2 };
            let _ = writeln!(out, "{:indent$}= {}", "", finding.advice);
        }
        out
    }

    fn render_line(&self, span: &Range<usize>, out: &mut String) {
        let (line, column) = self.position(span.start);
        let text = self.file_text.lines().nth(line - 1).unwrap_or_default();
        let (gutter, width) = (line.to_string(), line.to_string().len());
        let shown = if is_secret(text) {
            text.split_inclusive('=').next().unwrap_or_default()
        } else {
            text
        };
        let before = shown.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' });
        let before: String = before.collect();
        let span_text = self.file_text.get(span.clone()).unwrap_or_default();
        let carets = span_text.lines().next().map_or(0, |first| first.chars().count());
        let carets = carets.min(shown.chars().count().saturating_sub(column - 1)).max(1);
        let _ = writeln!(
            out,
            "{:width$} |\n{gutter} | {shown}\n{:width$} | {before}{}",
            "",
            "",
            "^".repeat(carets)
        );
    }

    /// Line and column of an offset, both from 1; columns count characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.file_text.get(..offset).unwrap_or(&self.file_text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Whether a line of the file holds a secret, which must not reach a terminal or a build log.
fn is_secret(line: &str) -> bool {
    line.split('=').any(|part| part.trim_end().ends_with("secret_key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_line_with_a_caret_under_the_place() {
        let sources = Sources::new("t.toml".into(), "[gateway]\nsahrds = 4\n".into());
        let finding = Finding::error(10..16, "unknown key `sahrds`", "did you mean `shards`?");
        assert_eq!(
            sources.render(&finding),
            "error: t.toml:2:1: unknown key `sahrds`\n  |\n2 | sahrds = 4\n  | ^^^^^^\n  = did you mean `shards`?\n"
        );
    }

    #[test]
    fn a_line_that_holds_a_secret_is_cut_before_its_value() {
        let sources = Sources::new("t.toml".into(), "secret_key = 12345\n".into());
        let shown = sources.render(&Finding::error(13..18, "expected a secret key in quotes", ""));
        assert!(!shown.contains("12345"), "{shown}");
    }

    #[test]
    fn overrides_are_named_instead_of_a_line() {
        let mut sources = Sources::new("t.toml".into(), "a = 1\n".into());
        let first = sources.add("TENGATE_GATEWAY__SHARDS");
        let second = sources.add("--shards");
        assert_eq!(sources.place(&first), "TENGATE_GATEWAY__SHARDS");
        assert_eq!(sources.place(&second), "--shards");
        assert_eq!(sources.place(&(0..0)), "");
    }
}
