//! Tests of ownership and apply: each rule alone, then what holds for any objects.

use super::*;
use crate::shape::samples::{any_thing, any_value, schema};
use proptest::prelude::*;
use serde_json::json;

fn writer(name: &str) -> Writer<'_> {
    Writer {
        name,
        api_version: "v1",
        subresource: "",
        time: "2026-01-01T00:00:00Z",
        has_status: false,
    }
}

fn applied(live: Option<&Value>, config: &Value, m: &mut Managers, who: &str) -> Result<Value, ApplyError> {
    apply(&schema(), live, config, m, &writer(who), false)
}

#[test]
fn applying_again_changes_nothing_and_removal_removes() {
    let mut m = Managers::default();
    let one = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 2, "items": [{"name": "x"}, {"name": "y"}]}});
    let live = applied(None, &one, &mut m, "me").unwrap();
    let before = m.clone();
    assert_eq!(applied(Some(&live), &one, &mut m, "me").unwrap(), live);
    assert_eq!(m, before);
    let two = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"items": [{"name": "y"}]}});
    let live = applied(Some(&live), &two, &mut m, "me").unwrap();
    assert_eq!(live, two);
}

#[test]
fn conflicts_are_named_and_force_takes_over() {
    let mut m = Managers::default();
    let live = applied(
        None,
        &json!({"spec": {"replicas": 1, "items": [{"name": "a"}]}}),
        &mut m,
        "one",
    )
    .unwrap();
    let other = json!({"spec": {"replicas": 5}});
    let conflicts = applied(Some(&live), &other, &mut m, "two").unwrap_err();
    assert_eq!(
        conflicts,
        ApplyError::Conflicts(vec![Conflict {
            manager: "\"one\"".into(),
            field: ".spec.replicas".into()
        }])
    );
    let live = apply(&schema(), Some(&live), &other, &mut m, &writer("two"), true).unwrap();
    assert_eq!(live["spec"]["replicas"], 5);
    let one = m.iter().find(|x| x.name == "one").unwrap();
    assert!(!one.fields().paths().contains(&".spec.replicas".to_owned()));
    // Equal values are shared without conflict.
    assert!(applied(Some(&live), &other, &mut m, "three").is_ok());
}

#[test]
fn what_others_own_is_not_removed() {
    let mut m = Managers::default();
    let live = applied(None, &json!({"metadata": {"labels": {"a": "1"}}}), &mut m, "one").unwrap();
    let live = applied(
        Some(&live),
        &json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        &mut m,
        "two",
    )
    .unwrap();
    let live = applied(Some(&live), &json!({"metadata": {}}), &mut m, "two").unwrap();
    assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
}

#[test]
fn updates_take_ownership() {
    let mut m = Managers::default();
    let live = applied(None, &json!({"spec": {"replicas": 1}}), &mut m, "one").unwrap();
    let new = json!({"spec": {"replicas": 3}});
    track(&schema(), Some(&live), &new, &mut m, &writer("scaler"));
    assert_eq!(m.iter().count(), 1);
    assert_eq!(
        m.iter().map(|m| (m.name.as_str(), m.apply)).collect::<Vec<_>>(),
        [("scaler", false)]
    );
    let before = m.clone();
    track(&schema(), Some(&new), &new, &mut m, &writer("other"));
    assert_eq!(m, before);
    let wire = m.to_value().unwrap();
    assert_eq!(Managers::from_value(&wire), m);
}

#[test]
fn many_updaters_are_folded() {
    let mut m = Managers::default();
    let mut old = json!({"metadata": {"labels": {}}});
    for i in 0..15 {
        let mut new = old.clone();
        new["metadata"]["labels"][format!("l{i}")] = "x".into();
        track(&schema(), Some(&old), &new, &mut m, &writer(&format!("m{i}")));
        old = new;
    }
    assert_eq!(m.iter().count(), 10);
    assert!(m.iter().any(|x| x.name == "ancient-changes"));
}

fn wire(m: &Managers) -> Vec<(String, String)> {
    m.iter().map(|m| (m.name.clone(), m.fields().encode())).collect()
}

#[test]
fn a_create_owns_all_but_what_the_server_writes() {
    let mut m = Managers::default();
    let new = json!({
        "apiVersion": "v1", "kind": "Thing",
        "metadata": {"name": "x", "uid": "u", "labels": {"a": "1"}},
        "spec": {"replicas": 1, "items": [{"name": "i", "args": ["x"]}], "finalizers": ["f"]},
    });
    track(&crate::shape::samples::named(), None, &new, &mut m, &writer("me"));
    let fields = concat!(
        r#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"#,
        r#""f:spec":{"f:finalizers":{".":{},"v:\"f\"":{}},"#,
        r#""f:items":{"k:{\"name\":\"i\"}":{".":{},"f:args":{},"f:name":{}}},"f:replicas":{}}}"#
    );
    assert_eq!(wire(&m), [("me".to_owned(), fields.to_owned())]);
}

#[test]
fn the_wire_form_is_upstreams() {
    let mut m = Managers::default();
    let status = Writer {
        subresource: "status",
        ..writer("s\"")
    };
    track(&schema(), None, &json!({"status": {"a": 1}}), &mut m, &status);
    applied(None, &json!({"spec": {"replicas": 1}}), &mut m, "me").unwrap();
    assert_eq!(
        m.to_value().unwrap(),
        json!([
            {"manager": "me", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            {"manager": "s\"", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {".": {}, "f:a": {}}}, "subresource": "status"},
        ])
    );
    assert_eq!(Managers::decode(&m.encode().unwrap()), {
        let mut sorted = Managers::default();
        m.iter()
            .filter(|m| m.apply)
            .chain(m.iter().filter(|m| !m.apply))
            .for_each(|x| sorted.push(x.clone()));
        sorted
    });
}

#[test]
fn broken_managers_are_nobody() {
    for bytes in [
        "",
        "{}",
        "[1]",
        r#"[{"manager":"x","operation":"Apply","fieldsType":"FieldsV2","fieldsV1":{}}]"#,
    ] {
        assert!(Managers::decode(bytes.as_bytes()).is_empty(), "{bytes}");
    }
    let odd = r#"[{"manager":"x","operation":"Apply","fieldsType":"FieldsV1","fieldsV1":[1]}]"#;
    let mut m = Managers::decode(odd.as_bytes());
    assert!(m.iter().all(|m| m.fields().is_empty()));
    assert!(applied(Some(&json!({})), &json!({"spec": {"replicas": 1}}), &mut m, "x").is_ok());
}

#[test]
fn managers_given_by_the_client() {
    let mut live = Managers::default();
    track(
        &schema(),
        None,
        &json!({"spec": {"replicas": 1}}),
        &mut live,
        &writer("live"),
    );
    let mut other = Managers::default();
    track(
        &schema(),
        None,
        &json!({"spec": {"replicas": 1}}),
        &mut other,
        &writer("other"),
    );
    let given = other.to_value().unwrap();
    let name = |m: Managers| m.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
    assert_eq!(name(Managers::choose(live.clone(), None, "")), ["live"]);
    assert_eq!(name(Managers::choose(live.clone(), Some(&given), "")), ["other"]);
    assert_eq!(name(Managers::choose(live.clone(), Some(&given), "status")), ["live"]);
    assert!(Managers::choose(live.clone(), Some(&json!([])), "").is_empty());
    assert!(Managers::choose(live.clone(), Some(&json!([{}])), "").is_empty());
    assert_eq!(name(Managers::choose(live, Some(&json!("junk")), "")), ["live"]);
}

#[test]
fn what_was_there_before_the_first_apply_is_owned_by_that_name() {
    let live = json!({"spec": {"replicas": 1}, "metadata": {"labels": {"a": "1"}}});
    let mut m = Managers::default();
    let err = applied(Some(&live), &json!({"spec": {"replicas": 2}}), &mut m, "me").unwrap_err();
    assert_eq!(
        err.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .spec.replicas"
    );
    let status = Status::from(err);
    assert_eq!(
        (status.code, status.causes[0].reason.as_str()),
        (409, "FieldManagerConflict")
    );
    assert_eq!(status.causes[0].field, ".spec.replicas");
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let mut m = Managers::default();
    let live = json!({"spec": {"replicas": 1, "items": [{"name": "a", "image": "1"}]}});
    track(&schema(), None, &live, &mut m, &writer("kubectl"));
    let config = json!({"spec": {"replicas": 2, "items": [{"name": "a", "image": "2"}]}});
    let err = applied(Some(&live), &config, &mut m, "me").unwrap_err();
    assert_eq!(
        err.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using v1:\n\
         - .spec.items[name=\"a\"].image\n- .spec.replicas"
    );
}

#[test]
fn items_keep_their_order_around_what_is_applied() {
    let items = |names: &[&str]| -> Value {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"spec": {"items": list}})
    };
    for (live, config, want) in [
        (&["a", "b", "c"][..], &["b"][..], &["a", "b", "c"][..]),
        (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
        (&["x", "b"], &["a", "b"], &["x", "a", "b"]),
        (&[], &["a", "b"], &["a", "b"]),
    ] {
        let mut m = Managers::default();
        let got = applied(Some(&items(live)), &items(config), &mut m, "me").unwrap();
        assert_eq!(got, items(want), "{live:?} {config:?}");
    }
}

#[test]
fn sets_are_owned_item_by_item_and_atomic_lists_whole() {
    let mut m = Managers::default();
    let mine = json!({"spec": {"finalizers": ["a"], "items": [{"name": "i", "args": ["x"]}]}});
    let live = applied(None, &mine, &mut m, "one").unwrap();
    let theirs = json!({"spec": {"finalizers": ["b"]}});
    let live = applied(Some(&live), &theirs, &mut m, "two").unwrap();
    assert_eq!(live["spec"]["finalizers"], json!(["a", "b"]));
    let other_args = json!({"spec": {"finalizers": ["b"], "items": [{"name": "i", "args": ["y"]}]}});
    let err = applied(Some(&live), &other_args, &mut m.clone(), "two").unwrap_err();
    assert!(err.to_string().ends_with(".spec.items[name=\"i\"].args"), "{err}");
    let live = applied(Some(&live), &json!({"spec": {"replicas": 1}}), &mut m, "two").unwrap();
    assert_eq!(live["spec"]["finalizers"], json!(["a"]));
}

#[test]
fn a_dropped_item_takes_its_defaults_along() {
    let mut m = Managers::default();
    let config = json!({"spec": {"items": [{"name": "a"}, {"name": "b"}]}});
    let mut live = applied(None, &config, &mut m, "me").unwrap();
    live["spec"]["items"][1]["image"] = "defaulted".into();
    let live = applied(Some(&live), &json!({"spec": {"items": [{"name": "a"}]}}), &mut m, "me").unwrap();
    assert_eq!(live, json!({"spec": {"items": [{"name": "a"}]}}));
    let live = applied(Some(&live), &json!({"metadata": {"labels": {"x": "y"}}}), &mut m, "me").unwrap();
    assert_eq!(live, json!({"metadata": {"labels": {"x": "y"}}}));
}

#[test]
fn items_that_cannot_be_told_apart_are_refused() {
    for (config, message) in [
        (
            json!({"spec": {"items": [{"name": "a"}, {"name": "a"}]}}),
            ".spec.items: duplicate entries for key [name=\"a\"]",
        ),
        (
            json!({"spec": {"items": [{"image": "a"}]}}),
            ".spec.items: element 0: associative list with keys has an element that omits key field \"name\" \
             (and doesn't have default value)",
        ),
        (
            json!({"metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
        (json!(1), "an applied configuration is an object"),
    ] {
        let err = applied(None, &config, &mut Managers::default(), "me").unwrap_err();
        assert_eq!(err, ApplyError::Malformed(message.into()));
    }
}

#[test]
fn nobody_owns_a_status_through_the_main_resource() {
    let mut m = Managers::default();
    let both = json!({"spec": {"replicas": 1}, "status": {"replicas": 1}});
    let main = Writer {
        has_status: true,
        ..writer("me")
    };
    track(&schema(), None, &both, &mut m, &main);
    let status = Writer {
        subresource: "status",
        ..main
    };
    let newer = json!({"spec": {"replicas": 1}, "status": {"replicas": 2}});
    track(&schema(), Some(&both), &newer, &mut m, &status);
    assert_eq!(
        wire(&m),
        [
            ("me".to_owned(), r#"{"f:spec":{".":{},"f:replicas":{}}}"#.to_owned()),
            ("me".to_owned(), r#"{"f:status":{"f:replicas":{}}}"#.to_owned()),
        ]
    );
}

#[test]
fn what_the_endpoint_resets_is_no_conflict() {
    let live = json!({"spec": {"replicas": 1}, "status": {"replicas": 1}});
    let mut m = Managers::default();
    let status = Writer {
        subresource: "status",
        has_status: true,
        ..writer("controller")
    };
    track(&schema(), None, &live, &mut m, &status);
    let main = Writer {
        has_status: true,
        ..writer("me")
    };
    let config = json!({"metadata": {"labels": {"a": "1"}}, "status": {"replicas": 7}});
    apply(&schema(), Some(&live), &config, &mut m, &main, false).unwrap();
    assert_eq!(wire(&m).last().unwrap().1, r#"{"f:metadata":{"f:labels":{"f:a":{}}}}"#);
}

#[test]
fn a_null_in_a_configuration_takes_the_field_away() {
    let mut m = Managers::default();
    let live = json!({"spec": {"replicas": 3}});
    track(&schema(), None, &live, &mut m, &writer("old"));
    let live = applied(Some(&live), &json!({"spec": {"replicas": null}}), &mut m, "me").unwrap();
    assert_eq!(live, json!({"spec": {}}));
}

proptest! {
    #[test]
    fn applying_the_same_again_changes_nothing(live in any_thing(), first in any_thing(), config in any_thing()) {
        let mut m = Managers::default();
        track(&schema(), None, &live, &mut m, &writer("creator"));
        let apply = |live: &Value, config: &Value, m: &mut Managers| {
            apply(&schema(), Some(live), config, m, &writer("me"), true).unwrap()
        };
        let live = apply(&live, &first, &mut m);
        let once = apply(&live, &config, &mut m);
        let managers = m.clone();
        let twice = apply(&once, &config, &mut m);
        prop_assert_eq!(&twice, &once);
        prop_assert_eq!(&m, &managers);
        // What is applied is there, and what is owned is there too.
        let mut again = once.clone();
        merge::merge(&schema(), &mut again, &config);
        prop_assert_eq!(&again, &once);
        let all = walk::compare(&schema(), &json!({}), &once).changed;
        for manager in m.iter() {
            let leaves = walk::all_fields(&schema(), &once).union(all.clone());
            prop_assert!(manager.fields().difference(&leaves).is_empty(), "{:?}", manager.fields().paths());
        }
    }

    #[test]
    fn one_applier_alone_gets_what_it_says(first in any_thing(), second in any_thing()) {
        let mut m = Managers::default();
        let one = applied(None, &first, &mut m, "me").unwrap();
        prop_assert_eq!(&one, &first);
        let two = applied(Some(&one), &second, &mut m, "me").unwrap();
        let (mut got, mut want) = (two, second);
        drop_hollow(&mut got);
        drop_hollow(&mut want);
        prop_assert_eq!(got, want);
    }

    #[test]
    fn every_field_of_an_updated_object_has_an_owner(a in any_thing(), b in any_thing(), c in any_thing()) {
        let mut m = Managers::default();
        track(&schema(), None, &a, &mut m, &writer("a"));
        track(&schema(), Some(&a), &b, &mut m, &writer("b"));
        track(&schema(), Some(&b), &c, &mut m, &writer("c"));
        let owned = m.iter().fold(FieldSet::new(), |all, m| all.union(m.fields().into_owned()));
        let all = walk::all_fields(&schema(), &c);
        prop_assert!(all.difference(&owned).is_empty(), "{:?}", all.difference(&owned).paths());
    }

    #[test]
    fn junk_never_panics(a in any_value(), b in any_value(), c in any_value(), managers in any_value()) {
        let mut m = Managers::from_value(&json!([{"manager": "x", "operation": "Apply", "fieldsType": "FieldsV1",
            "fieldsV1": managers}]));
        track(&schema(), Some(&a), &b, &mut m, &writer("x"));
        let _ = apply(&schema(), Some(&b), &c, &mut m, &writer("x"), false);
        let _ = apply(&schema(), Some(&b), &c, &mut m, &writer("y"), true);
        let _ = Managers::choose(m.clone(), Some(&managers), "");
        let _ = Managers::decode(managers.to_string().as_bytes());
        prop_assert_eq!(Managers::from_value(&m.to_value().unwrap_or_default()).same_but_times(&m), true);
    }
}

/// Empty lists and objects have no owner, so they come and go with their neighbours.
fn drop_hollow(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(drop_hollow);
            map.retain(|_, v| !(v.is_null() || v.as_object().is_some_and(Map::is_empty)));
            map.retain(|_, v| !v.as_array().is_some_and(Vec::is_empty));
        }
        Value::Array(list) => list.iter_mut().for_each(drop_hollow),
        _ => {}
    }
}
