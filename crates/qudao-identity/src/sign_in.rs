//! Coming in, and being known from then on.

use std::net::IpAddr;

use jiff::Timestamp;
use qudao_core::vault::{Place, SecretBytes, VaultError};
use qudao_domain::{
    InvitationId, MemberId, SessionId, TenantId,
    key::{Ticket, TicketKind},
    text::Name,
};
use qudao_storage::{
    AuditEvent, Lock, Member, NewMember, NewSession, SessionHolder, SignIn, StorageError, Tx,
};

use crate::{
    Email, Enrolment, Identity, Password, PasswordError,
    second_factor::{recovery_codes, recovery_hash, step_of},
};

const MAX_USER_AGENT_CHARS: usize = 300;
/// What the token against forged requests is derived for.
const CSRF: &str = "csrf";

/// What somebody signs in with.
#[derive(Clone)]
pub struct Credentials {
    /// Their address.
    pub email: Email,
    /// Their password.
    pub password: String,
    /// A code of their app, or one of their recovery codes.
    pub code: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Where a request comes from, for the list of sessions.
#[derive(Debug, Clone)]
pub struct Visit {
    /// The client's address.
    pub address: IpAddr,
    /// What the browser calls itself.
    pub user_agent: String,
    /// What names the request in logs.
    pub request_id: String,
}

/// Somebody who takes up an invitation.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// What they are called.
    pub name: Name,
    /// The password that they choose.
    pub password: String,
}

/// A session that was just made.
#[derive(Debug)]
pub struct SignedIn {
    /// For the cookie.
    pub ticket: Ticket,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// Who came in.
    pub member: Member,
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct Session {
    /// Of which tenant.
    pub tenant_id: TenantId,
    /// Which session.
    pub id: SessionId,
    /// Who, and what they may do at this moment.
    pub holder: SessionHolder,
    /// What a request that changes something has to bring beside the cookie.
    pub csrf_token: String,
}

/// A second factor that is in force now.
#[derive(Clone)]
pub struct Confirmed {
    /// Codes to print, each good once.
    pub recovery_codes: Vec<String>,
}

impl std::fmt::Debug for Confirmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Confirmed(…)")
    }
}

/// What a member shows again before they change how they come in.
#[derive(Clone)]
pub struct Proof {
    /// Their password.
    pub password: String,
    /// A code, if they have a second factor.
    pub code: Option<String>,
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// Somebody does not come in.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The address, the password or the code is wrong, or the member is suspended. Which, is not
    /// told.
    #[error("the e-mail address, the password or the code is wrong")]
    Wrong,
    /// The password is right, and a code is needed as well.
    #[error("a code of the authenticator app is needed")]
    CodeNeeded,
    /// The link of an invitation is unknown, too old, or was used or taken back.
    #[error("the invitation is not good any more")]
    NoInvitation,
    /// The tenant has a member with this address.
    #[error("there is a member with this e-mail address")]
    Known,
    /// There is nothing to confirm, or a second factor is in force already.
    #[error("{0}")]
    Unfit(&'static str),
    /// The password cannot be used, or too many sign in.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The database did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A secret could not be encrypted or decrypted.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl Identity {
    /// Lets a member in who has a password here. Who does not exist takes as long as who does.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn sign_in(
        &self,
        tenant_id: TenantId,
        credentials: &Credentials,
        visit: &Visit,
    ) -> Result<SignedIn, IdentityError> {
        let email = credentials.email.as_str();
        let mut tx = self.core.store.begin(tenant_id).await?;
        let found = tx.member_by_email(email).await?;
        // No connection is held while a password is hashed.
        tx.commit().await?;
        let kept = found.as_ref().and_then(|(_, lock)| lock.password_hash.as_deref());
        let right = self.hasher.matches(&credentials.password, kept).await?;
        let Some((member, lock)) = found.filter(|(member, _)| right && may_enter(member)) else {
            return Err(IdentityError::Wrong);
        };
        let factor = self.factor(tenant_id, member.id, &lock).await?;
        let mut tx = self.core.store.begin(tenant_id).await?;
        // Nobody changes the member until the session stands.
        let member = tx.member(member.id).await?.filter(may_enter).ok_or(IdentityError::Wrong)?;
        self.take_code(&mut tx, member.id, factor.as_ref(), credentials.code.as_deref()).await?;
        let signed_in = self.begin_session(&mut tx, member, SignIn::Password, visit).await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    /// Makes whoever has an invitation's link a member, and lets them in.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn accept(
        &self,
        link: &Ticket,
        newcomer: &Newcomer,
        visit: &Visit,
    ) -> Result<SignedIn, IdentityError> {
        let tenant_id = link.tenant_id();
        let invitation = {
            let mut tx = self.core.store.begin(tenant_id).await?;
            let invitation = open(&mut tx, link).await?;
            tx.commit().await?;
            invitation
        };
        let known = [newcomer.name.as_str(), invitation.email.as_str()];
        let password = Password::choose(&newcomer.password, &known)?;
        let hash = self.hasher.hash(&password).await?;
        let mut tx = self.core.store.begin(tenant_id).await?;
        // It may have been taken back in the meantime.
        let invitation = open(&mut tx, link).await?;
        let new = NewMember {
            email: &invitation.email,
            name: &newcomer.name,
            role: invitation.role,
            password_hash: Some(&hash),
        };
        let member = match tx.create_member(&new).await {
            Err(StorageError::Conflict { .. }) => return Err(IdentityError::Known),
            made => made?,
        };
        tx.accept_invitation(invitation.id).await?;
        record(&mut tx, member.id, "invitation.accept", visit).await?;
        let signed_in = self.begin_session(&mut tx, member, SignIn::Invitation, visit).await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    /// Makes a session for a member who proved who they are.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn begin_session(
        &self,
        tx: &mut Tx,
        member: Member,
        method: SignIn,
        visit: &Visit,
    ) -> Result<SignedIn, StorageError> {
        let id = SessionId::new();
        let ticket = Ticket::generate(TicketKind::Session, tx.tenant_id(), id.as_uuid());
        let user_agent: String = visit.user_agent.chars().take(MAX_USER_AGENT_CHARS).collect();
        let new = NewSession {
            id,
            member_id: member.id,
            secret_hash: &ticket.hash(),
            method,
            address: &visit.address.to_string(),
            user_agent: &user_agent,
            good_for: self.settings.session,
        };
        let expires_at = tx.create_session(&new).await?;
        record(tx, member.id, "member.sign_in", visit).await?;
        Ok(SignedIn { ticket, expires_at, member })
    }

    /// Who this cookie belongs to. `None` for a session that is unknown, over or another's.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn session(&self, cookie: &str) -> Result<Option<Session>, StorageError> {
        let Some(ticket) = Ticket::parse(TicketKind::Session, cookie) else { return Ok(None) };
        let (tenant_id, id) = (ticket.tenant_id(), SessionId::from_uuid(ticket.id()));
        let mut tx = self.core.store.begin(tenant_id).await?;
        let found = tx.find_session(id, self.settings.session_idle).await?;
        tx.commit().await?;
        let right = |holder: &SessionHolder| holder.secret_hash.matches(&ticket.hash());
        Ok(found.filter(right).map(|holder| Session {
            tenant_id,
            id,
            holder,
            csrf_token: ticket.derive(CSRF),
        }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn sign_out(&self, session: &Session, visit: &Visit) -> Result<(), StorageError> {
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        tx.end_session(session.id).await?;
        record(&mut tx, session.holder.member_id, "member.sign_out", visit).await?;
        tx.commit().await
    }

    /// Exchanges a member's password. Their other sessions end: whoever had the old one is out.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn change_password(
        &self,
        session: &Session,
        proof: &Proof,
        wanted: &str,
        visit: &Visit,
    ) -> Result<(), IdentityError> {
        let SessionHolder { member_id, name, email, .. } = &session.holder;
        let password = Password::choose(wanted, &[name, email])?;
        let lock = self.check_password(session, &proof.password).await?;
        let hash = self.hasher.hash(&password).await?;
        let factor = self.factor(session.tenant_id, *member_id, &lock).await?;
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        self.take_code(&mut tx, *member_id, factor.as_ref(), proof.code.as_deref()).await?;
        tx.set_password(*member_id, &hash).await?;
        tx.end_sessions_of(*member_id, Some(session.id)).await?;
        record(&mut tx, *member_id, "member.change_password", visit).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Begins to set up a second factor. It is not in force before [`Self::confirm_totp`].
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn offer_totp(
        &self,
        session: &Session,
        password: &str,
    ) -> Result<Enrolment, IdentityError> {
        self.check_password(session, password).await?;
        let SessionHolder { member_id, email, .. } = &session.holder;
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        let tenant = tx.tenant().await?.ok_or(IdentityError::Wrong)?;
        tx.commit().await?;
        let enrolment = Enrolment::new(&tenant.name, email)
            .map_err(|_| IdentityError::Unfit("the tenant's name cannot stand in an app"))?;
        let place = totp_place(*member_id);
        let sealed = self.core.vault.seal(session.tenant_id, place, &enrolment.secret).await?;
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        if self.lock(&mut tx, *member_id).await?.totp_confirmed {
            return Err(IdentityError::Unfit("a second factor is in force; remove it first"));
        }
        tx.offer_totp(*member_id, &sealed).await?;
        tx.commit().await?;
        Ok(enrolment)
    }

    /// Puts the second factor in force, once the app shows the right code.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn confirm_totp(
        &self,
        session: &Session,
        code: &str,
        visit: &Visit,
    ) -> Result<Confirmed, IdentityError> {
        let member_id = session.holder.member_id;
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        let lock = self.lock(&mut tx, member_id).await?;
        tx.commit().await?;
        let factor = self.factor(session.tenant_id, member_id, &lock).await?;
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        let lock = self.lock(&mut tx, member_id).await?;
        let Some(factor) = factor.filter(|factor| !lock.totp_confirmed && factor.is_of(&lock))
        else {
            return Err(IdentityError::Unfit("there is no second factor to confirm"));
        };
        if !self.take_step(&mut tx, member_id, &factor, code).await? {
            return Err(IdentityError::Wrong);
        }
        let codes = recovery_codes();
        let hash = |code: &String| recovery_hash(member_id.as_uuid(), code);
        let hashes: Vec<_> = codes.iter().map(hash).collect();
        tx.confirm_totp(member_id, &hashes).await?;
        record(&mut tx, member_id, "member.set_up_second_factor", visit).await?;
        tx.commit().await?;
        Ok(Confirmed { recovery_codes: codes })
    }

    /// Takes the second factor away.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn remove_totp(
        &self,
        session: &Session,
        proof: &Proof,
        visit: &Visit,
    ) -> Result<(), IdentityError> {
        let lock = self.check_password(session, &proof.password).await?;
        let member_id = session.holder.member_id;
        let factor = self.factor(session.tenant_id, member_id, &lock).await?;
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        self.take_code(&mut tx, member_id, factor.as_ref(), proof.code.as_deref()).await?;
        tx.drop_totp(member_id).await?;
        record(&mut tx, member_id, "member.remove_second_factor", visit).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn check_password(
        &self,
        session: &Session,
        password: &str,
    ) -> Result<Lock, IdentityError> {
        let mut tx = self.core.store.begin(session.tenant_id).await?;
        let lock = self.lock(&mut tx, session.holder.member_id).await?;
        tx.commit().await?;
        if self.hasher.matches(password, lock.password_hash.as_deref()).await? {
            return Ok(lock);
        }
        Err(IdentityError::Wrong)
    }

    async fn lock(&self, tx: &mut Tx, member: MemberId) -> Result<Lock, IdentityError> {
        tx.member_lock(member).await?.ok_or(IdentityError::Wrong)
    }

    /// Decrypts the secret of a second factor. Done before a transaction is open, since it may need
    /// a connection of its own.
    async fn factor(
        &self,
        tenant_id: TenantId,
        member: MemberId,
        lock: &Lock,
    ) -> Result<Option<Factor>, IdentityError> {
        let Some(sealed) = lock.totp_sealed.clone() else { return Ok(None) };
        let secret = self.core.vault.open(tenant_id, totp_place(member), &sealed).await?;
        Ok(Some(Factor { sealed, secret }))
    }

    /// Takes a code of the app, or a recovery code, if the member needs one; each is good once.
    async fn take_code(
        &self,
        tx: &mut Tx,
        member: MemberId,
        factor: Option<&Factor>,
        code: Option<&str>,
    ) -> Result<(), IdentityError> {
        let lock = self.lock(tx, member).await?;
        if !lock.totp_confirmed {
            return Ok(());
        }
        let code = code.ok_or(IdentityError::CodeNeeded)?;
        if let Some(factor) = factor.filter(|factor| factor.is_of(&lock))
            && self.take_step(tx, member, factor, code).await?
        {
            return Ok(());
        }
        if tx.take_recovery_code(member, &recovery_hash(member.as_uuid(), code)).await? {
            return Ok(());
        }
        Err(IdentityError::Wrong)
    }

    async fn take_step(
        &self,
        tx: &mut Tx,
        member: MemberId,
        factor: &Factor,
        code: &str,
    ) -> Result<bool, StorageError> {
        let now = u64::try_from(self.core.clock.now().as_second()).unwrap_or_default();
        match step_of(factor.secret.reveal(), code, now) {
            Some(step) => tx.take_totp_step(member, step).await,
            None => Ok(false),
        }
    }
}

/// The secret of a second factor, and what it was kept as.
struct Factor {
    sealed: Vec<u8>,
    secret: SecretBytes,
}

impl Factor {
    /// Whether it is still what is kept.
    fn is_of(&self, lock: &Lock) -> bool {
        lock.totp_sealed.as_ref() == Some(&self.sealed)
    }
}

/// Writes down what a member did to their own ways in.
async fn record(
    tx: &mut Tx,
    member: MemberId,
    action: &'static str,
    visit: &Visit,
) -> Result<(), StorageError> {
    tx.record_audit(&AuditEvent {
        actor: member.to_string(),
        action: action.to_owned(),
        target: member.to_string(),
        detail: serde_json::json!({}),
        request_id: Some(visit.request_id.clone()),
        address: Some(visit.address.to_string()),
    })
    .await
    .map(drop)
}

pub(crate) fn may_enter(member: &Member) -> bool {
    member.suspended_at.is_none()
}

fn totp_place(member: MemberId) -> Place {
    Place { table: "members", column: "totp_sealed", row: member.as_uuid() }
}

async fn open(tx: &mut Tx, link: &Ticket) -> Result<qudao_storage::Invitation, IdentityError> {
    let found = tx.open_invitation(InvitationId::from_uuid(link.id())).await?;
    found
        .filter(|invitation| invitation.secret_hash.matches(&link.hash()))
        .ok_or(IdentityError::NoInvitation)
}
