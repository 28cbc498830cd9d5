//! The widget: the chat on pages of other web sites.
//!
//! A page of a listed origin asks for a token, which is sealed with the tenant's key and bound to
//! the channel, its assistant, the origin and the visitor. It lasts a quarter of an hour, as does a
//! connection that was opened with it; then the page asks for another. Under `/v1/widget/` and
//! nowhere else do answers tell a browser that a page of another site may read them.

pub(crate) mod entrance;
pub(crate) mod identify;
pub(crate) mod requests;
pub(crate) mod token;
pub(crate) mod transcript;

/// Where every path of the widget's begins.
pub(crate) const PATHS: &str = "/v1/widget/{key}/";
