//! Lists: what a resourceVersion means, pages, and continue tokens.
//! Must not copy objects: a list is a snapshot and a range.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meta::{Reason, Status};
use serde_json::{Value, json};
use store::Range;

use super::Target;
use super::commit::{store_status, too_large};
use crate::cache::{Item, Selection, Snapshot, codec, select};
use crate::core::Core;
use crate::projection::catch_up;

/// How long a read waits for a revision that has not been reached.
const AHEAD: Duration = Duration::from_secs(3);

/// How `resourceVersion` of a list is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RvMatch {
    /// Not given.
    #[default]
    Unset,
    /// At least as new.
    NotOlderThan,
    /// Exactly that one.
    Exact,
}

/// Query of a list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// `resourceVersion`.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub rv_match: RvMatch,
    /// `limit`; 0 for none.
    pub limit: usize,
    /// `continue`.
    pub continue_token: String,
}

/// A list, yet to be written out: the items of `snapshot` that `selection` selects after `after`.
pub struct Listed {
    /// Objects.
    pub snapshot: Snapshot,
    /// Key before the first item.
    pub after: String,
    /// Number of items at most.
    pub limit: usize,
    /// The list's revision.
    pub revision: u64,
    /// Token of the next page; empty on the last.
    pub continue_token: String,
    /// Items after this page, where that is cheap to know.
    pub remaining: Option<usize>,
}

impl ListQuery {
    /// Reads the parameters.
    pub fn parse(rv: &str, rv_match: &str, limit: &str, token: &str) -> Result<Self, Status> {
        let rv_match = match rv_match {
            "" => RvMatch::Unset,
            "NotOlderThan" => RvMatch::NotOlderThan,
            "Exact" => RvMatch::Exact,
            other => {
                return Err(invalid(&format!(
                    "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""
                )));
            }
        };
        if rv_match != RvMatch::Unset && rv.is_empty() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if rv_match != RvMatch::Unset && !token.is_empty() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if rv_match == RvMatch::Exact && rv == "0" {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        let limit = match limit {
            "" => 0,
            n => n
                .parse::<i64>()
                .map_err(|_| Status::bad_request(format!("limit must be an integer, not \"{n}\"")))?
                .max(0),
        };
        Ok(ListQuery {
            resource_version: rv.to_owned(),
            rv_match,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            continue_token: token.to_owned(),
        })
    }
}

impl Core {
    /// LIST.
    pub async fn list(&self, target: Target<'_>, selection: &Selection, query: &ListQuery) -> Result<Listed, Status> {
        let cache = &target.resource.cache;
        let (snapshot, revision, after, left) = if query.continue_token.is_empty() {
            let (snapshot, revision) = self.snapshot_for(target, query).await?;
            (
                snapshot,
                revision,
                String::new(),
                Some(cache.count(&selection.namespace)),
            )
        } else {
            let (revision, after, left) = decode_token(&query.continue_token)?;
            let snapshot = match cache.page(revision) {
                Some(kept) => kept,
                None => self.past(target, revision).await?,
            };
            (snapshot, revision, after, left)
        };
        let mut listed = Listed {
            snapshot,
            after,
            limit: usize::MAX,
            revision,
            continue_token: String::new(),
            remaining: None,
        };
        // From the cache, "any" version means all of it at once, as upstream does.
        if query.limit == 0 || (query.resource_version == "0" && query.continue_token.is_empty()) {
            return Ok(listed);
        }
        listed.limit = query.limit;
        let (page, more) = select(
            &listed.snapshot,
            &target.resource.kind,
            selection,
            &listed.after,
            query.limit,
        );
        if more && let Some((last, _)) = page.last() {
            // Counted on from page to page: to count what follows would cost more than the page.
            let left = left
                .filter(|_| selection.is_plain())
                .map(|n| n.saturating_sub(page.len()));
            listed.continue_token = encode_token(revision, last, left);
            listed.remaining = left;
            cache.keep_page(revision, listed.snapshot.clone());
        }
        Ok(listed)
    }

    async fn snapshot_for(&self, target: Target<'_>, query: &ListQuery) -> Result<(Snapshot, u64), Status> {
        let cache = &target.resource.cache;
        let wanted = parse_revision(&query.resource_version)?;
        let exact =
            query.rv_match == RvMatch::Exact || (query.rv_match == RvMatch::Unset && query.limit > 0 && wanted > 0);
        self.wait_for(wanted).await?;
        if wanted == 0 && query.resource_version.is_empty() {
            self.read_barrier().await?;
        }
        catch_up(target.resource).await?;
        // Before the snapshot: it then contains at least this much.
        let applied = self.progress.applied();
        let (snapshot, revision) = cache.snapshot();
        let revision = revision.max(applied);
        if !exact || wanted == revision {
            return Ok((snapshot, revision));
        }
        if let Some(kept) = cache.page(wanted) {
            return Ok((kept, wanted));
        }
        Ok((self.past(target, wanted).await?, wanted))
    }

    /// Waits a little for a revision that the caller has seen elsewhere.
    pub(crate) async fn wait_for(&self, revision: u64) -> Result<(), Status> {
        if self.progress.applied() >= revision {
            return Ok(());
        }
        let waited = tokio::time::timeout(AHEAD, self.progress.reached(revision)).await;
        waited.map_err(|_| too_large(revision, self.progress.applied()))
    }

    /// The state at a past revision, read from the store.
    async fn past(&self, target: Target<'_>, revision: u64) -> Result<Snapshot, Status> {
        let range = Range::prefix(target.resource.prefix.clone().into_bytes()).at(revision);
        let page = self.store.range(range).await.map_err(|e| store_status(&e))?;
        let mut objects = Vec::with_capacity(page.items.len());
        for kv in page.items {
            objects.push(codec::decode(&kv.value).map_err(Status::internal)?);
        }
        if let Some(projection) = &target.resource.projection {
            objects = projection.project(&objects, &target.resource.api_version).await?;
        }
        let items = objects.into_iter().map(|o| (o.key().into(), Item::new(o)));
        let items: Vec<(Arc<str>, Arc<Item>)> = items.collect();
        Ok(Snapshot::new().insert_many(items))
    }
}

/// A revision as clients give it; 0 when empty.
pub(crate) fn parse_revision(text: &str) -> Result<u64, Status> {
    match text {
        "" => Ok(0),
        n => n.parse().map_err(|_| {
            Status::bad_request(format!(
                "Invalid value: \"{n}\": strconv.ParseUint: parsing \"{n}\": invalid syntax"
            ))
        }),
    }
}

fn encode_token(revision: u64, after: &str, left: Option<usize>) -> String {
    let mut token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{after}\u{0}")});
    if let Some(left) = left {
        token["left"] = left.into();
    }
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn decode_token(token: &str) -> Result<(u64, String, Option<usize>), Status> {
    let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad("not base64"))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad("not JSON"))?;
    if value["v"] != "meta.k8s.io/v1" {
        return Err(bad("server does not recognize this encoded version"));
    }
    let revision = value["rv"]
        .as_u64()
        .filter(|r| *r > 0)
        .ok_or_else(|| bad("incorrect encoded start resourceVersion"))?;
    let start = value["start"]
        .as_str()
        .filter(|s| !s.is_empty())
        .ok_or_else(|| bad("no start key"))?;
    let left = value["left"].as_u64().and_then(|n| usize::try_from(n).ok());
    Ok((revision, start.trim_end_matches('\u{0}').to_owned(), left))
}

fn invalid(why: &str) -> Status {
    let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {why}");
    Status::new(422, Reason::Invalid, message).about("meta.k8s.io", "ListOptions", "")
}
