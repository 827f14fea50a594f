//! Rules of custom resources: types from schemas, what rules see of objects, list semantics,
//! what rules cost and may cost.

use cel::{Activation, Budget, Decl, Env, ErrorKind, EvalError, Fields, Program, Type, Value, describe, from_schema};
use serde_json::{Value as Json, json};

fn compile(schema: &Json, rule: &str) -> Result<Program, String> {
    let decl = from_schema(schema, "self", false).expect("a schema rules can see");
    let env = Env::new().variable("self", decl.clone()).variable("oldSelf", decl);
    Program::compile(&env, rule).map_err(|e| describe(&e))
}

fn run(schema: &Json, rule: &str, value: &Json, old: &Json) -> Result<bool, String> {
    let program = compile(schema, rule)?;
    let activation = Activation::new().json("self", value).json("oldSelf", old);
    match program.evaluate(&activation, &mut Budget::default()) {
        Ok(Value::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("{other:?}")),
        Err(e) => Err(e.to_string()),
    }
}

fn typed() -> Json {
    json!({
        "type": "object",
        "required": ["replicas"],
        "properties": {
            "replicas": {"type": "integer"},
            "maxReplicas": {"type": "integer"},
            "ratio": {"type": "number"},
            "name": {"type": "string", "maxLength": 63},
            "since": {"type": "string", "format": "date-time"},
            "day": {"type": "string", "format": "date"},
            "wait": {"type": "string", "format": "duration"},
            "blob": {"type": "string", "format": "byte"},
            "port": {"x-kubernetes-int-or-string": true},
            "namespace": {"type": "string"},
            "a-b.c/d__e": {"type": "boolean"},
            "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "anything": {"x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ports": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "proto"],
                "items": {"type": "object", "properties": {
                    "name": {"type": "string"}, "proto": {"type": "string"}, "number": {"type": "integer"}}}
            },
            "plain": {"type": "array", "items": {"type": "integer"}},
            "nothing": {"type": "string", "nullable": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"spec": {"type": "object", "properties": {"x": {"type": "integer"}}}}}
        }
    })
}

fn object() -> Json {
    json!({
        "replicas": 3, "maxReplicas": 5, "ratio": 1, "name": "shop",
        "since": "2024-02-29T12:00:00Z", "day": "2024-02-29", "wait": "3d", "blob": "aGk=",
        "port": "http", "namespace": "n", "a-b.c/d__e": true, "raw": {"k": 1}, "anything": [1],
        "labels": {"app": "x", "a/b": "y"}, "set": ["a", "b"],
        "ports": [{"name": "a", "proto": "tcp", "number": 1}, {"name": "b", "proto": "tcp", "number": 2}],
        "plain": [1, 2], "nothing": null,
        "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {}}, "spec": {"x": 1}}
    })
}

#[test]
fn fields_have_the_types_that_are_declared() {
    for rule in [
        "self.replicas <= self.maxReplicas && self.ratio == 1.0 && self.name.startsWith('sh')",
        "self.since.getFullYear() == 2024 && self.day == timestamp('2024-02-29T00:00:00Z')",
        "self.wait == duration('72h') && self.blob == b'hi' && type(self.port) == string && self.port == 'http'",
        "self.__namespace__ == 'n' && self.namespace == 'n' && self.a__dash__b__dot__c__slash__d__underscores__e",
        "self.labels['a/b'] == 'y' && self.labels.app == 'x' && self.labels.all(k, v, v in ['x', 'y'])",
        "has(self.replicas) && !has(self.labels.none) && self.?name.orValue('') == 'shop'",
        "self.template.metadata.name == 'p' && self.template.kind == 'Pod' && self.template.spec.x == 1",
        "self.ports.exists(p, p.name == 'b' && p.number == 2) && size(self.ports) == 2 && !has(self.nothing)",
        "quantity('1').isLessThan(quantity(string(self.replicas)))",
    ] {
        assert_eq!(run(&typed(), rule, &object(), &json!({})), Ok(true), "{rule}");
    }
    for (rule, error) in [
        ("self.none == 1", "ERROR: <input>:1:5: undefined field 'none'"),
        ("self.anything == 1", "undefined field 'anything'"),
        ("self.raw.k == 1", "undefined field 'k'"),
        ("self.template.metadata.labels.size() == 0", "undefined field 'labels'"),
        (
            "self.replicas == 'a'",
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            "self.name < 3",
            "found no matching overload for '_<_' applied to '(string, int)'",
        ),
        ("self.port.startsWith('h') && self.port + 1 == 3", "no such overload"),
    ] {
        let found = run(&typed(), rule, &object(), &json!({})).expect_err(rule);
        assert!(found.contains(error), "{rule}: {found}");
    }
    // Not what the schema says.
    let wrong = json!({"replicas": "three"});
    let found = run(&typed(), "self.replicas == 3", &wrong, &json!({}));
    assert_eq!(found, Err("invalid data, expected int, got string".to_owned()));
    let missing = run(&typed(), "self.maxReplicas == 3", &json!({"replicas": 1}), &json!({}));
    assert_eq!(missing, Err("no such key: maxReplicas".to_owned()));
}

#[test]
fn sets_and_map_lists_ignore_order_and_merge() {
    let old = json!({
        "set": ["b", "a"], "plain": [2, 1],
        "ports": [{"name": "b", "proto": "tcp", "number": 2}, {"name": "a", "proto": "tcp", "number": 1}]
    });
    for (rule, expected) in [
        ("self.set == oldSelf.set", true),
        ("self.ports == oldSelf.ports", true),
        ("self.plain == oldSelf.plain", false),
        ("self.set + ['b', 'c'] == ['c', 'a', 'b']", true),
        ("self.set + ['b', 'c'] == ['a', 'b', 'b', 'c']", false),
        (
            "(self.set + oldSelf.set).size() == 2 && self.plain + [1] == [1, 2, 1]",
            true,
        ),
        (
            "(self.ports + oldSelf.ports).size() == 2 && self.ports + [] == oldSelf.ports",
            true,
        ),
        ("self.set == ['a', 'a']", false),
    ] {
        assert_eq!(run(&typed(), rule, &object(), &old), Ok(expected), "{rule}");
    }
}

#[test]
fn roots_show_names_and_nothing_else_of_metadata() {
    let schema = json!({"type": "object", "properties": {"metadata": {"type": "object"}, "spec": {"type": "object"}}});
    let decl = from_schema(&schema, "self", true).expect("a root");
    let env = Env::new().variable("self", decl);
    let object = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n", "uid": "u"}});
    let program = Program::compile(
        &env,
        "self.metadata.name == 'n' && self.kind == 'K' && has(self.apiVersion)",
    );
    let program = program.expect("names are known");
    let activation = Activation::new().json("self", &object);
    let result = program.evaluate(&activation, &mut Budget::default());
    assert_eq!(result.expect("a value").as_bool(), Some(true));
    let error = Program::compile(&env, "self.metadata.uid == 'u'").expect_err("uid is not shown");
    assert!(describe(&error).contains("undefined field 'uid'"));
}

/// The maximum that is estimated for a rule of a schema.
fn estimate(schema: Json, rule: &str) -> u64 {
    compile(&schema, rule).expect(rule).estimated_cost().max
}

#[test]
fn estimates_are_upstreams() {
    let array = |items: &str| json!({"type": "array", "items": {"type": items}});
    let short = |items: &str| json!({"type": "array", "maxItems": 10, "items": {"type": items}});
    let string = |max: Option<u64>| match max {
        Some(max) => json!({"type": "string", "maxLength": max}),
        None => json!({"type": "string"}),
    };
    assert_eq!(estimate(array("number"), "self.all(x, true)"), 4_718_591);
    assert_eq!(estimate(short("number"), "self.all(x, true)"), 32);
    assert_eq!(estimate(array("string"), "self.all(x, true)"), 3_145_727);
    let nested = json!({"type": "array", "maxItems": 10, "items": short("number")});
    assert_eq!(estimate(nested, "self.all(x, x.all(y, true))"), 352);
    assert_eq!(estimate(string(None), "self.contains('test')"), 314_574);
    assert_eq!(estimate(string(Some(10)), "self.contains('test')"), 5);
    assert_eq!(estimate(string(None), "self.startsWith('test')"), 2);
    assert_eq!(estimate(string(None), "self.matches('[a-z]')"), 629_147);
    assert_eq!(estimate(string(None), "self.size() == 5"), 3);
    assert_eq!(estimate(json!({"type": "integer"}), "self <= 5"), 2);
    // An explosive rule is seen to be one.
    let strings = json!({"type": "array", "items": {"type": "string"}});
    assert!(estimate(strings, "self.all(x, self.all(y, x == y || x.contains(y)))") > 10_000_000);
}

#[test]
fn evaluations_stop_where_they_cost_too_much() {
    let env = Env::new().variable("self", Decl::any());
    let program = Program::compile(&env, "self.all(x, self.all(y, self.all(z, x == x)))").expect("compiles");
    let list: Json = (0..1000).collect();
    let activation = Activation::new().json("self", &list);
    let mut budget = Budget::default();
    let error = program.evaluate(&activation, &mut budget).expect_err("too much");
    assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
    assert_eq!(error.kind(), ErrorKind::CostLimit);
    assert!(budget.remaining() < 10_000_000 - 999_999 && budget.last() >= 1_000_000);
    // What is left over for the request runs out too, and says so.
    let mut small = Budget::new(50);
    let error = program.evaluate(&activation, &mut small).expect_err("too much");
    assert_eq!(error.kind(), ErrorKind::Budget);
    assert!(error.to_string().contains("running out of cost budget"), "{error}");
    assert_eq!(small.remaining(), 0);
    // Errors of cost are not swallowed.
    let program = Program::compile(&env, "true || self.all(x, self.all(y, self.all(z, x == x)))").expect("compiles");
    assert!(program.evaluate(&activation, &mut Budget::default()).is_ok());
    let program = Program::compile(&env, "self.all(x, self.all(y, self.all(z, x == x))) || true").expect("compiles");
    assert!(program.evaluate(&activation, &mut Budget::default()).is_err());
}

#[test]
fn costs_are_counted_as_upstream_counts_them() {
    let env = Env::new().variable("self", Decl::any());
    let object = json!({"a": 1, "s": "0123456789", "l": [1, 2, 3]});
    for (rule, cost) in [
        ("true", 0),
        ("self.a == 1", 3),
        ("has(self.a)", 1),
        ("self.s.startsWith('0')", 3),
        ("self.s == '0123456789'", 3),
        ("self.l.all(x, x > 0)", 2 + 3 * (2 + 1 + 2) + 1),
        ("self.a in self.l", 2 + 2 + 3),
        ("self.s.matches('^[0-9]+$')", 2 + 2 * 2),
    ] {
        let program = Program::compile(&env, rule).expect(rule);
        let mut budget = Budget::default();
        let activation = Activation::new().json("self", &object);
        program.evaluate(&activation, &mut budget).expect(rule);
        assert_eq!(budget.last(), cost, "{rule}");
    }
}

/// Variables that are expressions themselves, evaluated when they are asked for.
struct Variables<'v> {
    replicas: Program,
    object: &'v Json,
}

impl Fields for Variables<'_> {
    fn get<'s>(&'s self, name: &str) -> Option<Result<Value<'s>, EvalError>> {
        match name {
            "replicas" => {
                let activation = Activation::new().json("object", self.object);
                Some(self.replicas.evaluate(&activation, &mut Budget::default()))
            }
            "broken" => Some(Err(EvalError::new("variable is broken"))),
            _ => None,
        }
    }
}

#[test]
fn policies_have_variables_and_dotted_names() {
    let base = Env::new()
        .variable("object", Decl::any())
        .variable("oldObject", Decl::any());
    let fields = [("replicas", Decl::plain(Type::Int)), ("broken", Decl::any())];
    let check = Decl::plain(Type::Opaque(cel::types::Opaque::ResourceCheck));
    let env = base
        .clone()
        .variable("variables", Decl::object("kubernetes.variables", fields))
        .variable("authorizer.requestResource", check);
    let object = json!({"spec": {"replicas": 3, "namespace": "x"}});
    let variables = Variables {
        replicas: Program::compile(&base, "object.spec.replicas").expect("compiles"),
        object: &object,
    };
    for (rule, expected) in [
        (
            "variables.replicas == 3 && object.spec.namespace == 'x'",
            Ok(Some(true)),
        ),
        ("variables.broken || variables.replicas > 2", Ok(Some(true))),
        ("variables.broken == 1", Err("variable is broken".to_owned())),
        ("oldObject == null", Err("no such attribute(s): oldObject".to_owned())),
        ("oldObject == null || variables.replicas == 3", Ok(Some(true))),
    ] {
        let program = Program::compile(&env, rule).expect(rule);
        let activation = Activation::new()
            .json("object", &object)
            .fields("variables", &variables);
        let result = program.evaluate(&activation, &mut Budget::default());
        assert_eq!(
            result.map(|v| v.as_bool()).map_err(|e| e.to_string()),
            expected,
            "{rule}"
        );
    }
    let error = Program::compile(&env, "variables.none == 1").expect_err("not declared");
    assert!(describe(&error).contains("undefined field 'none'"));
    assert!(Program::compile(&env, "authorizer.requestResource.check('get').allowed()").is_ok());
    let error = Program::compile(&env, "authorizer.group('').resource('pods')").expect_err("not declared");
    assert!(describe(&error).contains("undeclared reference to 'authorizer'"));
}

#[test]
fn objects_of_declared_types_can_be_made() {
    let spec = from_schema(
        &json!({"type": "object", "properties": {"replicas": {"type": "integer"}}}),
        "Object.spec",
        false,
    );
    let spec = spec.expect("a type");
    let root = Decl::object("Object", [("spec", spec.clone())]);
    let mut env = Env::new();
    for decl in [&root, &spec] {
        if let Type::Object(object) = &decl.ty {
            env = env.object_type(object.clone());
        }
    }
    let program =
        Program::compile(&env, "Object{spec: Object.spec{replicas: 2}}.spec.replicas == 2").expect("compiles");
    let result = program.evaluate(&Activation::new(), &mut Budget::default());
    assert_eq!(result.expect("a value").as_bool(), Some(true));
    for (source, error) in [
        ("Object{none: 1} == null", "undefined field 'none'"),
        (
            "Object.spec{replicas: 'a'} == null",
            "expected type of field 'replicas' is 'int' but provided type is 'string'",
        ),
        (
            "Nothing{} == null",
            "undeclared reference to 'Nothing' (in container '')",
        ),
    ] {
        let found = describe(&Program::compile(&env, source).expect_err(source));
        assert!(found.contains(error), "{found}");
    }
}

#[test]
fn values_become_json_and_declared_strings_become_values() {
    let capacity = Decl::map(Decl::plain(Type::Opaque(cel::types::Opaque::Quantity)), None);
    let version = Decl::plain(Type::Opaque(cel::types::Opaque::Semver));
    let device = Decl::object("device", [("capacity", capacity), ("version", version)]);
    let env = Env::new().variable("device", device);
    let device = json!({"capacity": {"memory": "80Gi"}, "version": "1.2.3-rc.1+b.2"});
    let evaluate = |source: &str| {
        let program = Program::compile(&env, source).expect(source);
        let activation = Activation::new().json("device", &device);
        program
            .evaluate(&activation, &mut Budget::default())
            .expect(source)
            .to_json()
    };
    let rule = "device.capacity.memory.compareTo(quantity('40Gi')) > 0 && device.version.isLessThan(semver('2.0.0'))";
    assert_eq!(evaluate(rule), Some(json!(true)));
    assert_eq!(evaluate("device"), Some(device.clone()));
    assert_eq!(
        evaluate(
            "{'a': dyn([dyn(1), 2u, 1.5, null, b'hi', 'x']), 'b': dyn({'c': dyn(duration('1s')), 'd': timestamp(0)})}"
        ),
        Some(json!({"a": [1, 2, 1.5, null, "aGk=", "x"], "b": {"c": "1s", "d": "1970-01-01T00:00:00Z"}}))
    );
    assert_eq!(evaluate("{1: 2}"), None);
    assert_eq!(evaluate("int"), None);
    assert_eq!(evaluate("0.0 / 0.0"), None);
}
