//! Stable text of the graph: exact, one line a node, and [`crate::ir::parse`] reads it back (spans excepted).
//!
//! ```text
//! dim B >= 1
//! fn @linear(x: f32[B, 64], weight: f32[10, 64]) {
//!   %y[b, i]: f32[B, 10] = dot[j < 64](%x[b, j] * %weight[i, j])
//!   return %y
//! }
//! entry infer:Digits = @linear(data image, tensor Digits.weight) -> (result y)
//! ```
//! Index variables are named after the dim they range over (`b` over `B`), else `i`, `j`, `k`, ... A value is written by its binding's name;
//! a repeated name carries the node's number (`%y~7`), a nameless value is its number, `%m#1` is a second result.

pub use crate::ir::formulas::formulas;
use crate::ir::*;
use nnc_runtime::manifest::{Sink, Source};
use std::fmt::Write;

/// The whole module.
pub fn module(module: &Module) -> String {
    let mut text = String::new();
    for dim in &module.dims {
        let max = dim.max.map(|n| format!(" <= {n}")).unwrap_or_default();
        writeln!(text, "dim {} >= {}{max}", dim.name, dim.min).unwrap();
    }
    for f in &module.functions {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &function(module, f);
    }
    if !module.entries.is_empty() {
        text.push('\n');
    }
    for entry in &module.entries {
        let inputs: Vec<String> = entry.inputs.iter().map(source).collect();
        let results: Vec<String> = entry.results.iter().map(sink).collect();
        let f = word(&module.function(entry.function).name);
        writeln!(text, "entry {} = @{f}({}) -> ({})", word(&entry.name), inputs.join(", "), results.join(", ")).unwrap();
    }
    text
}

fn source(source: &Source) -> String {
    match source {
        Source::Tensor(n) => format!("tensor {}", word(n)),
        Source::Data(n) => format!("data {}", word(n)),
        Source::Scalar(n) => format!("scalar {}", word(n)),
        Source::Step => "step".into(),
        Source::Key => "key".into(),
    }
}

fn sink(sink: &Sink) -> String {
    match sink {
        Sink::Tensor(n) => format!("tensor {}", word(n)),
        Sink::Result(n) => format!("result {}", word(n)),
        Sink::Accumulate(n) => format!("accumulate {}", word(n)),
    }
}

/// One function.
pub fn function(module: &Module, f: &Function) -> String {
    let inputs: Vec<String> = f.inputs.iter().map(|i| format!("{}: {}", word(&i.name), ty(&i.ty))).collect();
    let mut text = format!("fn @{}({}) {{\n", word(&f.name), inputs.join(", "));
    let names = names(f);
    // Inputs that stand first, in order and under their own names, need no line.
    let leading =
        f.nodes.iter().zip(&f.inputs).enumerate().take_while(|(n, (node, i))| node.op == Op::Input(*n) && node.name.as_ref() == Some(&i.name));
    for (id, _) in f.iter().skip(leading.count()) {
        writeln!(text, "  {}", line(module, f, id, &names)).unwrap();
    }
    let results: Vec<String> = f
        .results
        .iter()
        .map(|(name, v)| match name {
            Some(name) => format!("{}: {}", word(name), value(*v, &names)),
            None => value(*v, &names),
        })
        .collect();
    writeln!(text, "  return {}", results.join(", ")).unwrap();
    if let Some(g) = &f.gradient {
        let [forward, backward] = [g.forward, g.backward].map(|id| word(&module.function(id).name));
        let wrt: Vec<String> = g.wrt.iter().map(|n| n.to_string()).collect();
        writeln!(text, "  gradient @{forward}, @{backward} of [{}]", wrt.join(", ")).unwrap();
    }
    text + "}\n"
}

/// One node.
pub fn node(module: &Module, f: &Function, id: NodeId) -> String {
    line(module, f, id, &names(f))
}

/// What every node's value is called, without the `%`.
pub fn names(f: &Function) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    f.iter()
        .map(|(id, node)| match &node.name {
            None => id.0.to_string(),
            Some(name) if seen.insert(name) => word(name),
            Some(name) => format!("{}~{}", word(name), id.0),
        })
        .collect()
}

fn value(v: Value, names: &[String]) -> String {
    match v.result {
        0 => format!("%{}", names[v.node.0 as usize]),
        n => format!("%{}#{n}", names[v.node.0 as usize]),
    }
}

/// A name as it stands if it looks like one, else quoted.
pub fn word(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:/".contains(c))
        && !name.ends_with(':');
    if plain { name.into() } else { format!("{name:?}") }
}

/// `f32[B, 64]`; a scalar has no brackets.
pub fn ty(ty: &Type) -> String {
    if ty.shape.is_empty() { ty.dtype.to_string() } else { format!("{}[{}]", ty.dtype, list(&ty.shape)) }
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", ")
}

/// Names for index variables over these ranges: the dim's name in lower case, else `i`, `j`, ...; never a declared dim's own name.
pub fn indices<'a>(module: &Module, ranges: impl Iterator<Item = &'a Size>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    ranges.for_each(|range| names.push(index_name(module, range, &names)));
    names
}

/// A name for one more index variable.
pub fn index_name(module: &Module, range: &Size, taken: &[String]) -> String {
    let free = |n: &String| !taken.contains(n) && module.dims.iter().all(|d| *d.name != **n);
    let numbered = |base: String| (2..).map(move |n| format!("{base}{n}"));
    let own = |size: &Size| size.as_dim().map(|d| d.to_lowercase()).filter(|d| is_index(d));
    match own(range) {
        Some(d) => std::iter::once(d.clone()).chain(numbered(d)).find(free),
        None => {
            // Names that dims claim are left to them.
            let plain = ["i", "j", "k", "l", "m", "n", "p", "q", "r", "s"].map(String::from).into_iter();
            let plain = plain.filter(|p| module.dims.iter().all(|d| d.name.to_lowercase() != *p));
            plain.chain(numbered("i".into())).find(free)
        }
    }
    .unwrap_or_default()
}

/// Whether an index may have this name: a word that means nothing else in an expression.
fn is_index(name: &str) -> bool {
    let reserved = ["index", "else", "where", "of", "inf", "nan", "true", "false", "f32", "f64", "i64", "bool", "and", "or", "at", "sum", "input"];
    let word = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word && !reserved.contains(&name) && !ScalarOp::ALL.iter().any(|op| op.name() == name)
}

fn line(module: &Module, f: &Function, id: NodeId, names: &[String]) -> String {
    let node = f.node(id);
    let name = format!("%{}", names[id.0 as usize]);
    let types = node.types.iter().map(ty).collect::<Vec<_>>().join(", ");
    let operand = |n: usize| node.operands.get(n).map_or("%?".into(), |v| value(*v, names));
    let operands = |from: usize, to: usize| (from..to).map(operand).collect::<Vec<_>>().join(", ");
    let all = operands(0, node.operands.len());
    let head = format!("{name}: {types} = ");
    match &node.op {
        Op::Input(n) => format!("{head}input {n}"),
        Op::Constant(values) => format!("{head}constant [{}]", values.iter().map(|v| scalar(*v)).collect::<Vec<_>>().join(", ")),
        Op::Nest(nest) => {
            let vars = indices(module, nest.outs.iter().chain(&nest.reds));
            let writer = Writer::new(node, names, &vars, &|see| nest.body.visit(see), &[]);
            let (outs, reds) = vars.split_at(nest.outs.len());
            let ty = node.types.first().map(ty).unwrap_or_default();
            let head = if outs.is_empty() { format!("{name}: {ty} = ") } else { format!("{name}[{}]: {ty} = ", outs.join(", ")) };
            let body = match nest.fold {
                Fold::None => writer.expr(&nest.body, 0),
                fold => format!("{}[{}]({})", fold.name(), ranges(reds, &nest.reds), writer.expr(&nest.body, 0)),
            };
            format!("{head}{body}{}{}", writer.wheres(&nest.guards), writer.of)
        }
        Op::Place(place) => {
            let first = usize::from(place.base == Base::Operand);
            let mut parts = vec![match place.base {
                Base::Fill(value) => format!("fill {}", scalar(value)),
                Base::Operand => operand(0),
            }];
            for (n, piece) in place.pieces.iter().enumerate() {
                let start = piece.start.iter().map(|s| match s {
                    Start::Size(s) => s.to_string(),
                    Start::Runtime(n) => operand(first + place.pieces.len() + n),
                });
                parts.push(format!("{} at [{}] by [{}]", operand(first + n), start.collect::<Vec<_>>().join(", "), list(&piece.stride)));
            }
            let behind = first + place.pieces.len();
            let with = if behind < node.operands.len() { format!(" with {}", operands(behind, node.operands.len())) } else { String::new() };
            format!("{head}place({}){with}", parts.join("; "))
        }
        Op::Scatter(scatter) => {
            let vars = indices(module, scatter.points.iter());
            let visit = |see: &mut dyn FnMut(&Expr)| {
                scatter.value.visit(see);
                scatter.index.iter().for_each(|i| gathered(i, see));
            };
            let writer = Writer::new(node, names, &vars, &visit, &[0]);
            let index = writer.index(&scatter.index);
            format!(
                "{head}scatter({}) {}[{}]({}) at [{index}]{}{}",
                operand(0),
                scatter.fold.name(),
                ranges(&vars, &scatter.points),
                writer.expr(&scatter.value, 0),
                writer.wheres(&scatter.guards),
                writer.of
            )
        }
        Op::Scan(scan) => {
            let sequences: Vec<String> =
                scan.inputs.iter().enumerate().map(|(n, axis)| format!("{} along {axis}", operand(scan.carries + n))).collect();
            let constants = operands(scan.carries + scan.inputs.len(), node.operands.len());
            let callee = word(&module.function(scan.body).name);
            let order = if scan.reversed { " reversed" } else { "" };
            format!(
                "{head}scan{order} @{callee}[{}]({}; {}; {constants}) to [{}]",
                scan.length,
                operands(0, scan.carries),
                sequences.join(", "),
                list(&scan.outputs)
            )
        }
        Op::Sort { descending } => format!("{head}sort{} {all}", if *descending { " descending" } else { "" }),
        Op::Reshape => format!("{head}reshape {all}"),
        Op::StopGradient => format!("{head}stop_gradient {all}"),
        Op::Call(callee) => format!("{head}@{}({all})", word(&module.function(*callee).name)),
        Op::Check(message) => format!("{head}check {all} {:?}", message),
    }
}

fn ranges(names: &[String], sizes: &[Size]) -> String {
    names.iter().zip(sizes).map(|(n, s)| format!("{n} < {s}")).collect::<Vec<_>>().join(", ")
}

fn gathered(index: &Index, see: &mut dyn FnMut(&Expr)) {
    match index {
        Index::Affine(_) => {}
        Index::Gather(e) => e.visit(see),
    }
}

/// A literal: floats of 32 bits plain (`0.5`), of 64 bits with their type (`0.5f64`), integers without a point.
pub fn scalar(value: Scalar) -> String {
    let float = |x: f64, plain: u64, suffix: &str| match () {
        _ if x.is_nan() && value.bits() != plain => format!("bits({}){suffix}", value.bits()),
        _ if x.is_nan() => format!("nan{suffix}"),
        _ => format!("{value}{suffix}"),
    };
    match value.dtype() {
        DType::F32 => match value.to_f64().is_nan() && value.bits() != f32::NAN.to_bits() as u64 {
            true => float(value.to_f64(), f32::NAN.to_bits() as u64, "f32"),
            false => float(value.to_f64(), f32::NAN.to_bits() as u64, ""),
        },
        DType::F64 => float(value.to_f64(), f64::NAN.to_bits(), "f64"),
        DType::I64 | DType::Bool => value.to_string(),
    }
}

/// How tightly operators bind: or, and, comparisons, sums, products, negation, powers, the rest.
pub fn precedence(op: ScalarOp) -> u8 {
    use ScalarOp::*;
    match op {
        Or => 1,
        And => 2,
        Eq | Ne | Lt | Le => 3,
        Add | Sub => 4,
        Mul | Div => 5,
        Neg => 6,
        Pow => 7,
        Abs | Sign | Sqrt | Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Floor | Ceil | Round | Not | Max | Min
        | FloorDiv | Mod | Select | Fma | FoldKey | Uniform => 9,
    }
}

/// Goes over every expression of a node.
type Visit<'a> = &'a dyn Fn(&mut dyn FnMut(&Expr));

/// Writes expressions of one node.
struct Writer<'a> {
    /// What each operand is called in loads.
    operands: Vec<String>,
    /// Index variables.
    vars: &'a [String],
    /// ` of %a, %b` where the operands do not follow from the text.
    of: String,
}

impl<'a> Writer<'a> {
    /// `visit` goes over every expression of the node in the order of the text; operands in `apart` are written elsewhere.
    fn new(node: &Node, names: &[String], vars: &'a [String], visit: Visit<'_>, apart: &[usize]) -> Writer<'a> {
        let mut order: Vec<usize> = apart.to_vec();
        visit(&mut |e| {
            if let Expr::Load { operand, .. } = e
                && !order.contains(operand)
            {
                order.push(*operand);
            }
        });
        let own: Vec<String> = node.operands.iter().map(|v| value(*v, names)).collect();
        let distinct = (1..own.len()).all(|i| !own[..i].contains(&own[i]));
        let follows = distinct && order.iter().copied().eq(0..own.len());
        let of = if follows { String::new() } else { format!(" of {}", own.join(", ")) };
        let operands = if distinct { own } else { (0..own.len()).map(|n| format!("%${n}")).collect() };
        Writer { operands, vars, of }
    }

    fn wheres(&self, guards: &[Guard]) -> String {
        if guards.is_empty() { String::new() } else { format!(" where {}", self.guards(guards)) }
    }

    fn guards(&self, guards: &[Guard]) -> String {
        guards.iter().map(|g| guard(g, self.vars)).collect::<Vec<_>>().join(" and ")
    }

    fn index(&self, index: &[Index]) -> String {
        let one = |i: &Index| match i {
            Index::Affine(a) => affine(a, self.vars),
            Index::Gather(e) if matches!(**e, Expr::Load { .. }) => self.expr(e, 9),
            Index::Gather(e) => format!("{{{}}}", self.expr(e, 0)),
        };
        index.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The text, in parentheses if it binds less than `least`.
    fn expr(&self, expr: &Expr, least: u8) -> String {
        match expr {
            Expr::Const(c) => {
                let text = scalar(*c);
                if least > 6 && text.starts_with('-') { format!("({text})") } else { text }
            }
            Expr::Load { operand, index, otherwise } => {
                let name = self.operands.get(*operand).cloned().unwrap_or(format!("%${operand}"));
                let mut inside = self.index(index);
                if let Some(value) = otherwise {
                    inside += if index.is_empty() { "else " } else { ", else " };
                    inside += &scalar(*value);
                }
                if inside.is_empty() { name } else { format!("{name}[{inside}]") }
            }
            Expr::Index(a) => match a.as_var() {
                Some(v) => self.vars.get(v).cloned().unwrap_or(format!("?{v}")),
                None => format!("index({})", affine(a, self.vars)),
            },
            Expr::Holds(guards) => format!("[{}]", self.guards(guards)),
            Expr::Cast(to, from) => format!("{to}({})", self.expr(from, 0)),
            Expr::Op(op, args) => {
                let own = precedence(*op);
                let text = match (*op, args.as_slice()) {
                    (ScalarOp::Neg, [a]) => {
                        let arg = self.expr(a, 7);
                        // `-2.0` is a literal, so the negation of a literal keeps its parentheses.
                        let literal = arg.starts_with(|c: char| c.is_ascii_digit()) || ["inf", "nan", "bits"].iter().any(|w| arg.starts_with(w));
                        if literal { format!("-({})", self.expr(a, 0)) } else { format!("-{arg}") }
                    }
                    (ScalarOp::Pow, [a, b]) => format!("{} ^ {}", self.expr(a, 8), self.expr(b, 8)),
                    (ScalarOp::Eq | ScalarOp::Ne | ScalarOp::Lt | ScalarOp::Le, [a, b]) => {
                        format!("{} {} {}", self.expr(a, 4), op.name(), self.expr(b, 4))
                    }
                    (_, [a, b]) if own < 9 => format!("{} {} {}", self.expr(a, own), op.name(), self.expr(b, own + 1)),
                    _ => return format!("{}({})", op.name(), args.iter().map(|a| self.expr(a, 0)).collect::<Vec<_>>().join(", ")),
                };
                if own < least { format!("({text})") } else { text }
            }
        }
    }
}

/// `2*p + r - 1`
pub fn affine(a: &Affine, vars: &[String]) -> String {
    let mut text = String::new();
    for (atom, c) in &a.terms {
        let atom = match atom {
            IndexAtom::Var(v) => vars.get(*v).cloned().unwrap_or(format!("?{v}")),
            IndexAtom::Div(a, by) => format!("div({}, {by})", affine(a, vars)),
            IndexAtom::Mod(a, by) => format!("mod({}, {by})", affine(a, vars)),
        };
        let (negative, c) = match c.terms() {
            [(_, n)] if *n < 0 => (true, c.neg()),
            _ => (false, c.clone()),
        };
        text += match (text.is_empty(), negative) {
            (true, true) => "-",
            (true, false) => "",
            (false, true) => " - ",
            (false, false) => " + ",
        };
        match c.terms() {
            [(atoms, 1)] if atoms.is_empty() => text += &atom,
            [_] => text += &format!("{c}*{atom}"),
            _ => text += &format!("({c})*{atom}"),
        }
    }
    let constant = a.constant.to_string();
    match (text.is_empty(), a.constant.as_const(), constant.strip_prefix('-')) {
        (true, _, _) => constant,
        (false, Some(0), _) => text,
        (false, _, Some(rest)) => format!("{text} - {rest}"),
        (false, _, None) => format!("{text} + {constant}"),
    }
}

/// `i == j`, `k < T`: the parts with a minus stand on the other side.
pub fn guard(guard: &Guard, vars: &[String]) -> String {
    let (mut left, mut right) = (Affine::default(), Affine::default());
    for (atom, c) in &guard.expr.terms {
        let negative = c.terms().iter().all(|(_, n)| *n < 0);
        let side = if negative { &mut right } else { &mut left };
        side.terms.push((atom.clone(), if negative { c.neg() } else { c.clone() }));
    }
    let mut strict = false;
    for (atoms, n) in guard.expr.constant.terms() {
        if atoms.is_empty() && *n == -1 && guard.relation == Relation::NonNegative {
            strict = true;
            continue;
        }
        let term = |n: i64| atoms.iter().fold(Size::constant(n), |s, a| &s * &atom(a));
        match *n < 0 {
            true => right.constant = &right.constant + &term(n.saturating_neg()),
            false => left.constant = &left.constant + &term(*n),
        }
    }
    let relation = match (guard.relation, strict) {
        (Relation::Zero, _) => "==",
        (Relation::NonZero, _) => "!=",
        (Relation::NonNegative, false) => ">=",
        (Relation::NonNegative, true) => ">",
    };
    // Variables first: `i < B` rather than `B > i`. An equation is not turned: its sign would be.
    if guard.relation == Relation::NonNegative && left.terms.is_empty() && !right.terms.is_empty() {
        let flipped = relation.replace('>', "<");
        return format!("{} {flipped} {}", affine(&right, vars), affine(&left, vars));
    }
    format!("{} {relation} {}", affine(&left, vars), affine(&right, vars))
}

fn atom(atom: &nnc_runtime::size::Atom) -> Size {
    use nnc_runtime::size::Atom;
    match atom {
        Atom::Dim(name) => Size::dim(name),
        Atom::Div(a, b) => a.div(b).unwrap_or_default(),
        Atom::Mod(a, b) => a.modulo(b).unwrap_or_default(),
    }
}
