//! The library: `.nn` text, one file per subject, visible in every program.

macro_rules! files {
    ($($name:literal)*) => { &[$((concat!("std/", $name), include_str!($name))),*] };
}

/// Name and text of every file.
pub const FILES: &[(&str, &str)] = files! {
    "activation.nn" "attention.nn" "conv.nn" "dropout.nn" "embedding.nn" "init.nn" "linear.nn" "loss.nn" "math.nn" "metric.nn" "norm.nn"
    "optimizer.nn" "pool.nn" "random.nn" "recurrent.nn" "schedule.nn" "softmax.nn" "tensor.nn"
};
