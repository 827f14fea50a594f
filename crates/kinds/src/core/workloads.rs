//! ReplicationController and PodTemplate.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::apps::replicaset::check_status;
use crate::check::{any, has, labels as check_labels, not_negative, one_of};
use crate::columns::{AGE, age, column, containers, labels, wide};
use crate::edit::{default, int, object, set};
use crate::pods::{check_template, default_spec, default_template};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        Declared {
            categories: &["all"],
            ..super::core_kind(
                "ReplicationController",
                "replicationcontrollers",
                "replicationcontroller",
                &["rc"],
            )
            .with(
                typed::<v1::ReplicationController>,
                const {
                    &[
                        column("Desired", "integer"),
                        column("Current", "integer"),
                        column("Ready", "integer"),
                        AGE,
                        wide("Containers", "string"),
                        wide("Images", "string"),
                        wide("Selector", "string"),
                    ]
                },
                &Controller,
            )
            .status()
            .fields(&["status.replicas"])
        },
        super::core_kind("PodTemplate", "podtemplates", "podtemplate", &[]).with(
            typed::<v1::PodTemplate>,
            const {
                &[
                    column("Containers", "string"),
                    column("Images", "string"),
                    column("Pod Labels", "string"),
                ]
            },
            &Template,
        ),
    ]
}

struct Controller;
struct Template;

impl Strategy for Controller {
    fn default(&self, controller: &mut Value) {
        let given = controller.pointer("/spec/template/metadata/labels").cloned();
        if let Some(spec) = object(controller, "spec") {
            default(spec, "replicas", 1);
            if let Some(given) = given.clone().filter(Value::is_object)
                && !any(spec, "selector")
            {
                set(spec, "selector", given);
            }
            if has(spec, "template") {
                default_template(spec);
            }
        }
        if let Some(given) = given.filter(Value::is_object)
            && let Some(metadata) = object(controller, "metadata")
            && !any(metadata, "labels")
        {
            set(metadata, "labels", given);
        }
        if let Some(status) = object(controller, "status") {
            default(status, "replicas", 0);
        }
    }

    fn validate_create(&self, controller: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&controller["spec"], Path::new("spec"));
        not_negative(spec, &["minReadySeconds", "replicas"], &path, &mut errors);
        let at = path.child("selector");
        if !any(spec, "selector") {
            errors.required(&at, "");
        }
        check_labels(&spec["selector"], &at, &mut errors);
        let at = path.child("template");
        if !has(spec, "template") {
            errors.required(&at, "");
            return errors;
        }
        let of_pods = &spec["template"]["metadata"]["labels"];
        let selected = spec["selector"].as_object().into_iter().flatten();
        if selected.into_iter().any(|(k, v)| of_pods.get(k) != Some(v)) {
            let at = at.child("metadata").child("labels");
            errors.invalid(&at, of_pods, "`selector` does not match template `labels`");
        }
        check_template(&spec["template"], &at, &mut errors);
        let (pod, at) = (&spec["template"]["spec"], at.child("spec"));
        one_of(pod, "restartPolicy", &["Always"], &at, &mut errors);
        if has(pod, "activeDeadlineSeconds") {
            let words = "activeDeadlineSeconds in ReplicationController is not Supported";
            errors.forbidden(&at.child("activeDeadlineSeconds"), words);
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        check_status(&new["status"])
    }

    fn row(&self, controller: &Value, now: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(controller.pointer("/spec/template/spec"));
        vec![
            int(controller, "/spec/replicas").into(),
            int(controller, "/status/replicas").into(),
            int(controller, "/status/readyReplicas").into(),
            age(controller, now),
            names.into(),
            images.into(),
            labels(controller.pointer("/spec/selector")).into(),
        ]
    }
}

impl Strategy for Template {
    fn default(&self, template: &mut Value) {
        if let Some(spec) = template.pointer_mut("/template/spec").filter(|s| s.is_object()) {
            default_spec(spec);
        }
    }

    fn validate_create(&self, template: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_template(&template["template"], &Path::new("template"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, template: &Value, _: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(template.pointer("/template/spec"));
        vec![
            names.into(),
            images.into(),
            labels(template.pointer("/template/metadata/labels")).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn controllers() {
        let mut good = json!({"metadata": {"name": "c"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        Controller.default(&mut good);
        assert_eq!(good["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(good["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(good["spec"]["replicas"], 1);
        assert!(Controller.validate_create(&good).is_empty());
        let mut other = good.clone();
        other["spec"]["selector"] = json!({"a": "c"});
        expect(
            &Controller.validate_create(&other),
            "`selector` does not match template `labels`",
        );
        expect(
            &Controller.validate_create(&json!({"spec": {}})),
            "spec.selector: Required value",
        );
    }

    #[test]
    fn templates() {
        let mut template = json!({"template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}});
        Template.default(&mut template);
        assert!(Template.validate_create(&template).is_empty());
        assert_eq!(
            Template.row(&template, Timestamp::UNIX_EPOCH),
            [json!("c"), json!("i:1"), json!("<none>")]
        );
    }
}
