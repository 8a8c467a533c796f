//! Weights in a safetensors file (or in what another kind of file may hide behind that name): looked into, read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc_fuzz::{file, inspected, said};
use nnc_runtime::dtype::DType;
use nnc_runtime::manifest::{Role, TensorDecl};
use nnc_runtime::tensors::Tensors;
use nnc_runtime::weights;

fuzz_target!(|data: &[u8]| {
    let path = file("x.safetensors", data);
    inspected(&path);
    let types = [("a", DType::F32), ("b", DType::F64), ("c", DType::I64), ("d", DType::Bool)];
    let decl = |(path, dtype): (&str, DType)| TensorDecl { path: path.into(), dtype, shape: vec![2], role: Role::Parameter };
    let mut store = Tensors::new(&types.map(decl)).expect("eight numbers");
    match weights::load(&mut store, &path) {
        Ok(()) => assert!(store.bytes(3).iter().all(|b| *b < 2), "bools are 0 or 1"),
        Err(error) => _ = said(&error),
    }
});
