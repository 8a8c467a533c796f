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
    ir::verify::verify(module).unwrap_or_else(|e| panic!("{}", e.join("\n")));
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
            classifier: None,
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

#[test]
fn folds_conditions_and_gathers_have_a_normal_form() {
    let (x, n) = (real(&["3"]), ty(DType::I64, &["3"]));
    // y[i] = x[i] / sum[j where j <= i and idx[j] != 1](x[j])
    let condition = eop(
        ScalarOp::And,
        vec![eop(ScalarOp::Le, vec![i(1), i(0)]), eop(ScalarOp::Not, vec![eop(ScalarOp::Eq, vec![at(local(1, &n), vec![i(1)]), int(1)])])],
    );
    let total = fold(FoldKind::Sum, &[(1, "3")], Some(condition), at(local(0, &x), vec![i(1)]));
    let a = comp(&x, &[0], eop(ScalarOp::Div, vec![at(local(0, &x), vec![i(0)]), total]));
    // first maximum: its value and its place; the diagonal, by a comparison of indices
    let largest = |k| fold(k, &[(1, "3")], None, at(local(0, &x), vec![i(1)]));
    let b = comp(&real(&[]), &[], largest(FoldKind::Max));
    let c = comp(&ty(DType::I64, &[]), &[], largest(FoldKind::ArgMax));
    let d = comp(&real(&["2", "2"]), &[0, 1], Element::Cast(DType::F32, Box::new(eop(ScalarOp::Eq, vec![i(0), i(1)]))));
    // reversed, divided, and gathered indices
    let e = comp(&x, &[0], at(local(0, &x), vec![eop(ScalarOp::Sub, vec![int(2), i(0)])]));
    let half = eop(ScalarOp::FloorDiv, vec![i(0), int(2)]);
    let g = comp(&x, &[0], at(local(0, &x), vec![half]));
    let h = comp(&x, &[0], at(local(0, &x), vec![at(local(1, &n), vec![i(0)])]));
    let f = instance("f", 2, &[("x", &x), ("idx", &n)], vec![], vec![("a", a), ("b", b), ("c", c), ("d", d), ("e", e), ("g", g), ("h", h)]);
    let module = build(&program(vec![f]));
    let out = run(&module, "f", &[(&[3], &[2.0, 8.0, 8.0]), (&[3], &[0.0, 1.0, 2.0])]);
    assert_eq!(out[0].iter().map(|x| x * 10.0).map(f64::round).collect::<Vec<_>>(), [10.0, 40.0, 8.0]);
    assert_eq!((&out[1][..], &out[2][..]), (&[8.0][..], &[1.0][..]));
    assert_eq!(out[3], [1.0, 0.0, 0.0, 1.0]);
    assert_eq!((&out[4][..], &out[5][..], &out[6][..]), (&[8.0, 8.0, 2.0][..], &[2.0, 2.0, 8.0][..], &[2.0, 8.0, 8.0][..]));
    let f = module.function(module.find("f").unwrap());
    let gathers = f.nodes.iter().filter(|n| format!("{n:?}").contains("Gather")).count();
    assert_eq!(gathers, 1, "only the gathered index is not affine");
}

#[test]
fn elementwise_chains_are_one_nest_with_leading_broadcast() {
    let (x, b) = (real(&["2", "3"]), real(&["3"]));
    let scale = op(ScalarOp::Sqrt, vec![local(1, &b)]);
    let y = op(ScalarOp::Add, vec![op(ScalarOp::Mul, vec![local(0, &x), scale]), num(1.0)]);
    let module = build(&program(vec![instance("f", 2, &[("x", &x), ("b", &b)], vec![], vec![("y", y)])]));
    let f = module.function(module.find("f").unwrap());
    assert_eq!(f.nodes.len(), 4, "two inputs, the square root at its own rank, the chain: {f:?}");
    let out = run(&module, "f", &[(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), (&[3], &[1.0, 4.0, 9.0])]);
    assert_eq!(out, [[2.0, 5.0, 10.0, 5.0, 11.0, 19.0]]);
}

#[test]
fn updates_that_do_not_take_part_leave_the_base_alone() {
    let (y, x, n) = (real(&["3"]), real(&["2"]), ty(DType::I64, &["2"]));
    let scatter = |fold| {
        let kind = ExprKind::Scatter {
            base: Box::new(local(0, &y)),
            vars: vec![(IndexVar(0), Size::constant(2))],
            condition: Some(eop(ScalarOp::Le, vec![int(0), at(local(2, &n), vec![i(0)])])),
            index: vec![at(local(2, &n), vec![i(0)])],
            value: at(local(1, &x), vec![i(0)]),
            fold,
        };
        expr(kind, &y)
    };
    let results = vec![("a", scatter(ScatterFold::Sum)), ("b", scatter(ScatterFold::Replace))];
    let module = build(&program(vec![instance("f", 3, &[("y", &y), ("x", &x), ("idx", &n)], vec![], results)]));
    let out = run(&module, "f", &[(&[3], &[1.0, 2.0, 3.0]), (&[2], &[10.0, 20.0]), (&[2], &[1.0, -1.0])]);
    assert_eq!(out, [[1.0, 12.0, 3.0], [1.0, 10.0, 3.0]]);
}

#[test]
fn places_and_writes_keep_the_rest() {
    let (a, b, k) = (real(&["2"]), real(&["3"]), ty(DType::I64, &[]));
    let joined = expr(ExprKind::Concat { parts: vec![local(0, &a), local(1, &b)], axis: 0 }, &real(&["5"]));
    let written = ExprKind::Write { base: Box::new(local(1, &b)), piece: Box::new(local(0, &a)), start: vec![local(2, &k)] };
    let placed = ExprKind::Place { fill: Scalar::f32(7.0), pieces: vec![(local(0, &a), vec![Size::constant(1)], vec![Size::constant(2)])] };
    let results = vec![("c", joined), ("w", expr(written, &b)), ("p", expr(placed, &real(&["4"])))];
    let module = build(&program(vec![instance("f", 3, &[("a", &a), ("b", &b), ("k", &k)], vec![], results)]));
    let out = run(&module, "f", &[(&[2], &[1.0, 2.0]), (&[3], &[3.0, 4.0, 5.0]), (&[], &[1.0])]);
    assert_eq!((&out[0][..], &out[1][..], &out[2][..]), (&[1.0, 2.0, 3.0, 4.0, 5.0][..], &[3.0, 1.0, 2.0][..], &[7.0, 1.0, 7.0, 2.0][..]));
}

/// A running mean behind a call inside a loop: `state = (state + x) / 2`, result `x - state` with the state before the update.
#[test]
fn states_go_through_calls_loops_and_repeats() {
    let (z, x) = (real(&[]), real(&["T"]));
    let next = op(ScalarOp::Mul, vec![op(ScalarOp::Add, vec![weight(0, &z), local(0, &z)]), num(0.5)]);
    let y = op(ScalarOp::Sub, vec![local(0, &z), weight(0, &z)]);
    let mut norm = instance("norm", 1, &[("x", &z)], vec![Stmt::Update { weight: Weight(0), value: next, span: S }], vec![("", y)]);
    norm.weights = vec![decl("mean", Role::State, &z, zero())];

    let step = call(0, vec![local(1, &z)], vec![1], vec![z.clone()]);
    let scaled = op(ScalarOp::Mul, vec![local(3, &z), weight(0, &z)]);
    let scan = Scan {
        inputs: vec![(Local(1), local(0, &x), 0)],
        length: Size::dim("T"),
        reversed: false,
        carries: vec![(Local(2), num(0.0), op(ScalarOp::Add, vec![local(2, &z), local(4, &z)]))],
        body: vec![let_(3, step), let_(4, scaled)],
        outputs: vec![(local(4, &z), 0)],
        site: 9,
    };
    let types = vec![z.clone(), x.clone()];
    let both = Stmt::Let { targets: vec![Local(5), Local(6)], value: Expr { kind: ExprKind::Scan(Box::new(scan)), types, span: S }, span: S };
    let locals = [("x", &x), ("x_t", &z), ("h", &z), ("n", &z), ("s", &z), ("last", &z), ("ys", &x)];
    let again = call(0, vec![local(5, &z)], vec![1], vec![z.clone()]);
    let mut net = instance("net", 1, &locals, vec![both], vec![("ys", local(6, &x)), ("again", again)]);
    net.weights = vec![decl("scale", Role::Parameter, &z, zero()), decl("norm.mean", Role::State, &z, zero())];
    let module = build(&program(vec![norm, net]));
    let out = run(&module, "net", &[(&[3], &[8.0, 2.0, 4.0]), (&[], &[2.0]), (&[], &[0.0])]);
    // states 0, 4, 3, 3.5; results 16, -4, 2 with sum 14; then once more: 14 - 3.5, (3.5 + 14) / 2
    assert_eq!(out, [vec![16.0, -4.0, 2.0], vec![10.5], vec![8.75]]);
    let names: Vec<_> = module.function(module.find("net").unwrap()).results.iter().map(|(n, _)| n.clone().unwrap().to_string()).collect();
    assert_eq!(names, ["ys", "again", "norm.mean"]);
}

#[test]
fn randomness_depends_on_site_position_and_time() {
    let (x, xs, z) = (real(&["2"]), real(&["T", "2"]), real(&[]));
    let draw = |site| comp(&x, &[0], Element::Random { site, dtype: DType::F32 });
    let mut inner = instance("inner", 0, &[], vec![], vec![("", draw(0))]);
    inner.random = true;
    let scan = Scan {
        inputs: vec![],
        length: Size::dim("T"),
        reversed: false,
        carries: vec![(Local(0), num(0.0), local(0, &z))],
        body: vec![],
        outputs: vec![(draw(3), 0)],
        site: 4,
    };
    let scan = Expr { kind: ExprKind::Scan(Box::new(scan)), types: vec![z.clone(), xs.clone()], span: S };
    let results = vec![
        ("a", draw(1)),
        ("b", draw(2)),
        ("c", call(0, vec![], vec![], vec![x.clone()])),
        ("d", expr(ExprKind::Project(Box::new(scan), 1), &xs)),
        ("e", draw(1)),
    ];
    let mut outer = instance("outer", 0, &[("h", &z)], vec![], results);
    outer.random = true;
    let module = build(&program(vec![inner, outer]));
    let out = run(&module, "outer", &[(&[], &[5.0])]);
    assert_eq!(out[0], out[4], "the same site draws the same numbers");
    let mut all: Vec<u64> = out[..4].iter().flatten().map(|x| x.to_bits()).collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!((count, all.len()), (12, 12), "everything else is independent: {out:?}");
    assert_ne!(out, run(&module, "outer", &[(&[], &[6.0])]));
}

/// `y = exp(x)` with the derivative `dy * y` (saved) and a mask drawn again in it.
#[test]
fn hand_written_derivatives_take_what_they_use_as_saved_values() {
    let x = real(&["2"]);
    let y = op(ScalarOp::Exp, vec![local(0, &x)]);
    let mut f = instance("f", 1, &[("x", &x), ("y", &x), ("dy", &x)], vec![let_(1, y)], vec![("", local(1, &x))]);
    f.weights = vec![decl("w", Role::Parameter, &x, zero())];
    let dx = op(ScalarOp::Mul, vec![local(2, &x), local(1, &x)]);
    let dw = op(ScalarOp::Add, vec![local(2, &x), weight(0, &x)]);
    let results = vec![(GradientOf::Weight(Weight(0)), dw), (GradientOf::Input(0), dx)];
    f.gradient = Some(Gradient { cotangents: vec![Local(2)], body: vec![], results });
    let module = build(&program(vec![f]));
    let gradient = module.function(module.find("f").unwrap()).gradient.clone().unwrap();
    assert_eq!(gradient.wrt, [1, 0]);
    let out = run(&module, "f.forward", &[(&[2], &[0.0, 0.0]), (&[2], &[3.0, 4.0])]);
    assert_eq!(out, [[1.0, 1.0], [3.0, 4.0], [1.0, 1.0]], "the result, then w and y as saved values");
    let out = run(&module, "f.backward", &[(&[2], &[3.0, 4.0]), (&[2], &[5.0, 6.0]), (&[2], &[1.0, 2.0])]);
    assert_eq!(out, [[4.0, 6.0], [5.0, 12.0]]);
}

#[test]
fn a_training_step_goes_down_the_derivative() {
    let p = digits();
    let module = steps(build(&p), &p);
    let entry = module.entries.iter().find(|e| &*e.name == "train:fit").unwrap();
    let f = module.function(entry.function);
    let x: Vec<f64> = vec![1.0, 2.0, 3.0, -1.0, 0.5, 2.0];
    let weights: [Vec<f64>; 4] = [vec![0.5, -1.0, 1.0, 1.0, 0.5, 1.0], vec![0.25, 0.0], vec![1.0, 2.0, -1.0, 0.5], vec![0.0, 0.5]];
    let shapes: [&[i64]; 4] = [&[2, 3], &[2], &[2, 2], &[2]];
    let objective = |weights: &[Vec<f64>]| {
        let mut inputs: Vec<(&[i64], &[f64])> = vec![(&[2, 3], &x), (&[2], &[0.0, 1.0])];
        inputs.extend(shapes.iter().copied().zip(weights.iter().map(|w| &w[..])));
        run(&module, "fit", &inputs)[0][0] / 2.0
    };
    let mut inputs: Vec<(&[i64], &[f64])> = vec![(&[2, 3], &x), (&[2], &[0.0, 1.0])];
    inputs.extend(shapes.iter().copied().zip(weights.iter().map(|w| &w[..])));
    let zeros = [0.0; 6];
    for source in &entry.inputs[6..] {
        inputs.push(match source {
            Source::Scalar(name) => (&[], if &**name == "clip_norm" { &[1e6] } else { &[0.5] }),
            Source::Tensor(path) => {
                let k = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].iter().position(|w| path.ends_with(w)).unwrap();
                (shapes[k], &zeros[..weights[k].len()])
            }
            Source::Data(_) | Source::Step | Source::Key => panic!("{source:?}"),
        });
    }
    let out = run(&module, &f.name, &inputs);
    for (k, path) in ["Digits.fc1.weight", "Digits.fc1.bias", "Digits.fc2.weight", "Digits.fc2.bias"].iter().enumerate() {
        let new = &out[entry.results.iter().position(|s| *s == Sink::Tensor((*path).into())).unwrap()];
        for (n, new) in new.iter().enumerate() {
            let shifted = |by: f64| {
                let mut w = weights.to_vec();
                w[k][n] += by;
                objective(&w)
            };
            let slope = (shifted(0.01) - shifted(-0.01)) / 0.02;
            assert!((weights[k][n] - 0.5 * slope - new).abs() < 1e-3, "{path} {n}: {} - 0.5 * {slope}, not {new}", weights[k][n]);
        }
    }
}

/// Without a gradient a momentum shrinks; what would be less than every normal number is 0.
#[test]
fn what_an_optimizer_keeps_is_a_normal_number_or_zero() {
    let p = digits();
    let module = steps(build(&p), &p);
    let entry = module.entries.iter().find(|e| &*e.name == "train:fit").unwrap();
    let kept = |old: f64| {
        // An image of zeros: the first weights have no gradient.
        let shapes: [&[i64]; 4] = [&[2, 3], &[2], &[2, 2], &[2]];
        let (image, state) = ([0.0; 6], [old; 6]);
        let mut inputs: Vec<(&[i64], &[f64])> = vec![(&[2, 3], &image), (&[2], &[0.0, 1.0])];
        inputs.extend(shapes.map(|s| (s, &[0.5; 6][..s.iter().product::<i64>() as usize])));
        for source in &entry.inputs[6..] {
            inputs.push(match source {
                Source::Tensor(path) => {
                    let k = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"].iter().position(|w| path.ends_with(w)).unwrap();
                    (shapes[k], &state[..shapes[k].iter().product::<i64>() as usize])
                }
                _ => (&[], &[0.5]),
            });
        }
        let out = run(&module, &module.function(entry.function).name, &inputs);
        out[entry.results.iter().position(|s| *s == Sink::Tensor("fit/m/Digits.fc1.weight".into())).unwrap()].clone()
    };
    let least = f32::MIN_POSITIVE;
    assert_eq!(kept(least as f64), [0.0; 6], "0.9 of the least normal number is none");
    assert_eq!(kept((-2.0 * least) as f64), [(0.9f32 * (-2.0 * least)) as f64; 6]);
}

#[test]
fn a_derivative_is_an_expression_and_has_a_derivative() {
    let (x, z) = (real(&["2"]), real(&[]));
    let cube = eop(ScalarOp::Mul, vec![at(local(0, &x), vec![i(0)]), eop(ScalarOp::Mul, vec![at(local(0, &x), vec![i(0)]); 2])]);
    let of = comp(&z, &[], fold(FoldKind::Sum, &[(0, "2")], None, cube));
    let grad = |of, wrt: Vec<Wrt>| expr(ExprKind::Grad { of: Box::new(of), wrt }, &x);
    let first = let_(1, grad(of, vec![Wrt::Local(Local(0))]));
    // the gradient times w, differentiated once more by x and by w
    let product = eop(ScalarOp::Mul, vec![at(local(1, &x), vec![i(1)]), at(weight(0, &x), vec![i(1)])]);
    let along = comp(&z, &[], fold(FoldKind::Sum, &[(1, "2")], None, product));
    let both = vec![Wrt::Local(Local(0)), Wrt::Weight(Weight(0))];
    let both = Expr { kind: ExprKind::Grad { of: Box::new(along), wrt: both }, types: vec![x.clone(); 2], span: S };
    let body = vec![first, Stmt::Let { targets: vec![Local(2), Local(3)], value: both, span: S }];
    let locals = [("x", &x), ("g", &x), ("hw", &x), ("gw", &x)];
    let mut f = instance("f", 1, &locals, body, vec![("g", local(1, &x)), ("hw", local(2, &x)), ("gw", local(3, &x))]);
    f.weights = vec![decl("w", Role::Parameter, &x, zero())];
    let module = build(&program(vec![f]));
    let out = run(&module, "f", &[(&[2], &[2.0, -1.0]), (&[2], &[1.0, 10.0])]);
    assert_eq!(out, [[12.0, 3.0], [12.0, -60.0], [12.0, 3.0]]);
}
