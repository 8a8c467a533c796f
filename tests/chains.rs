//! Launches that run part by part: the same bits as one after the other for all parts, in less memory.

use crate::support::{Named, Runnable, checked};
use nnc::ir::{DType, Dims, Scalar};
use nnc_runtime::exec::Prepared;
use nnc_runtime::random::Generator;
use nnc_runtime::tensor::Tensor;

#[test]
fn heads_of_attention_run_by_themselves_forwards_and_backwards() {
    for causal in [false, true] {
        let text = format!(
            "nn 1
dim B, T
block Layer(x: real[B, T, 64]) -> real[B, T, 64] = x + attention(x, heads: 4, causal: {causal}, name: \"attn\")
model M(x: real[B, T, 64]) -> real[B, T, 64] = x |> repeat(2, Layer, name: \"layers\")
"
        );
        let program = Runnable::new(&checked(&text, DType::F32), |module| nnc::driver::add_derivative(module, "M"));
        let dims: Dims = [("B".into(), 3), ("T".into(), 108)].into();
        let (mut store, mut random) = (program.store(), Generator::new(5));
        let mut made = |shape: &[i64]| {
            let count = shape.iter().product::<i64>();
            let values: Vec<Scalar> = (0..count).map(|_| Scalar::f32(random.below(2000) as f32 / 1000.0 - 1.0)).collect();
            Tensor::from_scalars(DType::F32, shape, &values)
        };
        for n in 0..store.len() {
            let shape = store.decl(n).shape.clone();
            store.bytes_mut(n).copy_from_slice(made(&shape).bytes());
        }
        let given: Named = ["x", "d.output"].map(|name| (name.to_string(), made(&[3, 108, 64]))).into();
        // The interpreter takes launch by launch, machine code part by part.
        program.run("derivative:M", &dims, &mut store, &given);
        for entry in &program.manifest.entries {
            let chains = &entry.plan.chains;
            let arena = |whole: bool, threads| {
                let prepare = if whole { Prepared::whole } else { Prepared::new };
                prepare(&program.manifest, entry, &dims, threads, &store).unwrap_or_else(|e| panic!("{}", e.message())).arena_bytes()
            };
            match &*entry.name {
                "infer:M" | "derivative:M" => {
                    // For each layer, and its gradients.
                    assert_eq!(chains.len(), if &*entry.name == "infer:M" { 2 } else { 4 }, "{chains:?}");
                    // Of twelve heads' scores three threads need three.
                    let (whole, by_parts) = (arena(true, 3), arena(false, 3));
                    assert!(by_parts + 4 * 4 * 108 * 108 <= whole, "{}: {by_parts} of {whole} bytes", entry.name);
                    // Twelve are no equal shares for seven.
                    assert_eq!(arena(false, 7), whole);
                }
                name => assert!(chains.is_empty(), "{name}"),
            }
        }
    }
}
