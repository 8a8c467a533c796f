//! The checker: types that come out, and what is refused.

use super::*;

fn run(text: &str) -> (Option<Program>, Vec<Diagnostic>, Sources) {
    let mut sources = Sources::default();
    let root = sources.add("test.nn", text);
    let (program, found) = check(&mut sources, root, &|_| Err("no files here".into()), &Options::default());
    (program, found, sources)
}

fn check_ok(text: &str) -> Program {
    let (program, found, sources) = run(text);
    assert!(found.is_empty(), "{}", crate::diagnostic::render(&found, &sources, false) + &format!("{found:#?}"));
    program.expect("a program")
}

/// What is said of a text that is refused.
pub fn failure(text: &str) -> String {
    let (program, found, sources) = run(text);
    assert!(program.is_none(), "not refused: {text}");
    crate::diagnostic::render(&found, &sources, false)
}

#[test]
fn models_pass() {
    let mut files: Vec<_> = std::fs::read_dir("models").expect("models").flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "nn"));
    files.sort();
    assert!(files.len() >= 12);
    for path in files {
        check_ok(&std::fs::read_to_string(&path).expect("readable"));
    }
}

fn codes(text: &str) -> Vec<&'static str> {
    run(text).1.iter().map(|d| d.code).collect()
}

/// Weights are shared by models, apart for calls, and the mode makes two instances only where it is asked.
#[test]
fn weights_have_stable_paths() {
    let p = check_ok(
        "nn 1\ndim B\nblock Layer(x: real[B, 4]) -> real[B, 4] { x |> linear(4, name: \"up\") |> dropout(0.1) }\n\
         model Inner(x: f32[B, 4]) -> real[B, 4] { linear(x, 4) }\n\
         model Net(x: f32[B, 4]) -> real[B, 4] { Inner(x |> repeat(2, Layer, name: \"h\")) + Inner(x) }\n",
    );
    let net = p.models.iter().find(|m| &*m.name == "Net").expect("Net");
    let paths: Vec<&str> = p.functions[net.infer.0 as usize].weights.iter().map(|w| &*w.path).collect();
    assert_eq!(paths, ["h.0.up.weight", "h.0.up.bias", "h.1.up.weight", "h.1.up.bias", "/Inner.linear.weight", "/Inner.linear.bias"]);
    assert_ne!(net.infer, net.train, "dropout asks for the mode");
    let inner = p.models.iter().find(|m| &*m.name == "Inner").expect("Inner");
    assert_eq!(inner.infer, inner.train);
}

/// Every mistake of a program is found in one run; what follows from one is silent.
#[test]
fn all_mistakes_at_once() {
    let text = "nn 1\ndim B\nmodel A(x: f32[B, 4]) -> real[B, 4] { y = rleu(x)\n y + 1 }\nmodel C(x: f32[B, 4]) -> real[B, 5] { linear(x, 4) }\nmodel D(x: f32[Q]) -> real[Q] { x }\n";
    let mut found = codes(text);
    found.sort_unstable();
    assert_eq!(found, ["E0201", "E0206", "E0302"]);
}

fn with_settings(set: &[(&str, &str)]) -> (Option<Program>, Vec<Diagnostic>) {
    let text = std::fs::read_to_string("models/digits.nn").expect("readable");
    let mut sources = Sources::default();
    let root = sources.add("digits.nn", &text);
    let set = set.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    check(&mut sources, root, &|_| Err("no files here".into()), &Options { real: DType::F64, set })
}

#[test]
fn settings_are_overridden() {
    let (program, found) = with_settings(&[("train.batch", "64"), ("fit.optimizer.lr", "0.5"), ("const.Classes", "10")]);
    assert!(found.is_empty(), "{found:?}");
    let program = program.expect("a program");
    let settings = &program.recipes[0].settings;
    assert_eq!(settings.batch, 64);
    assert!(settings.scalars.contains(&("optimizer.lr".into(), 0.5)));
    let train = &program.functions[program.recipes[0].train.0 as usize];
    assert!(train.locals[0].1.dtype == DType::F64 && train.weights[0].ty.dtype == DType::F64);
    // One recipe needs no name.
    let (program, found) = with_settings(&[("batch", "16"), ("optimizer.lr", "0.25")]);
    let settings = &program.unwrap_or_else(|| panic!("{found:?}")).recipes[0].settings;
    assert!(settings.batch == 16 && settings.scalars.contains(&("optimizer.lr".into(), 0.25)));
    // An early stop's arguments are what an artifact lets change too.
    let (program, found) = with_settings(&[("early_stop.patience", "7"), ("fit.early_stop.min_delta", "0.5")]);
    let stop = program.unwrap_or_else(|| panic!("{found:?}")).recipes[0].settings.early_stop.clone().expect("an early stop");
    assert_eq!((stop.patience, stop.min_delta), (7, 0.5));
    for wrong in [("bacth", "64"), ("optimiser.lr", "1"), ("fit.bacth", "64"), ("fti.batch", "64"), ("fit.batch", ""), ("const.Clases", "3")] {
        assert_eq!(with_settings(&[wrong]).1.iter().map(|d| d.code).collect::<Vec<_>>(), ["E0615"], "{wrong:?}");
    }
    for (short, whole) in [
        ("lr", "optimizer.lr"),
        ("Classes", "const.Classes"),
        ("patience", "early_stop.patience"),
        ("bacth", "batch"),
        ("optimiser.lr", "optimizer.lr"),
    ] {
        let (_, found) = with_settings(&[(short, "1")]);
        assert_eq!(found[0].notes, [format!("did you mean `{whole}`?")], "{short}");
    }
}

#[test]
fn imports_are_read_once() {
    let mut sources = Sources::default();
    let root = sources.add("a.nn", "nn 1\nimport \"sub/b.nn\"\nimport \"c.nn\"\ndim B\nmodel Net(x: f32[B, 4]) -> real[B, 4] { Mine(x) }\n");
    let loader = |path: &str| match path {
        "sub/b.nn" => Ok("nn 1\nimport \"c.nn\"\n".to_string()),
        "c.nn" => Ok("nn 1\nblock Mine(x: real[..., N]) -> real[..., N] { relu(x) }\n".to_string()),
        other => Err(format!("no {other}")),
    };
    let (program, found) = check(&mut sources, root, &loader, &Options::default());
    assert!(program.is_some() && found.is_empty(), "{found:?}");
}

#[test]
fn parameters_that_nothing_reads_are_warned_of() {
    let with = |body: &str| {
        let (program, found, _) =
            run(&format!("nn 1\ndim B\nmodel Net(x: f32[B, 4]) -> real[B, 4] {{\n    param gain: real[4] = constant(1)\n    {body}\n}}\n"));
        assert!(program.is_some(), "a warning refuses nothing");
        found.iter().map(|d| d.code).collect::<Vec<_>>()
    };
    assert_eq!(with("x"), ["W0501"]);
    assert_eq!(with("x * gain"), [""; 0]);
    assert_eq!(with("x * self.gain"), [""; 0]);
    assert_eq!(with("y[b, i] = x[b, i] * gain[i]"), [""; 0]);
}
