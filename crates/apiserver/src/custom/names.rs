//! Which of a definition's names it gets: those that nothing else in its group
//! has. A pure decision.

use serde_json::{Value, json};

/// What was decided.
pub(super) struct Names {
    /// `status.acceptedNames`.
    pub accepted: Value,
    /// Reason and message of the first name that is taken.
    pub problem: Option<(&'static str, String)>,
}

impl Names {
    /// Judges the names that a definition wants against those that others have (`acceptedNames`).
    /// What it has already it keeps.
    pub fn judge(crd: &Value, taken: &[Value]) -> Self {
        let wanted = &crd["spec"]["names"];
        let mut accepted = crd["status"]["acceptedNames"].clone();
        if !accepted.is_object() {
            accepted = json!({"plural": "", "kind": ""});
        }
        let mut problem = None;
        let resources = |n: &Value| -> Vec<String> {
            let short = n["shortNames"].as_array().into_iter().flatten();
            [&n["plural"], &n["singular"]]
                .into_iter()
                .chain(short)
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        };
        let kinds = |n: &Value| -> Vec<String> {
            [&n["kind"], &n["listKind"]]
                .into_iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        };
        let all_resources: Vec<String> = taken.iter().flat_map(resources).collect();
        let all_kinds: Vec<String> = taken.iter().flat_map(kinds).collect();
        for (field, reason, others) in [
            ("plural", "PluralConflict", &all_resources),
            ("singular", "SingularConflict", &all_resources),
            ("kind", "KindConflict", &all_kinds),
            ("listKind", "ListKindConflict", &all_kinds),
        ] {
            let name = wanted[field].as_str().unwrap_or_default();
            if others.iter().any(|o| o == name) {
                problem.get_or_insert((reason, format!("{name:?} is already in use")));
            } else if !name.is_empty() {
                accepted[field] = name.into();
            }
        }
        let short = wanted["shortNames"].as_array().map_or(&[][..], Vec::as_slice);
        let free = |n: &&Value| !all_resources.iter().any(|o| **n == **o);
        match short.iter().find(|n| !free(n)) {
            Some(taken) => {
                let message = format!("{:?} is already in use", taken.as_str().unwrap_or_default());
                problem.get_or_insert(("ShortNamesConflict", message));
            }
            None if short.is_empty() => {
                accepted.as_object_mut().map(|a| a.remove("shortNames"));
            }
            None => accepted["shortNames"] = short.into(),
        }
        match &wanted["categories"] {
            Value::Null => {
                accepted.as_object_mut().map(|a| a.remove("categories"));
            }
            categories => accepted["categories"] = categories.clone(),
        }
        Names { accepted, problem }
    }

    /// Status, reason and message of `NamesAccepted`.
    pub fn condition(&self) -> (&'static str, &'static str, &str) {
        match &self.problem {
            None => ("True", "NoConflicts", "no conflicts found"),
            Some((reason, message)) => ("False", reason, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(plural: &str, kind: &str) -> Value {
        json!({"spec": {"names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
            "listKind": format!("{kind}List"), "shortNames": ["ct"]}}, "status": {}})
    }

    #[test]
    fn free_names_are_accepted_and_taken_ones_named() {
        let free = Names::judge(&crd("crontabs", "CronTab"), &[]);
        assert_eq!(free.condition(), ("True", "NoConflicts", "no conflicts found"));
        assert_eq!(free.accepted["shortNames"], json!(["ct"]));
        let taken = [free.accepted];
        for (plural, kind, reason, message) in [
            ("crontabs", "Other", "PluralConflict", "\"crontabs\" is already in use"),
            ("others", "CronTab", "SingularConflict", "\"crontab\" is already in use"),
            ("others", "Other", "ShortNamesConflict", "\"ct\" is already in use"),
        ] {
            let judged = Names::judge(&crd(plural, kind), &taken);
            assert_eq!(judged.condition(), ("False", reason, message));
        }
    }

    #[test]
    fn what_it_has_it_keeps() {
        let mut old = crd("crontabs", "CronTab");
        old["status"]["acceptedNames"] = Names::judge(&old, &[]).accepted;
        old["spec"]["names"]["kind"] = "Taken".into();
        let judged = Names::judge(&old, &[json!({"kind": "Taken"})]);
        assert_eq!(judged.condition().1, "KindConflict");
        assert_eq!(judged.accepted["kind"], "CronTab");
    }
}
