use proptest::prelude::*;

use super::*;

fn place() -> Place {
    Place { table: "totp", column: "secret", row: Uuid::from_u128(7) }
}

#[test]
fn what_was_sealed_opens_in_its_place_and_in_no_other() {
    let tenant_id = TenantId::new();
    let key = DataKey::generate(tenant_id, 1);
    let sealed = key.seal(place(), b"JBSWY3DPEHPK3PXP").unwrap();
    assert_eq!(key.open(place(), &sealed).unwrap().reveal(), b"JBSWY3DPEHPK3PXP");
    let others = [
        Place { row: Uuid::from_u128(8), ..place() },
        Place { column: "other", ..place() },
        Place { table: "other", ..place() },
        // The same letters parted elsewhere.
        Place { table: "totps", column: "ecret", ..place() },
    ];
    for other in others {
        assert!(matches!(key.open(other, &sealed), Err(VaultError::DoesNotOpen)), "{other:?}");
    }
    // Even if another tenant had the same key.
    let rival = DataKey { tenant_id: TenantId::new(), ..key.clone() };
    assert!(matches!(rival.open(place(), &sealed), Err(VaultError::DoesNotOpen)));
    let other = DataKey::generate(tenant_id, 1);
    assert!(matches!(other.open(place(), &sealed), Err(VaultError::DoesNotOpen)));
}

#[test]
fn a_value_names_the_version_of_its_key() {
    let tenant_id = TenantId::new();
    let (old, new) = (DataKey::generate(tenant_id, 1), DataKey::generate(tenant_id, 258));
    let sealed = new.seal(place(), b"x").unwrap();
    assert_eq!(key_version(&sealed).unwrap(), 258);
    let refused = old.open(place(), &sealed).unwrap_err();
    assert!(matches!(refused, VaultError::OtherKeyVersion { wanted: 258, present: 1 }));
}

#[test]
fn the_same_value_is_never_sealed_the_same_way() {
    let key = DataKey::generate(TenantId::new(), 1);
    assert_ne!(key.seal(place(), b"x").unwrap(), key.seal(place(), b"x").unwrap());
}

#[test]
fn neither_keys_nor_what_was_opened_show_in_debug_output() {
    let key = DataKey::generate(TenantId::new(), 1);
    let sealed = key.seal(place(), b"hunter2").unwrap();
    let shown = format!("{key:?} {:?}", key.open(place(), &sealed).unwrap());
    assert!(shown.contains("7 bytes") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_is_no_sealed_value_is_told_apart_from_a_wrong_key() {
    let key = DataKey::generate(TenantId::new(), 1);
    for bytes in [&b""[..], b"plain text that nobody sealed, longer than a head", &[1; 44]] {
        assert!(matches!(key.open(place(), bytes), Err(VaultError::NotSealed)), "{bytes:?}");
    }
}

proptest! {
    #[test]
    fn any_changed_byte_is_found(plaintext in prop::collection::vec(any::<u8>(), 0..200), at: u16, flip in 1..=255u8) {
        let key = DataKey::generate(TenantId::new(), 1);
        let mut sealed = key.seal(place(), &plaintext).unwrap();
        let opened = key.open(place(), &sealed).unwrap();
        prop_assert_eq!(opened.reveal(), plaintext.as_slice());
        let at = usize::from(at) % sealed.len();
        sealed[at] ^= flip;
        prop_assert!(key.open(place(), &sealed).is_err());
        prop_assert!(key.open(place(), &sealed[..sealed.len() - 1]).is_err());
    }
}
