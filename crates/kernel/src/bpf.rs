//! The packet path in the kernel: maps, programs, links.
//!
//! ```text
//!   <pin_dir>/<abi version>/<MAP>       maps: survive the process, adopted by the next one
//!   <pin_dir>/links/<ifindex>_<hook>    links of interfaces
//!   <pin_dir>/links/cgroup_<hook>       links of the socket hooks
//! ```
//!
//! *Restart*: [`Loader::open`] opens the pinned maps, loads the programs anew and puts them behind the pinned links, one
//! atomic replacement each: no packet meets an empty hook.
//!
//! *Change of the ABI version*: the new version has its own directory; the old one's connections are copied into its
//! maps, converted where the layout changed, and all else is empty; links keep the old programs
//! (and these keep the old maps) until [`crate::datapath::Datapath::attach`] is called for them, which the caller does
//! after it has filled the new maps. [`BpfDatapath::forget_other_versions`] then removes the old maps' pins. Connections
//! are judged anew with their next packet; those whose policy allows them go on. Maps of a newer version are refused.

mod addresses;
mod clock;
mod clsact;
mod connections;
mod datapath;
mod events;
mod guard;
mod limits;
mod links;
mod loader;
mod memory;
mod metrics;
mod migration;
mod policies;
mod queue;
mod room;
mod services;
mod sys;
mod system;
mod table;
mod waiting;

pub use connections::{Connection, Expired};
pub use datapath::BpfDatapath;
pub use events::{Event, EventReader};
pub use links::remove_filters;
#[doc(hidden)]
pub use loader::Testing;
pub use loader::{Budget, Loader};
pub use memory::{map_memory, memory_by_map};
pub use metrics::{Metric, Metrics};
pub use migration::refuse_newer;
#[doc(hidden)]
pub use migration::{Convert, write_old_map};
pub use sys::{CONTEXT_WORDS, RunOutput, test_run};
