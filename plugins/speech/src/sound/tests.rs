use proptest::prelude::*;

use super::*;

const VOICE: &[u8] = include_bytes!("../../tests/sounds/tone-voice.ogg");
const STEREO: &[u8] = include_bytes!("../../tests/sounds/tone-stereo.ogg");
const LIVE: &[u8] = include_bytes!("../../tests/sounds/tone-live.webm");
const WEBM: &[u8] = include_bytes!("../../tests/sounds/tone.webm");
const MP3: &[u8] = include_bytes!("../../tests/sounds/tone.mp3");
const WAV: &[u8] = include_bytes!("../../tests/sounds/tone-8k.wav");
const VORBIS: &[u8] = include_bytes!("../../tests/sounds/tone-vorbis.ogg");
const ALL: [&[u8]; 7] = [VOICE, STEREO, LIVE, WEBM, MP3, WAV, VORBIS];

/// Which part of a sound's power a tone has.
fn purity(sound: &[f32], hertz: f32) -> f32 {
    let turn = std::f32::consts::TAU * hertz / 16_000.0;
    let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
    for (at, sample) in (0_u16..).zip(sound) {
        let angle = turn * f32::from(at);
        sine += sample * angle.sin();
        cosine += sample * angle.cos();
        power += sample * sample;
    }
    #[expect(clippy::cast_precision_loss, reason = "half a second")]
    let count = sound.len() as f32;
    2.0 * (sine * sine + cosine * cosine) / (count * power)
}

#[test]
fn every_container_gives_the_tone_that_is_in_it() {
    for (name, file) in [
        ("voice", VOICE),
        ("stereo", STEREO),
        ("live", LIVE),
        ("webm", WEBM),
        ("mp3", MP3),
        ("wav", WAV),
    ] {
        let sound = read(file, Limits::default()).unwrap();
        // 0.6 s; an MP3 has silence of its encoder around it, and WebM does not say where its last frame ends.
        let most = match name {
            "mp3" => 11_200,
            "live" | "webm" => 9_950,
            _ => 9_700,
        };
        assert!((9_500..=most).contains(&sound.len()), "{name}: {} samples", sound.len());
        let middle = &sound[2_000..8_000];
        assert!(0.97 < purity(middle, 440.0), "{name}: {}", purity(middle, 440.0));
        let loud = middle.iter().fold(0.0_f32, |most, sample| most.max(sample.abs()));
        // An encoder makes two channels of one a little quieter.
        assert!((0.08..0.17).contains(&loud), "{name}: {loud}");
        assert_eq!(seconds(&sound), 1);
    }
}

#[test]
fn what_is_no_sound_or_too_much_of_it_is_refused_with_a_code() {
    let refused = |file: &[u8], limits| read(file, limits).unwrap_err().to_string();
    let limits = Limits::default();
    for (file, code) in [
        (&b""[..], "unknown_format"),
        (b"%PDF-1.7", "unknown_format"),
        (&[0; 4_000], "unknown_format"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "unknown_format"),
        (VORBIS, "unknown_codec"),
        (b"OggS", "damaged"),
        (b"\x1a\x45\xdf\xa3", "damaged"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "damaged"),
        (&VOICE[..VOICE.len() / 2], "damaged"),
        (&WAV[..WAV.len() / 2], "damaged"),
    ] {
        let found = refused(file, limits);
        assert!(found.starts_with(code), "{code}: {found}");
    }
    assert!(refused(MP3, Limits { bytes: 100, ..limits }).starts_with("too_large"));
    // The limit is for what a file unpacks to, not for what it says of itself.
    let long = wav(8_000, &[0.1; 8_000 * 3]);
    assert!(refused(&long, Limits { seconds: 2, ..limits }).starts_with("too_long"));
    assert!(read(&long, Limits { seconds: 3, ..limits }).is_ok());
}

/// A WAV file of floats.
fn wav(rate: u32, samples: &[f32]) -> Vec<u8> {
    let length = u32::try_from(samples.len() * 4).unwrap();
    let mut file = b"RIFF".to_vec();
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x03\0\x01\0");
    file.extend(rate.to_le_bytes());
    file.extend((rate * 4).to_le_bytes());
    file.extend(b"\x04\0\x20\0data");
    file.extend(length.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

#[test]
fn numbers_that_are_none_become_silence_and_rates_that_are_none_are_refused() {
    let file = wav(16_000, &[f32::NAN, f32::INFINITY, -7.0, 0.25]);
    assert_eq!(read(&file, Limits::default()).unwrap(), [0.0, 0.0, -1.0, 0.25]);
    for rate in [0, 1, 3_999, 192_001, u32::MAX / 4] {
        assert!(read(&wav(rate, &[0.0; 8]), Limits::default()).is_err(), "{rate}");
    }
    for rate in [4_000, 11_025, 44_100, 44_101, 191_999] {
        let tone = vec![0.0; usize::try_from(rate / 4).unwrap()];
        let sound = read(&wav(rate, &tone), Limits::default()).unwrap();
        assert!((3_990..4_010).contains(&sound.len()), "{rate}: {}", sound.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn damaged_files_are_refused_or_read(
        which in 0..ALL.len(),
        cut in 0.0..=1.0_f64,
        changes in proptest::collection::vec((0.0..1.0_f64, any::<u8>()), 0..8),
    ) {
        let mut file = ALL[which].to_vec();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a short file")]
        let place = |part: f64, length: usize| (part * length as f64) as usize;
        for (part, byte) in changes {
            let at = place(part, file.len()).min(file.len() - 1);
            file[at] = byte;
        }
        let length = place(cut, file.len());
        file.truncate(length);
        // A panic within would be caught and called damage: here it shall fail the test.
        let limits = Limits { seconds: 30, ..Limits::default() };
        match read(&file, limits) {
            Err(SoundError::Damaged(reason)) => prop_assert!(!reason.contains("gave up"), "{}", reason),
            Ok(sound) => prop_assert!(sound.len() <= 30 * 16_000),
            Err(_) => {}
        }
    }
}
