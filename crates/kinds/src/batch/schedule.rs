//! Whether a text is a schedule of cron: five fields, or a word such as `@daily`.

/// One field: its bounds, and names for its numbers.
struct Field {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        least: 0,
        most: 59,
        names: &[],
    },
    Field {
        least: 0,
        most: 23,
        names: &[],
    },
    Field {
        least: 1,
        most: 31,
        names: &[],
    },
    Field {
        least: 1,
        most: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        least: 0,
        most: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

/// What is wrong with a schedule.
pub(super) fn problem(schedule: &str) -> Option<String> {
    const WORDS: [&str; 7] = [
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
    ];
    if schedule.starts_with('@') {
        let known = WORDS.contains(&schedule) || schedule.starts_with("@every ");
        return (!known).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        let given = parts.join(" ");
        return Some(format!("expected exactly 5 fields, found {}: [{given}]", parts.len()));
    }
    FIELDS
        .iter()
        .zip(parts)
        .find_map(|(field, part)| part.split(',').find_map(|p| field.problem(p)))
}

impl Field {
    fn problem(&self, part: &str) -> Option<String> {
        let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
        if let Some(step) = step {
            match number(step) {
                Err(words) => return Some(words),
                Ok(0) => return Some(format!("step of range should be a positive number: {part}")),
                Ok(_) => {}
            }
        }
        if matches!(range, "*" | "?") {
            return None;
        }
        let (first, last) = match range.split_once('-') {
            Some((_, rest)) if rest.contains('-') => return Some(format!("too many hyphens: {part}")),
            Some((first, last)) => (self.value(first), self.value(last)),
            None => (self.value(range), self.value(range)),
        };
        let (first, last) = match (first, last) {
            (Ok(first), Ok(last)) => (first, last),
            (Err(words), _) | (_, Err(words)) => return Some(words),
        };
        if first < self.least {
            return Some(format!(
                "beginning of range ({first}) below minimum ({}): {part}",
                self.least
            ));
        }
        if last > self.most {
            return Some(format!("end of range ({last}) above maximum ({}): {part}", self.most));
        }
        (first > last).then(|| format!("beginning of range ({first}) beyond end of range ({last}): {part}"))
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|n| n.eq_ignore_ascii_case(text));
        match named {
            Some(i) => Ok(self.least + i as u32),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        let shown = meta::field::quoted(text);
        format!("failed to parse int from {text}: strconv.Atoi: parsing {shown}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-6 1,15 JAN-mar ?",
            "@daily",
            "@every 1h",
            "0 0 * * 7-0",
        ] {
            let found = problem(good);
            assert_eq!(found.is_none(), good != "0 0 * * 7-0", "{good}: {found:?}");
        }
        for (bad, words) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(problem(bad).as_deref(), Some(words));
        }
    }
}
