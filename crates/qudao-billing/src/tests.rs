use proptest::prelude::*;

use super::*;

const RATES: Rates = Rates {
    input_per_mtok: Micros::new(1_500_000),
    output_per_mtok: Micros::new(6_000_000),
    per_call: Micros::ZERO,
};

fn metered(output: u32, delivered: u32, end_reason: EndReason) -> Metered {
    Metered { input_tokens: 100, output_tokens: output, delivered_tokens: delivered, end_reason }
}

#[test]
fn a_million_tokens_cost_their_rate() {
    let tokens = Tokens { input: 1_000_000, output: 0 };
    assert_eq!(price(&RATES, tokens), Ok(Micros::new(1_500_000)));
}

#[test]
fn a_fraction_is_rounded_up_once_for_the_whole_line() {
    // 1.5 + 6 = 7.5 micro-units; rounding each part would give 2 + 6 = 8 as well, so a second
    // line with two fractions tells the difference: 0.5 + 0.5 = 1, not 2.
    assert_eq!(price(&RATES, Tokens { input: 1, output: 1 }), Ok(Micros::new(8)));
    let halves = Rates {
        input_per_mtok: Micros::new(500_000),
        output_per_mtok: Micros::new(500_000),
        per_call: Micros::ZERO,
    };
    assert_eq!(price(&halves, Tokens { input: 1, output: 1 }), Ok(Micros::new(1)));
}

#[test]
fn no_tokens_cost_the_fee_alone() {
    let rates = Rates { per_call: Micros::new(70), ..RATES };
    assert_eq!(price(&rates, Tokens::default()), Ok(Micros::new(70)));
}

#[test]
fn a_price_beyond_64_bits_is_an_error() {
    let rates = Rates { input_per_mtok: Micros::new(i64::MAX), ..RATES };
    let tokens = Tokens { input: u32::MAX, output: 0 };
    assert_eq!(price(&rates, tokens), Err(MoneyError::Overflow));
}

#[test]
fn a_stopped_reply_is_billed_for_what_arrived() {
    let half = metered(80, 30, EndReason::Cancelled);
    let tokens = |output| Some(Tokens { input: 100, output });
    assert_eq!(billable(FairCharging::BillDelivered, &half), tokens(30));
    assert_eq!(billable(FairCharging::BillGenerated, &half), tokens(80));
    assert_eq!(billable(FairCharging::FreeIfNothingDelivered, &half), tokens(80));
}

#[test]
fn a_reply_cut_short_before_anything_arrived_is_free_unless_the_policy_bills_what_was_made() {
    for reason in [EndReason::Cancelled, EndReason::Failed] {
        let lost = metered(80, 0, reason);
        assert_eq!(billable(FairCharging::BillDelivered, &lost), None);
        assert_eq!(billable(FairCharging::FreeIfNothingDelivered, &lost), None);
        let made = Some(Tokens { input: 100, output: 80 });
        assert_eq!(billable(FairCharging::BillGenerated, &lost), made);
        let unmade = metered(0, 0, reason);
        assert_eq!(billable(FairCharging::BillGenerated, &unmade), None);
    }
}

#[test]
fn an_empty_reply_that_ended_of_itself_still_costs_its_input() {
    let empty = metered(0, 0, EndReason::Stop);
    let tokens = Some(Tokens { input: 100, output: 0 });
    assert_eq!(billable(FairCharging::BillDelivered, &empty), tokens);
}

#[test]
fn a_free_call_has_no_fee_either() {
    let rates = Rates { per_call: Micros::new(70), ..RATES };
    let lost = metered(80, 0, EndReason::Failed);
    let charge = settle(&rates, FairCharging::BillDelivered, &lost, Micros::UNIT);
    assert_eq!(charge, Ok(Charge::default()));
}

#[test]
fn a_balance_that_does_not_cover_the_input_affords_nothing() {
    assert_eq!(affordable_output(&RATES, 1_000_000, Micros::new(1_499_999), 64), None);
    assert_eq!(affordable_output(&RATES, 1_000_000, Micros::new(1_500_000), 64), Some(0));
}

#[test]
fn free_output_is_afforded_up_to_the_ceiling() {
    let rates = Rates { output_per_mtok: Micros::ZERO, ..RATES };
    assert_eq!(affordable_output(&rates, 10, Micros::UNIT, 512), Some(512));
}

fn rates() -> impl Strategy<Value = Rates> {
    let rate = prop_oneof![Just(0), 1..100i64, 0..500_000_000i64];
    (rate.clone(), rate.clone(), rate).prop_map(|(input, output, call)| Rates {
        input_per_mtok: Micros::new(input),
        output_per_mtok: Micros::new(output),
        per_call: Micros::new(call),
    })
}

fn metered_calls() -> impl Strategy<Value = Metered> {
    let reason = prop::sample::select(EndReason::ALL);
    (0..200_000u32, 0..200_000u32, 0..250_000u32, reason).prop_map(
        |(input_tokens, output_tokens, delivered_tokens, end_reason)| Metered {
            input_tokens,
            output_tokens,
            delivered_tokens,
            end_reason,
        },
    )
}

fn policies() -> impl Strategy<Value = FairCharging> {
    prop::sample::select(FairCharging::ALL)
}

proptest! {
    #[test]
    fn the_charge_never_exceeds_the_hold_and_nothing_is_lost(
        rates in rates(), policy in policies(), call in metered_calls(), hold in 0..1_000_000i64,
    ) {
        let hold = Micros::new(hold);
        let cost = billable(policy, &call)
            .map_or(Ok(Micros::ZERO), |tokens| price(&rates, tokens)).unwrap();
        let Charge { charge, absorbed } = settle(&rates, policy, &call, hold).unwrap();
        prop_assert!(charge <= hold);
        prop_assert!(Micros::ZERO <= charge && Micros::ZERO <= absorbed);
        prop_assert_eq!(charge.plus(absorbed), Ok(cost));
    }

    #[test]
    fn a_hold_from_upper_bounds_covers_every_call_within_them(
        rates in rates(), policy in policies(), call in metered_calls(),
        more_input in 0..1000u32, more_output in 0..1000u32,
    ) {
        let hold = hold_amount(
            &rates, call.input_tokens + more_input, call.output_tokens + more_output,
        ).unwrap();
        prop_assert_eq!(settle(&rates, policy, &call, hold).unwrap().absorbed, Micros::ZERO);
    }

    #[test]
    fn more_tokens_never_cost_less(
        rates in rates(), input in 0..1_000_000u32, output in 0..1_000_000u32,
        more_input in 0..1000u32, more_output in 0..1000u32,
    ) {
        let less = price(&rates, Tokens { input, output }).unwrap();
        let tokens = Tokens { input: input + more_input, output: output + more_output };
        prop_assert!(less <= price(&rates, tokens).unwrap());
    }

    #[test]
    fn rounding_adds_less_than_one_micro_unit(
        rates in rates(), input in 0..1_000_000u32, output in 0..1_000_000u32,
    ) {
        let cost = price(&rates, Tokens { input, output }).unwrap();
        let exact = i128::from(input) * i128::from(rates.input_per_mtok.get())
            + i128::from(output) * i128::from(rates.output_per_mtok.get());
        let rounded = i128::from(cost.get() - rates.per_call.get()) * 1_000_000;
        prop_assert!(exact <= rounded && rounded < exact + 1_000_000);
    }

    #[test]
    fn the_affordable_reply_is_the_longest_one_within_the_balance(
        rates in rates(), input in 0..100_000u32, balance in 0..1_000_000_000i64,
        ceiling in 0..10_000u32,
    ) {
        let balance = Micros::new(balance);
        let cost = |output| hold_amount(&rates, input, output).unwrap();
        match affordable_output(&rates, input, balance, ceiling) {
            None => prop_assert!(balance < cost(0)),
            Some(output) => {
                prop_assert!(output <= ceiling && cost(output) <= balance);
                prop_assert!(output == ceiling || balance < cost(output + 1));
            }
        }
    }
}
