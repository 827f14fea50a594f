//! Lines of a container's log file as CRI defines them: time, stream, tags, text.
//! Must not read files.

use jiff::Timestamp;

/// One line. It may be part of a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// When it was written.
    pub(super) time: Timestamp,
    /// Whether to the standard error.
    pub(super) stderr: bool,
    /// Whether the line goes on in the next one.
    pub(super) partial: bool,
    /// The text, with its newline unless it is partial.
    pub(super) text: &'a [u8],
}

/// Reads `2016-10-06T00:17:09.669794202Z stdout F text` and its newline; `None` for anything else.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = cut(line)?;
    let (stream, rest) = cut(rest)?;
    let (tags, text) = cut(rest)?;
    let time = std::str::from_utf8(time).ok()?.parse().ok()?;
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    let text = match text {
        [head @ .., b'\n'] if partial => head,
        whole => whole,
    };
    Some(Line {
        time,
        stderr,
        partial,
        text,
    })
}

fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Chooses lines and writes them for people.
#[derive(Clone, Debug)]
pub(super) struct Printer {
    pub(super) wanted: Wanted,
    pub(super) since: Option<Timestamp>,
    pub(super) timestamps: bool,
    /// Bytes that may still be written.
    pub(super) left: Option<u64>,
    inside: bool,
}

impl Printer {
    pub(super) fn new(wanted: Wanted, since: Option<Timestamp>, timestamps: bool, limit: Option<u64>) -> Self {
        Printer {
            wanted,
            since,
            timestamps,
            left: limit,
            inside: false,
        }
    }

    /// Whether the limit has been reached.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what is to be printed of a line of the file. What is no log line is left out.
    pub(super) fn print(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        let unwanted = match self.wanted {
            Wanted::All => false,
            Wanted::Stdout => line.stderr,
            Wanted::Stderr => !line.stderr,
        };
        if unwanted || self.since.is_some_and(|since| line.time < since) {
            return;
        }
        if self.timestamps && !self.inside {
            self.put(format!("{:.9} ", line.time).as_bytes(), out);
        }
        self.put(line.text, out);
        self.inside = line.partial;
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(left) = &mut self.left else {
            out.extend_from_slice(bytes);
            return;
        };
        let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(&bytes[..n]);
        *left -= n as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &[u8] = b"2016-10-06T00:17:09.669794202Z stdout F log  content 1\n";

    fn printed(mut printer: Printer, lines: &[&[u8]]) -> String {
        let mut out = Vec::new();
        for line in lines {
            printer.print(line, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_line_has_four_parts() {
        let line = parse(LINE).unwrap();
        assert_eq!(line.text, b"log  content 1\n");
        assert!(!line.stderr && !line.partial);
        let line = parse(b"2016-10-06T00:17:09.669794203+02:00 stderr P:X half\n").unwrap();
        assert_eq!((line.text, line.stderr, line.partial), (&b"half"[..], true, true));
        assert_eq!(parse(b"2016-10-06T00:17:09Z stdout F \n").unwrap().text, b"\n");
        for wrong in [
            "",
            "x stdout F y\n",
            "2016-10-06T00:17:09Z other F y\n",
            "2016-10-06T00:17:09Z stdout",
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_line_are_joined_and_get_one_timestamp() {
        let all = Printer::new(Wanted::All, None, true, None);
        let lines: [&[u8]; 3] = [
            b"2016-10-06T00:17:09.6Z stdout P one \n",
            b"2016-10-06T00:17:10Z stdout F line\n",
            b"2016-10-06T00:17:11Z stderr F next\n",
        ];
        assert_eq!(
            printed(all, &lines),
            "2016-10-06T00:17:09.600000000Z one line\n2016-10-06T00:17:11.000000000Z next\n"
        );
        let errors = Printer::new(Wanted::Stderr, None, false, None);
        assert_eq!(printed(errors, &lines), "next\n");
        let since = "2016-10-06T00:17:10Z".parse().ok();
        assert_eq!(
            printed(Printer::new(Wanted::All, since, false, Some(6)), &lines),
            "line\nn"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), limit in any::<Option<u64>>()) {
            let _ = parse(&bytes);
            let mut out = Vec::new();
            Printer::new(Wanted::All, None, true, limit).print(&bytes, &mut out);
        }

        #[test]
        fn broken_lines_are_survived(at in 0..LINE.len(), byte in any::<u8>(), limit in 0_u64..99) {
            let mut line = LINE.to_vec();
            line[at] = byte;
            let mut printer = Printer::new(Wanted::All, None, true, Some(limit));
            let mut out = Vec::new();
            printer.print(&line, &mut out);
            prop_assert!(out.len() as u64 <= limit);
        }

        #[test]
        fn text_comes_out_as_it_went_in(text in "[^\n]{0,50}", stderr in any::<bool>()) {
            let stream = if stderr { "stderr" } else { "stdout" };
            let line = format!("2016-10-06T00:17:09Z {stream} F {text}\n");
            let parsed = parse(line.as_bytes()).unwrap();
            let whole = format!("{text}\n");
            prop_assert_eq!(parsed.text, whole.as_bytes());
            prop_assert_eq!(parsed.stderr, stderr);
        }
    }
}
