//! Programs built by hand, evaluated through the graph's reference evaluator.

use super::{build, steps, tensors};
use crate::check::typed::*;
use crate::ir::{self, DType, Dims, Module, Scalar, ScalarOp, ScatterFold, Size};
use crate::span::Span;
use nnc_runtime::manifest::{Role, Sink, Source};
use nnc_runtime::recipe;
use nnc_runtime::tensor::Tensor;

const S: Span = Span { file: crate::span::FileId(0), start: 0, end: 0 };

fn ty(dtype: DType, shape: &[&str]) -> Type {
    let size = |s: &&str| s.parse::<i64>().map_or_else(|_| Size::dim(s), Size::constant);
    Type { dtype, shape: shape.iter().map(size).collect(), meaning: Meaning::Plain }
}
fn real(shape: &[&str]) -> Type {
    ty(DType::F32, shape)
}
fn expr(kind: ExprKind, t: &Type) -> Expr {
    Expr { kind, types: vec![t.clone()], span: S }
}
fn local(n: u32, t: &Type) -> Expr {
    expr(ExprKind::Local(Local(n)), t)
}
fn weight(n: u32, t: &Type) -> Expr {
    expr(ExprKind::Weight(Weight(n)), t)
}
fn op(op: ScalarOp, args: Vec<Expr>) -> Expr {
    let t = args.iter().map(|a| &a.types[0]).max_by_key(|t| t.shape.len()).unwrap().clone();
    expr(ExprKind::Op(op, args), &t)
}
fn num(x: f64) -> Expr {
    expr(ExprKind::Const(Scalar::float(DType::F32, x)), &real(&[]))
}
fn comp(t: &Type, vars: &[u32], element: Element) -> Expr {
    let vars: Vec<_> = vars.iter().map(|v| IndexVar(*v)).zip(t.shape.iter().cloned()).collect();
    expr(ExprKind::Comprehension { groups: vec![1; vars.len()], vars, element }, t)
}
fn i(v: u32) -> Element {
    Element::Index(IndexVar(v))
}
fn int(n: i64) -> Element {
    Element::Const(Scalar::i64(n))
}
fn at(tensor: Expr, indices: Vec<Element>) -> Element {
    Element::Load { tensor: Box::new(tensor), indices, otherwise: None, span: S }
}
fn eop(op: ScalarOp, args: Vec<Element>) -> Element {
    Element::Op(op, args)
}
fn fold(fold: FoldKind, vars: &[(u32, &str)], condition: Option<Element>, body: Element) -> Element {
    let vars = vars.iter().map(|(v, n)| (IndexVar(*v), ty(DType::F32, &[n]).shape[0].clone())).collect();
    Element::Fold { fold, vars, condition: condition.map(Box::new), body: Box::new(body), span: S }
}
fn let_(target: u32, value: Expr) -> Stmt {
    Stmt::Let { targets: vec![Local(target)], value, span: S }
}
fn decl(path: &str, role: Role, t: &Type, init: Element) -> WeightDecl {
    WeightDecl { path: path.into(), role, ty: t.clone(), init: ((100..100 + t.shape.len() as u32).map(IndexVar).collect(), init), span: S }
}
fn zero() -> Element {
    Element::Const(Scalar::f32(0.0))
}
fn random(site: u32) -> Element {
    eop(ScalarOp::Sub, vec![Element::Random { site, dtype: DType::F32 }, Element::Const(Scalar::f32(0.5))])
}
fn instance(name: &str, inputs: usize, locals: &[(&str, &Type)], body: Vec<Stmt>, results: Vec<(&str, Expr)>) -> Instance {
    Instance {
        name: name.into(),
        arguments: String::new(),
        inputs,
        locals: locals.iter().map(|(n, t)| ((*n).into(), (*t).clone(), S)).collect(),
        weights: vec![],
        random: false,
        body,
        results: results.into_iter().map(|(n, e)| ((!n.is_empty()).then(|| n.into()), e)).collect(),
        gradient: None,
        span: S,
    }
}
fn program(functions: Vec<Instance>) -> Program {
    let dim = |name: &str| ir::Dim { name: name.into(), min: 1, max: None };
    Program { dims: vec![dim("B"), dim("T")], functions, ..Program::default() }
}
fn call(instance: u32, args: Vec<Expr>, weights: Vec<u32>, types: Vec<Type>) -> Expr {
    let weights = weights.into_iter().map(Weight).collect();
    Expr { kind: ExprKind::Call { instance: InstanceId(instance), args, weights, site: instance }, types, span: S }
}

/// The results of the function called `name`, as f64; every float input is given in f64.
fn run(module: &Module, name: &str, inputs: &[(&[i64], &[f64])]) -> Vec<Vec<f64>> {
    let id = module.find(name).unwrap_or_else(|| panic!("no {name}"));
    let tensors: Vec<Tensor> = module
        .function(id)
        .inputs
        .iter()
        .zip(inputs)
        .map(|(input, (shape, data))| {
            let dtype = input.ty.dtype;
            let scalars: Vec<Scalar> =
                data.iter().map(|x| if dtype == DType::I64 { Scalar::i64(*x as i64) } else { Scalar::float(dtype, *x) }).collect();
            Tensor::from_scalars(dtype, shape, &scalars)
        })
        .collect();
    let dims: Dims = [("B".into(), 2), ("T".into(), 3)].into();
    let results = ir::eval::function(module, id, &tensors, &dims).unwrap_or_else(|e| panic!("{name}: {e}"));
    results.iter().map(|t| (0..t.len()).map(|k| t.get(k).to_f64()).collect()).collect()
}

/// linear, relu, a model of two layers, cross-entropy and sgd with momentum; one recipe.
fn digits() -> Program {
    let (x, h, w1, b1) = (real(&["B", "3"]), real(&["B", "2"]), real(&["2", "3"]), real(&["2"]));
    let (w2, lbl, z) = (real(&["2", "2"]), ty(DType::I64, &["B"]), real(&[]));
    let linear = |x: &Type, w: &Type, n: &str| {
        let product = eop(ScalarOp::Mul, vec![at(local(0, x), vec![i(0), i(2)]), at(weight(0, w), vec![i(1), i(2)])]);
        let y = eop(ScalarOp::Add, vec![fold(FoldKind::Sum, &[(2, n)], None, product), at(weight(1, &b1), vec![i(1)])]);
        let mut f = instance("linear", 1, &[("x", x), ("y", &h)], vec![let_(1, comp(&h, &[0, 1], y))], vec![("", local(1, &h))]);
        f.weights = vec![decl("weight", Role::Parameter, w, random(0)), decl("bias", Role::Parameter, &b1, zero())];
        f
    };
    let relu = instance("relu", 1, &[("x", &h)], vec![], vec![("", op(ScalarOp::Max, vec![local(0, &h), num(0.0)]))]);
    let first = call(0, vec![local(0, &x)], vec![0, 1], vec![h.clone()]);
    let model = call(1, vec![call(2, vec![first], vec![], vec![h.clone()])], vec![2, 3], vec![h.clone()]);
    let mut digits = instance("Digits", 1, &[("image", &x)], vec![], vec![("", model)]);
    let weights = |prefix: &str| {
        let p = |name: &str, t: &Type, init| decl(&format!("{prefix}{name}"), Role::Parameter, t, init);
        vec![p("fc1.weight", &w1, random(0)), p("fc1.bias", &b1, zero()), p("fc2.weight", &w2, random(0)), p("fc2.bias", &b1, zero())]
    };
    digits.weights = weights("");
    let score = at(local(0, &h), vec![i(0), i(1)]);
    let lse = eop(ScalarOp::Log, vec![fold(FoldKind::Sum, &[(1, "2")], None, eop(ScalarOp::Exp, vec![score]))]);
    let picked = at(local(0, &h), vec![i(0), at(local(1, &lbl), vec![i(0)])]);
    let nll = fold(FoldKind::Sum, &[(0, "B")], None, eop(ScalarOp::Sub, vec![lse, picked]));
    let count = expr(ExprKind::Cast(DType::F32, Box::new(expr(ExprKind::Size(Size::dim("B")), &ty(DType::I64, &[])))), &z);
    let loss = vec![("sum", comp(&z, &[], nll)), ("weight", count)];
    let loss = instance("cross_entropy", 2, &[("scores", &h), ("label", &lbl)], vec![], loss);
    let scores = call(3, vec![local(0, &x)], vec![0, 1, 2, 3], vec![h.clone()]);
    let both =
        Stmt::Let { targets: vec![Local(3), Local(4)], value: call(4, vec![local(2, &h), local(1, &lbl)], vec![], vec![z.clone(); 2]), span: S };
    let locals = [("image", &x), ("label", &lbl), ("scores", &h), ("loss.sum", &z), ("loss.weight", &z)];
    let mut fit = instance("fit", 2, &locals, vec![let_(2, scores), both], vec![("loss.sum", local(3, &z)), ("loss.weight", local(4, &z))]);
    fit.weights = weights("Digits.");
    let scalar = ty(DType::F64, &[]);
    let sgd = |t: &Type| {
        let lr = expr(ExprKind::Cast(DType::F32, Box::new(local(2, &scalar))), &z);
        let m = op(ScalarOp::Add, vec![op(ScalarOp::Mul, vec![num(0.9), weight(0, t)]), local(1, t)]);
        let body = vec![let_(3, m), Stmt::Update { weight: Weight(0), value: local(3, t), span: S }];
        let p = op(ScalarOp::Sub, vec![local(0, t), op(ScalarOp::Mul, vec![lr, local(3, t)])]);
        let mut f = instance("sgd", 3, &[("p", t), ("g", t), ("lr", &scalar), ("m", t)], body, vec![("p", p)]);
        f.weights = vec![decl("m", Role::Optimizer, t, zero())];
        f
    };
    let quotient = op(ScalarOp::Div, vec![local(0, &scalar), local(1, &scalar)]);
    let finish = instance("fit.finish", 2, &[("loss.sum", &scalar), ("loss.weight", &scalar)], vec![], vec![("loss", quotient)]);
    let functions = vec![linear(&x, &w1, "3"), linear(&h, &w2, "2"), relu, digits, loss, fit, sgd(&w1), sgd(&b1), sgd(&w2), finish];
    let mut p = program(functions);
    p.models = vec![Model { name: "Digits".into(), infer: InstanceId(3), train: InstanceId(3) }];
    let update = |k: u32, optimizer: u32| Update {
        parameter: Weight(k),
        optimizer: InstanceId(optimizer),
        scalars: vec![ScalarArg::Named("optimizer.lr".into())],
    };
    let loss = recipe::Metric { name: "loss".into(), accumulators: vec!["loss.sum".into(), "loss.weight".into()], larger_is_better: None };
    p.recipes = vec![Recipe {
        settings: recipe::Recipe {
            name: "fit".into(),
            data: "digits".into(),
            batch_dim: "B".into(),
            batch: 2,
            length: recipe::Length::Epochs(1),
            seed: 1,
            shuffle: true,
            drop_last: false,
            scalars: vec![("optimizer.lr".into(), 0.1)],
            metrics: vec![loss],
            early_stop: None,
            load: None,
            frozen: vec![],
            optimizer: "sgd".into(),
        },
        train: InstanceId(5),
        eval: InstanceId(5),
        finish: InstanceId(9),
        updates: vec![update(0, 6), update(1, 7), update(2, 8), update(3, 7)],
        clip: Some(Clip::Norm("clip_norm".into())),
        schedule: None,
        span: S,
    }];
    p
}

#[test]
fn digits_has_every_entry() {
    let p = digits();
    let module = steps(build(&p), &p);
    let names: Vec<&str> = module.entries.iter().map(|e| &*e.name).collect();
    assert_eq!(names, ["init", "init:fit", "infer:Digits", "eval:fit", "finish:fit", "train:fit"]);
    for e in &module.entries {
        let f = module.function(e.function);
        assert_eq!((f.inputs.len(), f.results.len()), (e.inputs.len(), e.results.len()), "{}", e.name);
    }
    let train = &module.entries[5];
    assert!(train.inputs.contains(&Source::Tensor("fit/m/Digits.fc1.weight".into())) && train.inputs.contains(&Source::Scalar("clip_norm".into())));
    assert!(train.results.contains(&Sink::Accumulate("loss.sum".into())) && train.results.contains(&Sink::Tensor("Digits.fc2.bias".into())));
    let paths: Vec<String> = tensors(&p).iter().map(|t| format!("{}{:?}", t.path, t.shape)).collect();
    assert_eq!(paths[2..5], ["Digits.fc2.bias[2]", "Digits.fc2.weight[2, 2]", "fit/m/Digits.fc1.weight[2, 3]"]);

    let x: &[f64] = &[1.0, 2.0, 3.0, -1.0, 0.5, 2.0];
    let w1: &[f64] = &[0.5, -1.0, 1.0, 1.0, 0.0, -1.0];
    let weights: [(&[i64], &[f64]); 4] = [(&[2, 3], w1), (&[2], &[0.25, 0.0]), (&[2, 2], &[1.0, 2.0, -1.0, 0.5]), (&[2], &[0.0, 0.5])];
    let mut inputs: Vec<(&[i64], &[f64])> = vec![(&[2, 3], x)];
    inputs.extend(weights);
    // h = relu([1.75, -2], [1.25, -3]); scores = [1.75, -1.25], [1.25, -0.75]
    assert_eq!(run(&module, "Digits", &inputs), [[1.75, -1.25, 1.25, -0.75]]);
    inputs.insert(1, (&[2], &[0.0, 1.0]));
    let loss = run(&module, "fit", &inputs);
    let expected = (1f64 + (-3f64).exp()).ln() + (1f64 + 2f64.exp()).ln();
    assert!((loss[0][0] - expected).abs() < 1e-6 && loss[1] == [2.0], "{loss:?}");

    let init = run(&module, "init", &[(&[], &[7.0])]);
    assert!(init[1] == [0.0, 0.0] || init[0] == [0.0, 0.0]);
    assert_ne!(init[1][..4], init[3][..4], "every path has its own randomness: {init:?}");
}
