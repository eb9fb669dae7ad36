//! The real PHP as a judge in tests: one `php` process that answers many questions over a pipe.
//!
//! Set `TENGATE_TESTS_WITHOUT_PHP=1` where there is no PHP: the questions are then skipped.

extern crate std;

use alloc::vec;
use alloc::vec::Vec;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running PHP. Ends with its standard input.
pub(super) struct Oracle {
    child: Child,
    questions: Option<ChildStdin>,
    answers: ChildStdout,
}

impl Oracle {
    /// Starts PHP, or says `None` when this run goes without it.
    ///
    /// # Panics
    /// PHP is missing and nobody said it may be.
    pub(super) fn start() -> Option<Self> {
        if std::env::var_os("TENGATE_TESTS_WITHOUT_PHP").is_some_and(|value| value == "1") {
            return None;
        }
        let child = Command::new("php")
            .args(["-n", "-d", "memory_limit=512M", "-r", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!("php does not start ({error}): install php-cli 8.2, or set TENGATE_TESTS_WITHOUT_PHP=1 to do without")
        });
        let questions = child.stdin.take();
        let answers = child.stdout.take().expect("it was piped");
        Some(Self { child, questions, answers })
    }

    /// `serialize(unserialize($bytes))`, or `None` when PHP cannot read it.
    pub(super) fn reserialize(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let answer = self.ask("reserialize", &[bytes]);
        (answer != b"refused").then_some(answer)
    }

    /// `array_replace_recursive` of two serialized arrays, serialized.
    pub(super) fn replace_recursive(&mut self, base: &[u8], replacement: &[u8]) -> Vec<u8> {
        self.ask("replace", &[base, replacement])
    }

    /// The serialized array whose only key is this string.
    pub(super) fn array_with_key(&mut self, key: &[u8]) -> Vec<u8> {
        self.ask("key", &[key])
    }

    /// The query that `parse_url` finds in a request target.
    pub(super) fn query_of(&mut self, target: &[u8]) -> Vec<u8> {
        self.ask("query", &[target])
    }

    /// What `parse_str` makes of a query, serialized.
    pub(super) fn variables_of(&mut self, query: &[u8]) -> Vec<u8> {
        self.ask("variables", &[query])
    }

    fn ask(&mut self, name: &str, arguments: &[&[u8]]) -> Vec<u8> {
        let mut question = Vec::new();
        for part in [name.as_bytes()].iter().chain(arguments) {
            let len = u32::try_from(part.len()).expect("test input is small");
            question.extend_from_slice(&len.to_be_bytes());
            question.extend_from_slice(part);
        }
        let pipe = self.questions.as_mut().expect("open until drop");
        let len = u32::try_from(question.len()).expect("test input is small");
        pipe.write_all(&len.to_be_bytes()).expect("php reads");
        pipe.write_all(&question).expect("php reads");
        pipe.flush().expect("php reads");
        let mut len = [0; 4];
        self.answers.read_exact(&mut len).expect("php answers");
        let mut answer = vec![0; u32::from_be_bytes(len) as usize];
        self.answers.read_exact(&mut answer).expect("php answers");
        answer
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.questions = None;
        if let Err(error) = self.child.wait() {
            std::eprintln!("php: {error}");
        }
    }
}

/// Reads questions (u32 length, then parts of u32 length each; the first is a name) and writes answers (u32 length).
const SCRIPT: &str = r#"
error_reporting(0);
function part(&$question) {
    $len = unpack('N', $question)[1];
    $part = substr($question, 4, $len);
    $question = substr($question, 4 + $len);
    return $part;
}
while (strlen($len = fread(STDIN, 4)) === 4) {
    for ($question = '', $left = unpack('N', $len)[1]; $left > 0; $left -= strlen($chunk)) {
        $question .= $chunk = fread(STDIN, $left);
    }
    $name = part($question);
    $answer = 'unknown question';
    if ($name === 'reserialize') {
        $bytes = part($question);
        $value = unserialize($bytes, ['allowed_classes' => false]);
        $answer = $value === false && substr($bytes, 0, 4) !== 'b:0;' ? 'refused' : serialize($value);
    } elseif ($name === 'replace') {
        $answer = serialize(array_replace_recursive(unserialize(part($question)), unserialize(part($question))));
    } elseif ($name === 'key') {
        $answer = serialize([part($question) => null]);
    } elseif ($name === 'query') {
        $answer = parse_url(part($question))['query'] ?? '';
    } elseif ($name === 'variables') {
        parse_str(part($question), $variables);
        $answer = serialize($variables);
    }
    fwrite(STDOUT, pack('N', strlen($answer)) . $answer);
}
"#;
