//! HTTP exchanges and timers of the host's, for a plugin that needs no thread and no sockets of its
//! own: what comes of them comes on the host's thread, and the future goes on there.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::sink::Signals;
use crate::{
    abi::{
        QD_E_BROKEN, QD_E_INTERNAL, QD_E_STALLED, QD_E_TIMEOUT, QD_E_UNREACHABLE, QD_HTTP_PUBLIC,
        QD_NET_BODY, QD_NET_END, QD_NET_ERROR, QD_NET_HEAD, QD_NET_TIMER, QdBytes, QdHeader,
        QdHttp, QdNetEvent, SIZE_OF_HTTP, SIZE_OF_NET_EVENT,
    },
    sdk::{Host, PluginError},
    wire::ErrorKind,
};

/// A request to an HTTP service.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// `POST`, `GET`, ….
    pub method: &'a str,
    /// Absolute, http or https, without a name and a password, which belong into a header, and without
    /// a fragment.
    pub url: &'a str,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body.
    pub body: &'a [u8],
    /// Until a connection stands.
    pub connect: Duration,
    /// Until the answer begins; `None` for as long as it takes. So with the next two: what takes longer
    /// is [`NetError::Stalled`]. They cost less than [`Net::within`].
    pub head: Option<Duration>,
    /// Until the next part of the body comes, from [`Answer::chunk`] on.
    pub idle: Option<Duration>,
    /// Until the answer is whole.
    pub total: Option<Duration>,
    /// Only to addresses that are open to everybody: for what a tenant names.
    pub public: bool,
}

/// Without the headers, which may hold a key, and the body, which somebody wrote.
impl fmt::Debug for Outgoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, url, .. } = self;
        f.debug_struct("Outgoing").field("method", method).field("url", url).finish_non_exhaustive()
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
    /// No connection in time.
    #[error("{0}")]
    ConnectTimeout(String),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
    /// The other side was silent for too long.
    #[error("{0}")]
    Stalled(String),
    /// The host cannot make exchanges.
    #[error("{0}")]
    Host(String),
    /// It cannot be sent as it is.
    #[error("{0}")]
    Refused(String),
}

impl NetError {
    fn new(code: i32, message: String) -> Self {
        match code {
            QD_E_UNREACHABLE => Self::Unreachable(message),
            QD_E_TIMEOUT => Self::ConnectTimeout(message),
            QD_E_BROKEN => Self::Broken(message),
            QD_E_STALLED => Self::Stalled(message),
            QD_E_INTERNAL => Self::Host(message),
            _ => Self::Refused(message),
        }
    }
}

impl From<NetError> for PluginError {
    fn from(error: NetError) -> Self {
        let kind = match error {
            NetError::ConnectTimeout(_) | NetError::Stalled(_) => ErrorKind::Timeout,
            NetError::Unreachable(_) | NetError::Broken(_) => ErrorKind::Unavailable,
            NetError::Refused(_) | NetError::Host(_) => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// A time was over first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time was over first")]
pub struct Elapsed;

#[derive(Debug)]
enum Heard {
    Head(u16, Vec<(String, Vec<u8>)>),
    Body(Vec<u8>),
    End,
    Failed(NetError),
}

/// What came from the host and was not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Mail>);

#[derive(Debug, Default)]
struct Mail {
    /// The exchange that is under way.
    number: u32,
    heard: VecDeque<Heard>,
    waker: Option<Waker>,
    /// When the host's timer is over.
    timer: Option<Instant>,
    timer_waker: Option<Waker>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event in and wakes whoever waits for it.
    ///
    /// # Safety
    /// `event` and what it points to are readable for the call.
    pub(super) unsafe fn take(&self, event: *const QdNetEvent) {
        // SAFETY: the caller's promise; the first field is always there.
        if event.is_null() || unsafe { event.cast::<u32>().read() } < SIZE_OF_NET_EVENT {
            return;
        }
        // SAFETY: it is as large as it says.
        let event = unsafe { &*event };
        let mut mail = self.lock();
        if event.kind == QD_NET_TIMER {
            mail.timer = None;
            let waker = mail.timer_waker.take();
            drop(mail);
            return waker.into_iter().for_each(Waker::wake);
        }
        if event.number != mail.number {
            // Of an exchange that was given up.
            return;
        }
        // SAFETY: the caller's promise.
        let data = unsafe { event.data.as_slice() };
        mail.heard.push_back(match event.kind {
            // SAFETY: the caller's promise.
            QD_NET_HEAD => Heard::Head(event.status, unsafe { read_headers(event) }),
            QD_NET_BODY => Heard::Body(data.to_vec()),
            QD_NET_END => Heard::End,
            QD_NET_ERROR => {
                let message = String::from_utf8_lossy(data).into_owned();
                Heard::Failed(NetError::new(event.code, message))
            }
            _ => return,
        });
        let waker = mail.waker.take();
        drop(mail);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// # Safety
/// The event's headers are readable for the call.
unsafe fn read_headers(event: &QdNetEvent) -> Vec<(String, Vec<u8>)> {
    if event.headers.is_null() {
        return Vec::new();
    }
    let count = usize::try_from(event.header_count).unwrap_or(0);
    // SAFETY: the caller's promise.
    let headers = unsafe { std::slice::from_raw_parts(event.headers, count) };
    let read = |header: &QdHeader| {
        // SAFETY: the caller's promise.
        let (name, value) = unsafe { (header.name.as_slice(), header.value.as_slice()) };
        (String::from_utf8_lossy(name).into_owned(), value.to_vec())
    };
    headers.iter().map(read).collect()
}

/// The exchanges and the timer of one request. One exchange at a time.
#[derive(Debug)]
pub struct Net {
    pub(super) host: Host,
    pub(super) id: u64,
    pub(super) signals: Arc<Signals>,
}

impl Net {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.signals.inbox.lock()
    }

    /// Sends a request and waits for the head of its answer. Another exchange that is under way ends,
    /// and so does its answer.
    ///
    /// # Errors
    /// [`NetError`]; no part of the answer came.
    pub async fn send(&self, request: &Outgoing<'_>) -> Result<Answer<'_>, NetError> {
        let number = {
            let mut mail = self.mail();
            mail.heard.clear();
            mail.number = mail.number.wrapping_add(1);
            mail.number
        };
        // Closes the connection if it is dropped before the head is there.
        let (headers, state) = (Vec::new(), State::Open);
        let mut answer = Answer { net: self, number, status: 0, headers, wanted: false, state };
        self.begin(number, request)?;
        match self.heard(number).await {
            Heard::Head(status, headers) => {
                (answer.status, answer.headers) = (status, headers);
                Ok(answer)
            }
            Heard::Failed(error) => {
                answer.state = State::Ended;
                Err(error)
            }
            Heard::Body(_) | Heard::End => Err(NetError::Broken("a body without a head".into())),
        }
    }

    fn begin(&self, number: u32, request: &Outgoing<'_>) -> Result<(), NetError> {
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| QdHeader {
                name: QdBytes::new(name.as_bytes()),
                value: QdBytes::new(value),
            })
            .collect();
        let code = self.host.http(
            self.id,
            &QdHttp {
                struct_size: SIZE_OF_HTTP,
                flags: if request.public { QD_HTTP_PUBLIC } else { 0 },
                number,
                header_count: u32::try_from(headers.len()).unwrap_or(0),
                connect_ms: millis(request.connect),
                head_ms: limit(request.head),
                idle_ms: limit(request.idle),
                total_ms: limit(request.total),
                method: QdBytes::new(request.method.as_bytes()),
                url: QdBytes::new(request.url.as_bytes()),
                headers: headers.as_ptr(),
                body: QdBytes::new(request.body),
            },
        );
        if code < 0 {
            return Err(NetError::new(code, format!("the host does not send it ({code})")));
        }
        Ok(())
    }

    /// What comes of the exchange of this number.
    async fn heard(&self, number: u32) -> Heard {
        poll_fn(|context| {
            let mut mail = self.mail();
            if mail.number != number {
                let error = NetError::Broken("another exchange took its place".to_owned());
                return Poll::Ready(Heard::Failed(error));
            }
            match mail.heard.pop_front() {
                Some(heard) => Poll::Ready(heard),
                None => {
                    keep(&mut mail.waker, context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits.
    pub async fn sleep(&self, time: Duration) {
        let _ = self.within(Instant::now() + time, std::future::pending::<()>()).await;
    }

    /// What comes first: the outcome of `work`, or `until`. Several such waits may be under way at the
    /// same time in one request if all are polled with the same waker, as by `join!` and `select!`.
    ///
    /// # Errors
    /// [`Elapsed`]; the work is dropped then.
    pub async fn within<T>(
        &self,
        until: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            if until <= Instant::now() {
                return Poll::Ready(Err(Elapsed));
            }
            self.set_timer(until, context);
            Poll::Pending
        })
        .await
    }

    /// Has the host come back at `until` or earlier. One timer is enough: whoever is woken too early
    /// waits again.
    fn set_timer(&self, until: Instant, context: &Context<'_>) {
        let mut mail = self.mail();
        keep(&mut mail.timer_waker, context);
        if mail.timer.is_some_and(|at| at <= until) {
            return;
        }
        mail.timer = Some(until);
        drop(mail);
        let time = until.saturating_duration_since(Instant::now());
        // Rounded up: too early would be for nothing.
        self.host.timer(self.id, u64::from(millis(time)) + 1);
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// None is zero, so that no time at all is one.
fn limit(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| millis(time).max(1))
}

fn keep(place: &mut Option<Waker>, context: &Context<'_>) {
    if place.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
        *place = Some(context.waker().clone());
    }
}

/// An answer that has begun. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct Answer<'a> {
    net: &'a Net,
    number: u32,
    /// The HTTP status.
    pub status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// The next part was asked for and did not come yet.
    wanted: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Ended,
    Failed(NetError),
}

impl Answer<'_> {
    /// The first header of this name, which is in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// The next part of the body; `None` after the last. May be dropped and asked again.
    ///
    /// # Errors
    /// [`NetError`], again each time.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, NetError> {
        match &self.state {
            State::Ended => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
            State::Open => {}
        }
        let ours = self.net.mail().number == self.number;
        if ours && !mem::replace(&mut self.wanted, true) {
            self.net.host.http_read(self.net.id);
        }
        let heard = self.net.heard(self.number).await;
        self.wanted = false;
        let error = match heard {
            Heard::Body(data) => return Ok(Some(data)),
            Heard::End => {
                self.state = State::Ended;
                return Ok(None);
            }
            Heard::Failed(error) => error,
            Heard::Head(..) => NetError::Broken("a second head".into()),
        };
        self.state = State::Failed(error.clone());
        Err(error)
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        let mut mail = self.net.mail();
        if matches!(self.state, State::Open) && mail.number == self.number {
            mail.heard.clear();
            mail.number = mail.number.wrapping_add(1);
            drop(mail);
            self.net.host.http_stop(self.net.id);
        }
    }
}
