//! Boxes and labels drawn into a picture.
