//! A name server on a real socket, and a stub resolver that asks it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use qudao_egress::Lookup;
use tokio::net::UdpSocket;

/// What is said of a name: each entry is one answer, the last one holds for ever.
pub(crate) type Zone = Vec<(&'static str, Vec<Vec<Said>>)>;

/// One record of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    /// An address.
    Address(&'static str),
    /// Another name, and the records of it in the same answer.
    Alias(&'static str, Vec<Said>),
}

/// A name server, and the resolver that is given to the client.
#[derive(Clone)]
pub(crate) struct NameServer {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub(crate) async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            let turns: Vec<_> = zone.iter().map(|_| [const { AtomicUsize::new(0) }; 2]).collect();
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let question = Message::from_vec(&packet[..length]).unwrap();
                let answer = answer(&question, &zone, &turns);
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { addr, asked: Arc::default() }
    }

    /// How many times the client wanted a name's addresses.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn ask(&self, name: &str, kind: RecordType) -> io::Result<Vec<IpAddr>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut question = Message::new();
        let name = Name::from_utf8(name).map_err(io::Error::other)?;
        question.set_id(7).set_recursion_desired(true).add_query(Query::query(name, kind));
        socket.send_to(&question.to_vec().map_err(io::Error::other)?, self.addr).await?;
        let mut packet = [0; 4096];
        let waited = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut packet));
        let length = waited.await??;
        let answer = Message::from_vec(&packet[..length]).map_err(io::Error::other)?;
        Ok(answer.answers().iter().filter_map(|record| record.data().ip_addr()).collect())
    }
}

impl Lookup for NameServer {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let server = self.clone();
        Box::pin(async move {
            server.asked.fetch_add(1, Ordering::SeqCst);
            let mut found = server.ask(&name, RecordType::A).await?;
            found.extend(server.ask(&name, RecordType::AAAA).await?);
            Ok(found)
        })
    }
}

fn answer(question: &Message, zone: &Zone, turns: &[[AtomicUsize; 2]]) -> Message {
    let query = question.queries().first().unwrap();
    let mut answer = Message::new();
    answer.set_id(question.id()).set_message_type(MessageType::Response).add_query(query.clone());
    let asked = query.name().to_utf8();
    let asked = asked.trim_end_matches('.');
    match zone.iter().position(|(name, _)| *name == asked) {
        None => {
            answer.set_response_code(ResponseCode::NXDomain);
        }
        Some(at) => {
            let family = usize::from(query.query_type() == RecordType::AAAA);
            let turn = turns[at][family].fetch_add(1, Ordering::SeqCst);
            let answers = &zone[at].1;
            let said = answers.get(turn).or(answers.last()).cloned().unwrap_or_default();
            add(&mut answer, query.name(), query.query_type(), &said);
        }
    }
    answer
}

fn add(answer: &mut Message, name: &Name, kind: RecordType, said: &[Said]) {
    for record in said {
        let (data, below) = match record {
            Said::Address(address) => match address.parse().unwrap() {
                IpAddr::V4(address) => (RData::A(rdata::A(address)), None),
                IpAddr::V6(address) => (RData::AAAA(rdata::AAAA(address)), None),
            },
            Said::Alias(other, said) => {
                let other = Name::from_ascii(format!("{other}.")).unwrap();
                (RData::CNAME(rdata::CNAME(other.clone())), Some((other, said)))
            }
        };
        // Nothing may be kept: time to live 0.
        if data.record_type() == kind || data.record_type() == RecordType::CNAME {
            answer.add_answer(Record::from_rdata(name.clone(), 0, data));
        }
        if let Some((other, said)) = below {
            add(answer, &other, kind, said);
        }
    }
}
