//! A query and the records: the answer. Pure.
//!
//! Must not forward: a name that is not ours gives `None`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::records::{Entry, Records};

/// How long others may keep an answer, seconds: endpoints come and go.
const TTL: u32 = 5;
/// Largest answer over UDP that we promise (RFC 9715).
const PAYLOAD: u16 = 1232;
/// Without EDNS (RFC 1035).
const PLAIN_PAYLOAD: u16 = 512;

/// The answer to a query; `None` when other servers are to be asked.
pub fn answer(records: &Records, query: &Message) -> Option<Message> {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    if let Some(theirs) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        if theirs.version() > 0 {
            edns.set_rcode_high(ResponseCode::BADVERS.high());
            response.metadata.response_code = ResponseCode::BADVERS;
        }
        response.set_edns(edns);
    }
    response.add_queries(query.queries.iter().cloned());
    if response.metadata.response_code == ResponseCode::BADVERS {
        return Some(response);
    }
    let [question] = query.queries.as_slice() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return Some(response);
    };
    if query.metadata.message_type != MessageType::Query || query.metadata.op_code != OpCode::Query {
        response.metadata.response_code = ResponseCode::NotImp;
        return Some(response);
    }
    if question.query_class != DNSClass::IN {
        response.metadata.response_code = ResponseCode::Refused;
        return Some(response);
    }
    let name = text(&question.name);
    if let Some(address) = reverse(&name) {
        let names: Vec<&str> = records.names(address).collect();
        if names.is_empty() {
            return None;
        }
        let wanted = matches!(question.query_type, RecordType::PTR | RecordType::ANY);
        for target in names.into_iter().filter(|_| wanted).filter_map(parse) {
            add(&mut response, &question.name, RData::PTR(PTR(target)));
        }
        response.metadata.authoritative = true;
        return Some(response);
    }
    if !records.is_ours(&name) {
        return None;
    }
    if !records.is_complete() && records.pod(&name).is_none() && !records.exists(&name) {
        response.metadata.response_code = ResponseCode::ServFail;
        return Some(response);
    }
    response.metadata.authoritative = true;
    fill(records, question, &name, &mut response);
    Some(response)
}

/// Makes an answer fit into a datagram that the asker takes. What does not fit is left out: first what
/// nobody asked for; then, saying so, the last answers, because many never ask again by TCP.
pub(crate) fn fit(query: &Message, mut response: Message) -> Message {
    let limit = query
        .edns
        .as_ref()
        .map_or(PLAIN_PAYLOAD, |e| e.max_payload().clamp(PLAIN_PAYLOAD, PAYLOAD));
    let fits = |m: &Message| m.to_vec().is_ok_and(|bytes| bytes.len() <= usize::from(limit));
    if fits(&response) {
        return response;
    }
    response.additionals.clear();
    if fits(&response) {
        return response;
    }
    response.metadata.truncation = true;
    let answers = std::mem::take(&mut response.answers);
    let (mut fitting, mut too_many) = (0, answers.len());
    while too_many - fitting > 1 {
        let half = fitting.midpoint(too_many);
        response.answers = answers.iter().take(half).cloned().collect();
        if fits(&response) {
            fitting = half;
        } else {
            too_many = half;
        }
    }
    response.answers = answers.into_iter().take(fitting).collect();
    response
}

/// What is still to be asked of others: the end of an alias that leads out of the domain. Stub
/// resolvers expect the whole chain in one answer.
pub(crate) fn open_alias(records: &Records, response: &Message) -> Option<Query> {
    let question = response.queries.first()?;
    let [record] = response.answers.as_slice() else {
        return None;
    };
    let RData::CNAME(target) = &record.data else {
        return None;
    };
    let wanted = !matches!(question.query_type, RecordType::CNAME | RecordType::ANY);
    (wanted && !records.is_ours(&text(&target.0))).then(|| Query::query(target.0.clone(), question.query_type))
}

/// An answer without records.
pub(crate) fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_queries(query.queries.iter().cloned());
    response
}

fn fill(records: &Records, question: &Query, name: &str, response: &mut Message) {
    if let Some(address) = records.pod(name) {
        if question.query_type == RecordType::A {
            add(response, &question.name, RData::A(A(address)));
        } else {
            no_data(records, response);
        }
        return;
    }
    if name == format!("dns-version.{}", records.domain()) && question.query_type == RecordType::TXT {
        return add(response, &question.name, RData::TXT(TXT::new(vec!["1.1.0".into()])));
    }
    match records.get(name) {
        Some(entry) => from_entry(records, question, entry, response),
        None if records.exists(name) => no_data(records, response),
        None => {
            response.metadata.response_code = ResponseCode::NXDomain;
            no_data(records, response);
        }
    }
    if response.answers.is_empty() && response.authorities.is_empty() {
        no_data(records, response);
    }
}

fn from_entry(records: &Records, question: &Query, entry: &Entry, response: &mut Message) {
    if let Some(alias) = &entry.alias {
        let Some(target) = parse(alias) else { return };
        add(response, &question.name, RData::CNAME(CNAME(target.clone())));
        // An alias within the cluster is followed here; for others see `open_alias`.
        if let Some(other) = records.get(alias)
            && question.query_type == RecordType::A
        {
            addresses(response, &target, &other.addresses);
        }
        return;
    }
    match question.query_type {
        RecordType::A => addresses(response, &question.name, &entry.addresses),
        RecordType::SRV => {
            for (port, target) in &entry.services {
                let Some(name) = parse(target) else { continue };
                add(
                    response,
                    &question.name,
                    RData::SRV(SRV::new(0, 100, *port, name.clone())),
                );
                for address in records.get(target).iter().flat_map(|e| &e.addresses) {
                    let record = Record::from_rdata(name.clone(), TTL, RData::A(A(*address)));
                    response.add_additional(record);
                }
            }
        }
        RecordType::ANY => {
            addresses(response, &question.name, &entry.addresses);
        }
        _ => {}
    }
}

fn addresses(response: &mut Message, name: &Name, addresses: &BTreeSet<Ipv4Addr>) {
    // Another one first each time: some take only the first.
    let turn = usize::from(response.metadata.id)
        .checked_rem(addresses.len())
        .unwrap_or(0);
    let turned = addresses.iter().skip(turn).chain(addresses.iter().take(turn));
    for address in turned {
        add(response, name, RData::A(A(*address)));
    }
}

fn add(response: &mut Message, name: &Name, data: RData) {
    response.add_answer(Record::from_rdata(name.clone(), TTL, data));
}

/// The domain's SOA: how long the absence may be remembered (RFC 2308).
fn no_data(records: &Records, response: &mut Message) {
    let (Some(zone), Some(server), Some(mailbox)) = (
        parse(records.domain()),
        parse(&format!("ns.dns.{}", records.domain())),
        parse(&format!("hostmaster.{}", records.domain())),
    ) else {
        return;
    };
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86_400, TTL);
    response.add_authority(Record::from_rdata(zone, TTL, RData::SOA(soa)));
}

fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn parse(name: &str) -> Option<Name> {
    let mut name = Name::from_str_relaxed(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The address that a name of `in-addr.arpa` stands for.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let mut parts: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').collect();
    parts.reverse();
    parts.join(".").parse().ok()
}

#[cfg(test)]
mod tests;
