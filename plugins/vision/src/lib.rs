//! Finds things in pictures: YOLOX and YOLOv8 on the machine's own processor or GPU.
//!
//! A network is written once, over [`ops::Ops`]. [`tensors`] computes it with candle on any device;
//! [`maps`] computes it on the processor with kernels of our own, several times as fast where
//! candle has no code for depthwise convolutions.

pub mod annotate;
pub mod config;
pub mod error;
pub mod finding;
pub mod layer;
pub mod maps;
pub mod model;
pub mod network;
pub mod ops;
pub mod picture;
pub mod plugin;
pub mod tensors;
pub mod weights;
pub mod yolov8;
pub mod yolox;

/// A picture's maps are allocated and freed a hundred times.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
