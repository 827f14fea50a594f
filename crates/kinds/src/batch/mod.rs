//! The batch group: Job and CronJob.

mod checks;
mod schedule;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};

use self::checks::{check_job, check_update};
use crate::check::{must_be_one_of, not_negative};
use crate::columns::{AGE, age, column, containers, selector, since, text_or_none, wide};
use crate::edit::{default, default_text, int, items, items_mut, object, set, text};
use crate::plain::Names;
use crate::pods::default_template;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy, Subresource};

/// The kinds of this file.
pub(crate) fn kinds() -> Vec<Declared> {
    let names = |kind, plural, singular, short_names| Names {
        group: "batch",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
    };
    vec![
        Declared {
            categories: &["all"],
            subresources: const { &[Subresource::Status] },
            selectable_fields: &["status.successful"],
            ..names("Job", "jobs", "job", &[]).with(
                typed::<v1::Job>,
                const {
                    &[
                        column("Status", "string"),
                        column("Completions", "string"),
                        column("Duration", "string"),
                        AGE,
                        wide("Containers", "string"),
                        wide("Images", "string"),
                        wide("Selector", "string"),
                    ]
                },
                &Job,
            )
        },
        Declared {
            categories: &["all"],
            subresources: const { &[Subresource::Status] },
            ..names("CronJob", "cronjobs", "cronjob", &["cj"]).with(
                typed::<v1::CronJob>,
                const {
                    &[
                        column("Schedule", "string"),
                        column("Timezone", "string"),
                        column("Suspend", "boolean"),
                        column("Active", "integer"),
                        column("Last Schedule", "string"),
                        AGE,
                        wide("Containers", "string"),
                        wide("Images", "string"),
                        wide("Selector", "string"),
                    ]
                },
                &CronJob,
            )
        },
    ]
}

struct Job;

impl Strategy for Job {
    fn prepare_create(&self, _: &Context<'_>, job: &mut Value) {
        // Unless the user brings a selector, the server makes one that no other Job has.
        if job["spec"]["manualSelector"] == true {
            return;
        }
        let uid = job
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let name = job
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let Some(spec) = object(job, "spec") else { return };
        if uid.is_empty() {
            return;
        }
        if let Some(labels) = object(spec, "template")
            .and_then(|t| object(t, "metadata"))
            .and_then(|m| object(m, "labels"))
        {
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &name),
                ("job-name", &name),
            ] {
                set(labels, key, value.as_str());
            }
        }
        set(
            spec,
            "selector",
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        );
    }

    fn default(&self, job: &mut Value) {
        if let Some(spec) = object(job, "spec") {
            default_job(spec);
        }
    }

    fn validate_create(&self, job: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_job(&job["spec"], &Path::new("spec"), true, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        check_update(new, old, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let counts = ["active", "succeeded", "failed", "ready", "terminating"];
        not_negative(&new["status"], &counts, &Path::new("status"), &mut errors);
        errors
    }

    fn field(&self, job: &Value, path: &str) -> String {
        match path {
            "status.successful" => int(job, "/status/succeeded").to_string(),
            _ => String::new(),
        }
    }

    fn row(&self, job: &Value, now: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(job.pointer("/spec/template/spec"));
        let has = |kind: &str| {
            items(&job["status"], "conditions").any(|c| text(c, "type") == kind && text(c, "status") == "True")
        };
        let status = match () {
            () if has("Complete") => "Complete",
            () if has("Failed") => "Failed",
            () if job.pointer("/metadata/deletionTimestamp").is_some() => "Terminating",
            () if has("Suspended") => "Suspended",
            () if has("FailureTarget") => "FailureTarget",
            () => "Running",
        };
        let done = int(job, "/status/succeeded");
        let completions = match (job["spec"]["completions"].as_i64(), int(job, "/spec/parallelism")) {
            (Some(n), _) => format!("{done}/{n}"),
            (None, n) if n > 1 => format!("{done}/1 of {n}"),
            (None, _) => format!("{done}/1"),
        };
        let end = job
            .pointer("/status/completionTime")
            .and_then(Value::as_str)
            .and_then(meta::time::parse);
        let duration = match job.pointer("/status/startTime") {
            Some(start) => since(Some(start), end.unwrap_or(now)),
            None => String::new(),
        };
        vec![
            status.into(),
            completions.into(),
            duration.into(),
            age(job, now),
            names.into(),
            images.into(),
            selector(job.pointer("/spec/selector")),
        ]
    }
}

fn default_job(spec: &mut Value) {
    let no_counts = spec["completions"].is_null() && spec["parallelism"].is_null();
    if no_counts {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let limit = if spec["backoffLimitPerIndex"].is_null() {
        6
    } else {
        i32::MAX
    };
    default(spec, "backoffLimit", limit);
    default_text(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let own_failures = spec["podFailurePolicy"].is_object();
    let replace = if own_failures { "Failed" } else { "TerminatingOrFailed" };
    default_text(spec, "podReplacementPolicy", replace);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            items_mut(rule, "onPodConditions").for_each(|c| default_text(c, "status", "True"));
        }
    }
    default(spec, "manualSelector", false);
    default_template(spec);
}

struct CronJob;

fn check_cron(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (schedule, at) = (text(spec, "schedule"), path.child("schedule"));
    if schedule.is_empty() {
        errors.required(&at, "");
    } else if schedule.contains("TZ") {
        let words = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(&at, quoted(schedule), words);
    } else if let Some(problem) = schedule::problem(schedule) {
        errors.invalid(&at, quoted(schedule), problem);
    }
    let at = path.child("timeZone");
    match spec.get("timeZone").and_then(Value::as_str) {
        Some("") => errors.invalid(&at, "\"\"", "timeZone must be nil or non-empty string"),
        Some(zone) if zone.eq_ignore_ascii_case("local") => {
            let words = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            errors.invalid(&at, quoted(zone), words);
        }
        _ => {}
    }
    must_be_one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], path, errors);
    not_negative(
        spec,
        &[
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ],
        path,
        errors,
    );
}

impl Strategy for CronJob {
    fn default(&self, cron: &mut Value) {
        let Some(spec) = object(cron, "spec") else { return };
        default_text(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = object(spec, "jobTemplate").and_then(|t| object(t, "spec")) {
            default_template(template);
        }
    }

    fn validate_create(&self, cron: &Value) -> ErrorList {
        const LONGEST: usize = 52;
        let mut errors = ErrorList::new();
        let (spec, path) = (&cron["spec"], Path::new("spec"));
        let name = text(&cron["metadata"], "name");
        if name.len() > LONGEST {
            // Eleven more are taken by the time in the names of its Jobs.
            let at = Path::new("metadata").child("name");
            errors.invalid(&at, quoted(name), format!("must be no more than {LONGEST} characters"));
        }
        check_cron(spec, &path, &mut errors);
        let at = path.child("jobTemplate").child("spec");
        check_job(&spec["jobTemplate"]["spec"], &at, false, &mut errors);
        if spec["jobTemplate"]["spec"]["manualSelector"] == true {
            let at = at.child("manualSelector");
            errors.add(
                meta::field::ErrorKind::NotSupported,
                &at,
                true,
                "supported values: \"nil\", \"false\"",
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, cron: &Value, now: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(cron.pointer("/spec/jobTemplate/spec/template/spec"));
        let last = match cron.pointer("/status/lastScheduleTime") {
            Some(time) => since(Some(time), now),
            None => "<none>".to_owned(),
        };
        vec![
            text_or_none(cron, "/spec/schedule"),
            text_or_none(cron, "/spec/timeZone"),
            cron["spec"]["suspend"].as_bool().unwrap_or(false).to_string().into(),
            cron.pointer("/status/active")
                .and_then(Value::as_array)
                .map_or(0, Vec::len)
                .into(),
            last.into(),
            age(cron, now),
            names.into(),
            images.into(),
            selector(cron.pointer("/spec/jobTemplate/spec/selector")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    fn job() -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        let context = Context {
            now: Timestamp::UNIX_EPOCH,
            namespace: "n",
            user: "u",
        };
        Job.prepare_create(&context, &mut job);
        Job.default(&mut job);
        job
    }

    #[test]
    fn jobs() {
        let good = job();
        for (field, value) in [
            ("completions", json!(1)),
            ("parallelism", json!(1)),
            ("backoffLimit", json!(6)),
            ("completionMode", json!("NonIndexed")),
            ("suspend", json!(false)),
            ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ] {
            assert_eq!(good["spec"][field], value, "{field}");
        }
        let errors = Job.validate_create(&good);
        assert!(errors.is_empty(), "{errors}");
        for (field, value, words) in [
            (
                "parallelism",
                json!(-1),
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("selector", json!(null), "spec.selector: Required value"),
            (
                "completionMode",
                json!("X"),
                "spec.completionMode: Unsupported value: \"X\": supported values: \"Indexed\", \"NonIndexed\"",
            ),
            (
                "maxFailedIndexes",
                json!(1),
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
            ),
            (
                "podFailurePolicy",
                json!({"rules": [{"action": "Ignore"}]}),
                "specifying one of OnExitCodes and OnPodConditions is required",
            ),
        ] {
            let mut job = good.clone();
            job["spec"][field] = value;
            expect(&Job.validate_create(&job), words);
        }
        let mut other = good.clone();
        other["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
        other["spec"]["completions"] = 2.into();
        let errors = Job.validate_update(&other, &good);
        expect(
            &errors,
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        );
        expect(&errors, "spec.completions: Invalid value: 2: field is immutable");
        expect(&errors, "field is immutable");
    }

    #[test]
    fn cron_jobs() {
        let mut good = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *",
            "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}}});
        CronJob.default(&mut good);
        assert_eq!(good["spec"]["successfulJobsHistoryLimit"], 3);
        let errors = CronJob.validate_create(&good);
        assert!(errors.is_empty(), "{errors}");
        for (field, value, words) in [
            ("schedule", json!(""), "spec.schedule: Required value"),
            (
                "schedule",
                json!("TZ=UTC * * * * *"),
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            ("timeZone", json!("Local"), "timeZone must be an explicit time zone"),
            (
                "concurrencyPolicy",
                json!("X"),
                "supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
        ] {
            let mut cron = good.clone();
            cron["spec"][field] = value;
            expect(&CronJob.validate_create(&cron), words);
        }
    }
}
