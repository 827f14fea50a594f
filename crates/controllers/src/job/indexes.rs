//! Sets of completion indexes as the status prints them: `0,2-4,7`.
//!
//! Must not know pods.

use std::collections::BTreeSet;

/// Indexes of one list are at most as many as upstream allows completions, so that a text
/// from outside cannot fill the memory.
const MOST: i64 = 1_000_000;

/// Reads a set; what is malformed is left out.
pub(super) fn parse(text: &str) -> BTreeSet<i64> {
    let mut out = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            out.extend(first.max(0)..=last.min(first.saturating_add(MOST)));
        }
    }
    out
}

/// Three or more in a row are printed as the first and the last.
pub(super) fn print(set: &BTreeSet<i64>) -> String {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for n in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    let texts: Vec<String> = runs
        .into_iter()
        .map(|(a, b)| match b - a {
            0 => a.to_string(),
            1 => format!("{a},{b}"),
            _ => format!("{a}-{b}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_round_trip() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7,9,10"] {
            assert_eq!(print(&parse(text)), text);
        }
        assert_eq!(parse("x,2-,3"), BTreeSet::from([3]));
    }
}
