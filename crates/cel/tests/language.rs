//! The language itself: literals, operators, errors, macros, conversions, moments.

mod common;

use common::{all_fail, all_true, holds};

#[test]
fn literals() {
    all_true(&[
        "1 == 0x1 && -9223372036854775808 < 0 && 18446744073709551615u > 1u",
        "1.5 == 15e-1 && .5 == 0.5 && 1e3 == 1000.0",
        r#""\x41\u00e4\101" == 'AäA'"#,
        r#"r"\n" == "\\n" && R'\d' == '\\d'"#,
        r#"'''a'b''' == "a'b" && """x"y""" == 'x"y'"#,
        r#"b"\xff\101" == b'\377A' && b'ä'.size() == 2 && size('ä') == 1"#,
        "[1, 2, 3,] == [1, 2, 3] && {1: 'a',}[1] == 'a' && {} == {}",
        "null == null && true != false",
        "// comment\n true // and more",
        "!!true && !(!true) && - -1 == 1 && -(-1) == 1",
        "1 + 2 * 3 - 4 / 2 % 3 == 5",
        "(true ? 1 : 2) == 1 && (false ? 1 : true ? 2 : 3) == 2",
        "'a' < 'b' && b'a' < b'b' && false < true",
        "1 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1}",
    ]);
}

#[test]
fn numbers_of_different_types_compare_by_value() {
    all_true(&[
        "1 < 2u && 1u < 2 && 1 < 1.5 && 1.5 > 1 && 2u >= 1.5 && -1 < 0u",
        "dyn(1) == 1u && dyn(1) == 1.0 && dyn(1.0) == 1u && dyn(1) != 1.5",
        "9223372036854775807 <= 9223372036854775808.0 && !(9223372036854775807 < 9223372036854775808.0)",
        "0.0 / 0.0 != 0.0 / 0.0 && !(0.0 / 0.0 < 1.0) && !(0.0 / 0.0 >= 1.0)",
        "1.0 / 0.0 > 1e308 && -1.0 / 0.0 < -1e308",
        "dyn('a') != 1 && dyn([1]) != {1: 1}",
        "{1: 'x'}[dyn(1u)] == 'x' && {dyn(1u): 'x'}[dyn(1.0)] == 'x' && dyn(1.0) in {1: 2}",
        "[1, 2] == [1, 2] && [dyn(1), 2u] == [dyn(1.0), 2] && {'a': [1]} == {'a': [1]}",
    ]);
}

#[test]
fn overflow_is_an_error() {
    all_fail(&[
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("-9223372036854775808 - 1 == 0", "integer overflow"),
        ("-(-9223372036854775808) == 0", "integer overflow"),
        ("9223372036854775807 * 2 == 0", "integer overflow"),
        ("-9223372036854775808 / -1 == 0", "integer overflow"),
        ("-9223372036854775808 % -1 == 0", "integer overflow"),
        ("18446744073709551615u + 1u == 0u", "unsigned integer overflow"),
        ("0u - 1u == 0u", "unsigned integer overflow"),
        ("1 / 0 == 0", "division by zero"),
        ("1 % 0 == 0", "modulus by zero"),
        ("1u / 0u == 0u", "division by zero"),
        ("int(9223372036854775808u) == 0", "integer overflow"),
        ("int(1e30) == 0", "integer overflow"),
        ("uint(-1) == 0u", "unsigned integer overflow"),
        ("uint(-1.0) == 0u", "unsigned integer overflow"),
        (
            "timestamp('9999-12-31T23:59:59Z') + duration('1s') == timestamp(0)",
            "timestamp overflow",
        ),
        (
            "duration('2562047h') + duration('2562047h') == duration('0s')",
            "duration overflow",
        ),
    ]);
}

#[test]
fn logic_swallows_errors() {
    all_true(&[
        "true || 1 / 0 == 0",
        "1 / 0 == 0 || true",
        "!(false && 1 / 0 == 0)",
        "!(1 / 0 == 0 && false)",
        "dyn(1) == 1 || dyn(1)",
        "[1, 2, 0].exists(i, 1 / i == 1)",
        "[0, 1].exists(i, 1 / i == 1)",
        "![0, 1].all(i, 1 / i == 2)",
        "false ? 1 / 0 == 0 : true",
        "x.missing == 1 || x.a == 1",
    ]);
    all_fail(&[
        ("1 / 0 == 0 || false", "division by zero"),
        ("1 / 0 == 0 && true", "division by zero"),
        ("[0].all(i, 1 / i == 1)", "division by zero"),
        ("[1, 0].exists_one(i, 1 / i == 1)", "division by zero"),
        ("x.s || false", "no such overload"),
        ("x.missing == 1", "no such key: missing"),
        ("x.list[7] == 1", "index out of bounds: 7"),
        ("x.list[-1] == 1", "index out of bounds: -1"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("{dyn(1): 1, 1u: 2} == {}", "insert failed: key 1 already exists"),
        ("x.a.b == 1", "no such overload"),
        ("x.a + 'b' == ''", "no such overload"),
    ]);
}

#[test]
fn macros() {
    all_true(&[
        "has(x.a) && !has(x.b) && has(x.n) && has({'a': 1}.a) && !has(x.deep.b.d)",
        "[1, 2].all(i, i > 0) && [].all(i, false) && ![].exists(i, true)",
        "[1, 2, 3].exists_one(i, i == 2) && ![2, 2].exists_one(i, i == 2)",
        "[1, 2, 3].map(i, i * 2) == [2, 4, 6]",
        "[1, 2, 3].map(i, i > 1, i * 2) == [4, 6]",
        "[1, 2, 3].filter(i, i > 1) == [2, 3]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b']) && {'a': 1}.map(k, k) == ['a']",
        "[[1, 2], [3]].all(l, l.all(i, i > 0)) && [[1], [2]].map(l, l.map(i, i + 1)) == [[2], [3]]",
        "[1, 2].map(i, [3, 4].map(j, i * j)) == [[3, 4], [6, 8]]",
        "x.list.filter(i, i in x.list) == x.list",
        // Two variables.
        "[1, 2, 3].all(i, v, i < v) && ['a'].exists(i, v, i == 0 && v == 'a')",
        "{'a': 1}.all(k, v, k == 'a' && v == 1) && [1, 1, 2].existsOne(i, v, v == 2)",
        "['a', 'b'].transformList(i, v, v + string(i)) == ['a0', 'b1']",
        "['a', 'b'].transformList(i, v, i > 0, v) == ['b']",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && ['x'].transformMap(i, v, v) == {0: 'x'}",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) == {'b': 2}",
        "{'a': 'x'}.transformMapEntry(k, v, {v: k}) == {'x': 'a'}",
        "cel.bind(a, 2, cel.bind(b, a + 1, a * b)) == 6",
        "cel.bind(a, [1], [2].map(i, a + [i])) == [[1, 2]]",
    ]);
    all_fail(&[
        ("has(x)", "invalid argument to has() macro"),
        ("[1].all(i.j, true)", "argument must be a simple name"),
        ("[1].all(i, 1)", "expected type 'bool' but found 'int'"),
        (
            "1.all(i, true)",
            "cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        (
            "['a', 'a'].transformMapEntry(i, v, {v: i}) == {}",
            "insert failed: key a already exists",
        ),
    ]);
}

#[test]
fn optionals() {
    all_true(&[
        "x.?a.orValue(0) == 1 && x.?b.orValue(0) == 0 && x.?deep.b.c.hasValue() && !x.?no.b.c.hasValue()",
        "x.?deep.?b.?c == optional.of(dyn(true)) && x.?no == optional.none()",
        "x.list[?0].value() == 1 && x.list[?9] == optional.none() && {'a': 1}[?'a'].value() == 1",
        "optional.ofNonZeroValue('') == optional.none() && optional.ofNonZeroValue(1).hasValue()",
        "optional.none().or(optional.of(2)).value() == 2 && optional.of(1).or(optional.of(2)).value() == 1",
        "[?optional.of(1), ?optional.none(), 2] == [1, 2]",
        "{?'a': optional.of(1), ?'b': optional.none()} == {'a': 1}",
        "optional.of(2).optMap(v, v * 2).value() == 4 && !optional.none().optMap(v, v).hasValue()",
        "optional.of([1]).optFlatMap(l, l[?0]).value() == 1",
        "has(x.?deep.b) && !has(x.?no.b)",
        "optional.unwrap([optional.of(1), optional.none()]) == [1] && [optional.of(1)].unwrapOpt() == [1]",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && ![].first().hasValue()",
    ]);
    all_fail(&[("optional.none().value() == 1", "optional.none() dereference")]);
}

#[test]
fn conversions() {
    all_true(&[
        "int('-5') == -5 && int(5u) == 5 && int(5.9) == 5 && int(-5.9) == -5 && int(timestamp(7)) == 7",
        "uint('5') == 5u && uint(5) == 5u && double('1.5') == 1.5 && double(2) == 2.0",
        "string(1) == '1' && string(1.5) == '1.5' && string(true) == 'true' && string(b'ab') == 'ab'",
        "string(1e23) == '1e+23' && string(1e-7) == '1e-07' && string(100.0) == '100'",
        "bool('true') && !bool('0') && bytes('ä') == b'ä'",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
        "type(1u) == uint && type(1.0) == double && type(b'') == bytes && type(int) == type",
        "type(timestamp(0)) == google.protobuf.Timestamp && type(duration('1s')) == google.protobuf.Duration",
        "size([1, 2]) == 2 && {'a': 1}.size() == 1 && 'äöü'.size() == 3 && size(b'ä') == 2",
        "duration('1h30m') == duration('90m') && string(duration('1h1.5s')) == '3601.5s' && duration('-1s') < duration('0')",
    ]);
    all_fail(&[
        ("int('x') == 1", "type conversion error from 'string' to 'int'"),
        ("bool('yes')", "type conversion error from 'string' to 'bool'"),
        ("string(b'\\xff') == ''", "invalid UTF-8 in bytes"),
        ("duration('1x') == duration('1s')", "invalid duration argument"),
        ("timestamp('yesterday') == timestamp(0)", "invalid timestamp argument"),
        (
            "timestamp(dyn('yesterday')) == timestamp(0)",
            "type conversion error from 'string' to 'google.protobuf.Timestamp'",
        ),
    ]);
}

#[test]
fn moments() {
    all_true(&[
        "timestamp('2024-02-29T12:30:15.123456789Z').getFullYear() == 2024",
        "timestamp('2024-02-29T12:30:15Z').getMonth() == 1 && timestamp('2024-02-29T12:30:15Z').getDate() == 29",
        "timestamp('2024-02-29T12:30:15Z').getDayOfMonth() == 28 && timestamp('2024-02-29T00:00:00Z').getDayOfYear() == 59",
        "timestamp('2024-02-29T12:30:15Z').getDayOfWeek() == 4",
        "timestamp('2024-02-29T23:30:15Z').getHours('+02:00') == 1 && timestamp('2024-02-29T23:30:15Z').getDate('+02:00') == 1",
        "timestamp('2024-07-01T12:00:00Z').getHours('Europe/Berlin') == 14",
        "timestamp('2024-01-01T12:00:00Z').getHours('America/New_York') == 7",
        "timestamp('2024-01-01T12:00:00Z').getMinutes('-00:30') == 30",
        "timestamp('2024-02-29T12:30:15.123Z').getMilliseconds() == 123 && timestamp(0).getSeconds() == 0",
        "duration('3730s').getHours() == 1 && duration('3730s').getMinutes() == 62 && duration('1.5s').getMilliseconds() == 1500",
        "timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "string(timestamp('2024-01-01T01:00:00.5+01:00')) == '2024-01-01T01:00:00.5+01:00'",
        "timestamp('0001-01-01T00:00:00Z') < timestamp('9999-12-31T23:59:59.999999999Z')",
        "string(timestamp(-1)) == '1969-12-31T23:59:59Z'",
    ]);
    all_fail(&[
        (
            "timestamp(dyn('2023-02-29T00:00:00Z')) == timestamp(0)",
            "type conversion error",
        ),
        (
            "timestamp(dyn('10000-01-01T00:00:00Z')) == timestamp(0)",
            "type conversion error",
        ),
        (
            "timestamp(0).getHours('Nowhere/At_All') == 0",
            "unknown time zone Nowhere/At_All",
        ),
    ]);
}

#[test]
fn syntax_errors_have_places() {
    all_fail(&[
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '('",
        ),
        (
            "1 +\n  )",
            "ERROR: <input>:2:3: Syntax error: mismatched input ')' expecting",
        ),
        (
            "true true",
            "ERROR: <input>:1:6: Syntax error: mismatched input 'true' expecting <EOF>",
        ),
        (
            "a $ b",
            "ERROR: <input>:1:3: Syntax error: token recognition error at: '$'",
        ),
        ("'open", "token recognition error at: ''open'"),
        ("for", "reserved identifier: for"),
        ("99999999999999999999", "invalid int literal"),
        ("'\\q'", "unable to unescape string"),
        ("x.y(", "Syntax error: mismatched input '<EOF>'"),
        ("[1, 2", "Syntax error: mismatched input '<EOF>' expecting ','"),
        (
            "'ä' + $",
            "ERROR: <input>:1:7: Syntax error: token recognition error at: '$'\n | 'ä' + $\n | .．....^",
        ),
    ]);
}

#[test]
fn the_checker_finds_what_upstream_finds() {
    all_fail(&[
        (
            "y == 1",
            "ERROR: <input>:1:1: undeclared reference to 'y' (in container '')",
        ),
        (
            "f(1)",
            "ERROR: <input>:1:2: undeclared reference to 'f' (in container '')",
        ),
        ("x.f(1)", "undeclared reference to 'f' (in container '')"),
        (
            "1 == 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (
            "1 + 1.0 == 2",
            "found no matching overload for '_+_' applied to '(int, double)'",
        ),
        (
            "'a'.contains(1)",
            "found no matching overload for 'contains' applied to 'string.(int)'",
        ),
        (
            "size(1) == 1",
            "found no matching overload for 'size' applied to '(int)'",
        ),
        (
            "[1, 'a'] == []",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'",
        ),
        ("{'a': 1, 'b': 'c'} == {}", "expected type 'int' but found 'string'"),
        ("1 && true", "expected type 'bool' but found 'int'"),
        ("'a'.b == 1", "type 'string' does not support field selection"),
        (
            "true ? 1 : 'a'",
            "found no matching overload for '_?_:_' applied to '(bool, int, string)'",
        ),
        ("'a'.matches('(')", "invalid matches argument"),
        (
            "'a' in 'abc'",
            "found no matching overload for '@in' applied to '(string, string)'",
        ),
        (
            "[1].map(i, i.size())",
            "found no matching overload for 'size' applied to 'int.()'",
        ),
    ]);
}

#[test]
fn depth_is_bounded_and_stacks_are_not_exhausted() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    assert!(holds(&deep("(", "true", ")", 100)).is_ok());
    let limit = "expression recursion limit exceeded: 250";
    for source in [
        deep("(", "true", ")", 40_000),
        deep("[", "", "]", 40_000),
        deep("{1:", "1", "}", 20_000),
        deep("!(", "true", ")", 30_000),
        deep("x.map(y,", "1", ")", 10_000),
        deep("1+(", "1", ")", 20_000),
        format!("1{} == 1", "+1".repeat(40_000)),
        format!("x{} == 1", ".a".repeat(40_000)),
        format!("x{} == 1", "[0]".repeat(30_000)),
        format!("{}true : true", "true ? true : ".repeat(6_000)),
    ] {
        let error = holds(&source).expect_err("too deep");
        assert!(error.contains(limit), "{error:.200}");
    }
    // A chain of one logical operator is as deep as its logarithm.
    assert_eq!(holds(&format!("true{}", " && true".repeat(5_000))), Ok(true));
    assert_eq!(holds(&deep("!!(", "true", ")", 240)), Ok(true));
    assert_eq!(holds(&deep("[0].all(i,", "true", ")", 60)), Ok(true));
    let long = format!("'{}' == ''", "a".repeat(100_000));
    assert!(
        holds(&long)
            .expect_err("long")
            .contains("expression code point size exceeds limit: size: 100008, limit 100000")
    );
}
