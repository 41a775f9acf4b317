//! Listings without what this caller may not read (`hide_denied`), so that a
//! program that reads whatever is listed meets no refusal.
//!
//! Each entry is judged as if the caller asked for it next; that of a
//! directory, by the listing that it would get of it. Only what the provider
//! knows to be a listing is touched, and never an answer with credentials.

use bytes::Bytes;
use hyper::StatusCode;

use super::Proxy;
use super::forward::Passing;
use super::pipeline::query;
use crate::audit::Pending;
use crate::authorize::Outcome;
use crate::caller::Caller;
use crate::request::{CanonicalPath, ReadMethod};
use crate::upstream::Answer;

impl Proxy {
    /// The answer as this caller gets it.
    pub(super) async fn shown(
        &self,
        record: &mut Pending,
        caller: &Caller,
        passing: &Passing<'_>,
        answer: Answer,
    ) -> Answer {
        let read = passing.read;
        if !self.hide_denied || !self.is_listing(&read.path, &answer) {
            return answer;
        }
        if read.method == ReadMethod::Head {
            // How long it would be, nobody can tell without it.
            return answer.with_body(None);
        }
        let mut origin = passing.origin.clone();
        let mut shown: Vec<&[u8]> = Vec::new();
        let mut asked = 0;
        let entries: Vec<_> = answer.body().split(|byte| *byte == b'\n').collect();
        for entry in &entries {
            let is_shown = match entry_path(self.service.provider, &read.path, entry) {
                Some(path) => {
                    let orders = passing.orders;
                    // The unit and the holders, each once: what is not known
                    // then is not known a moment later.
                    let verdict = if asked < 2 {
                        let entry = (read, &path);
                        let decided = self.decide(orders, record, caller, &mut origin, entry);
                        let (verdict, did_ask) = decided.await;
                        asked += u32::from(did_ask);
                        verdict
                    } else {
                        orders.decide(&query(caller, &origin, read, &path))
                    };
                    let token = self.token_state(orders, caller, read);
                    let query = query(caller, &origin, read, &path);
                    let judged = orders.judge(verdict, &query, token);
                    matches!(judged.outcome, Outcome::Forward(_))
                }
                // An end of line behind the last entry. What is no path,
                // nobody can read.
                None => entry.is_empty(),
            };
            if is_shown {
                shown.push(entry);
            }
        }
        let hidden = entries.len() - shown.len();
        if hidden == 0 {
            return answer;
        }
        record.facts.hidden = Some(hidden);
        let body = Bytes::from(shown.join(&b'\n'));
        answer.with_body(Some(body))
    }

    fn is_listing(&self, path: &CanonicalPath, answer: &Answer) -> bool {
        let segments: Vec<_> = path.segments().collect();
        let kind = answer.header("content-type");
        answer.status() == StatusCode::OK
            && self.service.provider.is_listing(&segments)
            && kind.is_some_and(|kind| kind.starts_with(b"text/plain"))
            && !answer.names_a_secret_key()
    }
}

/// Where the entry of a listing stands.
fn entry_path(
    provider: crate::provider::Provider,
    listing: &CanonicalPath,
    entry: &[u8],
) -> Option<CanonicalPath> {
    let segments: Vec<_> = listing.segments().collect();
    let name = provider.listed_name(&segments, entry);
    if name.is_empty() {
        return None;
    }
    let listing = listing.as_str().trim_end_matches('/').as_bytes();
    CanonicalPath::parse(provider, &[listing, b"/", name].concat()).ok()
}
