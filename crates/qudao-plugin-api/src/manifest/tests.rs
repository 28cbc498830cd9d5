use proptest::prelude::*;

use super::*;

const TEMPLATE: &str = r#"
schema = 1
[plugin]
id = "echo"
version = "1.0.0"
abi = "1.0"
kinds = ["chat"]
[[artifact]]
target = "any"
variant = "cpu"
path = "lib/libecho.so"
"#;

fn refusal(text: &str) -> String {
    Manifest::parse_template(text).unwrap_err().to_string()
}

#[test]
fn a_template_parses_and_a_finished_manifest_needs_hashes() {
    let manifest = Manifest::parse_template(TEMPLATE).unwrap();
    assert_eq!(manifest.runtime.window, 256);
    assert!(Manifest::parse(TEMPLATE).unwrap_err().to_string().contains("artifact[0].sha256"));
}

#[test]
fn a_path_that_leaves_the_folder_is_refused() {
    for path in ["../libecho.so", "/lib/libecho.so", "lib/../../x.so", "./x.so", ""] {
        let text = TEMPLATE.replace("lib/libecho.so", path);
        assert!(refusal(&text).contains("artifact[0].path"), "{path}");
    }
}

#[test]
fn another_abi_major_an_unknown_kind_and_an_unknown_field_are_refused_by_name() {
    assert!(refusal(&TEMPLATE.replace("1.0\"\nkinds", "2.0\"\nkinds")).contains("plugin.abi"));
    assert!(refusal(&TEMPLATE.replace("[\"chat\"]", "[\"chta\"]")).contains("chta"));
    assert!(refusal(&TEMPLATE.replace("variant", "varaint")).contains("varaint"));
}

#[test]
fn artifacts_are_tried_from_the_highest_score_and_only_for_the_target() {
    let more = format!(
        "{TEMPLATE}[[artifact]]\ntarget=\"any\"\nvariant=\"cuda\"\npath=\"b.so\"\nscore=9\n\
         [[artifact]]\ntarget=\"riscv\"\nvariant=\"cpu\"\npath=\"c.so\"\nscore=99\n"
    );
    let manifest = Manifest::parse_template(&more).unwrap();
    let order: Vec<_> = manifest.candidates(TARGET).iter().map(|a| a.path.as_str()).collect();
    assert_eq!(order, ["b.so", "lib/libecho.so"]);
}

#[test]
fn a_signature_holds_for_the_exact_bytes_and_a_trusted_key_only() {
    let (secret, other) = ([7; 32], [8; 32]);
    let signature = sign(TEMPLATE.as_bytes(), &secret);
    let trusted = [public_key(&secret)];
    assert_eq!(verify(TEMPLATE.as_bytes(), &signature, &trusted).unwrap(), trusted[0]);
    let changed = format!("{TEMPLATE} ");
    let wrong = verify(changed.as_bytes(), &signature, &trusted);
    assert!(matches!(wrong, Err(ManifestError::WrongSignature)));
    let unknown = verify(TEMPLATE.as_bytes(), &signature, &[public_key(&other)]);
    assert!(matches!(unknown, Err(ManifestError::UnknownSigner(_))));
    let malformed = verify(TEMPLATE.as_bytes(), "zz", &trusted);
    assert!(matches!(malformed, Err(ManifestError::MalformedSignature)));
}

proptest! {
    #[test]
    fn any_text_is_a_manifest_within_bounds_or_refused(
        junk in "\\PC{0,120}",
        id in "[a-zA-Z0-9./-]{0,70}",
        path in "[a-z./\\\\]{0,20}",
        number in any::<i64>(),
        key in "[a-z_.\\[\\]]{0,20}",
    ) {
        drop(Manifest::parse(&junk));
        let text = TEMPLATE
            .replace("id = \"echo\"", &format!("id = {id:?}"))
            .replace("lib/libecho.so", &path.replace('\\', "\\\\"));
        let text = format!(
            "{text}[runtime]\nmax_concurrency = {number}\ntotal_timeout_ms = {number}\n\
             [limits]\nmemory_mb = {number}\n[upgrade]\n{key} = {number}\n"
        );
        for text in [text.clone(), text.replace(&format!("[upgrade]\n{key} = {number}\n"), "")] {
            if let Ok(manifest) = Manifest::parse_template(&text) {
                prop_assert!(!manifest.plugin.id.contains('/') && !manifest.plugin.id.starts_with('.'));
                let inside = Path::new(&manifest.artifacts[0].path);
                prop_assert!(inside.is_relative() && !manifest.artifacts[0].path.contains(".."));
                prop_assert!(manifest.runtime.max_concurrency <= CONCURRENCY_MAX);
                let again = toml::to_string(&manifest).unwrap();
                prop_assert_eq!(Manifest::parse_template(&again).unwrap(), manifest);
            }
        }
    }

    #[test]
    fn any_signature_holds_for_nothing_but_what_its_key_signed(
        manifest in proptest::collection::vec(any::<u8>(), 0..80),
        junk in "[0-9a-f]{60,66} [0-9a-f]{126,130}|\\PC{0,40}",
        flip in 0usize..128,
    ) {
        let trusted = [public_key(&[7; 32])];
        prop_assert!(verify(&manifest, &junk, &trusted).is_err());
        let good = sign(&manifest, &[7; 32]);
        prop_assert_eq!(verify(&manifest, &good, &trusted).unwrap(), trusted[0]);
        let mut changed = good.into_bytes();
        let digit = &mut changed[65 + flip];
        *digit = if *digit == b'0' { b'1' } else { b'0' };
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(verify(&manifest, &changed, &trusted).is_err());
    }
}
