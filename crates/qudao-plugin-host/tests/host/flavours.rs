//! The asynchronous and the batching flavour of the SDK, through the real loader.

use std::time::Duration;

use qudao_plugin_api::wire::{ErrorKind, FinishReason};
use qudao_plugin_host::{
    Call, CallError, Event, EventStream, ModelState, Placement, PluginHost, Trace,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stage::{Stage, ask, read, say, until, until_idle};

const BOTH: [Placement; 2] = [Placement::Process, Placement::Inproc];
const FLAVOURS: [&str; 2] = ["asynchronous", "batching"];
const SOON: Duration = Duration::from_secs(10);

async fn each<F: Future<Output = ()>>(test: impl Fn(PluginHost, &'static str) -> F) {
    for flavour in FLAVOURS {
        for placement in BOTH {
            let stage = Stage::with_flavour(flavour).instance(flavour, placement, |settings| {
                // Longer than a cancelled request is waited for.
                settings.timeouts.cancel_grace = Some(2 * SOON);
                settings.timeouts.inter_token = Some(2 * SOON);
            });
            let host = stage.ready().await;
            test(host.clone(), flavour).await;
            assert_eq!(host.model(flavour).unwrap().crashes, 0, "{flavour} {placement:?}");
            assert_eq!(host.model(flavour).unwrap().violations, 0, "{flavour} {placement:?}");
            host.shutdown(Duration::from_secs(1)).await;
        }
    }
}

async fn first(stream: &mut EventStream) -> Event {
    soon(stream.next()).await.unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("soon")
}

#[tokio::test]
async fn many_requests_at_once_are_answered_each_with_its_own_end() {
    each(|host, flavour| async move {
        let streams: Vec<_> =
            (1..=8).map(|n| host.call(flavour, say(&format!("count {n}00"))).unwrap()).collect();
        for (n, stream) in (1u32..).zip(streams) {
            let (text, end) = read(stream).await;
            assert_eq!((text.len(), end), (n as usize * 100, Ok(n * 100)), "{flavour}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_plugin_is_told_its_place_in_the_trace_wherever_it_runs() {
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for placement in BOTH {
        let stage = Stage::with_flavour("asynchronous").instance("asynchronous", placement, |_| ());
        let host = stage.ready().await;
        let call = Call { trace: Trace::parse(traceparent).unwrap(), ..say("trace") };
        let (text, _) = read(host.call("asynchronous", call).unwrap()).await;
        assert_eq!(text, traceparent, "{placement:?}");
        host.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_slow_reader_stops_the_plugin_at_the_window_and_gets_all_in_the_end() {
    each(|host, flavour| async move {
        let parked = u32::from(flavour == "batching");
        let mut input_tokens = 0;
        // A busy machine may need longer to use up the credit.
        for stall in [200, 1_000, 5_000] {
            input_tokens = read_slowly(&host, flavour, Duration::from_millis(stall)).await;
            if input_tokens == 1 + parked {
                break;
            }
        }
        assert_eq!(input_tokens, 1 + parked, "{flavour} was held up");
    })
    .await;
}

/// Stalls twice for so long; what the plugin says of its input tells whether it was held up.
async fn read_slowly(host: &PluginHost, flavour: &str, stall: Duration) -> u32 {
    let mut stream = host.call(flavour, say("count 2000")).unwrap();
    let mut tokens = 0;
    loop {
        if tokens == 0 || tokens == 700 {
            tokio::time::sleep(stall).await;
        }
        match first(&mut stream).await {
            Event::Token { .. } => tokens += 1,
            Event::End { usage, finish_reason } => {
                assert_eq!((tokens, usage.output_tokens), (2000, 2000), "{flavour}");
                assert_eq!(finish_reason, FinishReason::Stop);
                return usage.input_tokens;
            }
            other => panic!("{flavour}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_cancelled_request_ends_at_once_and_so_does_one_that_only_waits() {
    each(|host, flavour| async move {
        for order in ["forever", "hang"] {
            let mut stream = host.call(flavour, say(order)).unwrap();
            if order == "forever" {
                assert!(matches!(first(&mut stream).await, Event::Token { .. }));
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            stream.cancel();
            let ended = tokio::time::timeout(SOON, read(stream)).await;
            assert!(ended.is_ok(), "{flavour} {order}");
            assert_eq!(host.model(flavour).unwrap().in_flight, 0);
        }
        // One that stalls without credit, whose reader leaves.
        let stream = host.call(flavour, say("count 100000")).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(stream);
        until_idle(&host, flavour).await;
        assert!(ask(&host, flavour, "hello").await.1.is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_answer_of_a_batch_says_what_it_made() {
    for placement in BOTH {
        let stage = Stage::with_flavour("batching").instance("batching", placement, |_| ());
        let host = stage.ready().await;
        let mut stream = host.call("batching", say("forever")).unwrap();
        let mut read = 0;
        while read < 3 {
            assert!(matches!(first(&mut stream).await, Event::Token { .. }));
            read += 1;
        }
        stream.cancel();
        let (finish_reason, usage) = loop {
            match first(&mut stream).await {
                Event::Token { .. } => read += 1,
                Event::End { finish_reason, usage } => break (finish_reason, usage),
                other => panic!("{placement:?}: {other:?}"),
            }
        };
        assert_eq!((finish_reason, usage.input_tokens), (FinishReason::Cancelled, 1));
        assert!(read <= usage.output_tokens, "{placement:?}: {read} read, {usage:?}");
    }
}

#[tokio::test]
async fn an_error_of_one_request_is_typed_and_the_others_go_on() {
    each(|host, flavour| async move {
        let other = host.call(flavour, say("count 500")).unwrap();
        let (_, end) = ask(&host, flavour, "fail").await;
        let Err(CallError::Provider { kind, message, status, .. }) = end else {
            panic!("{flavour}: {end:?}")
        };
        assert_eq!((kind, message.as_str()), (ErrorKind::BadRequest, "told to"));
        assert_eq!(status, Some(422));
        assert_eq!(read(other).await.1, Ok(500));
    })
    .await;
}

#[tokio::test]
async fn a_panic_ends_the_request_with_an_error() {
    each(|host, flavour| async move {
        let (_, end) = ask(&host, flavour, "panic").await;
        let Err(CallError::Provider { message, .. }) = end else { panic!("{flavour}: {end:?}") };
        assert!(message.contains("panicked"), "{message}");
        let (_, end) = ask(&host, flavour, "hello").await;
        if flavour == "asynchronous" {
            assert!(end.is_ok(), "{end:?}");
        } else {
            // The engine's state is lost with its thread; every request is told so.
            let Err(CallError::Provider { message, .. }) = end else { panic!("{end:?}") };
            assert!(message.contains("panicked"), "{message}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_batch_of_pieces_arrives_in_order_whatever_its_size() {
    for placement in BOTH {
        let stage = Stage::with_flavour("asynchronous").instance("asynchronous", placement, |_| ());
        let host = stage.ready().await;
        for count in [0, 1, 63, 64, 65, 1_000] {
            let mut stream = host.call("asynchronous", say(&format!("batch {count}"))).unwrap();
            for _ in 0..count {
                assert!(matches!(first(&mut stream).await, Event::Token { reasoning: false, .. }));
            }
            assert!(matches!(first(&mut stream).await, Event::Token { reasoning: true, .. }));
            assert_eq!(first(&mut stream).await, Event::Data(serde_json::json!({ "a": 1 })));
            assert!(matches!(first(&mut stream).await, Event::End { .. }));
        }
    }
}

/// The plugin's futures run on the host's threads: with a runtime of its own and without.
#[tokio::test]
async fn the_host_makes_exchanges_and_keeps_time_for_its_plugins() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    for (placement, threads) in BOTH.into_iter().flat_map(|it| [(it, 0), (it, 1)]) {
        let stage =
            Stage::with_flavour("asynchronous").instance("asynchronous", placement, |settings| {
                settings.config = serde_json::json!({ "threads": threads });
            });
        let host = stage.ready().await;
        let call = |text: &str| host.call("asynchronous", say(text)).unwrap();

        let served = async {
            let (mut socket, _) = soon(listener.accept()).await.unwrap();
            let mut request = vec![0; 1024];
            let got = socket.read(&mut request).await.unwrap();
            assert!(String::from_utf8_lossy(&request[..got]).contains("x-from: plugin"));
            let head = "HTTP/1.1 201 Made\r\nconnection: close\r\ncontent-length: 8\r\n\r\n";
            for part in [head, "some", "more"] {
                socket.write_all(part.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ((text, end), ()) = tokio::join!(read(call(&format!("fetch {url}"))), served);
        assert_eq!((text.as_str(), end.is_ok()), ("201 somemore", true), "{placement:?} {threads}");

        // An answer that another one replaces ends alone.
        let served = async {
            let mut sockets = Vec::new();
            for body in ["", "again"] {
                let (mut socket, _) = soon(listener.accept()).await.unwrap();
                let _ = socket.read(&mut [0; 1024]).await.unwrap();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
                socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                sockets.push(socket);
            }
            sockets
        };
        let refetch = read(call(&format!("refetch {url}")));
        let ((text, end), _sockets) = soon(async { tokio::join!(refetch, served) }).await;
        assert_eq!((text.as_str(), end.is_ok()), ("200 again", true), "{placement:?} {threads}");

        // Nobody listens for the rest: the connection is closed at once.
        let left = call(&format!("fetch {url}"));
        let (mut socket, _) = soon(listener.accept()).await.unwrap();
        drop(left);
        let mut request = vec![0; 1024];
        soon(async { while !matches!(socket.read(&mut request).await, Ok(0) | Err(_)) {} }).await;

        let begun = std::time::Instant::now();
        assert_eq!(read(call("nap 30")).await.0, "rested");
        assert!(Duration::from_millis(30) <= begun.elapsed());
        assert_eq!(read(call("count 1000")).await.1, Ok(1000));
        let mut slow = call("count 2000");
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 0..2000 {
            assert!(matches!(first(&mut slow).await, Event::Token { .. }));
        }
        assert!(matches!(first(&mut slow).await, Event::End { .. }));
        let (_, end) = ask(&host, "asynchronous", "panic").await;
        let Err(CallError::Provider { message, .. }) = end else { panic!("{end:?}") };
        assert!(message.contains("panicked"), "{message}");
        drop(call("hang"));
        assert_eq!(read(call("count 3")).await.1, Ok(3), "{placement:?} {threads}");
        assert_eq!(host.model("asynchronous").unwrap().violations, 0);
        host.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_wrong_configuration_says_which_key() {
    for flavour in FLAVOURS {
        let stage =
            Stage::with_flavour(flavour).instance(flavour, Placement::Process, |settings| {
                settings.config = serde_json::json!({ "gretting": "typo" });
            });
        let host = stage.start().await;
        until(
            &host,
            flavour,
            |state| matches!(state, ModelState::Failed { reason } if reason.contains("gretting")),
        )
        .await;
    }
}
