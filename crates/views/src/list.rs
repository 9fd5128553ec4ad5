//! Lists, piece by piece: however long one is, what is held of it is the piece that its reader takes next.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};

use crate::{
    kinds::{Key, View},
    page::Token,
    present::Present,
    request::Query,
    store::Store,
};

/// Bytes of a piece, about.
const PIECE: usize = 64 * 1024;
/// Objects that are read for a piece.
const OBJECTS: usize = 256;

/// What a query selects.
pub fn selects<T: View>(query: &Query, view: &T) -> bool {
    let field = |name: &str| match name {
        "metadata.name" => Some(view.key().1.to_string()),
        "metadata.namespace" => Some(view.key().0.to_string()),
        other => view.field(other),
    };
    (query.labels.is_empty() || query.labels.selects(|key| view.label(key)))
        && (query.fields.is_empty() || query.fields.selects(field))
}

#[derive(Debug)]
struct Walk<T> {
    store: Arc<Store<T>>,
    query: Query,
    present: Present,
    plural: &'static str,
    after: Option<Key>,
    /// How many may still come; none: all that there are.
    left: Option<usize>,
    /// Of the list: that of its first page.
    version: u64,
    begun: bool,
    items: usize,
    ended: bool,
}

/// The list as JSON. `limit`: 0 for all; `from`: the token of the page before.
pub fn list<T: View>(
    store: Arc<Store<T>>,
    query: Query,
    present: Present,
    (limit, from): (usize, Option<Token>),
) -> impl Stream<Item = Bytes> + Send + 'static {
    let version = from.as_ref().map_or_else(|| *store.newest().borrow(), Token::version);
    let walk = Walk {
        plural: T::resource().plural,
        after: from.as_ref().map(Token::after),
        left: (limit > 0).then_some(limit),
        begun: false,
        items: 0,
        ended: false,
        store,
        query,
        present,
        version,
    };
    stream::unfold(walk, |mut walk| async move {
        let piece = walk.piece()?;
        // a long list lets others have their turn
        tokio::task::yield_now().await;
        Some((piece, walk))
    })
}

impl<T: View> Walk<T> {
    fn piece(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.push_str(&self.present.head::<T>());
        }
        while out.len() < PIECE {
            let want = self.left.unwrap_or(OBJECTS).min(OBJECTS);
            let batch = self.store.batch(&self.query.scope, self.after.as_ref(), |v| selects(&self.query, v), want);
            for (view, version) in &batch.items {
                if self.items > 0 {
                    out.push(',');
                }
                out.push_str(&self.present.item(view, *version).to_string());
                self.items += 1;
            }
            self.left = self.left.map(|left| left - batch.items.len().min(left));
            let is_full = self.left == Some(0);
            if batch.more.is_none() || is_full {
                let next = batch.more.map(|key| Token::new(self.plural, self.version, &key).text());
                out.push_str(&Present::tail(self.version, next.as_deref()));
                self.ended = true;
                break;
            }
            self.after = batch.more;
        }
        Some(Bytes::from(out))
    }
}
