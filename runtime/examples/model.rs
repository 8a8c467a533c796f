// Trains models/xor.nn on arrays, and infers: nnc build models/xor.nn && cargo run --example model -- models/xor.nnc
use nnc_runtime::{error::Result, model::Model, tensor::Tensor};

/// The scores of the four points.
pub fn scores(artifact: &str) -> Result<Vec<f32>> {
    let mut model = Model::open(artifact)?;
    let x = Tensor::from_f32(&[4, 2], &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    let out = Tensor::from_f32(&[4, 1], &[0.0, 1.0, 1.0, 0.0]);
    for _ in 0..200 {
        model.train_epoch(None, &[("x", &x), ("out", &out)])?;
    }
    let results = model.infer(None, &[("x", &x)])?;
    Ok(results[0].1.as_f32().to_vec())
}

#[allow(dead_code, reason = "the tests call the function above")]
fn main() -> Result<()> {
    let artifact = std::env::args().nth(1).unwrap_or_else(|| "models/xor.nnc".into());
    println!("{:?}", scores(&artifact)?);
    Ok(())
}
