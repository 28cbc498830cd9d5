use super::*;
use crate::chat::frame::Role;

const SECOND: Duration = Duration::from_secs(1);

fn patience() -> Patience {
    Patience {
        heartbeat: 20 * SECOND,
        silence: Some(60 * SECOND),
        open_turn_poll: 2 * SECOND,
        idle_poll: 30 * SECOND,
        waiting: 16,
    }
}

/// A session beside a fake database: reads are answered from `rows` at once.
struct World {
    session: Session,
    now: Instant,
    conversation: Option<ConversationId>,
    rows: Vec<MessageFrame>,
    answer_due: bool,
    page_size: usize,
    effects: Vec<Effect>,
}

impl World {
    fn open(after: &str, rows: Vec<MessageFrame>) -> Self {
        let now = Instant::now();
        let (session, effects) = Session::open(after.parse().unwrap(), patience(), now);
        let conversation = (!rows.is_empty()).then(ConversationId::new);
        let (answer_due, page_size) = (false, 2);
        let mut world =
            Self { session, now, conversation, rows, answer_due, page_size, effects: Vec::new() };
        world.apply(effects);
        world
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let Effect::Read(cursor) = effect else {
                self.effects.push(effect);
                continue;
            };
            let page = self.read(cursor);
            let next = self.session.on(Input::Page(page), self.now);
            self.apply(next);
        }
    }

    fn read(&self, cursor: TimelineCursor) -> Page {
        let missing = |row: &&MessageFrame| match row.key {
            MessageKey::Inbound(seq) => cursor.in_seq < seq,
            MessageKey::Outbound(seq) => cursor.out_seq < seq,
        };
        let mut at = cursor;
        let mut messages: Vec<MessageFrame> = Vec::new();
        for row in self.rows.iter().filter(missing).take(self.page_size) {
            match row.key {
                MessageKey::Inbound(seq) => at.in_seq = seq,
                MessageKey::Outbound(seq) => at.out_seq = seq,
            }
            messages.push(MessageFrame { cursor: at, ..row.clone() });
        }
        let more = messages.len() < self.rows.iter().filter(missing).count();
        Page { conversation: self.conversation, messages, more, answer_due: self.answer_due }
    }

    fn on(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.session.on(input, self.now);
        self.apply(effects);
        std::mem::take(&mut self.effects)
    }

    fn after(&mut self, wait: Duration) -> Vec<Effect> {
        self.now += wait;
        self.on(Input::Tick)
    }

    fn seen(effects: &[Effect]) -> Vec<String> {
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send(ServerFrame::Message(message)) => Some(message.key.to_string()),
                Effect::Send(ServerFrame::Ready { cursor }) => Some(format!("ready {cursor}")),
                Effect::Send(_)
                | Effect::Subscribe(_)
                | Effect::Read(_)
                | Effect::Accept { .. }
                | Effect::Stop(_)
                | Effect::Replay(_)
                | Effect::Ping
                | Effect::Close(_) => None,
            })
            .collect()
    }
}

fn row(key: MessageKey) -> MessageFrame {
    let role = match key {
        MessageKey::Inbound(_) => Role::User,
        MessageKey::Outbound(_) => Role::Assistant,
    };
    MessageFrame {
        cursor: TimelineCursor::default(),
        key,
        role,
        parts: Vec::new(),
        text: "hi".to_owned(),
        client_id: None,
        turn: None,
        at: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn inbound(seq: i64) -> MessageFrame {
    row(MessageKey::Inbound(seq))
}

fn outbound(seq: i64) -> MessageFrame {
    row(MessageKey::Outbound(seq))
}

fn hint() -> Input {
    Input::Hint(PreviewEvent::Message { out_seq: 1 })
}

#[test]
fn the_history_is_replayed_in_pages_and_then_the_client_is_ready() {
    let world = World::open("", vec![inbound(1), outbound(1), inbound(2), outbound(2), inbound(3)]);
    assert_eq!(World::seen(&world.effects), ["i:1", "o:1", "i:2", "o:2", "i:3", "ready 3.2"]);
    assert!(matches!(world.effects[0], Effect::Subscribe(_)));
}

#[test]
fn a_client_that_resumes_gets_what_it_lacks_and_nothing_twice() {
    let world = World::open("1.1", vec![inbound(1), outbound(1), inbound(2), outbound(2)]);
    assert_eq!(World::seen(&world.effects), ["i:2", "o:2", "ready 2.2"]);
}

#[test]
fn an_answer_that_overtakes_a_later_question_is_not_lost() {
    let mut world = World::open("", vec![inbound(1), inbound(2)]);
    assert_eq!(World::seen(&std::mem::take(&mut world.effects)), ["i:1", "i:2", "ready 2.0"]);
    world.rows.insert(1, outbound(1));
    assert_eq!(World::seen(&world.on(hint())), ["o:1"]);
    assert_eq!(World::seen(&world.on(hint())), Vec::<String>::new());
}

#[test]
fn a_lost_hint_costs_one_poll_and_no_message() {
    let mut world = World::open("", vec![inbound(1)]);
    world.answer_due = true;
    world.on(hint());
    world.rows.push(outbound(1));
    assert_eq!(World::seen(&world.after(SECOND)), Vec::<String>::new());
    assert_eq!(World::seen(&world.after(SECOND)), ["o:1"]);
}

#[test]
fn while_nothing_is_expected_the_database_is_asked_rarely() {
    let mut world = World::open("", vec![inbound(1), outbound(1)]);
    world.effects.clear();
    world.rows.push(inbound(2));
    assert_eq!(World::seen(&world.after(29 * SECOND)), Vec::<String>::new());
    assert_eq!(World::seen(&world.after(SECOND)), ["i:2"]);
}

#[test]
fn who_listens_in_the_middle_of_an_answer_asks_for_its_beginning() {
    let replays = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Replay(_))).count()
    };
    let mut world = World::open("", vec![inbound(1)]);
    assert_eq!(replays(&world.on(Input::Listening)), 0, "no answer is due");
    world.answer_due = true;
    world.on(hint());
    assert_eq!(replays(&world.on(Input::Listening)), 1);
}

#[test]
fn what_is_larger_than_a_frame_may_be_ends_the_connection() {
    let mut world = World::open("", Vec::new());
    world.effects.clear();
    assert_eq!(world.on(Input::TooLarge), [Effect::Close(Farewell::TooLarge)]);
}

#[test]
fn a_hint_during_a_read_makes_one_more_read() {
    let now = Instant::now();
    let (mut session, first) = Session::open(TimelineCursor::default(), patience(), now);
    assert_eq!(first, [Effect::Read(TimelineCursor::default())]);
    assert_eq!(session.on(hint(), now), []);
    assert_eq!(session.on(hint(), now), []);
    let effects = session.on(Input::Page(Page::default()), now);
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Read(_))).count(), 1);
}

#[test]
fn a_silent_session_is_left_alone_until_something_is_due() {
    let mut world = World::open("", Vec::new());
    let begun = world.now;
    let due = |world: &World| world.session.due() - begun;
    assert_eq!(due(&world), 20 * SECOND, "the first sign of life");
    world.after(20 * SECOND);
    assert_eq!(due(&world), 30 * SECOND, "the poll");
    world.after(10 * SECOND);
    assert_eq!(due(&world), 40 * SECOND);
    world.after(10 * SECOND);
    assert_eq!(due(&world), 60 * SECOND, "nothing was heard");
    world.on(Input::Heard);
    assert_eq!(due(&world), 60 * SECOND, "the poll and the sign of life");
    // An answer that is owed is looked for more often.
    world.answer_due = true;
    world.on(Input::Accepted { id: "a".to_owned(), seq: 1, duplicate: false });
    assert_eq!(due(&world), 42 * SECOND);
}

#[test]
fn a_failed_read_is_tried_again_by_the_poll() {
    let now = Instant::now();
    let (mut session, _) = Session::open(TimelineCursor::default(), patience(), now);
    assert_eq!(session.on(Input::ReadFailed, now), []);
    let effects = session.on(Input::Tick, now + 30 * SECOND);
    assert!(effects.contains(&Effect::Read(TimelineCursor::default())));
}

#[test]
fn messages_are_stored_one_after_the_other() {
    let mut world = World::open("", Vec::new());
    world.effects.clear();
    let send =
        |id: &str| Input::Frame(ClientFrame::Send { id: id.to_owned(), text: id.to_owned() });
    let id = |id: &str| Effect::Accept {
        id: ExternalId::parse(id).unwrap(),
        text: MessageText::parse(id).unwrap(),
    };
    assert_eq!(world.on(send("a")), [id("a")]);
    assert_eq!(world.on(send("b")), []);
    let refused = Input::Refused {
        id: "a".to_owned(),
        code: Code::InsufficientCredits,
        detail: String::new(),
        retry_after: None,
    };
    let effects = world.on(refused);
    assert!(matches!(
        &effects[0],
        Effect::Send(ServerFrame::Error { code: "insufficient_credits", .. })
    ));
    assert_eq!(effects[1..], [id("b")]);
}

#[test]
fn a_first_message_makes_the_conversation_known_and_listened_to() {
    let mut world = World::open("", Vec::new());
    assert_eq!(World::seen(&std::mem::take(&mut world.effects)), ["ready 0.0"]);
    world.conversation = Some(ConversationId::new());
    world.rows.push(inbound(1));
    world.answer_due = true;
    let effects = world.on(Input::Accepted { id: "a".to_owned(), seq: 1, duplicate: false });
    assert!(matches!(&effects[0], Effect::Send(ServerFrame::Accepted { duplicate: false, .. })));
    assert!(matches!(&effects[1], Effect::Subscribe(_)));
    assert_eq!(World::seen(&effects), ["i:1"]);
}

#[test]
fn a_flood_of_messages_is_refused_and_not_queued_without_bound() {
    let mut world = World::open("", Vec::new());
    let mut refused = 0;
    for number in 0..100 {
        let frame = ClientFrame::Send { id: number.to_string(), text: "x".to_owned() };
        let effects = world.on(Input::Frame(frame));
        refused += effects
            .iter()
            .filter(|e| matches!(e, Effect::Send(ServerFrame::Error { code: "rate_limited", .. })))
            .count();
    }
    assert_eq!(refused, 100 - patience().waiting - 1);
}

#[test]
fn bad_messages_are_refused_with_their_id() {
    let mut world = World::open("", Vec::new());
    world.effects.clear();
    for (id, text) in [("", "x"), ("a b", "x"), ("字", "x"), ("a", " "), ("a", "x\0y")] {
        let frame = ClientFrame::Send { id: id.to_owned(), text: text.to_owned() };
        let effects = world.on(Input::Frame(frame));
        assert!(
            matches!(&effects[..], [Effect::Send(ServerFrame::Error { code: "validation_failed", id: Some(named), .. })] if named == id),
            "{effects:?}"
        );
    }
}

#[test]
fn silence_ends_a_socket_and_any_sound_prevents_it() {
    let mut world = World::open("", Vec::new());
    world.effects.clear();
    assert_eq!(world.after(59 * SECOND)[0], Effect::Ping);
    world.on(Input::Heard);
    assert!(!world.after(59 * SECOND).contains(&Effect::Close(Farewell::Silence)));
    assert_eq!(world.after(2 * SECOND), [Effect::Close(Farewell::Silence)]);
}

#[test]
fn a_draining_node_sends_its_clients_away() {
    let mut world = World::open("", Vec::new());
    world.effects.clear();
    let effects = world.on(Input::Draining);
    assert_eq!(effects, [Effect::Send(ServerFrame::Reconnect), Effect::Close(Farewell::Restart)]);
}

#[test]
fn deltas_pass_through_and_stop_reaches_the_turn() {
    let mut world = World::open("", vec![inbound(1)]);
    world.effects.clear();
    let turn = qudao_domain::TurnId::new();
    let delta = PreviewEvent::Delta { turn, epoch: 1, offset: 0, text: "He".to_owned() };
    let effects = world.on(Input::Hint(delta.clone()));
    assert_eq!(effects, [Effect::Send(ServerFrame::Preview(delta))]);
    let conversation = world.conversation.unwrap();
    assert_eq!(world.on(Input::Frame(ClientFrame::Stop)), [Effect::Stop(conversation)]);
}
