//! Holding a value against its schema: unknown fields, defaults, types.
//!
//! All walks are recursive; their depth is bounded by [`crate::decode::MAX_DEPTH`].

mod defaults;
mod formats;
mod prune;
mod types;
mod validate;

pub use defaults::apply_defaults;
pub use prune::{prune, unknown_fields};
pub use types::type_error;
pub use validate::validate;

#[cfg(test)]
pub(crate) mod samples {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::schema::{ListType, PatchStrategy, Schema, Shape};

    /// Any small value, field names of the sample schema among them.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z$/~]{0,4}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("spec"),
            Just("metadata"),
            Just("labels"),
            Just("items"),
            Just("name"),
            Just("replicas"),
            Just("args"),
            Just("finalizers"),
            Just("status"),
            Just("type"),
            Just("properties"),
            Just("default"),
            Just("x-kubernetes-embedded-resource"),
            Just("$patch"),
            Just("$retainKeys"),
            Just("managedFields"),
            Just("$setElementOrder/items"),
            Just("$deleteFromPrimitiveList/finalizers"),
            Just(""),
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name.clone(), inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
            ]
        })
    }

    /// Values that more or less fit the sample schema.
    pub(crate) fn any_thing() -> impl Strategy<Value = Value> {
        let item = (
            "[a-d]",
            proptest::option::of("[xyz]"),
            proptest::collection::vec("[ab]", 0..3),
        )
            .prop_map(|(name, image, args)| {
                let mut v = json!({"name": name, "args": args});
                if let Some(image) = image {
                    v["image"] = image.into();
                }
                v
            });
        let items = proptest::collection::btree_map("[a-d]", item, 0..4).prop_map(|m| {
            let items = m.into_iter().map(|(name, mut v)| {
                v["name"] = name.into();
                v
            });
            items.collect::<Vec<Value>>()
        });
        let labels = proptest::collection::btree_map("[a-c]", "[a-c]", 0..3);
        let finalizers = proptest::collection::btree_set("[a-c]", 0..3);
        let spec = (
            proptest::option::of(items),
            proptest::option::of(0..5i32),
            proptest::option::of(finalizers),
        );
        (proptest::option::of(labels), proptest::option::of(spec)).prop_map(|(labels, spec)| {
            let mut v = json!({});
            if let Some(labels) = labels {
                v["metadata"] = json!({"labels": labels});
            }
            if let Some((items, replicas, finalizers)) = spec {
                v["spec"] = json!({});
                let mut set = |k: &str, x: Option<Value>| x.into_iter().for_each(|x| v["spec"][k] = x);
                set("items", items.map(Value::from));
                set("replicas", replicas.map(Value::from));
                set("finalizers", finalizers.map(|f| f.into_iter().collect()));
            }
            v
        })
    }

    fn leaf(shape: Shape) -> Arc<Schema> {
        Arc::new(Schema {
            shape,
            ..Schema::default()
        })
    }

    fn object(fields: &[(&str, Arc<Schema>)], required: &[&str]) -> Schema {
        Schema {
            shape: Shape::Object {
                fields: fields
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), v.clone()))
                    .collect::<BTreeMap<_, _>>(),
                required: required.iter().map(|r| (*r).to_owned()).collect(),
                atomic: false,
            },
            ..Schema::default()
        }
    }

    fn define(schema: &mut Arc<Schema>, path: &[&str], name: &str) {
        let node = Arc::make_mut(schema);
        match (path, &mut node.shape) {
            ([first, rest @ ..], Shape::Object { fields, .. }) => define(fields.get_mut(*first).unwrap(), rest, name),
            (["[]", rest @ ..], Shape::List { items, .. }) => define(items, rest, name),
            _ => node.definition = format!("io.example.v1.{name}"),
        }
    }

    /// The same as a built-in kind has it: with names, and formats.
    pub(crate) fn named() -> Schema {
        let mut all = Arc::new(schema());
        for (path, name) in [
            (&[][..], "Thing"),
            (&["spec"], "ThingSpec"),
            (&["metadata"], "ObjectMeta"),
            (&["spec", "items", "[]"], "Item"),
        ] {
            define(&mut all, path, name);
        }
        (*all).clone()
    }

    /// Something like a Deployment.
    pub(crate) fn schema() -> Schema {
        let strings = |list, merge| {
            leaf(Shape::List {
                items: leaf(Shape::String),
                list,
                patch: PatchStrategy {
                    merge,
                    ..PatchStrategy::default()
                },
            })
        };
        let item = object(
            &[
                ("name", leaf(Shape::String)),
                ("image", leaf(Shape::String)),
                ("args", strings(ListType::Atomic, false)),
            ],
            &["name"],
        );
        let items = leaf(Shape::List {
            items: Arc::new(item),
            list: ListType::Map(vec!["name".into()]),
            patch: PatchStrategy {
                merge_key: Some("name".into()),
                merge: true,
                retain_keys: false,
            },
        });
        let replicas = Arc::new(Schema {
            shape: Shape::Integer,
            format: "int32".into(),
            default: Some(json!(1)),
            ..Schema::default()
        });
        let labels = leaf(Shape::Map {
            values: leaf(Shape::String),
            atomic: false,
        });
        let spec = object(
            &[
                ("replicas", replicas),
                ("items", items),
                ("finalizers", strings(ListType::Set, true)),
            ],
            &["items"],
        );
        let meta = object(&[("name", leaf(Shape::String)), ("labels", labels)], &[]);
        object(
            &[
                ("apiVersion", leaf(Shape::String)),
                ("kind", leaf(Shape::String)),
                ("metadata", Arc::new(meta)),
                ("spec", Arc::new(spec)),
            ],
            &[],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::samples::schema;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let mut value = json!({"spec": {"replicaz": 1, "items": [{"name": "a", "x": 1}]}, "y": 2});
        let mut unknown = prune(&schema(), &mut value);
        unknown.sort();
        assert_eq!(unknown, ["spec.items[0].x", "spec.replicaz", "y"]);
        assert_eq!(value, json!({"spec": {"items": [{"name": "a"}]}}));
    }

    #[test]
    fn defaults_fill_in_once() {
        let mut value = json!({"spec": {}});
        apply_defaults(&schema(), &mut value);
        assert_eq!(value, json!({"spec": {"replicas": 1}}));
        let once = value.clone();
        apply_defaults(&schema(), &mut value);
        assert_eq!(value, once);
    }

    #[test]
    fn required_and_types() {
        let errors = validate(&schema(), &json!({"spec": {"items": [{}]}}));
        assert_eq!(errors.to_string(), "spec.items[0].name: Required value");
    }

    #[test]
    fn nulls_go_where_they_mean_nothing() {
        let mut value = json!({"spec": {"replicas": null}, "metadata": {"labels": {"a": null, "b": "c"}}});
        prune(&schema(), &mut value);
        assert_eq!(value, json!({"spec": {}, "metadata": {"labels": {"a": "", "b": "c"}}}));
        let nullable =
            json!({"type": "object", "properties": {"x": {"type": "string", "nullable": true, "default": "d"}}});
        let nullable = crate::openapi::from_openapi_v3(&nullable).unwrap();
        let mut value = json!({"x": null});
        prune(&nullable, &mut value);
        apply_defaults(&nullable, &mut value);
        assert_eq!(value, json!({"x": null}));
    }

    #[test]
    fn quantities_are_written_one_way() {
        let quantity = std::sync::Arc::new(crate::schema::Schema {
            format: "quantity".into(),
            ..crate::schema::Schema::of(crate::schema::Shape::IntOrString)
        });
        let map = crate::schema::Schema::of(crate::schema::Shape::Map {
            values: quantity,
            atomic: false,
        });
        let mut value = json!({"a": 1, "b": 0.5, "c": "0.25", "d": "1024Mi", "e": "junk", "f": "100m"});
        prune(&map, &mut value);
        assert_eq!(
            value,
            json!({"a": "1", "b": "500m", "c": "250m", "d": "1Gi", "e": "junk", "f": "100m"})
        );
    }

    #[test]
    fn preserved_fields_stay_and_known_ones_within_are_pruned() {
        let open = crate::openapi::from_openapi_v3(&json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}},
        }))
        .unwrap();
        let mut value = json!({"known": {"a": "1", "b": 2}, "other": {"c": null}});
        assert_eq!(unknown_fields(&open, &value), ["known.b"]);
        assert_eq!(prune(&open, &mut value), ["known.b"]);
        assert_eq!(value, json!({"known": {"a": "1"}, "other": {"c": null}}));
    }

    proptest! {
        #[test]
        fn defaults_twice_are_defaults_once(v in samples::any_value()) {
            let mut once = v;
            apply_defaults(&schema(), &mut once);
            let mut twice = once.clone();
            apply_defaults(&schema(), &mut twice);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn pruning_leaves_nothing_unknown(v in samples::any_value()) {
            let mut pruned = v.clone();
            prop_assert_eq!(unknown_fields(&schema(), &v).len(), prune(&schema(), &mut pruned).len());
            prop_assert!(unknown_fields(&schema(), &pruned).is_empty());
        }

        #[test]
        fn judging_never_panics(v in samples::any_value()) {
            let _ = validate(&schema(), &v).to_string();
            let _ = type_error(&samples::named(), &v);
        }
    }
}
