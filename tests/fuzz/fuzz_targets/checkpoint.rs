//! A run's folder: a checkpoint of any bytes is looked into, resumed from, or refused. What follows a line `#log` is the run's log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc_fuzz::{file, folder, inspected, said};
use nnc_runtime::chart::{Curves, sparklines};
use nnc_runtime::checkpoint::{Folder, Position};
use nnc_runtime::dtype::DType;
use nnc_runtime::manifest::{Role, TensorDecl};
use nnc_runtime::tensors::Tensors;

fuzz_target!(|data: &[u8]| {
    let cut = data.windows(6).position(|w| w == b"\n#log\n");
    let (checkpoint, log) = cut.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 6..]));
    file("last.safetensors", checkpoint);
    let path = file("log.jsonl", log);
    inspected(folder());
    if let Err(error) = Position::read(folder()) {
        said(&error);
    }
    match Curves::read(&path) {
        Ok(curves) => _ = sparklines(&curves),
        Err(error) => _ = said(&error),
    }
    // The tensors of models/linear.nn.
    let decl = |path: &str, shape: &[i64], role| TensorDecl { path: path.into(), dtype: DType::F32, shape: shape.to_vec(), role };
    let tensors = [decl("Line.fc.bias", &[1], Role::Parameter), decl("Line.fc.weight", &[1, 1], Role::Parameter)];
    let mut store = Tensors::new(&tensors).expect("two numbers");
    if let Err(error) = Folder::resume(folder(), &mut store) {
        said(&error);
    }
});
