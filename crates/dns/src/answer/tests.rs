//! Questions and answers, as the specification has them.

use super::*;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::json;

fn records() -> Records {
    let mut r = Records::new("Cluster.Local.");
    let web: Service = serde_json::from_value(json!({"spec": {"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}))
    .unwrap();
    r.set("shop", "web", &web, &[]);
    let db: Service = serde_json::from_value(json!({"spec": {"clusterIP": "None"}})).unwrap();
    let slice: EndpointSlice =
        serde_json::from_value(json!({"addressType": "IPv4", "ports": [{"name": "pg", "port": 5432}],
        "endpoints": [
            {"addresses": ["10.42.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.3"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false}}]}))
        .unwrap();
    r.set("shop", "db", &db, &[&slice]);
    let out: Service =
        serde_json::from_value(json!({"spec": {"type": "ExternalName", "externalName": "example.org"}})).unwrap();
    r.set("shop", "out", &out, &[]);
    r.set_complete();
    r
}

fn ask(records: &Records, name: &str, kind: RecordType) -> Option<Message> {
    let mut m = Message::query();
    m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    answer(records, &m)
}

fn data(records: &Records, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let m = ask(records, name, kind).unwrap();
    let mut answers: Vec<String> = m.answers.iter().map(|r| r.data.to_string()).collect();
    answers.sort();
    (m.metadata.response_code, answers)
}

fn ok(answers: &[&str]) -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, answers.iter().map(|a| (*a).to_owned()).collect())
}

#[test]
fn names_of_services() {
    let r = records();
    let a = |name: &str| data(&r, name, RecordType::A);
    assert_eq!(a("web.shop.svc.cluster.local."), ok(&["10.43.0.9"]));
    assert_eq!(a("WEB.Shop.SVC.cluster.LOCAL."), ok(&["10.43.0.9"]));
    assert_eq!(a("db.shop.svc.cluster.local."), ok(&["10.42.0.2", "10.42.0.3"]));
    assert_eq!(a("db-0.db.shop.svc.cluster.local."), ok(&["10.42.0.2"]));
    assert_eq!(a("10-42-0-3.db.shop.svc.cluster.local."), ok(&["10.42.0.3"]));
    assert_eq!(a("out.shop.svc.cluster.local."), ok(&["example.org."]));
    assert_eq!(a("10-42-9-9.shop.pod.cluster.local."), ok(&["10.42.9.9"]));
    let srv = data(&r, "_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(srv, ok(&["0 100 80 web.shop.svc.cluster.local."]));
    let srv = data(&r, "_pg._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(srv.1.len(), 2);
    let ptr = data(&r, "9.0.43.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(ptr, ok(&["web.shop.svc.cluster.local."]));
}

#[test]
fn absence_of_a_name_differs_from_absence_of_data() {
    let r = records();
    for (name, kind, code) in [
        ("web.shop.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
        ("shop.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("_tcp.web.shop.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("none.shop.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("web.farm.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let m = ask(&r, name, kind).unwrap();
        assert_eq!((m.metadata.response_code, m.answers.len()), (code, 0), "{name}");
        assert_eq!(m.authorities.len(), 1, "{name} carries the SOA");
    }
    assert!(ask(&r, "example.org.", RecordType::A).is_none());
    assert!(ask(&r, "notcluster.local.", RecordType::A).is_none());
    assert!(ask(&r, "1.0.0.127.in-addr.arpa.", RecordType::PTR).is_none());
}

#[test]
fn names_go_with_their_service() {
    let mut r = records();
    r.remove("shop", "web");
    r.remove("shop", "db");
    r.remove("shop", "out");
    assert_eq!(
        data(&r, "shop.svc.cluster.local.", RecordType::A).0,
        ResponseCode::NXDomain
    );
    assert!(ask(&r, "9.0.43.10.in-addr.arpa.", RecordType::PTR).is_none());
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let mut r = records();
    let endpoints: Vec<_> = (0..200u8)
        .map(|i| json!({"addresses": [format!("10.42.1.{i}")]}))
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints})).unwrap();
    let many: Service = serde_json::from_value(json!({"spec": {"clusterIP": "None"}})).unwrap();
    r.set("shop", "many", &many, &[&slice]);
    let mut m = Message::query();
    m.add_query(Query::query(
        Name::from_ascii("many.shop.svc.cluster.local.").unwrap(),
        RecordType::A,
    ));
    let full = answer(&r, &m).unwrap();
    assert_eq!(full.answers.len(), 200);
    let cut = fit(&m, full);
    assert!(cut.metadata.truncation && cut.to_vec().unwrap().len() <= 512);
    assert!(cut.answers.len() > 20, "as many as fit are there");
    let mut edns = Edns::new();
    edns.set_max_payload(60_000);
    m.set_edns(edns);
    let wider = fit(&m, answer(&r, &m).unwrap());
    assert!(wider.metadata.truncation && wider.to_vec().unwrap().len() <= 1232);
    assert!(wider.answers.len() > cut.answers.len());
}

#[test]
fn addresses_lead_back_to_the_names_of_endpoints() {
    let r = records();
    let ptr = |name: &str| data(&r, name, RecordType::PTR);
    assert_eq!(ptr("2.0.42.10.in-addr.arpa."), ok(&["db-0.db.shop.svc.cluster.local."]));
    assert_eq!(
        ptr("3.0.42.10.in-addr.arpa."),
        ok(&["10-42-0-3.db.shop.svc.cluster.local."])
    );
    assert!(
        ask(&r, "4.0.42.10.in-addr.arpa.", RecordType::PTR).is_none(),
        "not ready"
    );
}

#[test]
fn a_service_may_publish_endpoints_that_are_not_ready() {
    let mut r = records();
    let service: Service = serde_json::from_value(json!({"spec": {"clusterIP": "None",
        "publishNotReadyAddresses": true}}))
    .unwrap();
    let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4",
        "endpoints": [{"addresses": ["10.42.0.4"], "conditions": {"ready": false}}]}))
    .unwrap();
    r.set("shop", "early", &service, &[&slice]);
    assert_eq!(
        data(&r, "early.shop.svc.cluster.local.", RecordType::A),
        ok(&["10.42.0.4"])
    );
}

#[test]
fn before_all_is_known_nothing_is_denied() {
    let r = Records::new("cluster.local");
    let code = |name: &str| ask(&r, name, RecordType::A).unwrap().metadata.response_code;
    assert_eq!(code("web.shop.svc.cluster.local."), ResponseCode::ServFail);
    assert_eq!(code("cluster.local."), ResponseCode::NoError);
    assert_eq!(code("10-42-9-9.shop.pod.cluster.local."), ResponseCode::NoError);
    assert!(ask(&r, "example.org.", RecordType::A).is_none());
}

#[test]
fn the_schema_version_is_told() {
    let r = records();
    let name = "dns-version.cluster.local.";
    assert_eq!(data(&r, name, RecordType::TXT), ok(&["1.1.0"]));
    assert_eq!(data(&r, name, RecordType::A), ok(&[]));
}

#[test]
fn a_later_version_of_edns_is_refused() {
    let mut m = Message::query();
    m.add_query(Query::query(
        Name::from_ascii("web.shop.svc.cluster.local.").unwrap(),
        RecordType::A,
    ));
    let mut edns = Edns::new();
    edns.set_version(1);
    m.set_edns(edns);
    let sent = answer(&records(), &m).unwrap().to_vec().unwrap();
    let got = Message::from_vec(&sent).unwrap();
    // The number is that of BADSIG too.
    assert_eq!((u16::from(got.metadata.response_code), got.answers.len()), (16, 0));
}

#[test]
fn only_an_alias_that_leads_out_is_open() {
    let mut r = records();
    let within: Service =
        serde_json::from_value(json!({"spec": {"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}}))
            .unwrap();
    r.set("shop", "within", &within, &[]);
    let open = |name: &str, kind| open_alias(&r, &ask(&r, name, kind).unwrap()).map(|q| (text(&q.name), q.query_type));
    let out = "out.shop.svc.cluster.local.";
    assert_eq!(open(out, RecordType::A), Some(("example.org".into(), RecordType::A)));
    assert_eq!(
        open(out, RecordType::AAAA),
        Some(("example.org".into(), RecordType::AAAA))
    );
    assert_eq!(open(out, RecordType::CNAME), None);
    assert_eq!(open("within.shop.svc.cluster.local.", RecordType::A), None);
    assert_eq!(open("web.shop.svc.cluster.local.", RecordType::A), None);
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(query) = Message::from_vec(&bytes)
            && let Some(response) = answer(&records(), &query)
        {
            prop_assert_eq!(response.metadata.id, query.metadata.id);
        }
    }

    #[test]
    fn any_name_gets_an_answer_that_can_be_sent(labels in proptest::collection::vec("[a-z0-9_]{1,20}", 0..5)) {
        let name = format!("{}.cluster.local.", labels.join(".")).trim_start_matches('.').to_owned();
        let response = ask(&records(), &name, RecordType::A);
        prop_assert!(response.unwrap().to_vec().is_ok());
    }
}
