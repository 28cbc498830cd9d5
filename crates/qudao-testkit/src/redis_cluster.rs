//! A Redis Cluster of three masters on loopback.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use qudao_services::{Environment, ServiceUser, find_redis};
use tempfile::TempDir;

use crate::{ports::free_ports, server::Server};

const PATIENCE: Duration = Duration::from_secs(30);
/// The hash slots of a cluster ("Redis cluster specification").
const SLOTS: usize = 16_384;
const MASTERS: usize = 3;

/// Three masters without replicas. They end with the value.
#[derive(Debug)]
pub struct TestRedisCluster {
    masters: Vec<(Server, u16)>,
    _folder: TempDir,
}

impl TestRedisCluster {
    /// Starts the three and waits until each sees the others.
    ///
    /// # Panics
    /// If there is no Redis to be had.
    pub async fn start() -> Self {
        let started = tokio::task::spawn_blocking(Self::start_blocking);
        started.await.expect("the cluster starts")
    }

    fn start_blocking() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let found = find_redis(&Environment::read()).expect("the test needs Redis");
        // The program decides by its own name what it is.
        let program = folder.path().join("redis-server");
        symlink(&found.path, &program).expect("a link to the program");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).expect("a folder that can be entered");
        let user = ServiceUser::find().expect("a user to run Redis as");
        let masters = free_ports(MASTERS).into_iter().map(|port| {
            let data: PathBuf = folder.path().join(port.to_string());
            user.private_dir(&data).expect("a folder for a master");
            let mut command = user.command(&program, Signal::SIGKILL);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
            command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "15000"]);
            command.arg("--dir").arg(data);
            (Server::start(command), port)
        });
        let cluster = Self { masters: masters.collect(), _folder: folder };
        cluster.join();
        cluster
    }

    fn join(&self) {
        let first = self.masters[0].1;
        for (index, (_, port)) in self.masters.iter().enumerate() {
            await_answer(*port, "PING", "+PONG");
            let slots = index * SLOTS / MASTERS..(index + 1) * SLOTS / MASTERS;
            let slots = format!("CLUSTER ADDSLOTSRANGE {} {}", slots.start, slots.end - 1);
            await_answer(*port, &slots, "+OK");
            await_answer(*port, &format!("CLUSTER MEET 127.0.0.1 {first}"), "+OK");
        }
        for (_, port) in &self.masters {
            await_answer(*port, "CLUSTER INFO", "cluster_state:ok");
            await_answer(*port, "CLUSTER INFO", &format!("cluster_known_nodes:{MASTERS}"));
        }
    }

    /// All masters, as a node is told.
    pub fn url(&self) -> String {
        let masters = self.masters.iter().map(|(_, port)| format!("127.0.0.1:{port}"));
        format!("redis-cluster://{}", masters.collect::<Vec<_>>().join(","))
    }

    /// `kill -9` of one master.
    pub fn kill(&mut self, index: usize) {
        self.masters[index].0.end(Signal::SIGKILL);
    }
}

/// Asks until the answer has this in it.
fn await_answer(port: u16, command: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let answer = ask(port, command).unwrap_or_default();
        if answer.contains(wanted) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{command}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One inline command; the first line of the answer, and the rest if it is a text.
fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut answer = String::new();
    reader.read_line(&mut answer)?;
    let text = answer.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok());
    if let Some(length) = text {
        let mut text = vec![0; length];
        std::io::Read::read_exact(&mut reader, &mut text)?;
        answer.push_str(&String::from_utf8_lossy(&text));
    }
    Ok(answer)
}
