//! `features MODEL LAYERS < texts > numbers`: the means of an encoder's layers for each line of the input, as
//! little-endian 32-bit floats. What a head is trained on, and what a bench compares.

use std::{
    io::{self, BufRead as _, Write as _},
    path::Path,
};

use qudao_encoder::{Encoder, EncoderError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(taps)) = (arguments.next(), arguments.next()) else {
        return Err("usage: features MODEL LAYERS, such as 4,8,12".into());
    };
    let taps = taps.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let encoder = Encoder::load(Path::new(&path))?;
    let lines = io::stdin().lock().lines().collect::<Result<Vec<_>, _>>()?;
    let read = |line: &String| encoder.read(&encoder.card().query, line);
    let texts = lines.iter().map(read).collect::<Result<Vec<_>, EncoderError>>()?;
    let ids: Vec<&[u32]> = texts.iter().map(|text| text.ids.as_slice()).collect();
    let mut out = io::BufWriter::new(io::stdout().lock());
    for mean in encoder.means(&ids, &taps)? {
        for number in mean {
            out.write_all(&number.to_le_bytes())?;
        }
    }
    Ok(out.flush()?)
}
