//! The pods of a StatefulSet and their claims: what they look like and who owns them.
//!
//! Must not decide when.

use kinds::resources::{CLAIMS, PODS};
use meta::{Object, OwnerReference};
use reconcile::{EventKind, Plan};
use serde_json::{Value, json};

use super::{Member, REVISION, Set};
use crate::common::owner_reference;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number of a pod, if its name is that of a pod of the set.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    (plain && canonical).then(|| digits.parse().ok()).flatten()
}

impl Set<'_> {
    /// Creates a pod and the claims that are missing.
    pub(super) fn create(&self, plan: &mut Plan, ordinal: i64) {
        let name = format!("{}-{ordinal}", self.object.name());
        self.create_claims(plan, ordinal, &name);
        let revision = self.revision_for(ordinal);
        let template = match self.history.named(revision) {
            Some(r) => &r.template,
            None => &self.value["spec"]["template"],
        };
        let mut metadata = json!({"name": name, "generateName": format!("{}-", self.object.name()),
            "ownerReferences": [owner_reference(self.object)], "labels": {}});
        for field in ["labels", "annotations", "finalizers"] {
            let value = &template["metadata"][field];
            if !value.is_null() {
                metadata[field] = value.clone();
            }
        }
        metadata["labels"][POD_NAME] = name.as_str().into();
        metadata["labels"][POD_INDEX] = ordinal.to_string().into();
        metadata["labels"][REVISION] = revision.into();
        let mut spec = template["spec"].clone();
        spec["hostname"] = name.as_str().into();
        let service = &self.value["spec"]["serviceName"];
        if service.as_str().is_some_and(|s| !s.is_empty()) {
            spec["subdomain"] = service.clone();
        }
        self.add_volumes(&mut spec, ordinal);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        plan.create(&PODS, self.object.namespace(), pod);
        let message = format!("create Pod {name} in StatefulSet {} successful", self.object.name());
        plan.event(self.object, EventKind::Normal, "SuccessfulCreate", message);
    }

    /// Claims take the place of the template's volumes of the same names.
    fn add_volumes(&self, spec: &mut Value, ordinal: i64) {
        let claims: Vec<(String, String)> = self.claim_names(ordinal).collect();
        if claims.is_empty() {
            return;
        }
        let mut volumes: Vec<Value> = claims
            .iter()
            .map(|(volume, claim)| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}))
            .collect();
        let own = spec["volumes"].as_array().cloned().unwrap_or_default();
        let replaced = |v: &Value| claims.iter().any(|(name, _)| v["name"] == name.as_str());
        volumes.extend(own.into_iter().filter(|v| !replaced(v)));
        spec["volumes"] = volumes.into();
    }

    fn templates(&self) -> impl Iterator<Item = &Value> {
        self.value["spec"]["volumeClaimTemplates"]
            .as_array()
            .into_iter()
            .flatten()
    }

    /// Volume and claim of each template.
    fn claim_names(&self, ordinal: i64) -> impl Iterator<Item = (String, String)> {
        self.templates().map(move |t| {
            let volume = t["metadata"]["name"].as_str().unwrap_or_default();
            let claim = format!("{volume}-{}-{ordinal}", self.object.name());
            (volume.to_owned(), claim)
        })
    }

    /// Whether a claim of a pod to come is about to vanish: its successor has to be waited for.
    pub(super) fn claims_are_going(&self, ordinal: i64) -> bool {
        let namespace = self.object.namespace();
        self.claim_names(ordinal)
            .filter_map(|(_, name)| self.view.get(&CLAIMS, namespace, &name))
            .any(|c| c.is_deleting())
    }

    /// Creates the claims of a pod that are missing.
    pub(super) fn create_claims(&self, plan: &mut Plan, ordinal: i64, pod: &str) {
        let namespace = self.object.namespace();
        for (template, (_, name)) in self.templates().zip(self.claim_names(ordinal)) {
            if self.view.get(&CLAIMS, namespace, &name).is_some() {
                continue;
            }
            let mut claim = template.clone();
            if let Some(map) = claim.as_object_mut() {
                map.remove("status");
            }
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
            claim["metadata"]["name"] = name.as_str().into();
            let labels = self.value["spec"]["selector"]["matchLabels"].as_object();
            for (k, v) in labels.into_iter().flatten() {
                claim["metadata"]["labels"][k] = v.clone();
            }
            if self.retention("whenDeleted") == "Delete" {
                claim["metadata"]["ownerReferences"] = json!([self.set_reference()]);
            }
            plan.ensure(&CLAIMS, namespace, claim);
            let set = self.object.name();
            let message = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
            plan.event(self.object, EventKind::Normal, "SuccessfulCreate", message);
        }
    }

    fn retention(&self, when: &str) -> &str {
        self.value["spec"]["persistentVolumeClaimRetentionPolicy"][when]
            .as_str()
            .unwrap_or("Retain")
    }

    fn set_reference(&self) -> Value {
        let mut reference = owner_reference(self.object);
        reference["controller"] = true.into();
        reference
    }

    /// Who is to take the claims of a pod along when it goes: the set, the pod, or nobody.
    pub(super) fn fix_claim_owners(&self, plan: &mut Plan) {
        if self.value["spec"]["persistentVolumeClaimRetentionPolicy"].is_null() {
            return;
        }
        for (ordinal, member) in &self.members {
            let condemned = !self.is_wanted(*ordinal);
            let by_pod = condemned && self.retention("whenScaled") == "Delete";
            let by_set = !by_pod && self.retention("whenDeleted") == "Delete";
            for (_, name) in self.claim_names(*ordinal) {
                let Some(claim) = self.view.get(&CLAIMS, self.object.namespace(), &name) else {
                    continue;
                };
                let wanted = self.owners(&claim, member, by_pod, by_set);
                if !claim.is_deleting() && wanted != json!(claim.header().owner_references) {
                    plan.patch(&CLAIMS, &claim, json!({"metadata": {"ownerReferences": wanted}}));
                }
            }
        }
    }

    fn owners(&self, claim: &Object, member: &Member, by_pod: bool, by_set: bool) -> Value {
        let present = &claim.header().owner_references;
        let ours =
            |o: &OwnerReference| o.uid == self.object.uid() || (o.kind == "Pod" && o.name == member.object.name());
        let mut owners: Vec<Value> = present.iter().filter(|o| !ours(o)).map(|o| json!(o)).collect();
        if by_set {
            let there = present.iter().find(|o| o.uid == self.object.uid());
            owners.push(there.map_or_else(|| self.set_reference(), |o| json!(o)));
        }
        if by_pod {
            let pod = &member.object;
            owners.push(
                json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid(),
                "controller": true, "blockOwnerDeletion": true}),
            );
        }
        owners.into()
    }

    /// A pod that was adopted may lack the labels that name it.
    pub(super) fn fix_labels(&self, plan: &mut Plan, ordinal: i64, member: &Member) {
        let labels = member.object.labels();
        let (name, index) = (member.object.name(), ordinal.to_string());
        if labels.get(POD_NAME).map(String::as_str) != Some(name) || labels.get(POD_INDEX) != Some(&index) {
            let wanted = json!({POD_NAME: name, POD_INDEX: index});
            plan.patch(&PODS, &member.object, json!({"metadata": {"labels": wanted}}));
        }
    }
}
