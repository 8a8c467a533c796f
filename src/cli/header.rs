//! C for one program: a header with functions of its own over those of `nnc.h`, and a program that calls one of them.
//!
//! Names of C are made of the program's: what is no letter or digit becomes `_`, and a name that is taken or is a word of the language gets one more.

use nnc_runtime::dtype::DType;
use nnc_runtime::manifest::Manifest;
use nnc_runtime::signature::{self, Argument, Signature};
use nnc_runtime::size::Size;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Words that C and C++ keep for themselves, and those of the functions around.
const TAKEN: &str = "alignas alignof and asm auto bool break case catch char class compl const constexpr continue default delete do double else enum \
    explicit export extern false float for friend goto if inline int long mutable namespace new not nullptr operator or private protected public register \
    restrict return short signed sizeof static struct switch template this throw true try typedef typeof union unsigned using virtual void volatile while xor \
    main model status arrays results NULL";

/// The program's name as one of C: that of its file without the ending.
pub fn name(manifest: &Manifest) -> String {
    let stem = std::path::Path::new(&manifest.source).file_stem().map_or("model".into(), |s| s.to_string_lossy().into_owned());
    identifier(&stem)
}

fn identifier(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if plain.starts_with(|c: char| c.is_ascii_digit()) || plain.is_empty() { format!("m{plain}") } else { plain }
}

fn c_type(dtype: DType) -> (&'static str, &'static str) {
    match dtype {
        DType::F32 => ("float", "NNC_F32"),
        DType::F64 => ("double", "NNC_F64"),
        DType::I64 => ("int64_t", "NNC_I64"),
        DType::Bool => ("uint8_t", "NNC_BOOL"),
    }
}

/// Names of one function, each once.
struct Names(BTreeSet<String>);

impl Names {
    fn new() -> Names {
        Names(TAKEN.split_whitespace().map(str::to_string).collect())
    }

    fn take(&mut self, text: &str) -> String {
        let mut name = identifier(text);
        while !self.0.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}

/// A function of C for what can be run: its name, what it calls, and its parameters' names.
struct Function<'a> {
    name: String,
    calls: &'static str,
    signature: &'a Signature,
    dims: BTreeMap<Arc<str>, String>,
    inputs: Vec<String>,
    results: Vec<String>,
}

impl<'a> Function<'a> {
    /// Nothing where a size is no polynomial of dims, which C has no word for.
    fn new(name: String, calls: &'static str, signature: &'a Signature) -> Option<Function<'a>> {
        let mut dims = BTreeSet::new();
        signature.inputs.iter().flat_map(|a| &a.shape).for_each(|s| s.visit_dims(&mut |d| _ = dims.insert(d.clone())));
        let mut names = Names::new();
        let dims = dims.into_iter().map(|d| (d.clone(), names.take(&d))).collect();
        let mut take = |all: &[Argument]| all.iter().map(|a| names.take(&a.name)).collect();
        let (inputs, results) = (take(&signature.inputs), take(&signature.results));
        let plain = signature.inputs.iter().flat_map(|a| &a.shape).all(|s| !s.to_string().contains('('));
        plain.then_some(Function { name, calls, signature, dims, inputs, results })
    }

    fn size(&self, size: &Size) -> String {
        size.substitute(&|dim| self.dims.get(dim).map(|d| Size::dim(d))).to_string()
    }

    fn text(&self) -> String {
        let metrics = self.calls != "nnc_infer";
        let dims = self.dims.values().map(|d| format!("int64_t {d}"));
        let inputs = self.signature.inputs.iter().zip(&self.inputs).map(|(a, name)| format!("const {} *{name}", c_type(a.dtype).0));
        let results = self.signature.results.iter().zip(&self.results).map(|(a, name)| match metrics {
            true => format!("double *{name}"),
            false => format!("const {} **{name}", c_type(a.dtype).0),
        });
        let parameters: Vec<String> = std::iter::once("nnc_model *model".to_string()).chain(dims).chain(inputs).chain(results).collect();
        let mut body = String::new();
        let mut arrays = vec![];
        for (argument, name) in self.signature.inputs.iter().zip(&self.inputs) {
            let shape: Vec<String> = argument.shape.iter().map(|s| self.size(s)).collect();
            let mut place = "NULL".to_string();
            if !shape.is_empty() {
                place = format!("nnc_shape_{}", arrays.len());
                body += &format!("    const int64_t {place}[] = {{{}}};\n", shape.join(", "));
            }
            arrays.push(format!("{{\"{}\", {}, {}, {place}, {name}}}", argument.name, c_type(argument.dtype).1, shape.len()));
        }
        let given = if arrays.is_empty() { "NULL".into() } else { "arrays".to_string() };
        if !arrays.is_empty() {
            body += &format!("    const nnc_array arrays[] = {{{}}};\n", arrays.join(", "));
        }
        body += &format!("    const nnc_status status = {}(model, \"{}\", {given}, {});\n", self.calls, self.signature.name, arrays.len());
        body += "    if (status == NNC_OK) {\n        const nnc_array *results = nnc_results(model, NULL);\n";
        for (i, (argument, name)) in self.signature.results.iter().zip(&self.results).enumerate() {
            body += &match metrics {
                true => format!("        if ({name}) *{name} = *(const double *)results[{i}].data;\n"),
                false => format!("        if ({name}) *{name} = (const {} *)results[{i}].data;\n", c_type(argument.dtype).0),
            };
        }
        format!("static inline nnc_status {}({}) {{\n{body}    }}\n    return status;\n}}\n", self.name, parameters.join(", "))
    }
}

/// What is called, the words of its C name, and what it is.
const OF_RECIPES: [(&str, &str, &str); 3] = [
    ("nnc_train_step", "train_step", "A step of the optimizer on one batch, and the batch's metrics"),
    ("nnc_train_epoch", "train_epoch", "A pass of training over all samples, and its metrics"),
    ("nnc_eval", "eval", "Metrics on all samples"),
];

/// Where there are several of a kind, a function's name ends in which it is.
fn function_name(program: &str, verb: &str, of: &Signature, several: bool) -> String {
    if several { format!("{program}_{verb}_{}", identifier(&of.name)) } else { format!("{program}_{verb}") }
}

/// The header of a program.
pub fn header(manifest: &Manifest) -> String {
    let name = name(manifest);
    let guard = format!("NNC_{}_H", name.to_uppercase());
    let mut text = format!(
        "/* {}, compiled by nnc {}: its functions over libnnc's. Written by nnc; link with {name}.o and libnnc. */\n#ifndef {guard}\n#define {guard}\n\n\
         #include \"nnc.h\"\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n\
         /* The artifact, in {name}.o. */\nextern const unsigned char {name}_artifact[];\nextern const uint64_t {name}_artifact_size;\n\n\
         /* Loads it; nnc_close() ends its life. */\nstatic inline nnc_status {name}_open(nnc_model **model) {{\n    \
         return nnc_open_memory({name}_artifact, (size_t){name}_artifact_size, model);\n}}\n",
        comment(&manifest.source),
        manifest.compiler
    );
    let (models, recipes) = (signature::models(manifest), signature::recipes(manifest));
    let mut add = |what: &str, signature: &Signature, function: Option<Function>| {
        let body = function.map_or("/* Its sizes are no polynomials: call it by the functions of nnc.h. */\n".into(), |f| f.text());
        text += &format!("\n/* {what}:\n * {}. */\n{body}", comment(&signature.to_string()));
    };
    for model in &models {
        let function = Function::new(function_name(&name, "infer", model, models.len() > 1), "nnc_infer", model);
        add("Infers; a result is the model's until its next call, and may be left out (NULL)", model, function);
    }
    for recipe in &recipes {
        for (calls, verb, what) in OF_RECIPES {
            add(what, recipe, Function::new(function_name(&name, verb, recipe, recipes.len() > 1), calls, recipe));
        }
    }
    text + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
}

/// A program that runs the first model that has a function of its own, on made-up inputs.
pub fn example(manifest: &Manifest, weights: bool) -> Option<String> {
    let (name, models) = (name(manifest), signature::models(manifest));
    let of = |model| Function::new(function_name(&name, "infer", model, models.len() > 1), "nnc_infer", model);
    let function = models.iter().find_map(of)?;
    let least = |dim: &str| manifest.dims.iter().find(|d| *d.name == *dim).map_or(1, |d| d.min.max(1));
    let mut body: String = function.dims.iter().map(|(dim, c)| format!("    const int64_t {c} = {};\n", least(dim))).collect();
    body += &format!("    nnc_model *model;\n    check({name}_open(&model));\n");
    if !weights {
        body += "    check(nnc_initialise(model, 0)); /* the artifact holds no weights */\n";
    }
    for (argument, c) in function.signature.inputs.iter().zip(&function.inputs) {
        let count: Vec<String> = argument.shape.iter().map(|s| format!("({})", function.size(s))).collect();
        let count = if count.is_empty() { "1".into() } else { count.join(" * ") };
        let ty = c_type(argument.dtype).0;
        body += &format!("    {ty} *{c} = ({ty} *)calloc((size_t)({count}), sizeof *{c});\n");
        if argument.dtype.is_float() {
            body += &format!("    for (int64_t i = 0; i < {count}; i++) {c}[i] = ({ty})(i % 10) * ({ty})0.1f;\n");
        }
    }
    let dims = function.dims.values().cloned();
    let left_out = function.results.iter().map(|_| "NULL".to_string());
    let arguments: Vec<String> = std::iter::once("model".into()).chain(dims).chain(function.inputs.iter().cloned()).chain(left_out).collect();
    body += &format!("    check({}({}));\n    print(model);\n", function.name, arguments.join(", "));
    function.inputs.iter().for_each(|c| body += &format!("    free({c});\n"));
    Some(format!("{}{EXAMPLE}{body}    nnc_close(model);\n    return 0;\n}}\n", EXAMPLE_HEAD.replace("NAME", &name)))
}

const EXAMPLE_HEAD: &str = "\
/* Runs a model of NAME on made-up inputs and prints what comes out. Build it with
 *     cc NAME_example.c NAME.o libnnc.a -lm -lpthread -ldl -o NAME_example
 * or with libnnc.so: cc NAME_example.c NAME.o -L. -lnnc -Wl,-rpath,'$ORIGIN' -o NAME_example */
#include \"NAME.h\"
";

const EXAMPLE: &str = "\
#include <stdio.h>
#include <stdlib.h>

static void check(nnc_status status) {
    if (status != NNC_OK) {
        fprintf(stderr, \"error: %s\\n\", nnc_error());
        exit(status);
    }
}

/* Digits enough to read back the same number. */
static void print(nnc_model *model) {
    size_t count;
    const nnc_array *results = nnc_results(model, &count);
    for (size_t r = 0; r < count; r++) {
        int64_t size = 1;
        for (size_t axis = 0; axis < results[r].rank; axis++) size *= results[r].shape[axis];
        printf(\"%s\\n\", results[r].name);
        for (int64_t i = 0; i < size; i++) {
            switch (results[r].dtype) {
            case NNC_F32: printf(\"%.9g\\n\", ((const float *)results[r].data)[i]); break;
            case NNC_F64: printf(\"%.17g\\n\", ((const double *)results[r].data)[i]); break;
            case NNC_I64: printf(\"%lld\\n\", (long long)((const int64_t *)results[r].data)[i]); break;
            default: printf(\"%d\\n\", ((const uint8_t *)results[r].data)[i]);
            }
        }
    }
}

int main(void) {
";

/// Nothing that ends a comment.
fn comment(text: &str) -> String {
    text.replace("*/", "* /").replace(['\n', '\r'], " ")
}
