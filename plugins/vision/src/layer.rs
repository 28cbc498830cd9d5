//! A convolution as a file holds it, with the batch norm behind it folded in.

/// What follows a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x · sigmoid(x)`.
    Silu,
}

/// Weights of a two-dimensional convolution with a square kernel and "same" padding.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `[out, in / groups, size, size]`, row-major.
    pub weight: Vec<f32>,
    /// One per output channel.
    pub bias: Vec<f32>,
    /// Channels that go in.
    pub inputs: usize,
    /// Channels that come out.
    pub outputs: usize,
    /// Width and height of the kernel; odd.
    pub size: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Whether each channel is convolved by itself.
    pub depthwise: bool,
    /// What follows.
    pub activation: Activation,
}

impl Layer {
    /// Both layers as one, which is possible where they read the same map: the outputs of `other`
    /// come after one's own.
    #[must_use]
    pub fn beside(mut self, other: &Self) -> Self {
        self.weight.extend_from_slice(&other.weight);
        self.bias.extend_from_slice(&other.bias);
        self.outputs += other.outputs;
        self
    }

    /// The layer cut in two by its outputs, which is possible because each has weights of its own.
    #[must_use]
    pub fn halves(self) -> (Self, Self) {
        let half = self.outputs / 2;
        let row = self.weight.len() / self.outputs;
        let part = |from: usize, to: usize| Self {
            weight: self.weight[from * row..to * row].to_vec(),
            bias: self.bias[from..to].to_vec(),
            outputs: to - from,
            ..self
        };
        (part(0, half), part(half, self.outputs))
    }
}
