use super::*;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// What the product should be, from the quantised weights and the exact activations.
fn reference(matrix: &Matrix, activations: &[f32]) -> Vec<f32> {
    let mut row = vec![0f32; matrix.columns()];
    let mut out = Vec::new();
    for activations in activations.chunks_exact(matrix.columns()) {
        for index in 0..matrix.rows() {
            matrix.row(index, &mut row);
            out.push(row.iter().zip(activations).map(|(a, b)| a * b).sum());
        }
    }
    out
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()))
}

#[test]
fn the_product_agrees_with_the_definition_for_any_number_of_rows_and_threads() {
    let (rows, columns) = (200, 96);
    let matrix = Arc::new(Matrix::quantise(&numbers(rows * columns, 1), columns));
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        for count in [1, 2, 3, 7, 8, 9, 21] {
            let values = numbers(count * columns, 2);
            let activations = Arc::new(Activations::quantise(&values, columns));
            let product = multiply(&pool, &activations, &matrix);
            let difference = largest_difference(&product, &reference(&matrix, &values));
            assert!(difference < 2e-3, "{count} rows, {threads} threads: {difference}");
        }
    }
}

#[test]
fn every_kernel_gives_the_same_result() {
    let (rows, columns) = (48, 64);
    let matrix = Arc::new(Matrix::quantise(&numbers(rows * columns, 3), columns));
    let activations = Arc::new(Activations::quantise(&numbers(11 * columns, 4), columns));
    let task =
        Multiply { activations, matrix, span: 3, cursor: Cursor::default(), pieces: Vec::new() };
    let run = |kernel: &dyn Fn(Piece<'_>)| {
        let mut out = vec![0f32; 11 * rows];
        kernel(Piece { task: &task, tiles: 0..3, out: &mut out });
        out
    };
    let expected = run(&|piece| plain(piece));
    assert!(expected.iter().any(|value| value.abs() > 1.0));
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V3::try_new() {
            let found = run(&|piece| simd.vectorize(Narrow { simd, piece }));
            assert!(largest_difference(&expected, &found) < 1e-4);
        }
        if let Some(simd) = pulp::x86::V4::try_new() {
            let found = run(&|piece| simd.vectorize(Wide { simd, piece }));
            assert!(largest_difference(&expected, &found) < 1e-4);
        }
    }
}

#[test]
fn a_row_comes_back_within_the_precision_of_eight_bits() {
    let columns = 64;
    let values = numbers(20 * columns, 5);
    let matrix = Matrix::quantise(&values, columns);
    assert_eq!(matrix.rows(), 20);
    let mut row = vec![0f32; columns];
    for index in 0..20 {
        matrix.row(index, &mut row);
        assert!(
            largest_difference(&row, &values[index * columns..][..columns]) <= 0.5 / 127.0 + 1e-6
        );
    }
}

#[test]
fn weights_of_a_known_eight_bit_file_are_kept_exactly() {
    let columns = 32;
    let values: Vec<f32> =
        (0..columns).map(|i| (i as f32 * 8.0 - 127.0).min(127.0) * 0.25).collect();
    let matrix = Matrix::quantise(&values, columns);
    let mut row = vec![0f32; columns];
    matrix.row(0, &mut row);
    assert_eq!(row, values);
}

#[test]
fn zeros_stay_zeros() {
    let matrix = Arc::new(Matrix::quantise(&[0.0; 64], 32));
    let activations = Arc::new(Activations::quantise(&[0.0; 32], 32));
    assert_eq!(multiply(&Pool::new(1).unwrap(), &activations, &matrix), vec![0.0, 0.0]);
}
