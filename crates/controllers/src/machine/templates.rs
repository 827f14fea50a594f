//! `spec.dataVolumeTemplates`: the claims that a machine brings. DataVolumes are
//! not served, so a blank one becomes its claim at once, and what would have to
//! be fetched from somewhere is said not to be there.

use kinds::resources::CLAIMS;
use reconcile::{EventKind, Plan, View};
use serde_json::{Value, json};

use super::Work;
use crate::common::owner_reference;

impl Work {
    /// Makes the claims that are missing; what cannot be made.
    pub(super) fn bring_claims(&self, plan: &mut Plan, view: &dyn View) -> Option<String> {
        let templates = self.value["spec"]["dataVolumeTemplates"].as_array();
        let mut cannot = None;
        for template in templates.into_iter().flatten() {
            let name = template["metadata"]["name"].as_str().unwrap_or_default();
            let present = view.get(&CLAIMS, self.machine.namespace(), name).is_some();
            if name.is_empty() || present || self.machine.is_deleting() {
                continue;
            }
            if !template["spec"]["source"]["blank"].is_object() {
                cannot.get_or_insert(format!(
                    "DataVolume {name} cannot be filled: only blank ones are supported here; make a \
                     PersistentVolumeClaim {name} with the data instead"
                ));
                continue;
            }
            let mut claim = claim(template);
            claim["metadata"]["ownerReferences"] = json!([owner_reference(&self.machine)]);
            plan.create(&CLAIMS, self.machine.namespace(), claim);
            let message = format!("Created DataVolume {name}");
            plan.event(&self.machine, EventKind::Normal, "SuccessfulDataVolumeCreate", message);
        }
        cannot
    }
}

/// The claim of a template.
fn claim(template: &Value) -> Value {
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    let wanted = if spec["storage"].is_object() {
        &spec["storage"]
    } else {
        &spec["pvc"]
    };
    let mut out = json!({"accessModes": ["ReadWriteOnce"], "resources": wanted["resources"]});
    for field in ["accessModes", "storageClassName", "volumeMode", "selector"] {
        if !wanted[field].is_null() {
            out[field] = wanted[field].clone();
        }
    }
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": metadata["name"]}, "spec": out});
    for field in ["labels", "annotations"] {
        if metadata[field].is_object() {
            claim["metadata"][field] = metadata[field].clone();
        }
    }
    claim
}
