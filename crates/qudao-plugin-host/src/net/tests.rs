use std::thread::{self, ThreadId};

use qudao_egress::Rules;
use qudao_plugin_api::abi::{QD_HTTP_PUBLIC, SIZE_OF_HEADER, SIZE_OF_HTTP};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

use super::{asked::read_url, clients::Home, *};

/// What a plugin hears, and on which thread.
#[derive(Debug)]
struct Heard {
    kind: u16,
    status: u16,
    number: u32,
    code: i32,
    data: String,
    headers: Vec<String>,
    thread: ThreadId,
}

unsafe extern "C" fn hear(instance: *mut c_void, _id: u64, event: *const QdNetEvent) {
    // SAFETY: the tests pass a leaked sender, and events live through the call.
    let (sender, event) = unsafe { (&*instance.cast::<UnboundedSender<Heard>>(), &*event) };
    let count = event.header_count as usize;
    let headers = (0..count)
        // SAFETY: as above.
        .map(|at| unsafe {
            String::from_utf8_lossy((*event.headers.add(at)).name.as_slice()).into()
        })
        .collect();
    let heard = Heard {
        kind: event.kind,
        status: event.status,
        number: event.number,
        code: event.code,
        // SAFETY: as above.
        data: String::from_utf8_lossy(unsafe { event.data.as_slice() }).into(),
        headers,
        thread: thread::current().id(),
    };
    sender.send(heard).ok();
}

struct Plugin {
    net: Arc<Net>,
    heard: UnboundedReceiver<Heard>,
    /// Until the head, the next part, and the whole, in milliseconds.
    limits: [u32; 3],
}

impl Plugin {
    fn new(rules: Rules) -> Self {
        let (sender, heard) = unbounded_channel();
        let net = Net::new(Arc::new(Clients::new(rules)), Arc::default());
        net.connect(Some(hear), Box::into_raw(Box::new(sender)).cast());
        Self { net, heard, limits: [0; 3] }
    }

    fn get(&self, number: u32, url: &str, flags: u32) -> i32 {
        let header = QdHeader { name: QdBytes::new(b"x-one"), value: QdBytes::new(b"secret") };
        assert_eq!(size_of_val(&header), SIZE_OF_HEADER as usize);
        let exchange = QdHttp {
            struct_size: SIZE_OF_HTTP,
            flags,
            number,
            header_count: 1,
            connect_ms: 2_000,
            head_ms: self.limits[0],
            idle_ms: self.limits[1],
            total_ms: self.limits[2],
            method: QdBytes::new(b"POST"),
            url: QdBytes::new(url.as_bytes()),
            headers: &raw const header,
            body: QdBytes::new(b"{}"),
        };
        // SAFETY: all of it lives through the call.
        unsafe { self.net.http(7, &raw const exchange, || true) }
    }

    async fn next(&mut self) -> Heard {
        timeout(Duration::from_secs(10), self.heard.recv()).await.unwrap().unwrap()
    }
}

/// Answers one request with a head and two pieces, and then says what else it reads.
async fn serve(listener: &TcpListener) -> (String, TcpStream) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 4096];
    let read = socket.read(&mut request).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\nx-two: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    socket.write_all(answer.as_bytes()).await.unwrap();
    (String::from_utf8_lossy(&request[..read]).into(), socket)
}

async fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    (listener, url)
}

async fn closed(mut socket: TcpStream) {
    let end = timeout(Duration::from_secs(10), socket.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn an_answer_comes_as_far_as_it_is_asked_for() {
    let (listener, url) = server().await;
    let mut plugin = Plugin::new(Rules::default());
    assert_eq!(plugin.get(3, &url, 0), QD_OK);
    let (request, mut socket) = serve(&listener).await;
    assert!(request.starts_with("POST /v1 HTTP/1.1") && request.contains("x-one: secret"));
    assert!(request.contains("content-length: 2\r\n"), "{request}");
    let head = plugin.next().await;
    assert_eq!((head.kind, head.status, head.number), (QD_NET_HEAD, 200, 3));
    assert!(head.headers.contains(&"x-two".to_owned()));
    let unasked = timeout(Duration::from_millis(50), plugin.heard.recv()).await;
    assert!(unasked.is_err(), "nobody asked for {unasked:?}");
    for piece in ["one", "two"] {
        plugin.net.http_read(7);
        let body = plugin.next().await;
        assert_eq!((body.kind, body.data.as_str()), (QD_NET_BODY, piece));
        let more: &[u8] = if piece == "one" { b"3\r\ntwo\r\n" } else { b"0\r\n\r\n" };
        socket.write_all(more).await.unwrap();
    }
    plugin.net.http_read(7);
    assert_eq!(plugin.next().await.kind, QD_NET_END);
    plugin.net.end(7);
    assert!(plugin.net.lines().is_empty());
}

#[tokio::test]
async fn what_is_stopped_or_over_closes_its_connection() {
    let (listener, url) = server().await;
    let mut plugin = Plugin::new(Rules::default());
    let ways: [fn(&Net); 3] = [|net| net.http_stop(7), |net| net.end(7), |net| net.end_all()];
    for way in ways {
        plugin.get(1, &url, 0);
        let (_, socket) = serve(&listener).await;
        assert_eq!(plugin.next().await.kind, QD_NET_HEAD);
        way(&plugin.net);
        closed(socket).await;
        assert!(plugin.heard.try_recv().is_err(), "nothing is said of what was stopped");
    }
    // The next exchange of a request ends the one before.
    plugin.get(1, &url, 0);
    let (_, first) = serve(&listener).await;
    plugin.get(2, &url, 0);
    closed(first).await;
}

#[tokio::test]
async fn failures_say_what_happened_and_not_where() {
    let mut plugin = Plugin::new(Rules::default());
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    plugin.get(1, &format!("http://{gone}/"), 0);
    let error = plugin.next().await;
    assert_eq!((error.kind, error.code), (QD_NET_ERROR, QD_E_UNREACHABLE));
    assert!(!error.data.contains(&gone.to_string()), "{}", error.data);

    let (listener, url) = server().await;
    plugin.get(2, &url, 0);
    let (_, socket) = serve(&listener).await;
    assert_eq!(plugin.next().await.kind, QD_NET_HEAD);
    drop(socket);
    for expected in [QD_NET_BODY, QD_NET_ERROR] {
        plugin.net.http_read(7);
        let heard = plugin.next().await;
        assert_eq!(heard.kind, expected, "{heard:?}");
        assert_eq!(heard.code, if expected == QD_NET_ERROR { QD_E_BROKEN } else { QD_OK });
    }
}

#[tokio::test]
async fn who_is_silent_for_too_long_is_given_up() {
    let (listener, url) = server().await;
    let mut plugin = Plugin::new(Rules::default());
    let stalled = |heard: Heard| {
        assert_eq!((heard.kind, heard.code), (QD_NET_ERROR, QD_E_STALLED), "{heard:?}");
    };
    for limits in [[50, 0, 0], [0, 0, 50]] {
        plugin.limits = limits;
        plugin.get(1, &url, 0);
        let (socket, _) = listener.accept().await.unwrap();
        stalled(plugin.next().await);
        // What was sent is still to be read, and then the end.
        let mut socket = socket;
        while socket.read(&mut [0; 512]).await.is_ok_and(|read| 0 < read) {}
    }
    for limits in [[0, 50, 0], [0, 0, 2000]] {
        plugin.limits = limits;
        plugin.get(1, &url, 0);
        let (_, socket) = serve(&listener).await;
        for kind in [QD_NET_HEAD, QD_NET_BODY] {
            assert_eq!(plugin.next().await.kind, kind);
            plugin.net.http_read(7);
        }
        stalled(plugin.next().await);
        closed(socket).await;
    }
    // Nor is one who never pauses waited for.
    plugin.limits = [0, 0, 1000];
    plugin.get(1, &url, 0);
    let (_, mut socket) = serve(&listener).await;
    let sends = async { while socket.write_all(b"3\r\nabc\r\n").await.is_ok() {} };
    let reads = async {
        loop {
            plugin.net.http_read(7);
            let heard = plugin.next().await;
            if heard.kind == QD_NET_ERROR {
                return stalled(heard);
            }
        }
    };
    let both = async { tokio::join!(sends, reads) };
    timeout(Duration::from_secs(10), both).await.unwrap();
}

#[tokio::test]
async fn what_a_tenant_names_is_held_against_the_rules() {
    let (listener, url) = server().await;
    let port = listener.local_addr().unwrap().port();
    // Some network is allowed, and with it names like this one; its address is not.
    let rules = Rules::new(vec!["10.1.0.0/16".parse().unwrap()], true, vec![port]).unwrap();
    let mut plugin = Plugin::new(rules);
    assert_eq!(plugin.get(1, &url, QD_HTTP_PUBLIC), QD_E_INVALID, "a literal address");
    let named = url.replace("127.0.0.1", "localhost");
    assert_eq!(plugin.get(2, &named, QD_HTTP_PUBLIC), QD_OK);
    let error = plugin.next().await;
    assert_eq!((error.kind, error.code), (QD_NET_ERROR, QD_E_UNREACHABLE));
    assert!(error.data.contains("no public address"), "{}", error.data);
    assert!(!error.data.contains("127.0.0.1"), "{}", error.data);
    // The operator's own address may be anywhere.
    assert_eq!(plugin.get(3, &named, 0), QD_OK);
    drop(serve(&listener).await);
    assert_eq!(plugin.next().await.kind, QD_NET_HEAD);
}

#[test]
fn a_thread_that_says_so_makes_its_own_exchanges() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let home = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for own in [false, true] {
        let mut plugin = home.block_on(async { Plugin::new(Rules::default()) });
        let asking = thread::spawn(move || {
            runtime().block_on(async {
                if own {
                    exchange_here();
                }
                let (listener, url) = server().await;
                // As if the other runtime did it, which is how requests are served.
                let Home::Lent(process) = &plugin.net.clients.home else { panic!("no runtime") };
                let entered = process.enter();
                plugin.get(1, &url, 0);
                drop(entered);
                let _served = serve(&listener).await;
                let head = plugin.next().await;
                plugin.net.timer(7, 1, || true);
                let timer = plugin.next().await;
                assert_eq!((head.kind, timer.kind), (QD_NET_HEAD, QD_NET_TIMER));
                assert_eq!(head.thread, timer.thread);
                head.thread == thread::current().id()
            })
        });
        assert_eq!(asking.join().unwrap(), own);
    }
}

#[test]
fn a_thread_that_ends_tells_the_plugin() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (mut plugin, socket) = runtime.block_on(async {
        let (listener, url) = server().await;
        let mut plugin = Plugin::new(Rules::default());
        plugin.get(1, &url, 0);
        let (_, socket) = serve(&listener).await;
        assert_eq!(plugin.next().await.kind, QD_NET_HEAD);
        (plugin, socket)
    });
    let handle = runtime.handle().clone();
    drop((runtime, socket));
    let last = plugin.heard.blocking_recv().unwrap();
    assert_eq!((last.kind, last.code), (QD_NET_ERROR, QD_E_BROKEN));
    // What is begun on it afterwards never runs, and is told of as well.
    let _entered = handle.enter();
    exchange_here();
    assert_eq!(plugin.get(2, "http://127.0.0.1:9/", 0), QD_OK);
    let last = plugin.heard.blocking_recv().unwrap();
    assert_eq!((last.number, last.code), (2, QD_E_BROKEN));
    assert!(HERE.with_borrow(Option::is_none), "and what is asked for next is done elsewhere");
    exchange_here();
    plugin.net.timer(7, 60_000, || true);
    assert_eq!(plugin.heard.blocking_recv().unwrap().kind, QD_NET_TIMER);
}

#[tokio::test]
async fn nothing_is_begun_for_a_request_that_is_over() {
    let (_listener, url) = server().await;
    let plugin = Plugin::new(Rules::default());
    let url = QdBytes::new(url.as_bytes());
    let method = QdBytes::new(b"GET");
    let exchange = QdHttp {
        struct_size: SIZE_OF_HTTP,
        flags: 0,
        number: 1,
        header_count: 0,
        connect_ms: 1_000,
        head_ms: 0,
        idle_ms: 0,
        total_ms: 0,
        method,
        url,
        headers: std::ptr::null(),
        body: QdBytes::EMPTY,
    };
    // SAFETY: all of it lives through the call.
    let code = unsafe { plugin.net.http(7, &raw const exchange, || false) };
    plugin.net.timer(7, 1, || false);
    assert_eq!(code, QD_E_CANCELLED);
    assert!(plugin.net.lines().is_empty());
}

#[test]
fn what_may_outlive_its_thread_is_done_elsewhere() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    exchange_here();
    assert!(exchange_at_home(|| HERE.with_borrow(Option::is_none)));
    assert!(HERE.with_borrow(Option::is_some));
}

#[tokio::test]
async fn nonsense_is_not_sent() {
    let plugin = Plugin::new(Rules::default());
    for url in ["", "not a url", "/relative"] {
        assert_eq!(plugin.get(1, url, 0), QD_E_INVALID, "{url}");
    }
    // SAFETY: a null exchange is refused.
    assert_eq!(unsafe { plugin.net.http(7, std::ptr::null(), || true) }, QD_E_INVALID);
    assert!(plugin.net.lines().is_empty());
}

#[test]
fn an_address_is_what_it_says_whatever_came_before_it() {
    let good = ["http://one/v1", "http://two/v1", "http://two/v1", "http://one/v1"];
    for text in good {
        assert_eq!(read_url(text).unwrap().to_string(), text);
        for bad in
            ["no address", "ftp://one/", "http://name@one/", "http://:word@one/", "http://one/#a"]
        {
            assert_eq!(read_url(bad), None, "{bad}");
        }
    }
    let read = read_url("HTTPS://One:443/a b?c=%20").unwrap();
    assert_eq!(read.to_string(), "https://one/a%20b?c=%20");
}

#[test]
fn a_plugin_s_own_headers_stand_in_the_place_of_ours() {
    let header = |name, value| QdHeader { name: QdBytes::new(name), value: QdBytes::new(value) };
    let own = [header(b"accept", b"text/event-stream"), header(b"User-Agent", b"acme/1")];
    for count in [0, own.len()] {
        let exchange = QdHttp {
            struct_size: SIZE_OF_HTTP,
            flags: 0,
            number: 1,
            header_count: u32::try_from(count).unwrap(),
            connect_ms: 1_000,
            head_ms: 0,
            idle_ms: 0,
            total_ms: 0,
            method: QdBytes::new(b"GET"),
            url: QdBytes::new(b"http://one/"),
            headers: if count == 0 { std::ptr::null() } else { own.as_ptr() },
            body: QdBytes::EMPTY,
        };
        // SAFETY: all of it lives through the call.
        let asked = unsafe { read_exchange(&raw const exchange) }.unwrap();
        let told = |name| {
            let values = asked.request.headers().get_all(name).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let ours = concat!("qudao/", env!("CARGO_PKG_VERSION"));
        let expected = if count == 0 { ["*/*", ours] } else { ["text/event-stream", "acme/1"] };
        assert_eq!([told("accept"), told("user-agent")], expected.map(|one| vec![one.to_owned()]));
    }
}
