//! Programs built for GPUs, as a person does it.

use crate::support::desk::Desk;
use nnc_runtime::artifact::Artifact;

#[test]
fn an_artifact_for_gpus_holds_ptx_and_is_no_program_for_cpus() {
    let desk = Desk::new();
    desk.done("build kinds.nn --target cuda -o gpu.nnc");
    let artifact = Artifact::read(&desk.path("gpu.nnc")).unwrap();
    let text: String = artifact.code.iter().map(|(_, text)| String::from_utf8(text.clone()).unwrap()).collect();
    assert!(text.contains(".target sm_80"), "{text}");
    let manifest = &artifact.manifest;
    assert_eq!(manifest.grids.len(), manifest.kernels.len());
    for (kernel, grid) in manifest.kernels.iter().zip(&manifest.grids) {
        assert!(text.contains(&format!(".entry {}(", kernel.symbol)), "{}", kernel.symbol);
        assert_eq!(grid.threads, 128);
    }
    for command in ["run gpu.nnc", "run gpu.nnc infer", "bench gpu.nnc train"] {
        let output = desk.run(command);
        assert_eq!(output.status.code(), Some(4), "nnc {command}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("built for GPUs (--target cuda)"), "nnc {command}");
    }
    let again = desk.path("again.nnc");
    desk.done("build kinds.nn --target cuda -o again.nnc");
    assert_eq!(std::fs::read(again).unwrap(), desk.read("gpu.nnc"), "the same program gives the same bytes");
}
