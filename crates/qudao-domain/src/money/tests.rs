use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn an_amount_survives_its_text_form(micros in -i64::MAX..=i64::MAX) {
        let amount = Micros::new(micros);
        prop_assert_eq!(amount.to_string().parse(), Ok(amount));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,40}") {
        let _ = text.parse::<Micros>();
        let _ = text.parse::<Currency>();
    }
}

#[test]
fn a_seventh_place_is_refused_rather_than_rounded() {
    assert_eq!("0.0000001".parse::<Micros>(), Err(MoneyError::NotAnAmount));
}

#[test]
fn what_is_not_a_plain_decimal_is_refused() {
    for text in ["", ".", "1.", ".5", "+1", "1e3", "1,000", " 1", "--1", "0x10", "١"] {
        assert_eq!(text.parse::<Micros>(), Err(MoneyError::NotAnAmount), "{text:?}");
    }
}

#[test]
fn an_amount_beyond_64_bits_is_refused() {
    assert_eq!("9223372036855".parse::<Micros>(), Err(MoneyError::Overflow));
    assert_eq!(Micros::new(i64::MAX).plus(Micros::new(1)), Err(MoneyError::Overflow));
}

#[test]
fn a_currency_is_three_capital_letters() {
    assert_eq!("CNY".parse(), Ok(Currency::CNY));
    for text in ["cny", "CN", "CNYY", "C1Y", ""] {
        assert_eq!(text.parse::<Currency>(), Err(MoneyError::NotACurrency));
    }
}
