use proptest::prelude::*;

use super::*;

/// This very program: an ELF file with all that a library has but the two symbols.
fn program() -> Vec<u8> {
    let mut head = fs::read(std::env::current_exe().unwrap()).unwrap();
    // Its tables of sections are at the end; a few megabytes hold everything before them.
    head.truncate(1 << 20);
    head
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_no_library_and_damage_to_a_real_one_ends_nothing(
        junk in proptest::collection::vec(any::<u8>(), 0..400),
        damage in proptest::collection::vec((0usize..4096, any::<u8>()), 1..12),
    ) {
        prop_assert!(check_elf("junk", &junk).is_err());
        prop_assert!(check_search_path("junk", &junk).is_err());
        let mut bytes = program();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        drop(check_elf("damaged", &bytes));
        drop(check_search_path("damaged", &bytes));
    }
}
