//! Checks of security contexts of pods and containers.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use super::resources::check_resources;
use crate::check::{has, one_of, show};
use crate::edit::{items, text};

const IDS: &str = "must be between 0 and 2147483647, inclusive";

fn check_ids(context: &Value, fields: &[&str], at: &Path, errors: &mut ErrorList) {
    for field in fields {
        if let Some(n) = context[*field].as_i64()
            && !(0..=i64::from(i32::MAX)).contains(&n)
        {
            errors.invalid(&at.child(field), n, IDS);
        }
    }
}

/// Checks a profile of seccomp or AppArmor.
fn check_profile(context: &Value, field: &str, what: &str, at: &Path, errors: &mut ErrorList) {
    if !has(context, field) {
        return;
    }
    let (profile, at) = (&context[field], at.child(field));
    let (kind, local) = (text(profile, "type"), text(profile, "localhostProfile"));
    let place = at.child("localhostProfile");
    let words = format!("when {what} type is Localhost");
    match kind {
        "" => errors.required(&at.child("type"), &format!("type is required when {field} is set")),
        "Localhost" if local.is_empty() => errors.required(&place, &format!("must be set {words}")),
        "Localhost" if field == "seccompProfile" => super::mounts::descending(local, &place, errors),
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" if has(profile, "localhostProfile") => {
            errors.invalid(&place, quoted(local), format!("can only be set {words}"));
        }
        "RuntimeDefault" | "Unconfined" => {}
        other => errors.not_supported(&at.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// Checks what concerns the security of a pod as a whole.
pub(super) fn check_pod_security(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (context, at) = (&spec["securityContext"], path.child("securityContext"));
    check_ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &at, errors);
    for (i, group) in items(context, "supplementalGroups").enumerate() {
        if let Some(n) = group.as_i64()
            && !(0..=i64::from(i32::MAX)).contains(&n)
        {
            errors.invalid(&at.child("supplementalGroups").index(i), n, IDS);
        }
    }
    one_of(
        context,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
        &at,
        errors,
    );
    one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &at, errors);
    one_of(
        context,
        "seLinuxChangePolicy",
        &["MountOption", "Recursive"],
        &at,
        errors,
    );
    check_profile(context, "seccompProfile", "seccomp", &at, errors);
    check_profile(context, "appArmorProfile", "AppArmor", &at, errors);
    check_sysctls(context, &at.child("sysctls"), errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec["hostUsers"] == false {
        for field in ["hostPID", "hostIPC", "hostNetwork"] {
            if spec[field] == true {
                errors.forbidden(&path.child(field), "when `hostUsers` is false");
            }
        }
    }
    if has(spec, "resources") {
        check_resources(spec, spec, path, errors);
    }
}

fn check_sysctls(context: &Value, path: &Path, errors: &mut ErrorList) {
    const LONGEST: usize = 253;
    let mut seen = BTreeSet::new();
    for (i, sysctl) in items(context, "sysctls").enumerate() {
        let (name, at) = (text(sysctl, "name"), path.index(i).child("name"));
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let part = |p: &str| {
            let inner = |b: u8| edge(b) || matches!(b, b'-' | b'_');
            p.bytes().all(inner) && p.bytes().next().is_some_and(edge) && p.bytes().last().is_some_and(edge)
        };
        if name.is_empty() {
            errors.required(&at, "");
        } else if name.len() > LONGEST || !name.split(['.', '/']).all(part) {
            let words = format!(
                "must have at most {LONGEST} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.invalid(&at, quoted(name), words);
        } else if !seen.insert(name) {
            errors.duplicate(&at, quoted(name));
        }
    }
}

/// Checks the security context of a container.
pub(super) fn check_security(context: &Value, own_users: bool, at: &Path, errors: &mut ErrorList) {
    if !context.is_object() {
        return;
    }
    check_ids(context, &["runAsUser", "runAsGroup"], at, errors);
    one_of(context, "procMount", &["Default", "Unmasked"], at, errors);
    if text(context, "procMount") == "Unmasked" && !own_users {
        let words = "`hostUsers` must be false to use `Unmasked`";
        errors.invalid(&at.child("procMount"), quoted("Unmasked"), words);
    }
    check_profile(context, "seccompProfile", "seccomp", at, errors);
    check_profile(context, "appArmorProfile", "AppArmor", at, errors);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let words = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(at, show(context), words);
        }
        let admin = |c: &Value| c == "CAP_SYS_ADMIN";
        if items(&context["capabilities"], "add").any(admin) {
            let words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(at, show(context), words);
        }
    }
}
