//! Names of kinds and resources. Must not know which of them exist.

use std::borrow::Cow;
use std::fmt;

/// Group, version and kind, as in `apps/v1, Kind=Deployment`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// Version, such as `v1`.
    pub version: Cow<'static, str>,
    /// Kind, such as `Deployment`.
    pub kind: Cow<'static, str>,
}

impl Gvk {
    /// A kind known at compile time.
    pub const fn of(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        Gvk {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
        }
    }

    /// From the `apiVersion` and `kind` fields of an object.
    pub fn parse(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Gvk {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            kind: kind.to_owned().into(),
        }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// Group, version and resource (the plural in the path), as in `apps/v1/deployments`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// Version, such as `v1`.
    pub version: Cow<'static, str>,
    /// Plural resource name, such as `deployments`.
    pub resource: Cow<'static, str>,
}

impl Gvr {
    /// A resource known at compile time.
    pub const fn of(group: &'static str, version: &'static str, resource: &'static str) -> Self {
        Gvr {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
        }
    }

    /// A resource whose name comes from input.
    pub fn named(group: &str, version: &str, resource: &str) -> Self {
        Gvr {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            resource: resource.to_owned().into(),
        }
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }

    /// `deployments.apps`, or `pods` for the core group, as messages print it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.resource)
    }
}

/// Splits `apps/v1` into group and version; a lone `v1` is the core group's.
pub(crate) fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_version_round_trips() {
        for (text, group) in [("v1", ""), ("apps/v1", "apps"), ("kubevirt.io/v1", "kubevirt.io")] {
            let gvk = Gvk::parse(text, "X");
            assert_eq!(gvk.group, group);
            assert_eq!(gvk.api_version(), text);
        }
    }
}

/// The order in which versions of a group are offered: `v2`, `v1`, `v1beta2`, `v1beta1`, `v1alpha1`,
/// then whatever does not look like a version, by name.
pub fn version_order(a: &str, b: &str) -> std::cmp::Ordering {
    match (Version::parse(a), Version::parse(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// `v1beta2` is (1, 1, 2): stability first, then the numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    stability: u8,
    major: u32,
    minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = rest.split_at(digits);
        let (stability, minor) = match rest {
            "" => (2, "0"),
            _ => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
                (Some(minor), _) => (1, minor),
                (_, Some(minor)) => (0, minor),
                _ => return None,
            },
        };
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
            text.parse().ok().filter(|_| plain)
        };
        Some(Version {
            stability,
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

#[cfg(test)]
mod version_tests {
    #[test]
    fn the_stablest_and_newest_comes_first() {
        let mut all = [
            "foo10",
            "v1alpha1",
            "v10",
            "v2beta1",
            "v1",
            "v11alpha2",
            "v3beta1",
            "v11beta2",
            "foo1",
            "v1beta",
            "v+1",
        ];
        all.sort_by(|a, b| super::version_order(a, b));
        assert_eq!(
            all,
            [
                "v10",
                "v1",
                "v11beta2",
                "v3beta1",
                "v2beta1",
                "v11alpha2",
                "v1alpha1",
                "foo1",
                "foo10",
                "v+1",
                "v1beta"
            ]
        );
    }
}
