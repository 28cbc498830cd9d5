use std::collections::BTreeMap;

use super::*;
use crate::capability::{MediaCapability, TextCapability, Unit};

fn words(text: &str) -> Part {
    Part::Text { format: TextFormat::Plain, text: text.to_owned() }
}

fn buttons(labels: &[&str]) -> Part {
    let button = |label: &&str| Button {
        id: label.to_lowercase(),
        label: (*label).to_owned(),
        action: ButtonAction::Postback { value: String::new() },
    };
    Part::Buttons { fallback_text: String::new(), items: labels.iter().map(button).collect() }
}

fn image(caption: &str) -> Part {
    Part::Image(Media {
        url: Some("https://a.example/x.png".to_owned()),
        mime: Some("image/png".to_owned()),
        caption: Some(caption.to_owned()),
        ..Media::default()
    })
}

fn rendered(parts: &[Part], caps: &Capabilities) -> Vec<Vec<Part>> {
    let message = Message { parts: parts.to_vec(), reply_to: None };
    render(&message, caps).unwrap().into_iter().map(|message| message.parts).collect()
}

#[test]
fn what_a_channel_cannot_show_becomes_words() {
    let caps = Capabilities::default();
    let parts = [words("Look:"), image("A box"), buttons(&["Yes", "No"])];
    let said = "Look:\n\n[image]\nA box\nhttps://a.example/x.png\n\n1) Yes\n2) No";
    assert_eq!(rendered(&parts, &caps), [[words(said)]]);
    let markdown = Part::Text { format: TextFormat::Markdown, text: "**Hi**".to_owned() };
    assert_eq!(rendered(&[markdown], &caps), [[words("Hi")]]);
}

#[test]
fn what_it_can_show_stays() {
    let caps = Capabilities {
        buttons: crate::capability::ButtonsCapability {
            level: Level::Native,
            max: 2,
            label_max: 5,
        },
        media: BTreeMap::from([(
            "image".to_owned(),
            MediaCapability { caption_max: Some(5), ..MediaCapability::default() },
        )]),
        ..Capabilities::default()
    };
    let parts = [words("Choose"), buttons(&["Yes", "Not at all"])];
    let expected = vec![words("Choose"), {
        let Part::Buttons { fallback_text, mut items } = buttons(&["Yes", "Not at all"]) else {
            unreachable!()
        };
        items[1].label = "Not…".to_owned();
        Part::Buttons { fallback_text, items }
    }];
    assert_eq!(rendered(&parts, &caps), [expected]);
    // Three are too many.
    assert_eq!(rendered(&[buttons(&["A", "B", "C"])], &caps), [[words("1) A\n2) B\n3) C")]]);
    // A caption that is too long goes below.
    let mut bare = image("");
    bare.media_mut().unwrap().caption = None;
    assert_eq!(rendered(&[image("A box")], &caps), [[image("A box")]]);
    assert_eq!(rendered(&[image("A large box")], &caps), [[bare], [words("A large box")]]);
}

#[test]
fn buttons_that_are_too_many_become_a_list_where_there_are_lists() {
    let caps = Capabilities {
        buttons: crate::capability::ButtonsCapability {
            level: Level::Native,
            max: 1,
            label_max: 5,
        },
        list: crate::capability::ListCapability { level: Level::Native, max_rows: 10 },
        ..Capabilities::default()
    };
    let pages = rendered(&[words("Choose"), buttons(&["A", "B"])], &caps);
    assert!(
        matches!(&pages[0][..], [Part::Text { .. }, Part::List { rows, .. }] if rows.len() == 2)
    );
}

#[test]
fn long_words_become_several_messages_and_the_last_has_the_buttons() {
    let caps = Capabilities {
        text: TextCapability { max: 10, unit: Unit::Utf16, ..TextCapability::default() },
        buttons: crate::capability::ButtonsCapability {
            level: Level::Native,
            max: 1,
            label_max: 5,
        },
        reply_to: Level::Native,
        ..Capabilities::default()
    };
    let message = Message {
        parts: vec![words("Hello my friend"), buttons(&["A"])],
        reply_to: Some("m1".to_owned()),
    };
    let pages = render(&message, &caps).unwrap();
    assert_eq!(pages.len(), 2);
    assert_eq!((pages[0].reply_to.as_deref(), &pages[1].reply_to), (Some("m1"), &None));
    assert_eq!((pages[0].parts.len(), pages[1].parts.len()), (1, 2));
}

#[test]
fn a_part_that_is_refused_refuses_the_message_and_one_that_is_dropped_is_gone() {
    let mut caps = Capabilities { card: Level::Reject, quote: Level::Drop, ..Default::default() };
    let card = Part::Card {
        fallback_text: String::new(),
        title: "T".to_owned(),
        text: None,
        image_url: None,
        items: Vec::new(),
    };
    let message = Message { parts: vec![card], reply_to: None };
    assert_eq!(render(&message, &caps), Err(Rejected { part: "a card" }));
    caps.card = Level::Degrade;
    let quote = Part::Quote { text: "q".to_owned(), message_id: None };
    assert!(rendered(&[quote], &caps).is_empty());
    assert_eq!(render(&message, &caps).unwrap().len(), 1);
}

#[test]
fn pictures_in_a_row_are_albums_of_as_many_as_the_channel_shows() {
    let media = BTreeMap::from([(
        "image".to_owned(),
        MediaCapability { caption_max: Some(9), ..MediaCapability::default() },
    )]);
    let caps = Capabilities { media, album_max: 3, ..Capabilities::default() };
    let parts: Vec<_> = ["1", "2", "3", "4"].map(image).into();
    let shown = rendered(&parts, &caps);
    assert_eq!(shown, [parts[..3].to_vec(), parts[3..].to_vec()]);
    let parted = [image("1"), words("and"), image("2")];
    assert_eq!(rendered(&parted, &caps).len(), 3);
    let alone = Capabilities { album_max: 1, ..caps };
    assert_eq!(rendered(&parts, &alone).len(), 4);
}
