use super::*;
use crate::load::{self, Target};

fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async { serve(listener, 1).unwrap().await }).unwrap();
    });
    base
}

#[test]
fn a_streamed_answer_has_the_agreed_number_of_events() {
    let target = Target::chat(&start(), "none", "mock-json", true).unwrap();
    let run = load::run(&target, 2, 3).unwrap();
    assert_eq!(run.samples.len(), 6);
    assert!(run.samples.iter().all(|sample| sample.events == EVENTS));
}

#[test]
fn a_paced_answer_takes_its_time() {
    let target = Target::chat(&start(), "none", "mock-paced", true).unwrap();
    let run = load::run(&target, 1, 1).unwrap();
    assert!(run.samples[0].whole >= PACE * u32::try_from(EVENTS - 3).unwrap());
    assert!(run.gap(0.5) >= PACE / 2);
}

#[test]
fn refusals_and_broken_streams_are_errors_for_the_load_generator() {
    let base = start();
    for (model, says) in [("mock-401", "401"), ("mock-429", "retry-after: 1"), ("mock-500", "500")]
    {
        let target = Target::chat(&base, "none", model, false).unwrap();
        let error = load::run(&target, 1, 1).unwrap_err().to_string();
        assert!(error.contains(says), "{model}: {error}");
    }
    let cut = Target::chat(&base, "none", "mock-cut", true).unwrap();
    assert!(load::run(&cut, 1, 1).unwrap_err().to_string().contains("middle"));
}

#[test]
fn the_proxy_passes_whole_and_streamed_answers() {
    let base = start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(crate::proxy::run(listener, base)).unwrap();
    });
    let whole = Target::chat(&proxy, "none", "mock-json", false).unwrap();
    assert_eq!(load::run(&whole, 2, 2).unwrap().samples.len(), 4);
    let streamed = Target::chat(&proxy, "none", "mock-json", true).unwrap();
    let run = load::run(&streamed, 1, 2).unwrap();
    assert!(run.samples.iter().all(|sample| sample.events == EVENTS));
}
