//! An artifact: read, looked into, its machine code taken apart, its entries prepared. Its code is trusted like a program and not run.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc_fuzz::said;
use nnc_runtime::artifact::Artifact;
use nnc_runtime::exec::Prepared;
use nnc_runtime::inspect;
use nnc_runtime::loader::Loader;
use nnc_runtime::size::Dims;
use nnc_runtime::tensors::Tensors;
use nnc_runtime::weights::{self, MODEL};

fuzz_target!(|data: &[u8]| {
    use_it(data);
    // The same with its length and checksum set right: else no change would come past them.
    if data.len() >= 32 {
        let mut whole = data.to_vec();
        whole[16..24].copy_from_slice(&(data.len() as u64).to_le_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&data[32..]);
        whole[24..32].copy_from_slice(&(crc.sum() as u64).to_le_bytes());
        use_it(&whole);
    }
});

fn use_it(bytes: &[u8]) {
    let artifact = match Artifact::from_bytes(bytes, "x.nnc") {
        Ok(artifact) => artifact,
        Err(error) => return drop(said(&error)),
    };
    let summary = inspect::program("artifact", &artifact.manifest);
    assert!(!summary.text(inspect::MOST_ROWS).is_empty() && summary.json().is_object());
    if let Err(error) = Loader::new(artifact.code.iter().map(|(_, object)| object.as_slice()), &artifact.manifest.kernels, "v3") {
        said(&error);
    }
    let mut store = match Tensors::new(&artifact.manifest.tensors) {
        Ok(store) => store,
        Err(error) => return drop(said(&error)),
    };
    if let Some(Err(error)) = artifact.weights.as_ref().map(|w| weights::from_bytes(&mut store, MODEL, w, "x.nnc")) {
        said(&error);
    }
    let dims: Dims = artifact.manifest.dims.iter().map(|d| (d.name.clone(), d.min)).collect();
    for entry in &artifact.manifest.entries {
        if let Err(error) = Prepared::new(&artifact.manifest, entry, &dims, 2, &store) {
            said(&error);
        }
    }
}
