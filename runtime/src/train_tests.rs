//! The loop over a hand-written program: a line `y = w*x` fitted by momentum, with noise from the key; kernels are Rust closures.

use super::*;
use crate::dtype::DType;
use crate::exec::Kernels;
use crate::manifest::{Buffer, BufferId, DimDecl, Entry, Kernel, Launch, Manifest, Plan, Role, Sink, Source, Step, Storage, TensorDecl};
use crate::recipe::{Column, Data, EarlyStop, Format, Header, Length, Metric, Part, Table};
use crate::report::Style;
use crate::size::Size;
use crate::tensors::Tensors;
use std::sync::atomic::AtomicU64;

/// Sets `stop` once `left` training steps are done; or `fails` in the last of them, when it has overwritten the weight.
struct Fake {
    left: AtomicU64,
    stop: AtomicBool,
    fails: bool,
}

impl Kernels for Fake {
    unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], _: i64, _: i64, _: *mut u8) -> i64 {
        // SAFETY: the program below passes f64 and i64 buffers of these sizes.
        unsafe {
            let at = |k: usize, i: usize| *args[k].cast::<f64>().add(i);
            let put = |k: usize, x: f64| *args[k].cast::<f64>() = x;
            let noise = |k: usize| (*args[k].cast::<i64>() as u64 >> 40) as f64 / (1u64 << 24) as f64;
            match kernel {
                0 => put(1, noise(0)),
                1 => put(0, 0.0),
                // w, m, x, y, lr, key, step; new w, new m, loss.sum, loss.weight
                2 => {
                    let n = sizes[0] as usize;
                    let gradient = (0..n).map(|i| (at(0, 0) * at(2, i) - at(3, i)) * at(2, i)).sum::<f64>() / n as f64;
                    let m = 0.5 * at(1, 0) + gradient + 1e-6 * noise(5) / *args[6].cast::<i64>() as f64;
                    put(9, (0..n).map(|i| (at(0, 0) * at(2, i) - at(3, i)).powi(2)).sum());
                    put(10, n as f64);
                    put(7, at(0, 0) - at(4, 0) * m);
                    put(8, m);
                    if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                        if self.fails {
                            put(0, f64::NAN);
                            return 1;
                        }
                        self.stop.store(true, Ordering::SeqCst);
                    }
                }
                // w, x, y; loss.sum, loss.weight
                3 => {
                    let n = sizes[0] as usize;
                    put(3, (0..n).map(|i| (at(0, 0) * at(1, i) - at(2, i)).powi(2)).sum());
                    put(4, n as f64);
                }
                4 => put(2, at(0, 0) / at(1, 0)),
                _ => (0..sizes[0] as usize).for_each(|i| *args[2].cast::<f64>().add(i) = at(0, 0) * at(1, i)),
            }
        }
        0
    }
}

fn entry(name: &str, kernel: u32, inputs: &[(Source, DType, &[Size])], results: &[(Sink, &[Size])]) -> Entry {
    let made = |dtype, shape: &[Size], storage| Buffer { dtype, shape: shape.to_vec(), storage, first: 0, last: 0, name: "b".into() };
    let mut buffers: Vec<Buffer> = inputs.iter().map(|(_, dtype, shape)| made(*dtype, shape, Storage::Input)).collect();
    buffers.extend(results.iter().map(|(_, shape)| made(DType::F64, shape, Storage::Result)));
    let args: Vec<BufferId> = (0..buffers.len() as u32).collect();
    let sizes = if kernel == 2 || kernel == 3 || kernel == 5 { vec![Size::dim("B")] } else { vec![] };
    let steps = vec![Step::Launch(Launch {
        kernel,
        args,
        sizes,
        tasks: 1.into(),
        whole: 1.into(),
        cost: 1.into(),
        flops: 0.into(),
        line: 0,
        beside: vec![],
        rows: None,
    })];
    Entry {
        name: name.into(),
        inputs: inputs.iter().enumerate().map(|(i, (s, ..))| (s.clone(), i as u32)).collect(),
        results: results.iter().enumerate().map(|(i, (s, _))| (s.clone(), (inputs.len() + i) as u32)).collect(),
        plan: Plan { buffers, steps, lines: vec!["line.nn:1".into()], advance: 0, chains: vec![] },
    }
}

fn manifest() -> Manifest {
    let b = [Size::dim("B")];
    let (w, m) = (Source::Tensor("Line.w".into()), Source::Tensor("fit/m/Line.w".into()));
    let (x, y) = (Source::Data("x".into()), Source::Data("y".into()));
    let f = DType::F64;
    let sums: [(Sink, &[Size]); 2] = [(Sink::Accumulate("loss.sum".into()), &[]), (Sink::Accumulate("loss.weight".into()), &[])];
    let stored = |path: &str| -> (Sink, &[Size]) { (Sink::Tensor(path.into()), &[]) };
    let (new_w, new_m) = (stored("Line.w"), stored("fit/m/Line.w"));
    let lr = Source::Scalar("optimizer.lr".into());
    let inputs: [(Source, DType, &[Size]); 7] = [
        (w.clone(), f, &[]),
        (m, f, &[]),
        (x.clone(), f, &b),
        (y.clone(), f, &b),
        (lr, f, &[]),
        (Source::Key, DType::I64, &[]),
        (Source::Step, DType::I64, &[]),
    ];
    let (sum, weight) = (Source::Scalar("loss.sum".into()), Source::Scalar("loss.weight".into()));
    let column = |name: &str| Column {
        name: name.into(),
        table: 0,
        fields: vec![name.into()],
        classes_named: vec![],
        steps: vec![],
        dtype: f,
        shape: vec![],
        bound: None,
    };
    let part = |name: &str| Part { name: name.into(), fraction: 0.2, seed: 1, stratify: None };
    Manifest {
        version: crate::manifest::VERSION,
        dims: vec![DimDecl { name: "B".into(), min: 1, max: None }],
        tensors: [("Line.w", Role::Parameter), ("fit/m/Line.w", Role::Optimizer)]
            .map(|(p, role)| TensorDecl { path: p.into(), dtype: f, shape: vec![], role })
            .into(),
        kernels: [&[1][..], &[0], &[7, 8, 9, 10], &[3, 4], &[2], &[2]]
            .iter()
            .enumerate()
            .map(|(k, writes)| Kernel { symbol: k.to_string(), scratch: 0, writes: writes.to_vec() })
            .collect(),
        entries: vec![
            entry("init", 0, &[(Source::Key, DType::I64, &[])], std::slice::from_ref(&new_w)),
            entry("init:fit", 1, &[], std::slice::from_ref(&new_m)),
            entry("train:fit", 2, &inputs, &[new_w, new_m, sums[0].clone(), sums[1].clone()]),
            entry("eval:fit", 3, &[(w.clone(), f, &[]), (x.clone(), f, &b), (y, f, &b)], &sums),
            entry("finish:fit", 4, &[(sum, f, &[]), (weight, f, &[])], &[(Sink::Result("loss".into()), &[])]),
            entry("infer:Line", 5, &[(w, f, &[]), (x, f, &b)], &[(Sink::Result("output".into()), &b)]),
        ],
        data: vec![Data {
            name: "points".into(),
            tables: vec![Table { name: "t".into(), path: "points.csv".into(), format: Format::Csv { header: Header::First, separator: b',' } }],
            columns: vec![column("x"), column("y")],
            parts: vec![part("test"), part("valid")],
        }],
        recipes: vec![Recipe {
            name: "fit".into(),
            data: "points".into(),
            batch_dim: "B".into(),
            batch: 5,
            length: Length::Epochs(10),
            seed: 3,
            shuffle: true,
            drop_last: false,
            scalars: vec![("optimizer.lr".into(), 0.02)],
            metrics: vec![Metric { name: "loss".into(), accumulators: vec!["loss.sum".into(), "loss.weight".into()], larger_is_better: Some(false) }],
            early_stop: None,
            load: None,
            frozen: vec![],
            optimizer: "".into(),
            classifier: None,
        }],
        ..Manifest::default()
    }
}

/// A folder with data, and runs in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let rows: String = (0..30).map(|i| format!("{},{}\n", i as f64 / 10.0, 0.2 * i as f64)).collect();
        std::fs::write(place.0.path().join("points.csv"), format!("x,y\n{rows}")).unwrap();
        place
    }

    /// Trains, interrupted after `steps`; the weights afterwards.
    fn train(&self, manifest: &Manifest, steps: u64, change: impl FnOnce(&mut Options)) -> Result<(Summary, Vec<u8>)> {
        self.train_on(&Fake { left: steps.into(), stop: false.into(), fails: false }, manifest, change)
    }

    fn train_on(&self, fake: &Fake, manifest: &Manifest, change: impl FnOnce(&mut Options)) -> Result<(Summary, Vec<u8>)> {
        let program = Program { manifest, kernels: fake, folder: self.0.path().into(), artifact: None };
        let mut options = Options { runs: self.0.path().join("runs"), log_steps: true, ..Options::default() };
        change(&mut options);
        let mut machine =
            Machine { kernels: fake, pool: crate::pool::Pool::new(1), store: Tensors::new(&manifest.tensors)?.into(), profile: None, numerics: None };
        let summary = train(&program, None, &options, &mut machine, &Report::new(Style::Quiet), &fake.stop)?;
        let store = machine.store.here()?;
        Ok((summary, [store.bytes(0), store.bytes(1)].concat()))
    }

    fn log(&self, run: u32) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.0.path().join(format!("runs/fit/{run}/log.jsonl"))).unwrap();
        let without_time = |line: &str| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "folder");
            value
        };
        text.lines().map(without_time).collect()
    }
}

#[test]
fn stopped_and_resumed_is_the_same_bit_for_bit() {
    let (place, manifest) = (Place::new(), manifest());
    let (summary, whole) = place.train(&manifest, u64::MAX, |_| {}).unwrap();
    assert_eq!((summary.epochs, summary.steps), (10, 40));
    let w = f64::from_le_bytes(whole[..8].try_into().unwrap());
    assert!((w - 2.0).abs() < 1e-3, "{w}");
    assert!(summary.metrics.iter().all(|(_, _, loss)| *loss < 1e-3), "{summary:?}");
    for (run, steps) in [(2, 6), (3, 20)] {
        let stopped = place.train(&manifest, steps, |_| {}).unwrap_err();
        assert_eq!(stopped.exit_code(), 130);
        assert!(stopped.message().starts_with(&format!("stopped after step {steps} of 40; go on with --resume")), "{stopped}");
        let folder = place.0.path().join(format!("runs/fit/{run}"));
        // A line that was logged after the checkpoint is written again, not twice.
        let mut log = std::fs::OpenOptions::new().append(true).open(folder.join("log.jsonl")).unwrap();
        std::io::Write::write_all(&mut log, b"{\"step\": 99}\n").unwrap();
        let (_, resumed) = place.train(&manifest, u64::MAX, |o| o.resume = Some(folder)).unwrap();
        assert_eq!(resumed, whole);
        assert_eq!(place.log(run), place.log(1));
    }
    let (_, longer) = {
        place.train(&manifest, u64::MAX, |o| o.set = vec![("train.epochs".into(), "4".into())]).unwrap();
        place
            .train(&manifest, u64::MAX, |o| (o.resume, o.set) = (Some(place.0.path().join("runs/fit/4")), vec![("epochs".into(), "10".into())]))
            .unwrap()
    };
    assert_eq!(longer, whole);
    assert_ne!(place.train(&manifest, u64::MAX, |o| o.seed = Some(4)).unwrap().1, whole);
}

/// A step that updates in place may fail between two tensors. What it leaves in memory is not saved: the run goes on from its last checkpoint.
#[test]
fn a_step_that_fails_leaves_no_trace_in_the_run() {
    let (place, manifest) = (Place::new(), manifest());
    let (_, whole) = place.train(&manifest, u64::MAX, |_| {}).unwrap();
    let failed = place.train_on(&Fake { left: 10.into(), stop: false.into(), fails: true }, &manifest, |_| {}).unwrap_err();
    assert!(failed.message().contains("line.nn:1"), "{failed}");
    let folder = place.0.path().join("runs/fit/2");
    let mut store = Tensors::new(&manifest.tensors).unwrap();
    crate::weights::load(&mut store, &folder.join("best.safetensors")).unwrap();
    let best = f64::from_le_bytes(store.bytes(0).try_into().unwrap());
    assert!(best.is_finite(), "the best weights are those of the last whole epoch");
    let (_, resumed) = place.train(&manifest, u64::MAX, |o| o.resume = Some(folder)).unwrap();
    assert_eq!(resumed, whole);
    assert_eq!(place.log(2), place.log(1));
}

#[test]
fn early_stopping_keeps_the_best_weights() {
    let (place, mut manifest) = (Place::new(), manifest());
    manifest.recipes[0].early_stop = Some(EarlyStop { part: "valid".into(), metric: "loss".into(), patience: 2, min_delta: 1e9 });
    let (summary, _) = place.train(&manifest, u64::MAX, |_| {}).unwrap();
    assert_eq!(summary.epochs, 4);
    let done = place.log(1).pop().unwrap();
    assert_eq!(done["done"]["best_epoch"], 1);
    let first = place.log(1).into_iter().find(|l| l["epoch"] == 1).unwrap();
    assert_eq!(done["done"]["valid"]["loss"], first["valid"]["loss"]);
}

#[test]
fn weights_and_batches_can_be_given() {
    let (place, manifest) = (Place::new(), manifest());
    let path = |name: &str| place.0.path().join(name);
    crate::npy::write_npz(&path("w.npz"), &[("w".to_string(), crate::tensor::Tensor::from_f64(&[], &[1.0]))].into()).unwrap();
    crate::npy::write_npz(&path("b.npz"), &[("order".to_string(), crate::tensor::Tensor::from_i64(&[2, 1, 2], &[0, 1, 17, 3]))].into()).unwrap();
    let given = |o: &mut Options| (o.weights, o.batches) = (Some(path("w.npz").display().to_string()), Some(path("b.npz")));
    let (summary, _) = place.train(&manifest, u64::MAX, given).unwrap();
    assert_eq!((summary.epochs, summary.steps), (2, 2));
    // The loss of w = 1 on the first two samples of the part.
    let data = Dataset::load(&manifest.data[0], place.0.path(), &|_| true).unwrap();
    let x: Vec<f64> = data.part("train").unwrap()[..2].iter().map(|&r| r as f64 / 10.0).collect();
    let loss = place.log(1)[0]["loss"].as_f64().unwrap();
    assert!((loss - x.iter().map(|x| x * x).sum::<f64>() / 2.0).abs() < 1e-12, "{loss}");
    crate::npy::write_npz(&path("b.npz"), &[("order".to_string(), crate::tensor::Tensor::from_i64(&[1, 2], &[0, 18]))].into()).unwrap();
    assert_eq!(place.train(&manifest, 9, given).unwrap_err().message(), "the given batches name sample 18, but train has 18");
}

#[test]
fn wrong_settings_are_refused_before_anything_is_written() {
    let (place, manifest) = (Place::new(), manifest());
    let says = |path: &str, value: &str| {
        let failed = place.train(&manifest, 9, |o| o.set = vec![(path.into(), value.into())]).unwrap_err();
        (failed.exit_code(), failed.message().to_string())
    };
    assert_eq!(says("train.batch", "19"), (1, "the batch of 19 is larger than the part train, which has 18 samples".into()));
    assert_eq!(says("batch", "0").0, 1);
    assert_eq!(says("batch", "x").0, 2);
    assert!(says("optimizer.rate", "1").1.contains("it has batch, epochs, steps, seed, shuffle, drop_last, optimizer.lr"));
    let resumed = place.train(&manifest, 9, |o| o.resume = Some("nowhere".into())).unwrap_err();
    assert_eq!(resumed.exit_code(), 4);
    assert!(!place.0.path().join("runs").exists());
}

#[test]
fn a_trained_program_is_packed_evaluated_and_inferred_with() {
    let (place, manifest) = (Place::new(), manifest());
    let artifact = crate::artifact::Artifact { manifest, ..Default::default() };
    let fake = Fake { left: u64::MAX.into(), stop: false.into(), fails: false };
    let at = |name: &str| place.0.path().join(name).display().to_string();
    let run = |artifact: &crate::artifact::Artifact, line: &str| {
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        let command = crate::commands::parse(&words)?;
        let program = Program { manifest: &artifact.manifest, kernels: &fake, folder: place.0.path().into(), artifact: Some(artifact) };
        crate::commands::run(&program, &command)
    };
    assert_eq!(run(&artifact, "eval --quiet").unwrap_err().exit_code(), 2);
    run(&artifact, &format!("train:fit --quiet --threads 1 --run-dir {}", at("run"))).unwrap();
    let shipped = crate::artifact::Artifact::read(&place.0.path().join("run/model.nnc")).unwrap();
    run(&shipped, "eval --quiet --data valid").unwrap();
    assert!(run(&shipped, "eval --quiet --data nothing").unwrap_err().message().contains("has no part nothing"));
    crate::files::write(Path::new(&at("x.npy")), &crate::npy::to_npy(&crate::tensor::Tensor::from_f64(&[2], &[1.0, -2.0]))).unwrap();
    run(&shipped, &format!("infer --quiet --input x={} --output {}", at("x.npy"), at("out"))).unwrap();
    let result = crate::npy::read_npy(Path::new(&at("out/output.npy"))).unwrap();
    assert!(result.shape == [2] && (result.get(1).to_f64() + 4.0).abs() < 1e-2, "{result:?}");
    run(&shipped, &format!("infer --quiet --data all --output {}", at("out"))).unwrap();
    assert_eq!(crate::npy::read_npy(Path::new(&at("out/output.npy"))).unwrap().shape, [30]);
    assert!(run(&shipped, "infer --quiet --input z=z.npy").unwrap_err().message().contains("it has x"));
}
