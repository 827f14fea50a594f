//! Nothing panics and everything ends, whatever the source and the values are.

use std::time::{Duration, Instant};

use cel::{Activation, Budget, Decl, Env, Extension, Program, from_schema, unescape};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const WORDS: [&str; 60] = [
    "x",
    "self",
    "a",
    ".",
    ".?",
    "[",
    "[?",
    "]",
    "(",
    ")",
    "{",
    "}",
    "?",
    ":",
    ",",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "1",
    "1u",
    "0x7f",
    "1.5e3",
    "'a'",
    "\"b\"",
    "b'c'",
    "r'\\'",
    "'''",
    "true",
    "null",
    "has(",
    ".all(",
    ".map(",
    ".exists_one(",
    ".filter(",
    ".transformMap(",
    "cel.bind(",
    ".optMap(",
    "size(",
    "optional.of(",
    "timestamp(",
    "duration('1s')",
    ".format(",
    ".matches(",
    "ä",
    "\\",
    "//",
    "\n",
    "9223372036854775808",
    "dyn(",
    ".sortBy(",
];

fn env() -> Env {
    Env::new()
        .variable("x", Decl::any())
        .variable("self", Decl::any())
        .extension(Extension::Bind)
        .extension(Extension::Encoders)
        .extension(Extension::Math)
}

/// Expressions that parse, most of which check.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("x".to_owned()),
        Just("self".to_owned()),
        Just("v".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| format!("{n}u")),
        (-1e6..1e6f64).prop_map(|d| format!("{d:?}")),
        "[a-zäß%.\\[\\](){}*0-9 /:-]{0,8}".prop_map(|s| format!("'{s}'")),
        Just("b'\\xff\\x00'".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("timestamp('2024-02-29T01:02:03Z')".to_owned()),
        Just("duration('-1h1ns')".to_owned()),
        Just("optional.none()".to_owned()),
    ];
    leaf.prop_recursive(6, 60, 4, |inner| {
        let two = (inner.clone(), inner.clone());
        let binary = prop::sample::select(vec![
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||",
        ]);
        let unary = prop::sample::select(vec![
            "size",
            "int",
            "uint",
            "double",
            "string",
            "bool",
            "bytes",
            "type",
            "duration",
            "timestamp",
            "quantity",
            "ip",
            "cidr",
            "url",
            "semver",
            "optional.of",
            "optional.ofNonZeroValue",
            "lists.range",
            "isURL",
            "base64.decode",
            "strings.quote",
            "math.greatest",
            "optional.unwrap",
            "dyn",
            "!",
            "-",
        ]);
        let member = prop::sample::select(vec![
            "size",
            "sum",
            "min",
            "max",
            "isSorted",
            "flatten",
            "reverse",
            "distinct",
            "sort",
            "first",
            "last",
            "trim",
            "lowerAscii",
            "join",
            "getHours",
            "getFullYear",
            "getMilliseconds",
            "hasValue",
            "value",
            "asInteger",
            "sign",
            "asApproximateFloat",
            "masked",
            "family",
            "getHost",
            "getQuery",
            "getPort",
            "getEscapedPath",
            "unwrapOpt",
        ]);
        let member2 = prop::sample::select(vec![
            "contains",
            "startsWith",
            "matches",
            "find",
            "findAll",
            "split",
            "indexOf",
            "lastIndexOf",
            "charAt",
            "substring",
            "format",
            "join",
            "includes",
            "getDate",
            "or",
            "orValue",
            "flatten",
            "containsIP",
            "containsCIDR",
            "add",
            "compareTo",
        ]);
        let fold = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter", "sortBy", "optMap"]);
        let fold2 = prop::sample::select(vec!["all", "existsOne", "transformList", "transformMap"]);
        prop_oneof![
            (two.clone(), binary).prop_map(|((a, b), op)| format!("(dyn({a}) {op} dyn({b}))")),
            (inner.clone(), unary).prop_map(|(a, f)| format!("{f}(dyn({a}))")),
            (inner.clone(), member).prop_map(|(a, f)| format!("dyn({a}).{f}()")),
            (two.clone(), member2).prop_map(|((a, b), f)| format!("dyn({a}).{f}(dyn({b}))")),
            (two.clone(), fold).prop_map(|((a, b), f)| format!("dyn({a}).{f}(v, dyn({b}))")),
            (two.clone(), fold2).prop_map(|((a, b), f)| format!("dyn({a}).{f}(k, v, dyn({b}))")),
            (two.clone(), inner.clone()).prop_map(|((a, b), c)| format!("(dyn({a}) ? dyn({b}) : dyn({c}))")),
            (two.clone(), inner.clone()).prop_map(|((a, b), c)| format!("dyn({a}).replace(dyn({b}), dyn({c}))")),
            (two.clone(), inner.clone()).prop_map(|((a, b), c)| format!("dyn({a}).slice(dyn({b}), dyn({c}))")),
            two.clone().prop_map(|(a, b)| format!("cel.bind(v, {a}, {b})")),
            two.clone().prop_map(|(a, b)| format!("[dyn({a}), {b}]")),
            two.clone().prop_map(|(a, b)| format!("{{dyn({a}): dyn({b})}}")),
            two.clone().prop_map(|(a, b)| format!("dyn({a})[dyn({b})]")),
            two.prop_map(|(a, b)| format!("dyn({a})[?dyn({b})]")),
            inner.clone().prop_map(|a| format!("dyn({a}).?a.b")),
            inner.prop_map(|a| format!("has(dyn({a}).a)")),
        ]
    })
}

/// Expressions of a type, so that most of them have a value.
#[derive(Clone, Copy, Debug)]
enum Sort {
    Int,
    Text,
    List,
    Truth,
}

fn typed(sort: Sort, depth: u32) -> BoxedStrategy<String> {
    let leaf = match sort {
        Sort::Int => prop_oneof![(-3..9i64).prop_map(|n| n.to_string()), Just("n".to_owned())].boxed(),
        Sort::Text => "[a-cä]{0,4}".prop_map(|s| format!("'{s}'")).boxed(),
        Sort::List => prop_oneof![Just("x".to_owned()), Just("[3, 1, 2]".to_owned())].boxed(),
        Sort::Truth => any::<bool>().prop_map(|b| b.to_string()).boxed(),
    };
    if depth == 0 {
        return leaf;
    }
    let of = |sort| typed(sort, depth - 1);
    let (int, text, list, truth) = (
        || of(Sort::Int),
        || of(Sort::Text),
        || of(Sort::List),
        || of(Sort::Truth),
    );
    let inner = match sort {
        Sort::Int => prop_oneof![
            (int(), int(), prop::sample::select(vec!["+", "-", "*", "/", "%"]))
                .prop_map(|(a, b, o)| format!("({a} {o} {b})")),
            list().prop_map(|l| format!("{l}.size()")),
            (list(), int()).prop_map(|(l, n)| format!("{l}[?{n}].orValue({n})")),
            (text(), text()).prop_map(|(a, b)| format!("{a}.indexOf({b})")),
            (list(), int()).prop_map(|(l, n)| format!("{l}.map(n, {n}).sum()")),
            (truth(), int(), int()).prop_map(|(t, a, b)| format!("({t} ? {a} : {b})")),
        ]
        .boxed(),
        Sort::Text => prop_oneof![
            (text(), text()).prop_map(|(a, b)| format!("({a} + {b})")),
            (text(), text(), text()).prop_map(|(a, b, c)| format!("{a}.replace({b}, {c})")),
            int().prop_map(|n| format!("string({n})")),
            (list(), text()).prop_map(|(l, t)| format!("{l}.map(n, {t}).join(',')")),
            (text(), int()).prop_map(|(t, n)| format!("'%s %d'.format([dyn({t}), {n}])")),
        ]
        .boxed(),
        Sort::List => prop_oneof![
            (list(), list()).prop_map(|(a, b)| format!("({a} + {b})")),
            (list(), int()).prop_map(|(l, n)| format!("{l}.map(n, {n})")),
            (list(), truth()).prop_map(|(l, t)| format!("{l}.filter(n, {t})")),
            (list(), int()).prop_map(|(l, n)| format!("{l}.sortBy(n, {n})")),
            (list(), int()).prop_map(|(l, n)| format!("{l}.transformList(i, n, i + {n})")),
            list().prop_map(|l| format!("{l}.distinct().reverse().sort()")),
            int().prop_map(|n| format!("lists.range({n})")),
        ]
        .boxed(),
        Sort::Truth => prop_oneof![
            (int(), int(), prop::sample::select(vec!["==", "<", ">="])).prop_map(|(a, b, o)| format!("{a} {o} {b}")),
            (list(), truth()).prop_map(|(l, t)| format!("{l}.all(n, {t})")),
            (list(), truth()).prop_map(|(l, t)| format!("{l}.exists(i, n, {t})")),
            (int(), list()).prop_map(|(n, l)| format!("{n} in {l}")),
            (truth(), truth()).prop_map(|(a, b)| format!("({a} || !({b}))")),
            (text(), text()).prop_map(|(a, b)| format!("{a}.contains({b})")),
            (list(), list()).prop_map(|(a, b)| format!("sets.intersects({a}, {b})")),
        ]
        .boxed(),
    };
    prop_oneof![1 => leaf, 4 => inner].boxed()
}

fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        ".{0,6}".prop_map(Json::from),
        Just(json!("2024-02-29T01:02:03Z")),
        Just(json!("10.0.0.0/8")),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused_or_compiled(source in "\\PC*|[ -~\\n]{0,80}") {
        drop(Program::compile(&env(), &source));
        drop(unescape(&source));
    }

    #[test]
    fn any_tokens_are_refused_or_compiled(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..30)) {
        for separator in ["", " "] {
            if let Err(errors) = Program::compile(&env(), &words.join(separator)) {
                prop_assert!(!errors.is_empty());
                prop_assert!(cel::describe(&errors).starts_with("ERROR: <input>:"));
            }
        }
    }

    #[test]
    fn any_expression_ends(source in expression(), x in value(), other in value()) {
        let source = format!("cel.bind(v, x, {source})");
        let Ok(program) = Program::compile(&env(), &source) else { return Ok(()) };
        let activation = Activation::new().json("x", &x).json("self", &other);
        let mut budget = Budget::default().with_call_limit(20_000);
        let before = budget.remaining();
        let result = program.evaluate(&activation, &mut budget);
        prop_assert!(before - budget.remaining() == budget.last());
        if result.is_ok() {
            prop_assert!(budget.last() <= 20_000);
        }
    }

    #[test]
    fn typed_expressions_cost_what_was_estimated(
        source in prop_oneof![typed(Sort::Int, 4), typed(Sort::Text, 4), typed(Sort::List, 4), typed(Sort::Truth, 4)],
        items in prop::collection::vec(-2..5i64, 0..5),
    ) {
        let integer = Decl::plain(cel::Type::Int);
        let list = Decl::list(integer.clone(), Some(5), cel::types::Semantics::Atomic);
        let env = Env::new().variable("x", list).variable("n", integer);
        let program = Program::compile(&env, &source).map_err(|e| TestCaseError::fail(cel::describe(&e)))?;
        let (x, n) = (Json::from(items), json!(2));
        let activation = Activation::new().json("x", &x).json("n", &n);
        let mut budget = Budget::default();
        // Errors are overflows, divisions by zero and places out of range; none is of types.
        if let Err(e) = program.evaluate(&activation, &mut budget) {
            prop_assert!(!e.to_string().contains("no such overload"), "{source}: {e}");
        }
        // Upstream counts `join` twice when it runs and once when it is estimated, and comparing
        // declared numbers as nothing when it is estimated.
        let estimate = program.estimated_cost().max.saturating_mul(2);
        prop_assert!(budget.last() <= estimate, "{source}: {} > {estimate}", budget.last());
    }

    #[test]
    fn any_schema_and_object_end(schema in value(), object in value()) {
        let wrapped = json!({"type": "object", "properties": {
            "a": schema, "b": {"type": "array", "items": {"type": "string", "format": "date-time"}}}});
        let decl = from_schema(&wrapped, "self", true).expect("an object");
        let env = Env::new().variable("self", decl);
        for rule in ["has(self.b) && self.b.all(t, t.getHours() >= 0)", "self == self", "self.?b[?0].hasValue()"] {
            let program = Program::compile(&env, rule).expect(rule);
            let activation = Activation::new().json("self", &object);
            drop(program.evaluate(&activation, &mut Budget::default()));
        }
    }
}

/// Values that share their parts are small, but walking through them would take forever.
#[test]
fn shared_values_do_not_explode() {
    let env = Env::new().variable("x", Decl::any()).extension(Extension::Bind);
    let chain = |first: &str, step: &str, last: &str, n: usize| {
        let mut source = last.replace('@', &format!("v{n}"));
        for i in (0..n).rev() {
            let next = step.replace('@', &format!("v{i}"));
            source = format!("cel.bind(v{}, {next}, {source})", i + 1);
        }
        format!("cel.bind(v0, {first}, {source})")
    };
    let long = "x".repeat(1000);
    let cases = [
        chain("[1]", "[@, @]", "@ == [@]", 60),
        chain("[1]", "[@, @]", "@ == @", 60),
        chain("[1]", "dyn([@, @])", "'%s'.format([@]) == ''", 60),
        chain("dyn([1])", "dyn([@, @])", "@.flatten(100).size() == 1", 60),
        chain("{'a': 1}", "{'a': @, 'b': @}", "@ == @", 60),
        chain("[1]", "@ + @", "@.size() == 1", 60),
        chain(&format!("'{long}'"), "@ + @", "@.size() == 1", 60),
        chain(&format!("'{long}'"), "@.replace('', @)", "@.size() == 1", 60),
        chain(&format!("'{long}'"), "[@, @, @, @, @, @].join(@)", "@.size() == 1", 60),
        chain(&format!("'{long}'"), "'%s%s%s'.format([@, @, @])", "@.size() == 1", 60),
        chain("[1, 2]", "@.map(a, @)", "dyn(@) == dyn([@])", 10),
        chain(
            "lists.range(1000)",
            "@.map(a, @ == lists.range(1000))",
            "@.size() == 1",
            1,
        ),
        "x.matches(dyn('(a{100}){100}'))".to_owned(),
        "lists.range(9000).map(i, 'a'.matches(dyn('(b+)*c' + string(i)))).size() == 1".to_owned(),
        "lists.range(900).all(i, lists.range(900).distinct().size() > 0)".to_owned(),
    ];
    let x = json!("a");
    for source in cases {
        let start = Instant::now();
        if let Ok(program) = Program::compile(&env, &source) {
            let activation = Activation::new().json("x", &x);
            drop(program.evaluate(&activation, &mut Budget::default()));
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?} for {source:.200}");
    }
}
