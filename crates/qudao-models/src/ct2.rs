//! The container in which `CTranslate2` keeps weights (`model.bin`): a header, then variables by name, then
//! other names for some of them.

/// No dimension of a known model is larger; a damaged header asks for no more memory than that.
const SIZE_MAX: u32 = 1 << 20;
/// Variables of a file at most.
const COUNT_MAX: u32 = 100_000;

/// How the numbers of a variable are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Counts and flags; no weights that are known here.
    Other,
}

impl Numbers {
    /// Bytes of one.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Other => 1,
        }
    }

    /// As safetensors calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Other => "U8",
        }
    }
}

/// One array of the file.
#[derive(Debug, Clone)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Numbers,
    pub(crate) bytes: &'a [u8],
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    /// The kind of network, such as `WhisperSpec`.
    pub(crate) spec: &'a str,
    pub(crate) variables: Vec<Variable<'a>>,
}

/// Reads little-endian numbers from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("the weights are cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.bytes(1).map(|bytes| bytes.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> Result<u32, String> {
        let (taken, rest) = self.0.split_first_chunk::<4>().ok_or("the weights are cut off")?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*taken))
    }

    fn size(&mut self, most: u32) -> Result<usize, String> {
        let number = self.number()?;
        let size = usize::try_from(number).ok().filter(|_| number <= most);
        size.ok_or_else(|| format!("the weights have an impossible header: {number}"))
    }

    /// A text with its length in front and a zero at its end.
    fn text(&mut self) -> Result<&'a str, String> {
        let (length, rest) = self.0.split_first_chunk::<2>().ok_or("the weights are cut off")?;
        self.0 = rest;
        let bytes = self.bytes(usize::from(u16::from_le_bytes(*length)))?;
        let text = bytes.strip_suffix(&[0]).ok_or("a name in the weights has no end")?;
        std::str::from_utf8(text).map_err(|error| error.to_string())
    }
}

/// Reads a file of the versions from 3 on, which is since 2019.
pub(crate) fn read(file: &[u8]) -> Result<Container<'_>, String> {
    let mut from = Reader(file);
    let version = from.number()?;
    if !(3..=6).contains(&version) {
        return Err(format!("the weights are no container of CTranslate2 ({version})"));
    }
    let spec = from.text()?;
    from.number()?;
    let count = from.size(COUNT_MAX)?;
    let mut variables = Vec::new();
    for _ in 0..count {
        let name = from.text()?;
        let rank = from.byte()?;
        let shape = (0..rank).map(|_| from.size(SIZE_MAX)).collect::<Result<Vec<_>, _>>()?;
        let numbers = match from.byte()? {
            0 => Numbers::F32,
            4 => Numbers::F16,
            _ => Numbers::Other,
        };
        let length = from.size(u32::MAX)?;
        let bytes = from.bytes(length)?;
        variables.push(Variable { name, shape, numbers, bytes });
    }
    Ok(Container { spec, variables })
}
