//! WeCom and WeChat Official Accounts: two platforms with one cipher ([`crypto`]) and one form of
//! messages ([`xml`], [`read`]).

mod crypto;
mod official;
mod read;
mod wecom;
mod xml;

pub use official::Wechat;
pub use wecom::Wecom;

#[cfg(test)]
mod tests;
