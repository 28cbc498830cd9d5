//! The network, by whatever computes it.

use candle_core::Result as Computed;

use crate::{
    decoder::{Decoder, Memory, Said},
    encoder::Encoder,
    error::LoadError,
    file::File,
};

/// A Whisper's two sides.
pub(crate) trait Network: Send + Sync {
    /// What was heard in half a minute.
    type Memory;
    /// What was said about it so far.
    type Said: Clone;

    /// Hears half a minute of a picture.
    fn listen(&self, picture: &[f32]) -> Computed<Self::Memory>;

    /// Nothing said yet.
    fn begin(&self) -> Self::Said;

    /// Says a token. Returns how likely each is to come next, as logits; `None` where the network has no
    /// more places.
    fn say(
        &self,
        token: u32,
        said: &mut Self::Said,
        memory: &Self::Memory,
    ) -> Computed<Option<Vec<f32>>>;
}

/// Computed by the kernels that are written for processors, by the threads of the pool in which they are
/// asked.
pub(crate) struct Processor {
    encoder: Encoder,
    decoder: Decoder,
}

impl Processor {
    pub(crate) fn read(file: &File<'_>) -> Result<Self, LoadError> {
        Ok(Self { encoder: Encoder::read(file)?, decoder: Decoder::read(file)? })
    }
}

impl Network for Processor {
    type Memory = Memory;
    type Said = Said;

    fn listen(&self, picture: &[f32]) -> Computed<Memory> {
        Ok(self.decoder.remember(&self.encoder.listen(picture)))
    }

    fn begin(&self) -> Said {
        self.decoder.begin()
    }

    fn say(&self, token: u32, said: &mut Said, memory: &Memory) -> Computed<Option<Vec<f32>>> {
        Ok(self.decoder.say(token, said, memory))
    }
}
