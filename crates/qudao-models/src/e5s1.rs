//! The container `E5S1` in which one package ships multilingual-e5-small: a header of numbers, the
//! pieces of its tokenizer, and tensors by name, the matrices in GGML's Q4_0 blocks.

use crate::assemble::{Network, Tensor};

const MAGIC: &[u8] = b"E5S1";
/// Numbers of a block, and its bytes: a scale in half precision and 32 numbers of four bits.
const BLOCK: (usize, usize) = (32, 18);
/// No encoder of this kind is larger; a damaged header asks for no more memory than that.
const SIZE_MAX: usize = 1 << 20;

/// Reads little-endian numbers from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("the weights are cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or("the weights are cut off")?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A number of things.
    fn size(&mut self) -> Result<usize, String> {
        let number = i32::from_le_bytes(self.array()?);
        let size = usize::try_from(number).ok().filter(|size| *size <= SIZE_MAX);
        size.ok_or_else(|| format!("the weights have an impossible header: {number}"))
    }

    fn long(&mut self) -> Result<usize, String> {
        let number = u64::from_le_bytes(self.array()?);
        usize::try_from(number).map_err(|_| "the weights are cut off".to_owned())
    }
}

/// Where a tensor lies.
struct Place<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

/// The network and its tensors, by the names that Hugging Face gives them.
pub(crate) fn read(file: &[u8]) -> Result<(Network, Vec<Tensor<'_>>), String> {
    let mut from = Reader(file);
    if from.bytes(4)? != MAGIC {
        return Err("the weights are no E5S1 container".to_owned());
    }
    from.bytes(4)?;
    let [hidden, layers, heads, inner, vocabulary, positions, types] = {
        let mut sizes = [0; 7];
        for size in &mut sizes {
            *size = from.size()?;
        }
        sizes
    };
    let epsilon = f64::from(f32::from_le_bytes(from.array()?));
    if from.size()? != BLOCK.0 || !hidden.is_multiple_of(BLOCK.0) || !inner.is_multiple_of(BLOCK.0)
    {
        return Err("the weights have blocks of another size than 32".to_owned());
    }
    let places = directory(file, from)?;
    let network = Network { layers, hidden, heads, inner, positions, vocabulary, epsilon };
    let matrix = |name: String, from: &str, rows: usize, columns: usize| {
        let row = columns / BLOCK.0 * BLOCK.1;
        let bytes = find(&places, from, rows * row)?;
        Ok::<_, String>(Tensor { name, kind: "U8", shape: vec![rows, row], bytes })
    };
    let numbers = |name: String, from: &str, shape: Vec<usize>| {
        let bytes = find(&places, from, shape.iter().product::<usize>() * 4)?;
        Ok::<_, String>(Tensor { name, kind: "F32", shape, bytes })
    };
    let front = |rest: &str| format!("embeddings.{rest}");
    let mut tensors = vec![
        matrix(front("word_embeddings.weight"), "emb.word", vocabulary, hidden)?,
        numbers(front("position_embeddings.weight"), "emb.pos", vec![positions, hidden])?,
        numbers(front("token_type_embeddings.weight"), "emb.type", vec![types, hidden])?,
        numbers(front("LayerNorm.weight"), "emb.ln.w", vec![hidden])?,
        numbers(front("LayerNorm.bias"), "emb.ln.b", vec![hidden])?,
    ];
    let parts = [
        ("q", "attention.self.query", hidden, hidden),
        ("k", "attention.self.key", hidden, hidden),
        ("v", "attention.self.value", hidden, hidden),
        ("ao", "attention.output.dense", hidden, hidden),
        ("fi", "intermediate.dense", inner, hidden),
        ("fo", "output.dense", hidden, inner),
    ];
    let norms = [("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm")];
    for layer in 0..layers {
        let name = |part: &str, end: &str| format!("encoder.layer.{layer}.{part}.{end}");
        for (short, part, rows, columns) in parts {
            let weight = format!("l{layer}.{short}.w");
            tensors.push(matrix(name(part, "weight"), &weight, rows, columns)?);
            let bias = format!("l{layer}.{short}.b");
            tensors.push(numbers(name(part, "bias"), &bias, vec![rows])?);
        }
        for (short, part) in norms {
            for (end, suffix) in [("weight", "w"), ("bias", "b")] {
                let from = format!("l{layer}.{short}.{suffix}");
                tensors.push(numbers(name(part, end), &from, vec![hidden])?);
            }
        }
    }
    Ok((network, tensors))
}

/// Skips the tokenizer's pieces, which come from elsewhere, and reads where the tensors lie.
fn directory<'a>(file: &'a [u8], mut from: Reader<'a>) -> Result<Vec<Place<'a>>, String> {
    let pieces = from.size()?;
    from.bytes(4 * 4)?;
    let letters = from.long()?;
    from.bytes(4 * (pieces + 1) + 4 * pieces)?;
    from.bytes(letters)?;
    from.bytes(4)?;
    let normaliser = u32::from_le_bytes(from.array()?);
    from.bytes(usize::try_from(normaliser).map_err(|error| error.to_string())?)?;
    let count = from.size()?;
    let mut places = Vec::new();
    for _ in 0..count {
        let length = usize::from(u16::from_le_bytes(from.array()?));
        let name = std::str::from_utf8(from.bytes(length)?).map_err(|error| error.to_string())?;
        // The kind and the count of numbers follow from the network.
        from.bytes(1 + 4)?;
        let (at, length) = (from.long()?, from.long()?);
        let bytes = at.checked_add(length).and_then(|end| file.get(at..end));
        places.push(Place { name, bytes: bytes.ok_or("the weights are cut off")? });
    }
    Ok(places)
}

fn find<'a>(places: &[Place<'a>], name: &str, length: usize) -> Result<&'a [u8], String> {
    let place = places.iter().find(|place| place.name == name);
    let bytes = place.ok_or_else(|| format!("the weights lack {name}"))?.bytes;
    if bytes.len() == length {
        return Ok(bytes);
    }
    Err(format!("{name} has {} bytes and not {length}", bytes.len()))
}
