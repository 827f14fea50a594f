//! CSIStorageCapacity: what a driver has left for a class in a part of the cluster.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{NOT_NEGATIVE, has, immutable, label_selector, named, quantity};
use crate::columns::column;
use crate::edit::text;
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    kind_names(
        super::GROUP,
        "v1",
        "CSIStorageCapacity",
        "csistoragecapacities",
        "csistoragecapacity",
        &[],
    )
    .with(
        typed::<v1::CSIStorageCapacity>,
        const { &[column("StorageClassName", "string"), column("Capacity", "string")] },
        &Capacity,
    )
}

struct Capacity;

impl Strategy for Capacity {
    fn validate_create(&self, capacity: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        named(
            text(capacity, "storageClassName"),
            names::dns1123_subdomain,
            &Path::new("storageClassName"),
            &mut errors,
        );
        for field in ["capacity", "maximumVolumeSize"] {
            let at = Path::new(field);
            match quantity(&capacity[field]) {
                Some(q) if q.is_negative() => errors.invalid(&at, quoted(&q.to_string()), NOT_NEGATIVE),
                _ => {}
            }
        }
        label_selector(&capacity["nodeTopology"], &Path::new("nodeTopology"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&new[field], &old[field], &Path::new(field), &mut errors);
        }
        errors
    }

    fn row(&self, capacity: &Value, _: Timestamp) -> Vec<Cell> {
        let left = if has(capacity, "capacity") {
            quantity(&capacity["capacity"]).map_or_else(|| "0".to_owned(), |q| q.to_string())
        } else {
            "<unset>".to_owned()
        };
        vec![text(capacity, "storageClassName").into(), left.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn capacities() {
        let good = json!({"storageClassName": "fast", "capacity": "1Gi"});
        assert!(Capacity.validate_create(&good).is_empty());
        assert_eq!(
            Capacity.row(&good, Timestamp::UNIX_EPOCH),
            [json!("fast"), json!("1Gi")]
        );
        let bad = json!({"storageClassName": "slow", "capacity": "-1"});
        let errors = Capacity.validate_update(&bad, &good);
        expect(
            &errors,
            "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
        );
        expect(&errors, "storageClassName: Invalid value: \"slow\": field is immutable");
    }
}
