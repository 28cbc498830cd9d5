use std::time::Duration;

use qudao_storage::{Accept, OutboxKind, SentPiece, TimelineCursor, TimelineRole};

use crate::world::{LEASE, World};

#[tokio::test]
async fn only_the_first_open_message_of_a_conversation_can_be_claimed() {
    let world = World::new().await;
    for id in ["m1", "m2"] {
        world.chat("ann", id).await;
        world.chat("bob", &format!("{id} bob")).await;
    }
    let first = world.store.claim_outbox(world.node, 10, LEASE).await.unwrap();
    assert_eq!(first.iter().map(|claim| claim.out_seq).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(world.store.claim_outbox(world.node, 10, LEASE).await.unwrap(), []);

    let ann = first.iter().find(|claim| claim.peer == "ann").unwrap();
    assert_eq!((ann.kind, ann.attempts, &*ann.body.text), (OutboxKind::Reply, 1, "an answer"));
    assert!(world.finish(ann).await, "the next one was waiting");

    let second = world.store.claim_outbox(world.node, 10, LEASE).await.unwrap();
    assert_eq!(second.len(), 1);
    assert_eq!((&*second[0].peer, second[0].out_seq), ("ann", 2));
}

#[tokio::test]
async fn a_sender_that_was_overtaken_does_not_finish_the_message() {
    let world = World::new().await;
    world.chat("ann", "m1").await;
    let slow = world.store.claim_outbox(world.node, 1, Duration::ZERO).await.unwrap().remove(0);
    let fast = world.store.claim_outbox(world.node, 1, LEASE).await.unwrap().remove(0);
    assert_eq!(fast.attempts, 2);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let delivered = || world.number("SELECT count(*) FROM outbox WHERE state = 'delivered'");
    assert!(!world.finish(&slow).await);
    assert_eq!(delivered(), 0);
    assert!(!tx.retry_outbox(slow.outbox_id, slow.epoch, LEASE, "late").await.unwrap());
    assert!(!tx.bury_outbox(slow.outbox_id, slow.epoch, "late").await.unwrap());
    drop(tx);
    assert!(!world.finish(&fast).await, "nothing waits behind it");
    assert_eq!(delivered(), 1);
    assert!(!world.finish(&fast).await);
}

#[tokio::test]
async fn a_message_that_was_not_taken_waits_and_one_that_never_will_be_lets_the_next_pass() {
    let world = World::new().await;
    world.chat("ann", "m1").await;
    world.chat("ann", "m2").await;
    let claim = world.store.claim_outbox(world.node, 1, LEASE).await.unwrap().remove(0);
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.retry_outbox(claim.outbox_id, claim.epoch, LEASE, "busy").await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(world.store.claim_outbox(world.node, 1, LEASE).await.unwrap(), []);

    world.db.psql("UPDATE outbox SET next_at = now() WHERE out_seq = 1");
    let claim = world.store.claim_outbox(world.node, 1, LEASE).await.unwrap().remove(0);
    assert_eq!((claim.out_seq, claim.attempts), (1, 2));
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.bury_outbox(claim.outbox_id, claim.epoch, "gone").await.unwrap());
    tx.commit().await.unwrap();
    let next = world.store.claim_outbox(world.node, 1, LEASE).await.unwrap().remove(0);
    assert_eq!(next.out_seq, 2);
}

#[tokio::test]
async fn a_timeline_puts_replies_behind_what_they_answer_and_resumes_anywhere() {
    let world = World::new().await;
    world.say("ann", "m1").await;
    let claim = world.claim_one().await;
    world.say("ann", "m2").await;
    world.hold(&claim, 1000).await;
    world.commit(&claim, 700).await;
    world.deliver().await;

    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let id = claim.conversation_id;
    let all = tx.timeline(id, TimelineCursor::default(), 10).await.unwrap();
    let shown: Vec<_> = all.iter().map(|item| (&*item.text, item.cursor.to_string())).collect();
    assert_eq!(
        shown,
        [
            ("text of m1", "1.0".to_owned()),
            ("an answer", "1.1".to_owned()),
            ("text of m2", "2.1".to_owned()),
        ]
    );
    assert!(matches!(all[1].role, TimelineRole::Assistant(_)));
    assert_eq!(all[0].external_id.as_deref(), Some("m1"));
    for (place, item) in all.iter().enumerate() {
        let cursor: TimelineCursor = item.cursor.to_string().parse().unwrap();
        assert_eq!(tx.timeline(id, cursor, 10).await.unwrap(), all[place + 1..]);
    }
    // Somebody saw both questions before the first one's answer came.
    let cursor = TimelineCursor { in_seq: 2, out_seq: 0 };
    let late = tx.timeline(id, cursor, 10).await.unwrap();
    assert_eq!(late.iter().map(|item| &*item.text).collect::<Vec<_>>(), ["an answer"]);
}

#[test]
fn what_is_not_a_cursor_is_refused() {
    for text in ["1", "1.", ".1", "a.1", "1.-1", "1.1.1", "+1.1"] {
        assert!(text.parse::<TimelineCursor>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_long_reply_goes_out_piece_by_piece_within_answers_and_each_is_found_again() {
    let world = World::new().await;
    let Accept::New { conversation_id, .. } = world.say("ann", "m1").await else { panic!() };
    let claim = world.claim_one().await;
    world.hold(&claim, 1000).await;
    world.commit(&claim, 700).await;
    let channel_id = world.tenant.channel_id;
    for (piece, rest) in [(0, Some(LEASE)), (1, None)] {
        let mut tx = world.store.begin(world.tenant.id).await.unwrap();
        let reply = tx.open_reply(conversation_id).await.unwrap().unwrap();
        assert_eq!(tx.pieces_sent(reply.outbox_id).await.unwrap().len(), piece as usize);
        let mark = format!("answer:{piece}");
        let external_id = Some(mark.as_str());
        let outbox_id = reply.outbox_id;
        tx.record_piece(SentPiece { outbox_id, piece, channel_id, conversation_id, external_id })
            .await
            .unwrap();
        tx.give_as_answer(outbox_id, rest).await.unwrap();
        let given = tx.answer_given(conversation_id, &mark, channel_id).await.unwrap();
        assert_eq!(given, Some((reply, piece)));
        tx.commit().await.unwrap();
        // What is left waits for the next question before it goes by other means.
        assert_eq!(world.deliver().await, 0);
    }
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert_eq!(tx.open_reply(conversation_id).await.unwrap(), None);
    assert_eq!(tx.answer_given(conversation_id, "answer:7", channel_id).await.unwrap(), None);
    drop(tx);
    world.assert_sound().await;
}
