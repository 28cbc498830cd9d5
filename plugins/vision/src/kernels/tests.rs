use super::*;

#[test]
fn silu_is_that_of_the_library_over_its_whole_range() {
    let mut values: Vec<f32> = (-20_000i16..20_000).map(|step| f32::from(step) / 200.0).collect();
    let exact: Vec<f64> =
        values.iter().map(|value| f64::from(*value) / (1.0 + (-f64::from(*value)).exp())).collect();
    pulp::Arch::new().dispatch(Silu(&mut values));
    for (value, exact) in values.iter().zip(exact) {
        let error = (f64::from(*value) - exact).abs();
        assert!(error <= 1e-6 * exact.abs().max(1e-30) + 1e-35, "{value} for {exact}");
    }
}

#[test]
fn numbers_that_are_none_stay_none() {
    let mut values = [f32::NAN, f32::INFINITY, 1000.0];
    pulp::Arch::new().dispatch(Silu(&mut values));
    assert!(values[0].is_nan() && values[1] == f32::INFINITY && values[2] == 1000.0);
}
