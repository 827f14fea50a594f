//! What Jobs must hold to, alone and as templates of CronJobs.

use meta::field::{ErrorKind, ErrorList, Path, quoted};
use serde_json::Value;

use crate::check::{any, has, immutable, not_negative, one_of};
use crate::edit::{drop, int, items, text};
use crate::pods::{check_template, selects};

const MOST_INDEXES: i64 = 100_000;
const MOST_RULES: usize = 20;

/// Checks the spec of a Job; `own` when it is a Job's and no template's.
pub(super) fn check_job(spec: &Value, path: &Path, own: bool, errors: &mut ErrorList) {
    not_negative(
        spec,
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
        path,
        errors,
    );
    check_indexes(spec, path, errors);
    one_of(
        spec,
        "podReplacementPolicy",
        &["Failed", "TerminatingOrFailed"],
        path,
        errors,
    );
    if own {
        check_selector(spec, path, errors);
    }
    check_failure_policy(spec, &path.child("podFailurePolicy"), errors);
    let template = path.child("template");
    check_template(&spec["template"], &template, errors);
    let pod = &spec["template"]["spec"];
    let (policy, at) = (
        text(pod, "restartPolicy"),
        template.child("spec").child("restartPolicy"),
    );
    if policy == "Always" {
        let words = "valid values: \"OnFailure\", \"Never\"";
        errors.add(ErrorKind::Required, &at, "", words);
    }
    if has(spec, "podFailurePolicy") && policy != "Never" {
        let words = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.invalid(&at, quoted(policy), words);
    }
}

fn check_indexes(spec: &Value, path: &Path, errors: &mut ErrorList) {
    one_of(spec, "completionMode", &["Indexed", "NonIndexed"], path, errors);
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed {
        if !has(spec, "completions") {
            let words = "when completion mode is Indexed";
            errors.required(&path.child("completions"), words);
        }
        let parallel = int(spec, "/parallelism");
        if parallel > MOST_INDEXES {
            let words = format!("must be less than or equal to {MOST_INDEXES} when completion mode is Indexed");
            errors.invalid(&path.child("parallelism"), parallel, words);
        }
    }
    if !indexed && has(spec, "backoffLimitPerIndex") {
        let n = int(spec, "/backoffLimitPerIndex");
        errors.invalid(
            &path.child("backoffLimitPerIndex"),
            n,
            "requires indexed completion mode",
        );
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let words = "when maxFailedIndexes is specified";
        errors.required(&path.child("backoffLimitPerIndex"), words);
    }
    if has(spec, "successPolicy") && !indexed {
        let words = "requires indexed completion mode";
        errors.invalid(&path.child("successPolicy"), &spec["successPolicy"], words);
    }
}

fn check_selector(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("selector");
    let Some(given) = spec.get("selector").filter(|s| !s.is_null()) else {
        return errors.required(&at, "");
    };
    crate::check::label_selector(given, &at, errors);
    if let Ok(selector) = meta::LabelSelector::from_object(given)
        && !selects(&selector, spec)
    {
        let at = path.child("template").child("metadata").child("labels");
        let labels = &spec["template"]["metadata"]["labels"];
        errors.invalid(&at, labels, "`selector` does not match template `labels`");
    }
}

fn check_failure_policy(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let policy = &spec["podFailurePolicy"];
    let rules = path.child("rules");
    let count = items(policy, "rules").count();
    if count > MOST_RULES {
        errors.too_many(&rules, count, MOST_RULES);
    }
    for (i, rule) in items(policy, "rules").enumerate() {
        let at = rules.index(i);
        let action = text(rule, "action");
        if action.is_empty() {
            errors.required(
                &at.child("action"),
                "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
            );
        }
        one_of(
            rule,
            "action",
            &["Count", "FailIndex", "FailJob", "Ignore"],
            &at,
            errors,
        );
        if action == "FailIndex" && !has(spec, "backoffLimitPerIndex") {
            let words = "requires the backoffLimitPerIndex to be set";
            errors.invalid(&at.child("action"), quoted(action), words);
        }
        let (codes, conditions) = (has(rule, "onExitCodes"), any(rule, "onPodConditions"));
        if codes == conditions {
            let words = if codes {
                "specifying both OnExitCodes and OnPodConditions is not supported"
            } else {
                "specifying one of OnExitCodes and OnPodConditions is required"
            };
            errors.invalid(&at, rule, words);
        }
        if codes {
            let (wanted, at) = (&rule["onExitCodes"], at.child("onExitCodes"));
            crate::check::must_be_one_of(wanted, "operator", &["In", "NotIn"], &at, errors);
            if !any(wanted, "values") {
                errors.invalid(&at.child("values"), &wanted["values"], "at least one value is required");
            }
            if text(wanted, "operator") == "In" && items(wanted, "values").any(|v| v.as_i64() == Some(0)) {
                let words = "must not be 0 for the In operator";
                errors.invalid(&at.child("values"), 0, words);
            }
        }
    }
}

/// Checks a change of a Job.
pub(super) fn check_update(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    let completions = |s: &Value| s["completions"].as_i64();
    if completions(spec) != completions(was) {
        let at = path.child("completions");
        let parallel = spec["parallelism"].as_i64();
        if text(spec, "completionMode") != "Indexed" {
            immutable(&spec["completions"], &was["completions"], &at, errors);
        } else if completions(spec) != parallel {
            let words = format!("can only be modified in tandem with {}", path.child("parallelism"));
            errors.invalid(&at, &spec["completions"], words);
        }
    }
    // While nothing runs, where it will run may be said anew.
    let waiting = was["suspend"] == true && !has(&old["status"], "startTime");
    let template = |s: &Value| fixed(&s["template"], waiting);
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(&spec[field], &was[field], &path.child(field), errors);
    }
    if template(spec) != template(was) {
        let at = path.child("template");
        errors.invalid(&at, &spec["template"], crate::check::IMMUTABLE);
    }
}

fn fixed(template: &Value, waiting: bool) -> Value {
    let mut template = template.clone();
    if waiting {
        if let Some(spec) = template.get_mut("spec") {
            for field in ["affinity", "nodeSelector", "tolerations", "schedulingGates"] {
                drop(spec, field);
            }
        }
        if let Some(metadata) = template.get_mut("metadata") {
            for field in ["labels", "annotations"] {
                drop(metadata, field);
            }
        }
    }
    template
}
