//! The batch group: Job and CronJob.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};

use crate::columns::{AGE, age, column, containers, selector, since, text_or_none, wide};
use crate::edit::{default, default_text, int, items, object, set, text};
use crate::plain::Names;
use crate::pods::{default_template, validate_spec};
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
        validate_job(&job["spec"], &Path::new("spec"), &mut errors);
        errors
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
            () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
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
    default(spec, "backoffLimit", 6);
    default_text(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default_text(spec, "podReplacementPolicy", "TerminatingOrFailed");
    default(spec, "manualSelector", false);
    default_template(spec);
}

fn validate_job(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for field in [
        "completions",
        "parallelism",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        if let Some(n) = spec.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
            errors.invalid(&path.child(field), n, "must be greater than or equal to 0");
        }
    }
    let empty = Value::Null;
    let pod = spec.pointer("/template/spec").unwrap_or(&empty);
    let at = path.child("template").child("spec");
    validate_spec(pod, &at, false, errors);
    let policy = text(pod, "restartPolicy");
    if !["OnFailure", "Never"].contains(&policy) {
        errors.add(
            meta::field::ErrorKind::Required,
            &at.child("restartPolicy"),
            "",
            "valid values: \"OnFailure\", \"Never\"",
        );
    }
}

struct CronJob;

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
        let mut errors = ErrorList::new();
        let (spec, path) = (&cron["spec"], Path::new("spec"));
        let schedule = text(spec, "schedule");
        if schedule.is_empty() {
            errors.required(&path.child("schedule"), "");
        } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
            let count = schedule.split_whitespace().count();
            let words = format!("expected exactly 5 fields, found {count}: [{schedule}]");
            errors.invalid(&path.child("schedule"), quoted(schedule), words);
        }
        let policy = text(spec, "concurrencyPolicy");
        if !["Allow", "Forbid", "Replace"].contains(&policy) {
            errors.not_supported(
                &path.child("concurrencyPolicy"),
                policy,
                &["Allow", "Forbid", "Replace"],
            );
        }
        validate_job(
            &spec["jobTemplate"]["spec"],
            &path.child("jobTemplate").child("spec"),
            &mut errors,
        );
        errors
    }

    fn row(&self, cron: &Value, now: Timestamp) -> Vec<Cell> {
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
        ]
    }
}
