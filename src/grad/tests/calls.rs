//! Calls, hand-written gradients, loops.

use super::{backward, check, n, numbers, real, run, times, with_dims};
use crate::ir::*;
use crate::span::Span;
use nnc_runtime::tensor::Tensor;

fn map(f: &mut Function, shape: &[i64], body: Expr, operands: &[Value]) -> Value {
    f.nest(Nest::map(shape.iter().map(|s| n(*s)).collect(), body), operands, Span::default())
}

fn results(node: NodeId, count: u32) -> Vec<Value> {
    (0..count).map(|result| Value { node, result }).collect()
}

/// `y = tanh(x * w), z = exp(x)`
fn layer(module: &mut Module) -> FunctionId {
    let mut f = Function::new("layer");
    let x = f.input("x", real(&[3]));
    let w = f.input("w", real(&[3]));
    let product = map(&mut f, &[3], times(load_at(0, [0]), load_at(1, [0])), &[x, w]);
    let y = map(&mut f, &[3], Expr::op(ScalarOp::Tanh, [load_at(0, [0])]), &[product]);
    let z = map(&mut f, &[3], Expr::op(ScalarOp::Exp, [load_at(0, [0])]), &[x]);
    f.results = vec![(Some("y".into()), y), (Some("z".into()), z)];
    module.add(f)
}

#[test]
fn shared_bodies() {
    let mut module = Module::default();
    let id = layer(&mut module);
    // A function around it, so that calls nest.
    let mut block = Function::new("block");
    let x = block.input("x", real(&[3]));
    let w = block.input("w", real(&[3]));
    let call = block.call(id, module.function(id), [x, w], Span::default());
    let r = results(call, 2);
    let y = map(&mut block, &[3], times(load_at(0, [0]), load_at(1, [0])), &[r[0], r[1]]);
    block.results = vec![(None, y)];
    let block = module.add(block);

    let mut f = Function::new("net");
    let x = f.input("x", real(&[3]));
    let (a, b) = (f.input("a", real(&[3])), f.input("b", real(&[3])));
    let first = f.call(block, module.function(block), [x, a], Span::default());
    let second = f.call(block, module.function(block), [results(first, 1)[0], b], Span::default());
    let third = f.call(id, module.function(id), [results(second, 1)[0], a], Span::default());
    f.results = results(third, 2).into_iter().map(|v| (None, v)).collect();
    check(&module, &f, &[], &Dims::default(), 2);

    let before = module.functions.len();
    let g = backward(&mut module, &f);
    // `layer` has all that is needed among its results, and is asked for the same thing everywhere; `block` is differentiated once.
    let names: Vec<&str> = module.functions[before..].iter().map(|f| &*f.name).collect();
    assert_eq!(names, ["layer.bwd", "block.fwd", "block.bwd"]);
    let calls = g.nodes.iter().filter(|n| matches!(n.op, Op::Call(_))).count();
    assert_eq!(calls, 6);
}

/// `y = x^3` whose own gradient is `7 * s * dy` with the saved `s = x^2`, and none for `w`.
fn custom(module: &mut Module) -> FunctionId {
    let square = || times(load_at(0, [0]), load_at(0, [0]));
    let mut forward = Function::new("cube.forward");
    let x = forward.input("x", real(&[2]));
    forward.input("w", real(&[2]));
    let s = map(&mut forward, &[2], square(), &[x]);
    let y = map(&mut forward, &[2], times(load_at(0, [0]), load_at(1, [0])), &[s, x]);
    let mut f = Function { name: "cube".into(), results: vec![(None, y)], ..forward.clone() };
    forward.results = vec![(None, y), (Some("s".into()), s)];
    let forward = module.add(forward);
    let mut backward = Function::new("cube.backward");
    let s = backward.input("s", real(&[2]));
    let dy = backward.input("dy", real(&[2]));
    let dx = map(&mut backward, &[2], times(times(load_at(0, [0]), load_at(1, [0])), float(DType::F64, 7.0)), &[s, dy]);
    backward.results = vec![(None, dx)];
    let backward = module.add(backward);
    f.gradient = Some(CustomGradient { forward, backward, wrt: vec![0] });
    module.add(f)
}

#[test]
fn hand_written_gradients() {
    let mut module = Module::default();
    let id = custom(&mut module);
    let mut f = Function::new("f");
    let x = f.input("x", real(&[2]));
    let w = f.input("w", real(&[2]));
    let call = f.call(id, module.function(id), [x, w], Span::default());
    f.results = vec![(None, results(call, 1)[0])];
    let g = backward(&mut module, &f);
    let value = |x: &[f64]| Tensor::from_f64(&[x.len() as i64], x);
    let (x, w, dy) = (value(&[2.0, -1.0]), value(&[1.0, 1.0]), value(&[1.0, 10.0]));
    let found = run(&module, &g, &[x.clone(), w.clone(), dy.clone()], &Dims::default());
    assert_eq!(found[0].as_f64(), [28.0, 70.0]);
    assert_eq!(found[1].as_f64(), [0.0, 0.0]);
    // Its derivative: the backward function's, through what was saved: 7 * 2x * dy for x, 7x^2 for dy.
    let h = backward(&mut module, &g);
    let (ddx, ddw) = (value(&[1.0, 1.0]), value(&[0.0, 0.0]));
    let found = run(&module, &h, &[x.clone(), w.clone(), dy.clone(), ddx.clone(), ddw.clone()], &Dims::default());
    assert_eq!(found[0].as_f64(), [28.0, -140.0]);
    assert_eq!(found[2].as_f64(), [28.0, 7.0]);
    // With the value itself as a result besides, the rule still holds the second time.
    let mut both = g.clone();
    both.results.push((None, Value { node: f.results[0].1.node, result: 0 }));
    let h = backward(&mut module, &both);
    let found = run(&module, &h, &[x, w, dy, value(&[0.0, 0.0]), ddw, value(&[1.0, 1.0])], &Dims::default());
    assert_eq!(found[0].as_f64(), [28.0, 7.0]);
}

/// `h' = tanh(x * w + h * u + i/10), c' = c * h' + sin(x)`; stacks `h'` along axis 1 and `c * x`.
fn loop_over(module: &mut Module, reversed: bool) -> Function {
    let add = |a: Expr, b: Expr| Expr::op(ScalarOp::Add, [a, b]);
    let mut body = Function::new("cell");
    let i = body.input("i", Type::scalar(DType::I64));
    let h = body.input("h", real(&[2]));
    let c = body.input("c", real(&[2]));
    let x = body.input("x", real(&[2]));
    let w = body.input("w", real(&[2]));
    let u = body.input("u", real(&[]));
    let position = Expr::op(ScalarOp::Div, [Expr::Cast(DType::F64, Box::new(load_at(4, []))), float(DType::F64, 10.0)]);
    let pre = add(add(times(load_at(0, [0]), load_at(1, [0])), times(load_at(2, [0]), load_at(3, []))), position);
    let pre = map(&mut body, &[2], pre, &[x, w, h, u, i]);
    let next = map(&mut body, &[2], Expr::op(ScalarOp::Tanh, [load_at(0, [0])]), &[pre]);
    let sin = Expr::op(ScalarOp::Sin, [load_at(2, [0])]);
    let cell = map(&mut body, &[2], add(times(load_at(0, [0]), load_at(1, [0])), sin), &[c, next, x]);
    let seen = map(&mut body, &[2], times(load_at(0, [0]), load_at(1, [0])), &[c, x]);
    body.results = vec![(None, next), (None, cell), (None, next), (None, seen)];
    let body = module.add(body);

    let t = Size::dim("T");
    let stack = |first: Size, second: Size| Type::new(DType::F64, [first, second]);
    let mut f = Function::new("loop");
    let h = f.input("h", real(&[2]));
    let xs = f.input("xs", stack(n(2), t.clone()));
    let w = f.input("w", real(&[2]));
    let u = f.input("u", real(&[]));
    let c = crate::grad::points::zeros(&mut f, &real(&[2]), Span::default());
    let scan = Scan { body, length: t.clone(), reversed, carries: 2, inputs: vec![1], outputs: vec![1, 0] };
    let types = vec![real(&[2]), real(&[2]), stack(n(2), t.clone()), stack(t.clone(), n(2))];
    let node = f.push_node(Node { op: Op::Scan(scan), operands: vec![h, c, xs, w, u], types, name: None, span: Span::default() });
    f.results = results(node, 4).into_iter().map(|v| (None, v)).collect();
    f
}

#[test]
fn loops() {
    for (reversed, keep) in [(false, 0..4), (true, 0..4), (false, 2..3), (true, 1..2)] {
        let mut module = with_dims(&["T"]);
        let mut f = loop_over(&mut module, reversed);
        f.results = f.results[keep].to_vec();
        check(&module, &f, &[], &[("T".into(), 3)].into(), 2);
    }
}

#[test]
fn hessian_vector_product() {
    // f(x) = sum(x^4): H v = 12 x^2 v, through a call.
    let mut module = Module::default();
    let mut power = Function::new("power");
    let x = power.input("x", real(&[3]));
    let y = power.nest(
        Nest::fold(vec![], vec![n(3)], Fold::Sum, Expr::op(ScalarOp::Pow, [load_at(0, [0]), float(DType::F64, 4.0)])),
        [x],
        Span::default(),
    );
    power.results = vec![(None, y)];
    let id = module.add(power);
    let mut f = Function::new("hvp");
    let x = f.input("x", real(&[3]));
    let v = f.input("v", real(&[3]));
    let call = f.call(id, module.function(id), [x], Span::default());
    let one = map(&mut f, &[], float(DType::F64, 1.0), &[]);
    let dx = crate::grad::vjp(&mut module, &mut f, &[(results(call, 1)[0], one)], &[x])[0];
    let hv = crate::grad::vjp(&mut module, &mut f, &[(dx, v)], &[x])[0];
    f.results = vec![(None, hv)];
    let (x, v) = (numbers(3, 1), numbers(3, 2));
    let found = run(&module, &f, &[Tensor::from_f64(&[3], &x), Tensor::from_f64(&[3], &v)], &Dims::default());
    for k in 0..3 {
        assert!((found[0].as_f64()[k] - 12.0 * x[k] * x[k] * v[k]).abs() < 1e-12);
    }
}
