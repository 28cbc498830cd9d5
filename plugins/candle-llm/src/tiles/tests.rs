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

const KINDS: [(Bits, bool); 6] = [
    (Bits::Four, false),
    (Bits::Four, true),
    (Bits::Five, false),
    (Bits::Five, true),
    (Bits::Eight, false),
    (Bits::Eight, true),
];

/// A matrix with every code of its kind.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 255")]
fn any(bits: Bits, has_least: bool, rows: usize, columns: usize, seed: u32) -> Matrix {
    let last = match bits {
        Bits::Four => 15,
        Bits::Five => 31,
        Bits::Eight => 255,
    };
    let count = rows * columns / BLOCK;
    let numbers = numbers(count * (BLOCK + 2), seed);
    let weights = numbers.chunks_exact(BLOCK + 2).map(|numbers| {
        let codes = std::array::from_fn(|at| {
            // 8 bits run from 1 as those of ±127 do.
            let share = f32::midpoint(numbers[at], 1.0) * (last as f32 + 1.0);
            (share as u8).min(last).max(u8::from(last == 255))
        });
        let least = if has_least { numbers[BLOCK] * 0.1 } else { 0.0 };
        let scale = f16::from_f32(numbers[BLOCK + 1].abs() / f32::from(last));
        Weights { codes, scale, least: f16::from_f32(least) }
    });
    Matrix::pack(bits, has_least, &weights.collect::<Vec<_>>(), columns / BLOCK)
}

/// Numbers that 8 bits hold exactly, so that only the kernels' own error is seen.
fn whole(count: usize, seed: u32) -> Vec<f32> {
    let mut numbers: Vec<f32> =
        numbers(count, seed).into_iter().map(|value| (value * 127.0).round()).collect();
    numbers.iter_mut().step_by(BLOCK).for_each(|value| *value = 127.0);
    numbers
}

/// What the product should be.
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

/// In proportion to the largest value.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn the_product_agrees_with_the_definition_for_any_kind_number_of_rows_and_threads() {
    let (rows, columns) = (200, 96);
    for (bits, has_least) in KINDS {
        let matrix = Arc::new(any(bits, has_least, rows, columns, 1));
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            for count in [1, 2, 3, 7, 8, 9, 21] {
                let values = whole(count * columns, 2);
                let activations = Activations::quantise(&values, columns);
                let product = multiply(&pool, activations, &matrix).to_rows();
                let difference = largest_difference(&product, &reference(&matrix, &values));
                assert!(difference < 1e-5, "{bits:?} {has_least} {count} rows: {difference}");
            }
        }
    }
}

#[test]
fn kinds_on_top_of_each_other_are_one_matrix() {
    let columns = 64;
    let parts = || KINDS.into_iter().map(|(bits, least)| any(bits, least, 32, columns, 9));
    let mut stack = Matrix::with_room_for(6 * 32 + 20);
    for part in parts().chain([any(Bits::Four, true, 20, columns, 3)]) {
        stack.append(part);
    }
    let stack = Arc::new(stack);
    assert_eq!((stack.rows(), stack.columns()), (6 * 32 + 20, columns));
    let values = whole(3 * columns, 5);
    let activations = Activations::quantise(&values, columns);
    let product = multiply(&Pool::new(2).unwrap(), activations, &stack).to_rows();
    assert!(largest_difference(&product, &reference(&stack, &values)) < 1e-5);
    let first = reference(&parts().next().unwrap(), &values);
    assert!(largest_difference(&product[..32], &first[..32]) < 1e-5);
}

#[test]
fn every_kernel_gives_the_same_result() {
    let (rows, columns) = (48, 64);
    let quantised = || Matrix::quantise(&numbers(rows * columns, 3), columns);
    let kinds = KINDS.into_iter().map(|(bits, least)| any(bits, least, rows, columns, 7));
    for matrix in kinds.chain([quantised()]).map(Arc::new) {
        let activations = Activations::quantise(&numbers(11 * columns, 4), columns);
        let task = Multiply {
            activations,
            matrix,
            span: 3,
            cursor: Cursor::default(),
            pieces: Vec::new(),
        };
        let run = |level: Level| {
            let mut out = vec![0f32; 11 * rows];
            level.run(Piece { task: &task, tiles: 0..3, out: &mut out });
            out
        };
        let expected = run(Level::Plain);
        assert!(expected.iter().any(|value| value.abs() > 1.0));
        #[cfg(target_arch = "x86_64")]
        for (level, exists) in
            [(Level::Avx2, x86::has_avx2()), (Level::Avx512Vnni, x86::has_avx512_vnni())]
        {
            if exists {
                assert!(largest_difference(&run(level), &expected) < 1e-5, "{level:?}");
            }
        }
    }
}

#[test]
fn a_row_is_computed_the_same_whoever_stands_beside_it() {
    let columns = 96;
    let values = numbers(13 * columns, 6);
    let pool = Pool::new(2).unwrap();
    let matrix = Arc::new(any(Bits::Five, true, 48, columns, 8));
    let product =
        |values: &[f32]| multiply(&pool, Activations::quantise(values, columns), &matrix).to_rows();
    let together = product(&values);
    for (row, values) in values.chunks_exact(columns).enumerate() {
        assert_eq!(product(values), together[row * 48..][..48]);
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
            largest_difference(&row, &values[index * columns..][..columns]) <= 0.5 / 127.0 + 1e-4
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
    let activations = Activations::quantise(&[0.0; 32], 32);
    let product = multiply(&Pool::new(1).unwrap(), activations, &matrix);
    assert_eq!(product.to_rows(), vec![0.0, 0.0]);
}
