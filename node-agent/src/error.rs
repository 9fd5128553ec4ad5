//! What can go wrong on a node.

use axoneme_cni::{Failure, code};
use axoneme_kernel::{datapath::DatapathError, net::NetworkError};
use axoneme_table::Failure as RowFailure;

use crate::{ipam::IpamError, store::StoreError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// A setting that this node cannot meet; says which and what to do.
    #[error("{0}")]
    Node(String),
}

impl Error {
    /// As the container runtime sees it.
    pub fn to_cni(&self) -> Failure {
        let code = match self {
            Self::Ipam(IpamError::Empty { resting, .. }) if *resting > 0 => code::TRY_AGAIN,
            Self::Ipam(_) => code::POOL_EMPTY,
            Self::Node(_) => code::TRY_AGAIN,
            Self::Datapath(_) | Self::Network(_) | Self::Store(_) => code::IO,
        };
        Failure::new(code, self.to_string())
    }
}

/// A failed datapath call as a reconciler sees it. Everything but a table that can never fit is tried again: a full map
/// has room again when others leave.
pub fn row_failure(error: &DatapathError) -> RowFailure {
    RowFailure { message: error.to_string(), retry: !matches!(error, DatapathError::TableTooLarge { .. }) }
}
