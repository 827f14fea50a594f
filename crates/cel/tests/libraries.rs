//! Kubernetes' libraries: strings, lists, sets, quantities, addresses, formats and the rest.

mod common;

use cel::{Activation, Authorizer, Budget, Decision, Decl, Env, Opaque, Program, Question, Subject, Type, Value};
use common::{all_fail, all_true};

#[test]
fn strings() {
    all_true(&[
        "'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo')",
        "'abc'.matches('^[a-c]+$') && !'abc'.matches('^b') && matches('abc', 'b')",
        "'häl'.charAt(1) == 'ä' && 'abc'.charAt(3) == ''",
        "'tacocat'.indexOf('ac') == 1 && 'tacocat'.indexOf('') == 0 && 'tacocat'.indexOf('x') == -1",
        "'tacocat'.indexOf('a', 3) == 5 && 'häh'.indexOf('h', 1) == 2",
        "'tacocat'.lastIndexOf('at') == 5 && 'tacocat'.lastIndexOf('') == 7 && 'tacocat'.lastIndexOf('a', 3) == 1",
        "['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b' && [].join('x') == ''",
        "'TacoÄ'.lowerAscii() == 'tacoÄ' && 'tacoä'.upperAscii() == 'TACOä'",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'ab'.replace('', '_') == '_a_b_' && 'hello'.replace('l', '', 0) == 'hello' && 'hello'.replace('l', '', -1) == 'heo'",
        "'a b c'.split(' ') == ['a', 'b', 'c'] && 'a b c'.split(' ', 2) == ['a', 'b c'] && 'a b'.split(' ', 0) == []",
        "'abc'.split('') == ['a', 'b', 'c'] && ''.split('') == [] && ''.split(',') == [''] && 'abc'.split('', 2) == ['a', 'bc']",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'ta©o'.substring(2, 3) == '©'",
        "' \\t a b \\n '.trim() == 'a b'",
        "strings.quote('a\"b\\n') == '\"a\\\\\"b\\\\n\"'",
        "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('[0-9]+') == ''",
        "'1 22 333'.findAll('[0-9]+') == ['1', '22', '333'] && '1 22'.findAll('[0-9]+', 1) == ['1'] && 'a'.findAll('b') == []",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
    all_fail(&[
        ("'abc'.charAt(4) == ''", "index out of range: 4"),
        (
            "'abc'.substring(2, 1) == ''",
            "invalid substring range. start: 2, end: 1",
        ),
        ("'abc'.substring(5) == ''", "index out of range: 5"),
        ("'abc'.indexOf('a', -1) == 0", "index out of range: -1"),
        ("'a'.matches(dyn('['))", "unclosed character class"),
    ]);
}

#[test]
fn formatting() {
    all_true(&[
        "'%s is %d'.format(['x', 5]) == 'x is 5'",
        "'%d%%'.format([5]) == '5%' && '%.2f'.format([1.239]) == '1.24' && '%f'.format([1.5]) == '1.500000'",
        "'%e'.format([1052.032911275]) == '1.052033×10⁰³' && '%b'.format([5]) == '101' && '%b'.format([true]) == '1'",
        "'%x %X %o'.format([255, 255, 8]) == 'ff FF 10' && '%x'.format(['hi']) == '6869' && '%x'.format([-1]) == '-1'",
        "'%s'.format([[dyn(1), 'a', [true]]]) == '[1, a, [true]]'",
        "'%s'.format([{'b': dyn(1), 'a': null}]) == '{a: null, b: 1}'",
        "'%s %s'.format([dyn(timestamp(0)), duration('90s')]) == '1970-01-01T00:00:00Z 90s'",
        "'%s %f'.format([0.0 / 0.0, 1.0 / 0.0]) == 'NaN Infinity' && '%s'.format([type(1)]) == 'int'",
    ]);
    all_fail(&[
        (
            "'%d'.format(['a']) == ''",
            "error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s'.format([]) == ''", "error during formatting: index 0 out of range"),
        (
            "'%z'.format([1]) == ''",
            "error during formatting: unrecognized formatting clause \"z\"",
        ),
    ]);
}

#[test]
fn lists_and_sets() {
    all_true(&[
        "[1, 2, 2].isSorted() && ![2, 1].isSorted() && [].isSorted() && ['a', 'b'].isSorted()",
        "[1, 2].sum() == 3 && [1.5, 2.0].sum() == 3.5 && [1u].sum() == 1u && [duration('1s'), duration('2s')].sum() == duration('3s')",
        "[1.0].filter(x, false).sum() == 0.0 && [1].filter(x, false).sum() == 0",
        "[3, 1, 2].min() == 1 && [3, 1, 2].max() == 3 && ['b', 'a'].min() == 'a'",
        "[1, 2, 2].indexOf(2) == 1 && [1, 2, 2].lastIndexOf(2) == 2 && [1].indexOf(5) == -1",
        "[1, 2].includes(1) && !dyn([1, 2]).includes(3) && dyn(1).includes(1)",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3] && [[1], [2, 3]].flatten() == [1, 2, 3]",
        "[dyn(1), [dyn(2), [dyn(3)]]].flatten(2) == [dyn(1), 2, 3] && lists.range(3) == [0, 1, 2] && lists.range(-1) == []",
        "[1, 2].reverse() == [2, 1] && [1, 2, 1].distinct() == [1, 2] && [3, 1, 2].sort() == [1, 2, 3]",
        "['bb', 'a'].sortBy(s, s.size()) == ['a', 'bb'] && [{'n': 2}, {'n': 1}].sortBy(e, e.n).map(e, e.n) == [1, 2]",
        "sets.contains([1, 2, 3], [1, 2]) && !sets.contains([1], [1, 2]) && sets.contains([1], [])",
        "sets.equivalent([1, 1, 2], [2, 1]) && sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [2])",
        "[1] + [2, 3] == [1, 2, 3]",
        "math.greatest(1, 2) == 2 && math.least([3, 1]) == 1 && math.ceil(1.2) == 2.0 && math.abs(-3) == 3",
        "base64.encode(b'hello') == 'aGVsbG8=' && base64.decode('aGVsbG8=') == b'hello' && base64.decode('aGVsbG8') == b'hello'",
    ]);
    all_fail(&[
        ("[].min() == 1", "min called on empty list"),
        ("[1].slice(0, 2) == []", "cannot slice(0, 2), list is length 1"),
        ("[1].slice(-1, 0) == []", "negative indexes not supported"),
        ("[1].flatten(-1) == []", "level must be non-negative"),
        ("[dyn(1), 'a'].sort() == []", "list elements must have the same type"),
        ("[[1]].sort() == []", "found no matching overload for 'sort'"),
        (
            "lists.range(100000000).size() == 1",
            "operation cancelled: actual cost limit exceeded",
        ),
    ]);
}

#[test]
fn quantities_and_versions() {
    all_true(&[
        "quantity('1.5G').isGreaterThan(quantity('1G')) && quantity('200M').compareTo(quantity('0.2G')) == 0",
        "quantity('1Ki') == quantity('1024') && quantity('1') != quantity('2') && isQuantity('5m') && !isQuantity('5x')",
        "quantity('50k').add(20) == quantity('50020') && quantity('50k').sub(quantity('20k')) == quantity('30k')",
        "quantity('500m').sign() == 1 && quantity('-5').sign() == -1 && quantity('0').sign() == 0",
        "quantity('50000000G').isInteger() && !quantity('500m').isInteger() && quantity('50k').asInteger() == 50000",
        "quantity('1500m').asApproximateFloat() == 1.5 && quantity('50.703k').asApproximateFloat() == 50703.0",
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "semver('1.0.0-alpha').isLessThan(semver('1.0.0')) && semver('1.0.0-2').isLessThan(semver('1.0.0-11'))",
        "semver('1.0.0-1').compareTo(semver('1.0.0-a')) == -1 && semver('1.2.3+a') == semver('1.2.3+b')",
        "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v1.0', true) && semver('v01.01', true) == semver('1.1.0')",
    ]);
    all_fail(&[
        (
            "quantity('x') == quantity('1')",
            "quantities must match the regular expression",
        ),
        ("quantity('500m').asInteger() == 1", "cannot convert value to integer"),
        (
            "semver('1.0') == semver('1.0.0')",
            "No Major.Minor.Patch elements found",
        ),
    ]);
}

#[test]
fn addresses_networks_and_urls() {
    all_true(&[
        "isIP('127.0.0.1') && isIP('::1') && !isIP('127.0.0.256') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
        "ip('127.0.0.1').family() == 4 && ip('::1').family() == 6 && ip('127.0.0.1').isLoopback() && ip('::').isUnspecified()",
        "ip('224.0.0.1').isLinkLocalMulticast() && ip('169.254.1.1').isLinkLocalUnicast() && ip('fe80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip('127.0.0.1') == ip('127.0.0.1') && string(ip('2001:DB8::1')) == '2001:db8::1'",
        "ip.isCanonical('2001:db8::1') && !ip.isCanonical('2001:DB8::1')",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && !cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/16'))",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') && cidr('10.0.0.0/8').prefixLength() == 8",
        "cidr('192.168.1.5/24').ip() == ip('192.168.1.5') && string(cidr('::1/128')) == '::1/128' && cidr('0.0.0.0/0').containsIP('1.2.3.4')",
        "isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0/08')",
        "url('https://user@example.com:80/a b?k=v&k=w#f').getHost() == 'example.com:80'",
        "url('https://example.com:80/').getHostname() == 'example.com' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://[::1]:80/').getPort() == '80' && url('https://example.com/').getPort() == ''",
        "url('HTTPS://example.com/').getScheme() == 'https' && url('/path').getScheme() == ''",
        "url('https://example.com/a b').getEscapedPath() == '/a%20b' && url('https://example.com').getEscapedPath() == ''",
        "url('https://e.com/?k=a&k=b&z=%20x').getQuery() == {'k': ['a', 'b'], 'z': [' x']}",
        "isURL('https://a/b') && isURL('/a') && !isURL('../a') && !isURL('a b') && !isURL('https://a:x/')",
    ]);
    all_fail(&[
        (
            "ip('::ffff:1.2.3.4').family() == 4",
            "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed",
        ),
        (
            "cidr('1.2.3.4').prefixLength() == 1",
            "network address parse error during conversion from string",
        ),
        (
            "url('../a').getHost() == ''",
            "URL parse error during conversion from string",
        ),
    ]);
}

#[test]
fn named_formats() {
    all_true(&[
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My').hasValue()",
        "format.named('uuid').value().validate('nope').value() == ['does not match the UUID format']",
        "!format.named('nope').hasValue() && !format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
        "!format.date().validate('2024-02-29').hasValue() && format.datetime().validate('2024-02-29').hasValue()",
        "!format.byte().validate('aGVsbG8=').hasValue() && !format.uri().validate('https://a/').hasValue()",
        "!format.dns1123LabelPrefix().validate('my-').hasValue() && format.labelValue().validate('-').hasValue()",
        "format.qualifiedName().validate('a/b/c').hasValue() && format.uuid() == format.uuid()",
    ]);
}

struct OnlyPods;

impl Authorizer for OnlyPods {
    fn authorize(&self, subject: &Subject, verb: &str, question: Question<'_>) -> Decision {
        let allowed = match question {
            Question::Path(path) => path == "/healthz" && verb == "get",
            Question::Resource(check) => {
                check.resource == "pods" && check.namespace == "shop" && verb == "list" && check.label_selector != "x=y"
            }
        };
        let error = matches!(subject, Subject::ServiceAccount(..)).then(|| "no tokens here".to_owned());
        Decision {
            allowed: allowed && error.is_none(),
            reason: "only pods".to_owned(),
            error,
        }
    }
}

#[test]
fn the_authorizer_is_asked() {
    let env = Env::new().variable("authorizer", Decl::plain(Type::Opaque(cel::types::Opaque::Authorizer)));
    let holds = |source: &str, budget: &mut Budget| {
        let program = Program::compile(&env, source).expect(source);
        let authorizer = OnlyPods;
        let value = Value::opaque(Opaque::Authorizer(&authorizer, Subject::Requester));
        let activation = Activation::new().value("authorizer", value);
        let result = program.evaluate(&activation, budget);
        result.map(|v| v.as_bool()).map_err(|e| e.to_string())
    };
    for source in [
        "authorizer.path('/healthz').check('get').allowed() && !authorizer.path('/x').check('get').allowed()",
        "authorizer.group('').resource('pods').namespace('shop').check('list').allowed()",
        "!authorizer.group('').resource('pods').namespace('shop').labelSelector('x=y').check('list').allowed()",
        "authorizer.group('apps').resource('deployments').subresource('scale').name('x').check('get').reason() == 'only pods'",
        "authorizer.serviceAccount('a', 'b').path('/healthz').check('get').error() == 'no tokens here'",
        "!authorizer.path('/healthz').check('get').errored()",
    ] {
        assert_eq!(holds(source, &mut Budget::default()), Ok(Some(true)), "{source}");
    }
    // Two checks fit into what one evaluation may cost, three do not.
    let check = "authorizer.path('/healthz').check('get').allowed()";
    let three = format!("{check} && {check} && {check}");
    let error = holds(&three, &mut Budget::default());
    assert_eq!(error, Err("operation cancelled: actual cost limit exceeded".to_owned()));
}
