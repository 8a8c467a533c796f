//! Trees of tricky constructs, recovery, robustness.

use super::parse;
use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Sources};

/// The diagnostics of a text, rendered.
fn rendered(text: &str) -> String {
    let mut sources = Sources::default();
    let file = sources.add("test.nn", text);
    super::render::render(&parse(text, file).1, &sources, false)
}

/// Every program of the repository.
fn programs() -> Vec<(String, String)> {
    let mut programs = vec![];
    for folder in ["src/std", "models"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "nn") {
                programs.push((entry.path().display().to_string(), std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }
    for (name, text) in [("digits", DIGITS), ("gpt", GPT), ("tagger", TAGGER), ("library", LIBRARY), ("rest", REST)] {
        programs.push((name.into(), text.into()));
    }
    programs.sort();
    programs
}

#[test]
fn programs_parse() {
    for (name, text) in programs() {
        let diagnostics = rendered(&text);
        assert!(diagnostics.is_empty(), "{name}\n{diagnostics}");
        assert!(!parse(&text, FileId(0)).0.items.is_empty(), "{name}");
    }
}

fn codes(diagnostics: &[Diagnostic]) -> Vec<&'static str> {
    diagnostics.iter().map(|d| d.code).collect()
}

const DIGITS: &str = r#"nn 1                                   // edition: old files keep their meaning

dim B                                  // any size, chosen when the program runs
const Classes = 10

/// Handwritten digits: 8x8 grey pixels, 0 to 16.
model Digits(image: f32[B, 64]) -> logits[B, Classes] {
    image |> linear(64, name: "fc1") |> relu |> linear(Classes, name: "fc2")
}

data digits {
    table = csv("data/digits.csv.gz")
    image = table.columns("p0".."p63") / 16
    label = table.column("target"): class<Classes>
    test  = split(20%, seed: 42, stratify: label)
    valid = split(10%, seed: 43, stratify: label)
}

train fit {
    data      = digits
    scores    = Digits(image)                  // a model is one instance: every use shares its parameters
    loss      = cross_entropy(scores, label)
    metrics   = [accuracy(scores, label)]
    optimizer = sgd(lr: 0.1, momentum: 0.9)
    batch     = 32
    epochs    = 30
    seed      = 42
    early_stop(on: valid.accuracy, patience: 5)
}
"#;

const GPT: &str = r#"nn 1

dim B, T <= 1024
const D = 768, V = 50257

block Layer(x: real[B, T, D]) -> real[B, T, D] {
    x = x + (x |> layer_norm(name: "ln1") |> attention(heads: 12, causal: true, name: "attn"))   // the KV cache is derived for `generate`
    x + (x |> layer_norm(name: "ln2") |> linear(4 * D, name: "up") |> gelu |> linear(D, name: "down"))
}
model Gpt(tokens: token<V>[B, T]) -> logits[B, T, V] {
    param wte: real[V, D] = normal(0.02)
    x = wte[tokens] + embedding(positions(T), rows: 1024, dim: D, name: "wpe")
    x = x |> repeat(12, Layer, name: "h")                                // h.0 ... h.11: one compiled body, 12 weight sets
    x |> layer_norm(name: "ln_f") |> matmul(transpose(wte))              // tied: one parameter, stored once
}
"#;

const TAGGER: &str = r#"nn 1

dim B, T <= 256
const V = 1000, K = 12, H = 256

block LstmCell(x: real[B, I], h: real[B, H], c: real[B, H]) -> (h: real[B, H], c: real[B, H]) {
    i, f, g, o = split(linear(x, 4 * H, name: "ih") + linear(h, 4 * H, name: "hh"), 4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)                                             // results are the bindings that the signature names
}
model Tagger(tokens: token<V>[B, T]) -> logits[B, T, K] {
    s = scan x in embedding(tokens, rows: V, dim: 128) over T from (h: zeros(B, H), c: zeros(B, H)) { LstmCell(x, h, c) }
    s.h |> linear(K)                                                     // s.h: every step's h, T in its place; s.last.h: the last one
}
"#;

const LIBRARY: &str = r#"nn 1

/// y = x W^T + b over the last axis.                                   (layout and names as in PyTorch, so weights load unchanged)
layer linear(x: real[..., I], out: int, bias: bool = true) -> real[..., out] {
    param weight: real[out, I] = kaiming_uniform(fan: I)
    if bias {
        param bias: real[out] = uniform(1 / sqrt(I))
        y[..., o] = sum[i](x[..., i] * weight[o, i]) + self.bias[o]
    } else {
        y[..., o] = sum[i](x[..., i] * weight[o, i])
    }
}
fn softmax(x: real[..., N]) -> probs[..., N] {
    m[...]    = stop_gradient(max[n](x[..., n]))
    e[..., n] = exp(x[..., n] - m[...])
    y[..., n] = e[..., n] / sum[k](e[..., k])
}
fn conv_size(n: int, kernel: int, stride: int, padding: int, dilation: int) -> int = div(n + 2*padding - dilation*(kernel-1) - 1, stride) + 1

layer conv2d(x: real[B, C, H, W], out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1)
    -> real[B, out, P = conv_size(H, kernel, stride, padding, dilation), Q = conv_size(W, kernel, stride, padding, dilation)] {
    param weight: real[out, C, kernel, kernel] = kaiming_uniform(fan: C*kernel*kernel)
    y[b, o, p, q] = sum[c, r, s](x[b, c, p*stride + r*dilation - padding, q*stride + s*dilation - padding, else: 0] * weight[o, c, r, s])
}
fn merge_heads(x: real[B, H, T, E]) -> real[B, T, H*E] {
    y[b, t, (h e)] = x[b, h, t, e]                                       // grouped indices split and merge adjacent axes
}
optimizer adamw(p, g, lr: scalar = 1e-3, beta1: scalar = 0.9, beta2: scalar = 0.999, eps: scalar = 1e-8, decay: scalar = 0.01) {
    state m = zeros_like(p)
    state v = zeros_like(p)
    update m = beta1*m + (1-beta1)*g
    update v = beta2*v + (1-beta2)*g*g
    update p = p - lr*(m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + decay*p)     // `step` counts from 1; m and v are the updated ones
}
"#;

/// What the others do not hold.
const REST: &str = r#"nn 1
import "layers/mine.nn"
dim B, 2 <= T <= 4 * Max
const A = 10min, S = 2GiB // units
fn f(x: real[...], n: int = 3,) -> (a: real[...], b: real[N = 2 * n, 3],) {
    require n > 0 and not n == 7, "a \"good\" n"
    z = x
        // a comment in the middle
        |> g(1, out: -2^2)
        |> h.k
    y[i in N, (h e), ...] = sum[i, j in 4 where i <= j or j == 0](x[i, j - 1, else: 0]) + w[(h e)]
    scatter sum y[index[m], d] = x[m, d] into zeros(3, 4)
    if n > 1 { a = x; b = x } else if n == 0 {
        a = 1
    }
    else { b = 2 }
    c = if n > 0
        then 1
        else 2
    s = scan x in xs, m in ms over T reversed from (h: zeros(B, H)) {
        h = x + h
        (h: h, further: m)
    }
    result = 3; state = 4; sum = s.last.h + h.3
    (a, b)
    gradient(da, db) { dx = da * db; (x: dx) }
}
metric m(x: real[B]) -> (total: scalar, count: scalar)
{
    total = sum[b](x[b])
    count = size(x)
    result total / count
}
data d {
    t = csv("x.csv", header: ["a", "b".."c"]); x = t.columns(0..63) / 16
    label = t.column("target"): class<10>
}
train fit { data = d; batch = 1_000
    optimizer = adamw(lr: cosine(1e-3, warmup: 100), decay: 20%)
    freeze(Net.fc1, Net.h.3)
}
"#;

/// The tree without its places.
fn meaning(text: &str) -> String {
    let tree = format!("{:?}", parse(text, FileId(0)).0);
    let mut out = String::new();
    for (i, part) in tree.split("Span {").enumerate() {
        out.push_str(if i == 0 { part } else { part.split_once(" }").map_or("", |(_, rest)| rest) });
    }
    out
}

fn comments(text: &str) -> Vec<&str> {
    super::token::tokens(text).iter().filter(|t| t.kind == super::token::Kind::Comment).map(|t| t.text(text).trim_end()).collect()
}

#[test]
fn formatting_keeps_the_meaning_and_the_comments_and_settles_at_once() {
    for (name, text) in programs() {
        let once = super::format(&text).unwrap_or_else(|d| panic!("{name}: {:?}", codes(&d)));
        assert_eq!(meaning(&once), meaning(&text), "{name}\n{once}");
        assert_eq!(comments(&once), comments(&text), "{name}");
        assert_eq!(super::format(&once).unwrap(), once, "{name}");
        // Windows ends of lines, tabs and a byte order mark are laid out like everything else.
        let other = format!("\u{feff}{}", text.replace("\n    ", "\n\t").replace('\n', "\r\n"));
        assert_eq!(super::format(&other).unwrap(), once, "{name}");
    }
}

#[test]
fn a_carriage_return_alone_is_refused_wherever_it_stands() {
    for text in ["nn 1\ndim B //\r, C\n", "nn 1\ndim B,\rC\n", "nn 1\rdim B\r", "nn 1\ndim B\r\r\n", "\rnn 1\n", "nn 1\n/// of\rtwo\ndim B\n"] {
        let (_, diagnostics) = super::parse(text, FileId(0));
        assert!(codes(&diagnostics).contains(&"E0112"), "{text:?}: {:?}", codes(&diagnostics));
        assert!(super::format(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_part_of_a_number_does_not_become_its_digits() {
    let once = super::format("nn 1\nconst X = 0. 20\n").unwrap();
    assert_eq!(once, "nn 1\nconst X = 0 .20\n");
    assert_eq!(super::format(&once).unwrap(), once);
}

#[test]
fn index_notation_in_a_section_is_sent_to_a_function() {
    let said = rendered("nn 1\ntrain fit {\n    noisy[b, i] = x[b, i] + 1\n}\n");
    assert!(said.contains("index notation belongs to functions"), "{said}");
}

#[test]
fn signatures_are_broken_and_blocks_spread() {
    let long = "long_parameter_name: real[B, C, H, W]";
    let text = format!("nn 1\n\n\nfn f({long}, a_{long}, b_{long}, c_{long})->real[B]\n{{ y=x;\n\n;-y }} // end\ndim B");
    let laid_out = format!("nn 1\n\nfn f({long}, a_{long}, b_{long},\n    c_{long})\n    -> real[B] {{\n    y = x\n\n    -y\n}}  // end\n\ndim B\n");
    let once = super::format(&text).unwrap();
    assert_eq!(once, laid_out);
    assert_eq!(super::format(&once).unwrap(), once);
}

#[test]
fn bindings_share_a_column_where_the_author_says_so() {
    let text = |a: &str, b: &str, c: &str| {
        format!("nn 1\n\nfn f(x: real[N]) -> real[N] {{\n    m{a}= 1\n    e[n]{b}= x[n]\n    long_name{c}= 2\n    e\n}}\n")
    };
    for (from, to) in
        [((" ", " ", " "), (" ", " ", " ")), (("    ", " ", " "), ("    ", " ", " ")), (("            ", "         ", " "), ("    ", " ", " "))]
    {
        assert_eq!(super::format(&text(from.0, from.1, from.2)).unwrap(), text(to.0, to.1, to.2));
    }
}

/// The tree of an expression.
fn expression(text: &str) -> String {
    let text = format!("nn 1\nconst X = {text}");
    assert_eq!(rendered(&text), "");
    meaning(&text)
}

#[test]
fn operators_bind_as_documented() {
    for (text, bracketed) in [
        ("-x^2 * y", "(-(x^2)) * y"),
        ("2^-a^b", "2^(-(a^b))"),
        ("a - b - c / d / e", "(a - b) - ((c / d) / e)"),
        ("not a == b and c or d", "((not (a == b)) and c) or d"),
        ("a + b |> f(1) |> g.h", "((a + b) |> f(1)) |> (g.h)"),
        ("0..n - 1", "0..(n - 1)"),
        ("if a then b else c + d |> f", "if a then b else ((c + d) |> f)"),
        ("a < b + 1", "a < (b + 1)"),
        ("-f(x)[i].h", "-((f(x))[i].h)"),
        ("- sum[i](x[i])^2", "-((sum[i](x[i]))^2)"),
        ("h.0.1", "(h.0).1"),
        ("20% + 1", "0.2 + 1"),
        ("(a == b) == c", "((a == b)) == c"),
    ] {
        assert_eq!(expression(text), expression(bracketed), "{text}");
    }
    assert_ne!(expression("(a,)"), expression("(a)"), "a tuple of one element");
    // What is just not too deep is taken, on a thread with the usual stack.
    expression(&format!("{}x{}", "f(a[".repeat(49), "])".repeat(49)));
    expression(&format!("{}x", "-a^".repeat(490)));
}

#[test]
fn statements_end_where_the_line_does() {
    let body = |text: &str| meaning(&format!("nn 1\nfn f(x: real) {{\n{text}\n}}"));
    assert_eq!(body("y = f(\n  x,\n  2\n) // c\n // d\n |> g\n z"), body("y = f(x, 2) |> g; z"));
    assert_eq!(body("y =\n x\n if a\n {\n b }\n else { c }"), body("y = x; if a { b } else { c }"));
    assert_eq!(
        body("s = scan e in x over T from (h: z) {\n a = e\n (h: a)\n}\ns.h"),
        body("s = scan e in x over T from (h: z) { a = e; (h: a) }; s.h")
    );
    assert_eq!(body("g(scan e in x over T from (h: z) {\n a = e\n (h: a)\n}\n)"), body("g(scan e in x over T from (h: z) { a = e; (h: a) })"));
}

#[test]
fn every_item_with_a_mistake_is_reported() {
    let text =
        "nn 1\ndim B,\nfn f(x: real) {\n    y = (x + 1\n}\nmodel Good(x: real[B]) -> real[B] { x }\nmodle Bad(x: real) { x }\nconst N = 3furlongs\n";
    let (tree, diagnostics) = parse(text, FileId(0));
    assert_eq!(codes(&diagnostics), ["E0108", "E0103", "E0107", "E0110"], "{}", rendered(text));
    assert_eq!(tree.items.len(), 1);
}

/// Wrong texts that are deep, long or both: each is refused, and quickly, on a thread with the usual stack.
#[test]
fn depth_and_junk_are_refused_in_time() {
    let many = |part: &str, n: usize| part.repeat(n);
    let million = 1 << 20;
    let bytes: String = (0..million as u64).map(|i| char::from(32 + (i.wrapping_mul(6364136223846793005).rotate_left(29) % 95) as u8)).collect();
    let texts = [
        format!("nn 1\nconst X = {}1{}", many("(", 10_000), many(")", 10_000)),
        format!("nn 1\nconst X = {}", many("(", million)),
        format!("nn 1\nconst X = {}", many("[a(", million / 3)),
        format!("nn 1\nconst X = {}x", many("-", million)),
        format!("nn 1\nconst X = a{}", many("^a", million / 2)),
        format!("nn 1\nconst X = a{}", many("[i](b)", million / 6)),
        format!("nn 1\nconst X = {}c", many("if a then b else ", million / 17)),
        format!("nn 1\nfn f(x: real) {{ {}", many("if a { ", million / 7)),
        format!("nn 1\nfn f(x: real) {{ {}", many("a[b(", 50)),
        format!("nn 1\nfn f(x: real) {{ {} + {} }}", many("(a[b(", 33), many(")])", 33)),
        many("fn f(\n", million / 6),
        many("fn f(x)\n", million / 8),
        many("\n", million) + "x",
        many("nn 1\n", million / 5),
        bytes.clone(),
        bytes.replace(' ', "\n"),
        format!("nn 1\nconst X = {bytes}"),
    ];
    for text in texts {
        let start = std::time::Instant::now();
        let (_, diagnostics) = parse(&text, FileId(0));
        let begin: String = text.chars().take(60).collect();
        assert!(!diagnostics.is_empty() && diagnostics.len() <= super::MAX_DIAGNOSTICS + 1, "{begin}");
        assert!(start.elapsed().as_secs_f64() < 1.0, "{begin} took {:?}", start.elapsed());
    }
}

#[test]
fn no_text_makes_the_parser_panic() {
    let mut random = 42u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % n.max(1)
    };
    let texts = [DIGITS, GPT, TAGGER, LIBRARY, REST];
    let marks =
        ["(", ")", "[", "]", "{", "}", "=", ":", ",", "\"", "\n", "%", "é", "..", "-", "if ", " in ", "9e999", "else", "|>", "\\", "'", "1x", "\r"];
    for _ in 0..2000 {
        let text = texts[below(texts.len())];
        let cut = |at: usize| (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let (a, b) = (cut(below(text.len())), cut(below(text.len())));
        let mutated = match below(4) {
            0 => format!("{}{}{}", &text[..a], marks[below(marks.len())], &text[a..]),
            1 => format!("{}{}", &text[..a], &text[cut(a + below(12)).max(a)..]),
            2 => format!("{}{}{}", &text[..a], &text[b..cut(b + below(40)).max(b)], &text[a..]),
            _ => text[..a].to_string(),
        };
        let shown = rendered(&mutated);
        match super::format(&mutated) {
            Ok(once) => assert_eq!(super::format(&once).as_deref(), Ok(once.as_str()), "{mutated}"),
            Err(_) => assert!(!shown.is_empty()),
        }
    }
}
