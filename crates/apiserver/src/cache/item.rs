//! A cached object with what selectors ask of it, and the selection that a
//! list or watch makes. Must not know where objects come from.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use kinds::Kind;
use meta::{FieldSelector, LabelSelector, Object, Status};

/// A cached object. The values of selectable fields are decoded once, at the first need.
#[derive(Debug)]
pub struct Item {
    /// The object.
    pub object: Arc<Object>,
    fields: OnceLock<Box<[String]>>,
    /// Bytes of its protobuf message; 0 while not known.
    message_size: AtomicU32,
}

impl Item {
    /// Wraps an object.
    pub fn new(object: Object) -> Arc<Self> {
        Arc::new(Item {
            object: Arc::new(object),
            fields: OnceLock::new(),
            message_size: AtomicU32::new(0),
        })
    }

    /// Bytes of its protobuf message, once it was measured.
    pub fn message_size(&self) -> Option<usize> {
        match self.message_size.load(Ordering::Relaxed) {
            0 => None,
            size => usize::try_from(size).ok(),
        }
    }

    /// Keeps the bytes of its protobuf message.
    pub fn set_message_size(&self, size: usize) {
        // One that is larger is measured each time.
        self.message_size
            .store(u32::try_from(size).unwrap_or(0), Ordering::Relaxed);
    }

    /// Value of a selectable field; empty when unset.
    pub fn field(&self, kind: &Kind, path: &str) -> String {
        match path {
            "metadata.name" => return self.object.name().to_owned(),
            "metadata.namespace" => return self.object.namespace().to_owned(),
            _ => {}
        }
        let values = self.fields.get_or_init(|| {
            let value = self.object.to_value();
            kind.selectable_fields
                .iter()
                .map(|f| kind.strategy().field(&value, f))
                .collect()
        });
        let at = kind.selectable_fields.iter().position(|f| *f == path);
        at.and_then(|i| values.get(i)).cloned().unwrap_or_default()
    }
}

/// Which objects of a kind a list or watch is about.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Empty for all namespaces.
    pub namespace: String,
    /// Empty for all names.
    pub name: String,
    /// On labels.
    pub labels: LabelSelector,
    /// On fields other than name and namespace.
    pub fields: FieldSelector,
}

impl Selection {
    /// From the query of a request; a selector on name or namespace narrows the range.
    pub fn parse(kind: &Kind, namespace: &str, name: &str, labels: &str, fields: &str) -> Result<Self, Status> {
        let labels = LabelSelector::parse(labels)
            .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
        let parsed = FieldSelector::parse(fields).map_err(|e| Status::bad_request(e.to_string()))?;
        let mut out = Selection {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels,
            fields: FieldSelector::default(),
        };
        for (field, equal, value) in parsed.terms {
            let known = match field.as_str() {
                "metadata.name" => true,
                "metadata.namespace" => kind.namespaced(),
                other => kind.selectable_fields.iter().any(|f| f == other),
            };
            if !known {
                return Err(Status::bad_request(format!(
                    "Unable to find \"{}\" that match label selector \"{}\", field selector \"{fields}\": \
                     field label not supported: {field}",
                    kind.gvk(),
                    out.labels
                )));
            }
            match field.as_str() {
                "metadata.name" if equal && out.name.is_empty() => out.name = value,
                "metadata.namespace" if equal && out.namespace.is_empty() => out.namespace = value,
                _ => out.fields.terms.push((field, equal, value)),
            }
        }
        Ok(out)
    }

    /// Whether an object is selected.
    pub fn matches(&self, kind: &Kind, item: &Item) -> bool {
        let o = &item.object;
        (self.namespace.is_empty() || o.namespace() == self.namespace) && self.matches_in_range(kind, item)
    }

    /// The same for an object whose key lies in [`Selection::range`].
    pub fn matches_in_range(&self, kind: &Kind, item: &Item) -> bool {
        let o = &item.object;
        (self.name.is_empty() || o.name() == self.name)
            && (self.labels.is_everything() || self.labels.matches(o.labels()))
            && (self.fields.is_everything() || self.fields.matches(|f| item.field(kind, f)))
    }

    /// Whether nothing but the key range selects.
    pub fn is_plain(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything() && self.name.is_empty()
    }

    /// First key of the range and the first key beyond it; empty for open ends.
    pub fn range(&self) -> (String, String) {
        match (self.namespace.is_empty(), self.name.is_empty()) {
            (true, _) => (String::new(), String::new()),
            // '0' follows '/'.
            (false, true) => (format!("{}/", self.namespace), format!("{}0", self.namespace)),
            (false, false) => {
                let key = format!("{}/{}", self.namespace, self.name);
                let end = format!("{key}\0");
                (key, end)
            }
        }
    }
}
