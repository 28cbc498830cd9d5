//! A process that records a quarter of its traces: one test, since there is one recorder.

use qudao_telemetry::{Recorder, Span, SpanKind, Trace, Value, install};

/// An id like that of a turn: a hash with the version and the variant of a UUID in it.
fn turn(number: u128) -> u128 {
    let hash = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let version = 0x8000_u128 << 64;
    let variant = 0x8000_0000_0000_0000_u128;
    hash & !(0xf000_u128 << 64) & !0xc000_0000_0000_0000_u128 | version | variant
}

#[test]
fn a_share_of_traces_is_recorded_whole_and_what_has_no_room_is_dropped() {
    let mut spans = install(Recorder { share: 0.25, queue: 3 }).unwrap();
    assert!(install(Recorder { share: 1.0, queue: 1 }).is_none(), "there is one recorder");

    let works = || (0..10_000).map(|number| Trace::of_work(turn(number)));
    let recorded = works().filter(Trace::is_sampled).count();
    assert!((2_200..2_800).contains(&recorded), "{recorded} of 10000");
    let begun = (0..10_000).filter(|_| Trace::begin().is_sampled()).count();
    assert!((2_200..2_800).contains(&begun), "{begun} of 10000");

    // One that is not of the share, and one of a client who does not record: nothing comes.
    let out = works().find(|work| !work.is_sampled()).unwrap();
    let silent = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap();
    for place in [out, silent] {
        let span = Span::child("step", SpanKind::Internal, place);
        assert_eq!((span.is_recorded(), span.place()), (false, place));
    }
    assert!(spans.try_recv().is_err());

    // A client who records decides for itself.
    let loud = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    assert!(Span::remote_child("http", SpanKind::Server, loud).is_recorded());
    assert_eq!(spans.try_recv().unwrap().parent_id, 0x00f0_67aa_0ba9_02b7);

    let work = works().find(Trace::is_sampled).unwrap();
    let first = Span::first("accept", SpanKind::Producer, work);
    let mut child = Span::child("turn", SpanKind::Consumer, work);
    child.set("attempt", 1_i64);
    child.fail("stuck");
    let grandchild = Span::child("hold", SpanKind::Client, child.place());
    drop((first, grandchild, child));
    let names: Vec<_> = std::iter::from_fn(|| spans.try_recv().ok()).collect();
    let [first, grandchild, child] = names.as_slice() else { panic!("{names:?}") };
    assert_eq!((first.parent_id, first.place), (0, work));
    assert_eq!((child.parent_id, grandchild.parent_id), (work.span_id(), child.place.span_id()));
    assert!([first, child, grandchild].iter().all(|span| span.place.trace_id() == work.trace_id()));
    assert_eq!(child.attributes, [("attempt", Value::Number(1))]);
    assert_eq!(child.failure, Some("stuck"));

    for _ in 0..5 {
        Span::child("step", SpanKind::Internal, work).end();
    }
    let kept = std::iter::from_fn(|| spans.try_recv().ok()).count();
    assert_eq!(kept, 3, "the queue has three places, and nobody waits for a fourth");
}
