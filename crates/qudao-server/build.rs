//! Compiles the crate anew when the built web pages change, appear or go.

fn main() {
    println!("cargo::rerun-if-changed=../../web/chat/dist");
    println!("cargo::rerun-if-changed=../../web/console/dist");
    println!("cargo::rerun-if-changed=../../web/docs/dist");
    println!("cargo::rerun-if-changed=../../web/widget/dist");
}
