//! What people write who come from NumPy, PyTorch or Keras, and how it is said here.

use crate::check::Checker;
use crate::check::arithmetic::ELEMENTWISE;
use crate::check::builtins;
use crate::check::value::{Body, Value};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::parse::PARTS_OF_AXES;
use crate::parse::tree::{Expr, ExprKind, Ident};

/// Folds, which name what they run over.
const FOLDS: [&str; 9] = ["sum", "max", "min", "prod", "mean", "any", "all", "argmax", "argmin"];
/// Modules that functions belong to elsewhere.
const MODULES: [&str; 9] = ["nn", "torch", "F", "np", "jnp", "jax", "tf", "keras", "math"];
/// Functions of another name here.
const NAMES: [(&str, &str); 15] = [
    ("cat", "concat"),
    ("concatenate", "concat"),
    ("chunk", "split"),
    ("view", "reshape"),
    ("numel", "size"),
    ("ndim", "rank"),
    ("detach", "stop_gradient"),
    ("no_grad", "stop_gradient"),
    ("arange", "positions"),
    ("rand", "random"),
    ("MultiheadAttention", "attention"),
    ("NLLLoss", "nll"),
    ("mm", "matmul"),
    ("bmm", "batch_matmul"),
    ("binary_cross_entropy_with_logits", "bce_with_logits"),
];

/// How something is said for which there is no function.
fn other_way(name: &str) -> Option<String> {
    Some(match name {
        fold if FOLDS.contains(&fold) => format!("a fold names the indices that it runs over: `{fold}[i](x[i])`"),
        "amax" | "amin" | "std" | "var" | "norm" => "folds name the indices that they run over: `m[b] = mean[i](x[b, i])`".into(),
        "permute" | "swapaxes" | "moveaxis" | "swapdims" | "T" | "t" | "mT" => {
            "axes change places in index notation: `y[b, c, h] = x[b, h, c]`; `transpose(x)` swaps the last two".into()
        }
        "unsqueeze" | "squeeze" | "expand_dims" | "expand" | "broadcast_to" | "tile" => {
            "index notation names the axes that it makes and leaves out: `y[b, i in 4, d] = x[b, d]`; `reshape(x, sizes..)` splits and merges".into()
        }
        "stack" => "index notation puts tensors beside each other: `y[i in 2, d] = if i == 0 then a[d] else b[d]`".into(),
        "einsum" | "tensordot" => "index notation says it: `y[b, o] = sum[i](x[b, i] * w[i, o])`".into(),
        "where" => "a choice is an expression: `if x[i] > 0 then a[i] else b[i]`".into(),
        "gather" | "take" | "index_select" | "take_along_dim" => "positions are indices: `y[i, d] = x[at[i], d]`".into(),
        "masked_fill" => "a choice is an expression: `if m[i] then 0 else x[i]`".into(),
        "pad" => "a load says what it gives beyond its tensor: `y[i in N + 2] = x[i - 1, else: 0]`".into(),
        "randn" | "normal_" => "`randn_like(x)` is normal noise in the shape of `x`; `random()` is uniform".into(),
        "shape" => "sizes have names: those that stand in the tensor's type".into(),
        _ => return None,
    })
}

/// The name among `known` that differs in capitals, underscores and a `loss` at its end only, or else the nearest.
fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |n: &str| n.replace('_', "").to_lowercase();
    let own = plain(name);
    let own = own.strip_suffix("loss").unwrap_or(&own);
    let named = NAMES.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
    named.or_else(|| known.iter().find(|k| plain(k) == own).copied()).or_else(|| did_you_mean(name, known.iter().copied()))
}

impl Checker<'_> {
    /// Names of all functions that may be called there.
    fn callable(&self, library: bool) -> Vec<&str> {
        let rest = builtins::LIST.iter().map(|x| x.name).chain(ELEMENTWISE.iter().map(|(n, _)| *n));
        self.scope.names(library).into_iter().chain(rest).collect()
    }

    /// Reports that there is no function of this name.
    pub(super) fn no_function(&mut self, b: &Body, name: &str, callee: &Expr) -> Value {
        let mut d = Diagnostic::error("E0201", format!("the function `{name}` is not known"), callee.span, "not found");
        let near = meant(name, &self.callable(b.library())).map(str::to_string);
        d = match (other_way(name), near) {
            (Some(way), _) => d.note(way),
            (None, Some(near)) => d.fix(format!("did you mean `{near}`?"), callee.span, near),
            (None, None) => d,
        };
        self.report(d);
        Value::Poison
    }

    /// Reports a function that was called as one of a module, where no such thing has that name here.
    pub(super) fn no_module(&mut self, b: &Body, callee: &Expr) -> Option<Value> {
        let ExprKind::Field(base, function) = &callee.kind else { return None };
        let ExprKind::Name(module) = &base.kind else { return None };
        if !MODULES.contains(&&**module) || b.lookup(module).is_some() || self.declared_at(module).is_some() {
            return None;
        }
        let d = Diagnostic::error("E0201", format!("there is no module `{module}`"), callee.span, "functions stand alone");
        let near = meant(&function.name, &self.callable(b.library())).map(str::to_string);
        self.report(match (other_way(&function.name), near) {
            (Some(way), _) => d.note(way),
            (None, Some(near)) => d.fix(format!("call `{near}`"), callee.span, near),
            (None, None) => d,
        });
        Some(Value::Poison)
    }

    /// Reports a field that something does not have; functions take tensors as arguments here.
    pub(super) fn no_field(&mut self, b: &Body, value: &Value, field: &Ident) -> Value {
        let label = format!("this is {}", value.describe());
        let d = Diagnostic::error("E0211", format!("there is no `.{}` here", field.name), field.span, label);
        let near = meant(&field.name, &self.callable(b.library())).map(str::to_string);
        self.report(match (value, other_way(&field.name), near) {
            (Value::Tensor(_), Some(way), _) => d.note(way),
            (Value::Tensor(_), None, Some(near)) => d.note(format!("functions take tensors as arguments: `{near}(x)`, or `x |> {near}`")),
            _ => d,
        });
        Value::Poison
    }

    /// Reports a range where an index belongs.
    pub(super) fn no_range(&mut self, e: &Expr) -> Value {
        self.report(Diagnostic::error("E0513", "a range of columns has a meaning in `data` sections only", e.span, "here").note(PARTS_OF_AXES));
        Value::Poison
    }
}

#[cfg(test)]
mod tests {
    use crate::check::tests::failure;

    /// A habit, and what the answer to it must contain.
    const HABITS: &[(&str, &str)] = &[
        ("x.reshape(B, 8)", "`x |> reshape`"),
        ("x.relu()", "`x |> relu`"),
        ("x.view(B, 8)", "`x |> reshape`"),
        ("x.sum()", "`sum[i](x[i])`"),
        ("x.T", "`transpose(x)`"),
        ("x.shape", "sizes have names"),
        ("x[:, 0]", "`y[i, j in 4] = x[i, j + 2]`"),
        ("x[..., 0..4]", "`y[i, j in 4] = x[i, j + 2]`"),
        ("x[-1]", "help: count from the end: `B - 1`"),
        ("cat(x, x)", "did you mean `concat`?"),
        ("torch.cat(x, x)", "call `concat`"),
        ("nn.ReLU(x)", "call `relu`"),
        ("F.mse_loss(x, x)", "call `mse`"),
        ("BatchNorm1d(x)", "did you mean `batch_norm1d`?"),
        ("CrossEntropyLoss(x, x)", "did you mean `cross_entropy`?"),
        ("einsum(x, w)", "sum[i](x[b, i] * w[i, o])"),
        ("where(x, x, x)", "if x[i] > 0 then a[i] else b[i]"),
        ("x.unsqueeze(1)", "`y[b, i in 4, d] = x[b, d]`"),
        ("randn(B, 8)", "`randn_like(x)`"),
        ("x * True", "did you mean `true`?"),
        ("y: real[B, 8] = x", "help: leave the type out"),
    ];

    #[test]
    fn what_is_proposed_is_there_and_nothing_impossible_is() {
        let rest = super::builtins::LIST.iter().map(|x| x.name);
        let library = crate::std::FILES.iter().map(|(_, text)| *text).collect::<String>();
        let ours: Vec<&str> = rest.collect();
        for (theirs, name) in super::NAMES {
            assert!(ours.contains(&name) || library.contains(&format!(" {name}(")), "{theirs} is called {name}, which is not there");
        }
        let said = failure("nn 1\nmodel M(w: f32[8, 8]) -> real[8] {\n    w[-9]\n}\n");
        assert!(said.contains("there is no element -9") && !said.contains("count from the end"), "{said}");
        let said = failure("nn 1\ndata d {\n    t = csv(\"a.csv\", header: [\"a\", \"b\"])\n    x = t.columns(\"a\", \"b\").reshape(1, 2)\n}\n");
        assert!(said.contains("`reshape` is no method") && said.contains("`x |> reshape(..)`"), "{said}");
    }

    #[test]
    fn habits_from_elsewhere_are_answered() {
        for (written, answer) in HABITS {
            let text = format!("nn 1\ndim B\nmodel M(x: f32[B, 8], w: f32[8, 8]) -> real[B, 8] {{\n    {written}\n}}\n");
            let said = failure(&text);
            assert!(said.contains(answer), "{written}: {said}");
        }
    }
}
