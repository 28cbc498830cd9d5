//! What a caller may do: scopes, and the roles that bundle them for members of a tenant.
//!
//! An endpoint asks for one [`Scope`]; a key, a session or a custom role carries [`Scopes`]. Nobody
//! gives away what they do not have: see [`Scopes::covers`].

use std::fmt;

/// The text is no scope, or no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has to be one of {}", .0)]
pub struct UnknownWord(&'static str);

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        /// One thing that a caller may be allowed to do within its tenant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Scope {
            $($(#[$doc])* $name,)+
        }

        impl Scope {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it stands in JSON and in the database.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The scope of this text.
            pub fn find(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

scopes! {
    /// Call models.
    Chat = "chat";
    /// See the tenant's settings.
    TenantRead = "tenant:read";
    /// Change the tenant's settings.
    TenantWrite = "tenant:write";
    /// See assistants and routes.
    AssistantsRead = "assistants:read";
    /// Make and change assistants and routes.
    AssistantsWrite = "assistants:write";
    /// See channels.
    ChannelsRead = "channels:read";
    /// Make and change channels.
    ChannelsWrite = "channels:write";
    /// Read what people and assistants wrote.
    ConversationsRead = "conversations:read";
    /// See contacts, and export what is kept of them.
    ContactsRead = "contacts:read";
    /// Erase contacts.
    ContactsWrite = "contacts:write";
    /// See the wallet, usage and the ledger.
    BillingRead = "billing:read";
    /// See API keys, without their secrets.
    KeysRead = "keys:read";
    /// Make, rotate and revoke API keys.
    KeysWrite = "keys:write";
    /// See members, roles, invitations, sessions and identity providers.
    MembersRead = "members:read";
    /// Invite, change and remove members; manage roles and identity providers.
    MembersWrite = "members:write";
    /// Read the audit log.
    AuditRead = "audit:read";
    /// Export everything that the tenant has.
    TenantExport = "tenant:export";
}

/// The word that stands for every scope but [`Scope::Chat`]: who administers need not call models.
const ADMIN: &str = "admin";

impl Scope {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self::of(Scope::ALL);
    /// What `admin` stands for.
    pub const ADMIN: Self = Self(Self::ALL.0 & !Scope::Chat.bit());

    /// These.
    pub const fn of(scopes: &[Scope]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < scopes.len() {
            bits |= scopes[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// Reads the words of a request; `admin` stands for all but `chat`.
    ///
    /// # Errors
    /// The place of the first unknown word.
    pub fn parse<T: AsRef<str>>(words: &[T]) -> Result<Self, (usize, UnknownWord)> {
        let mut all = Self::NONE;
        for (at, word) in words.iter().enumerate() {
            all = all.with(Self::word(word.as_ref()).ok_or((at, UnknownWord(WORDS)))?);
        }
        Ok(all)
    }

    /// Reads what the database keeps. A word that a newer version wrote grants nothing here.
    pub fn stored<T: AsRef<str>>(words: &[T]) -> Self {
        words.iter().filter_map(|word| Self::word(word.as_ref())).fold(Self::NONE, Self::with)
    }

    fn word(word: &str) -> Option<Self> {
        if word == ADMIN {
            return Some(Self::ADMIN);
        }
        Scope::find(word).map(|scope| Self(scope.bit()))
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has this one.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether whoever has these may hand out the others: they are a part of these.
    pub const fn covers(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    /// What is in the others and not here, in the order of the documentation.
    pub fn lacks(self, others: Self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| others.has(*scope) && !self.has(*scope))
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As JSON and the database keep it: `admin` in place of all that it stands for.
    pub fn words(self) -> Vec<&'static str> {
        let admin = self.covers(Self::ADMIN);
        let rest = if admin { Self(self.0 & !Self::ADMIN.0) } else { self };
        let mut words: Vec<_> = if admin { vec![ADMIN] } else { Vec::new() };
        words.extend(Scope::ALL.iter().filter(|scope| rest.has(**scope)).map(|s| s.as_str()));
        words
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.words()).finish()
    }
}

const WORDS: &str = "chat, admin, tenant:read, tenant:write, tenant:export, assistants:read, \
                     assistants:write, channels:read, channels:write, conversations:read, \
                     contacts:read, contacts:write, billing:read, keys:read, keys:write, \
                     members:read, members:write, audit:read";

/// What a member of a tenant is. Operators and partners are no members: they have credentials of
/// their own, and no role of this list reaches what is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, and the only one who makes and unmakes owners.
    Owner,
    /// Everything but owners.
    Admin,
    /// Money: the wallet, usage and the ledger.
    Billing,
    /// Assistants, routes and channels, and what was said to them.
    Editor,
    /// Reads conversations, to help where an assistant does not.
    Agent,
    /// Sees how things are set up.
    Viewer,
}

impl Role {
    /// All of them, the mightiest first.
    pub const ALL: &'static [Self] =
        &[Self::Owner, Self::Admin, Self::Billing, Self::Editor, Self::Agent, Self::Viewer];

    /// As it stands in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Billing => "billing",
            Self::Editor => "editor",
            Self::Agent => "agent",
            Self::Viewer => "viewer",
        }
    }

    /// The role of this name.
    pub fn find(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text)
    }

    /// What it may do.
    pub const fn scopes(self) -> Scopes {
        const SEES: Scopes =
            Scopes::of(&[Scope::TenantRead, Scope::AssistantsRead, Scope::ChannelsRead]);
        match self {
            Self::Owner | Self::Admin => Scopes::ALL,
            Self::Billing => Scopes::of(&[Scope::TenantRead, Scope::BillingRead]),
            Self::Editor => SEES.with(Scopes::of(&[
                Scope::Chat,
                Scope::AssistantsWrite,
                Scope::ChannelsWrite,
                Scope::ConversationsRead,
                Scope::ContactsRead,
            ])),
            Self::Agent => SEES.with(Scopes::of(&[Scope::ConversationsRead, Scope::ContactsRead])),
            Self::Viewer => SEES,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_survives_its_text_form_and_is_offered() {
        for &scope in Scope::ALL {
            assert_eq!(Scope::find(scope.as_str()), Some(scope));
            assert!(WORDS.split(", ").any(|word| word == scope.as_str()), "{scope}");
        }
        assert_eq!(WORDS.split(", ").count(), Scope::ALL.len() + 1);
    }

    #[test]
    fn admin_stands_for_all_but_calls_of_models() {
        let admin = Scopes::parse(&["admin"]).unwrap();
        assert!(admin.has(Scope::KeysWrite) && admin.has(Scope::AuditRead));
        assert!(!admin.has(Scope::Chat));
        assert_eq!(admin.words(), ["admin"]);
        assert_eq!(Scopes::ALL.words(), ["admin", "chat"]);
    }

    #[test]
    fn words_are_read_back() {
        for words in [&["chat"][..], &["tenant:read", "billing:read"], &["admin", "chat"]] {
            assert_eq!(Scopes::parse(words).unwrap().words(), words);
        }
        assert_eq!(Scopes::parse(&["chat", "root"]).unwrap_err().0, 1);
        assert_eq!(Scopes::stored(&["chat", "of a later version"]).words(), ["chat"]);
    }

    #[test]
    fn nobody_covers_what_they_do_not_have() {
        let editor = Role::Editor.scopes();
        assert!(editor.covers(Role::Viewer.scopes()));
        assert!(!editor.covers(Scopes::ADMIN));
        let lacks: Vec<_> = editor.lacks(Scopes::of(&[Scope::Chat, Scope::KeysWrite])).collect();
        assert_eq!(lacks, [Scope::KeysWrite]);
    }

    #[test]
    fn only_owner_and_admin_reach_people_and_keys() {
        for &role in Role::ALL {
            let mighty = matches!(role, Role::Owner | Role::Admin);
            for scope in [Scope::MembersWrite, Scope::KeysWrite, Scope::AuditRead] {
                assert_eq!(role.scopes().has(scope), mighty, "{role} {scope}");
            }
            assert_eq!(Role::find(role.as_str()), Some(role));
        }
        assert_eq!(Role::find("operator"), None);
        assert_eq!(Role::find("partner"), None);
    }
}
