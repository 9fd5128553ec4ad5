//! The nft table. The only module that names nlink.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use nlink::netlink::{
    Connection, Nftables,
    nftables::{BaseChain, Chain, Family, NatHook, Priority, Rule, Transaction},
};

use super::{Masquerade, NFT_TABLE, NetworkError, Result};

/// Decides where a packet goes for judgement.
const ENTRY: &str = "postrouting";
/// Exclusions, then masquerading.
const JUDGE: &str = "masquerade";

fn failed(operation: &'static str) -> impl Fn(nlink::Error) -> NetworkError {
    move |e| NetworkError::Nft { operation, message: e.to_string() }
}

/// Makes the table so, in one transaction. The comment of the table holds a fingerprint of its rules, so that a restart
/// with the same settings writes nothing.
pub(super) fn apply(rules: Option<&Masquerade>) -> Result<()> {
    // nlink is asynchronous; the caller may be inside a runtime, where a second one cannot block: hence a thread
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|source| NetworkError::Io { operation: "start a runtime".to_owned(), source })?
                    .block_on(apply_async(rules))
            })
            .join()
            .unwrap_or_else(|_| Err(NetworkError::Nft { operation: "apply", message: "panicked".to_owned() }))
    })
}

async fn apply_async(rules: Option<&Masquerade>) -> Result<()> {
    let connection = Connection::<Nftables>::new().map_err(failed("open"))?;
    let tables = connection.list_tables_in(Family::Inet).await.map_err(failed("list tables"))?;
    let present = tables.iter().find(|t| t.name == NFT_TABLE);
    let Some(rules) = rules else {
        if present.is_some() {
            connection.del_table_if_exists(NFT_TABLE, Family::Inet).await.map_err(failed("delete table"))?;
        }
        return Ok(());
    };
    let fingerprint = fingerprint(rules);
    if present.is_some_and(|t| t.comment.as_deref() == Some(&fingerprint)) {
        return Ok(());
    }
    let mut batch = connection.transaction();
    if present.is_some() {
        batch = batch.del_table(NFT_TABLE, Family::Inet);
    }
    batch = batch.add_table_with_comment(NFT_TABLE, Family::Inet, 0, Some(&fingerprint));
    fill(batch, rules)?.commit(&connection).await.map_err(failed("commit (does this kernel have nf_tables nat?)"))
}

fn fill(batch: Transaction, rules: &Masquerade) -> Result<Transaction> {
    let bad = failed("build");
    let entry = Chain::new(NFT_TABLE, ENTRY)
        .map_err(&bad)?
        .family(Family::Inet)
        .base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    let judge = Chain::new(NFT_TABLE, JUDGE).map_err(&bad)?.family(Family::Inet);
    let mut batch = batch.add_chain(judge).add_chain(entry);
    for destination in &rules.exclude {
        batch = batch.add_rule(to(Rule::new(NFT_TABLE, JUDGE).family(Family::Inet), *destination).accept());
    }
    batch = batch.add_rule(Rule::new(NFT_TABLE, JUDGE).family(Family::Inet).masquerade());
    for device in &rules.devices {
        for source in &rules.sources {
            let rule = from(Rule::new(NFT_TABLE, ENTRY).family(Family::Inet).match_oif(device), *source);
            batch = batch.add_rule(rule.try_jump(JUDGE).map_err(&bad)?);
        }
    }
    Ok(batch)
}

fn from(rule: Rule, source: IpNetwork) -> Rule {
    match source.network() {
        IpAddr::V4(a) => rule.match_saddr_v4(a, source.prefix()),
        IpAddr::V6(a) => rule.match_saddr_v6(a, source.prefix()),
    }
}

fn to(rule: Rule, destination: IpNetwork) -> Rule {
    match destination.network() {
        IpAddr::V4(a) => rule.match_daddr_v4(a, destination.prefix()),
        IpAddr::V6(a) => rule.match_daddr_v6(a, destination.prefix()),
    }
}

/// Equal for equal rules across processes of one build; another build at worst writes once more. `SipHash` with fixed
/// keys: no security rests on it.
fn fingerprint(rules: &Masquerade) -> String {
    #[expect(deprecated, reason = "SipHasher::new has documented fixed keys; DefaultHasher's algorithm may change")]
    let mut hasher = std::hash::SipHasher::new();
    rules.hash(&mut hasher);
    format!("axoneme rules {:016x}", hasher.finish())
}
