//! What a model call costs: pure functions over token counts and prices.
//!
//! All amounts are integers. A cost is rounded up to a whole micro-unit once, at the charge
//! line, so a hold computed from upper bounds always covers the cost computed from the counts.

use qudao_domain::{
    Micros, MoneyError,
    state::{EndReason, FairCharging},
};

/// Rates are quoted per this many tokens.
pub const TOKENS_PER_RATE: i64 = 1_000_000;

/// What a model costs under one version of the price book. No rate is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Per million tokens read by the model.
    pub input_per_mtok: Micros,
    /// Per million tokens written by the model.
    pub output_per_mtok: Micros,
    /// Per call, whatever its length.
    pub per_call: Micros,
}

/// Tokens that somebody pays for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Read by the model.
    pub input: u32,
    /// Written by the model.
    pub output: u32,
}

/// What was counted during a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    /// Tokens that the model read.
    pub input_tokens: u32,
    /// Tokens that the model wrote.
    pub output_tokens: u32,
    /// Tokens of those that reached the other side.
    pub delivered_tokens: u32,
    /// Why the reply ended.
    pub end_reason: EndReason,
}

/// How a cost is borne. `charge` and `absorbed` add up to the cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charge {
    /// What the tenant pays; never more than was held.
    pub charge: Micros,
    /// What exceeds the hold and is borne by the platform. More than zero deserves an alert.
    pub absorbed: Micros,
}

/// The cost of these tokens: `⌈(input × rate + output × rate) / 10⁶⌉ + per call`.
///
/// # Errors
/// [`MoneyError::Overflow`] beyond 64 bits.
pub fn price(rates: &Rates, tokens: Tokens) -> Result<Micros, MoneyError> {
    let scale = i128::from(TOKENS_PER_RATE);
    let by_length = (scaled_cost(rates, tokens) + scale - 1).div_euclid(scale);
    let total = by_length + i128::from(rates.per_call.get());
    i64::try_from(total).map(Micros::new).map_err(|_| MoneyError::Overflow)
}

/// What to set aside before a call that reads at most `input_bound` tokens and may write at most
/// `max_output`.
///
/// # Errors
/// [`MoneyError::Overflow`] beyond 64 bits.
pub fn hold_amount(rates: &Rates, input_bound: u32, max_output: u32) -> Result<Micros, MoneyError> {
    price(rates, Tokens { input: input_bound, output: max_output })
}

/// The longest reply, up to `ceiling` tokens, that `balance` affords after `input_bound` tokens
/// of input. `None` if it does not even afford the input.
pub fn affordable_output(
    rates: &Rates,
    input_bound: u32,
    balance: Micros,
    ceiling: u32,
) -> Option<u32> {
    let budget = i128::from(balance.get()) - i128::from(rates.per_call.get());
    let input_cost = scaled_cost(rates, Tokens { input: input_bound, output: 0 });
    let left = budget * i128::from(TOKENS_PER_RATE) - input_cost;
    if left < 0 {
        return None;
    }
    let rate = i128::from(rates.output_per_mtok.get());
    if rate == 0 {
        return Some(ceiling);
    }
    Some(u32::try_from(left / rate).map_or(ceiling, |tokens| tokens.min(ceiling)))
}

/// The tokens that the tenant pays for under a policy, or `None` if the call is free, with no
/// per-call fee either.
///
/// A reply that ended of itself is paid for as delivered or as made. One that was cut short
/// (stopped by the person, or failed) before anything was delivered costs nothing unless the
/// policy bills what was made, and nothing either if nothing was.
pub fn billable(policy: FairCharging, metered: &Metered) -> Option<Tokens> {
    let delivered = metered.delivered_tokens.min(metered.output_tokens);
    let cut_short = matches!(metered.end_reason, EndReason::Cancelled | EndReason::Failed);
    let nothing_arrived = cut_short && delivered == 0;
    let nothing_made = cut_short && metered.output_tokens == 0;
    let output = match policy {
        _ if nothing_made => return None,
        FairCharging::BillGenerated => metered.output_tokens,
        _ if nothing_arrived => return None,
        FairCharging::BillDelivered => delivered,
        FairCharging::FreeIfNothingDelivered => metered.output_tokens,
    };
    Some(Tokens { input: metered.input_tokens, output })
}

/// Splits a cost at the hold.
pub fn split_at_hold(cost: Micros, hold: Micros) -> Charge {
    let charge = cost.get().min(hold.get()).max(0);
    Charge { charge: Micros::new(charge), absorbed: Micros::new(cost.get() - charge) }
}

/// The charge for a call: price of the billable tokens, up to the hold.
///
/// # Errors
/// [`MoneyError::Overflow`] beyond 64 bits.
pub fn settle(
    rates: &Rates,
    policy: FairCharging,
    metered: &Metered,
    hold: Micros,
) -> Result<Charge, MoneyError> {
    let Some(tokens) = billable(policy, metered) else {
        return Ok(Charge::default());
    };
    Ok(split_at_hold(price(rates, tokens)?, hold))
}

/// The cost by length in millionths of a micro-unit. Fits: two products of 32 and 63 bits.
fn scaled_cost(rates: &Rates, tokens: Tokens) -> i128 {
    i128::from(tokens.input) * i128::from(rates.input_per_mtok.get())
        + i128::from(tokens.output) * i128::from(rates.output_per_mtok.get())
}

#[cfg(test)]
mod tests;
