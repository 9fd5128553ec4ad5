//! The `continue` token: where the next page begins, and which version the list is told to be of.
//!
//! The list's version stays that of its first page, and pages are read as objects are when each is read. So whoever
//! lists by pages and watches from the list's version is told whatever changed in between, and ends with what is there.
//! A token is good at every replica and for as long as anybody keeps it; the version in it is not, see [`crate::store`].

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{kinds::Key, refusal::Refusal};

/// Longest token that is read: names have at most 253 bytes.
const LONGEST: usize = 2048;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Plural of the resource: a token is of no use for another one.
    of: String,
    version: u64,
    namespace: String,
    name: String,
}

impl Token {
    #[must_use]
    pub fn new(plural: &str, version: u64, (namespace, name): &Key) -> Self {
        Self { of: plural.to_owned(), version, namespace: namespace.to_string(), name: name.to_string() }
    }

    /// Of the list's first page.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The last object of the page before.
    #[must_use]
    pub fn after(&self) -> Key {
        (self.namespace.as_str().into(), self.name.as_str().into())
    }

    /// For `metadata.continue`.
    #[must_use]
    pub fn text(&self) -> String {
        // plain strings and a number: nothing in it can't be written
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what [`Self::text`] gave for the same resource.
    pub fn parse(text: &str, plural: &str) -> Result<Self, Refusal> {
        let bytes = Some(text).filter(|t| t.len() <= LONGEST).and_then(|t| URL_SAFE_NO_PAD.decode(t).ok());
        let token: Option<Self> = bytes.and_then(|b| serde_json::from_slice(&b).ok());
        token.filter(|t| t.of == plural).ok_or_else(|| Refusal::bad_request("continue key is not valid"))
    }
}
