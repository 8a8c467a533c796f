//! `data` sections: files, columns with their scaling and meaning, parts.

use crate::check::Checker;
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::ir::{DType, Size};
use crate::parse::tree::{self, Axis, BinaryOp, Entry, ExprKind, SectionKind, UnaryOp};
use crate::span::Span;
use nnc_runtime::recipe::{self, Format, Header, Part, Scaling, Table};
use std::sync::Arc;

/// A column as recipes see it.
#[derive(Clone, Debug)]
pub struct ColumnInfo {
    /// For the runtime; its shape is filled in once it is known.
    pub column: recipe::Column,
    /// Of the elements.
    pub meaning: Meaning,
    /// One sample's shape; unknown where only the file knows it.
    pub shape: Option<Vec<Size>>,
    /// The name's place.
    pub span: Span,
    /// Read by a recipe or to stratify.
    pub used: bool,
}

/// A section being checked.
#[derive(Clone, Debug, Default)]
pub struct DataInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Files.
    pub tables: Vec<(Table, Span, bool)>,
    /// Columns.
    pub columns: Vec<ColumnInfo>,
    /// Parts.
    pub parts: Vec<(Part, Span)>,
    /// Names that were given something wrong: what they stand for is reported already.
    pub broken: Vec<Arc<str>>,
    /// Whether a recipe uses it.
    pub used: bool,
}

const FILES: &[&str] = &["csv", "npz", "npy"];
const COLUMN_WORDS: &[&str] = &["columns", "column", "standardize", "reshape", "classes", "split", "csv", "npz", "npy"];

impl Checker<'_> {
    /// All `data` sections.
    pub(super) fn check_data_sections(&mut self) {
        for section in self.sections(SectionKind::Data) {
            let mut info = DataInfo { name: section.name.name.clone(), ..DataInfo::default() };
            for entry in &section.entries {
                match entry {
                    Entry::Set { name, value, ty } => self.data_entry(&mut info, name, value, ty.as_ref()),
                    Entry::Do(e) => {
                        self.wrong("E0601", "a `data` section has names and their values only", e.span, "no name");
                    }
                }
            }
            for (part, span) in info.parts.clone() {
                if let Some(column) = &part.stratify {
                    match info.columns.iter_mut().find(|c| c.column.name == *column) {
                        Some(c) if matches!(c.meaning, Meaning::Class(_)) => c.used = true,
                        Some(c) => {
                            let d = Diagnostic::error("E0604", format!("`stratify` needs classes, but `{column}` is none"), span, "stratified here");
                            let d = d.label(c.span, "declared here");
                            self.report(d.note("say how many there are: `label = table.column(\"label\"): class<10>`"));
                        }
                        None if info.broken.contains(column) => {}
                        None => {
                            let known: Vec<&str> = info.columns.iter().map(|c| &*c.column.name).collect();
                            self.unknown("E0602", "the column", column, span, &known);
                        }
                    }
                }
            }
            let total: f64 = info.parts.iter().map(|(p, _)| p.fraction).sum();
            if total >= 1.0
                && let Some((_, span)) = info.parts.last()
            {
                self.wrong("E0604", "the parts leave no rows to train on", *span, format!("together {}%", total * 100.0));
            }
            for (table, span, used) in &info.tables.clone() {
                if !used && info.broken.is_empty() {
                    self.wrong("E0605", format!("`{}` is read but not used", table.name), *span, "no column comes from it");
                }
            }
            self.data.push(info);
        }
    }

    fn data_entry(&mut self, info: &mut DataInfo, name: &tree::Ident, value: &tree::Expr, ty: Option<&tree::TypeExpr>) {
        let taken = info.tables.iter().any(|(t, ..)| t.name == name.name)
            || info.columns.iter().any(|c| c.column.name == name.name)
            || info.parts.iter().any(|(p, _)| p.name == name.name);
        if taken {
            self.wrong("E0202", format!("`{}` is declared twice", name.name), name.span, "again here");
            return;
        }
        if let ExprKind::Call { callee, args } = &value.kind
            && let ExprKind::Name(word) = &callee.kind
        {
            if FILES.contains(&&**word) {
                match self.table(name, word, args, value.span) {
                    Some(table) => info.tables.push((table, name.span, false)),
                    None => info.broken.push(name.name.clone()),
                }
                return;
            }
            if &**word == "split" {
                if let Some(part) = self.part(name, args, value.span) {
                    info.parts.push((part, value.span));
                }
                return;
            }
        }
        let mut column = ColumnInfo {
            column: recipe::Column {
                name: name.name.clone(),
                table: 0,
                fields: vec![],
                classes_named: vec![],
                steps: vec![],
                dtype: self.options.real,
                shape: vec![],
                bound: None,
            },
            meaning: Meaning::Plain,
            shape: None,
            span: name.span,
            used: false,
        };
        if self.column(info, value, &mut column).is_some() && self.annotate(&mut column, ty).is_some() {
            info.columns.push(column);
        } else {
            info.broken.push(name.name.clone());
        }
    }

    fn text<'t>(&mut self, e: &'t tree::Expr, what: &str) -> Option<&'t Arc<str>> {
        match &e.kind {
            ExprKind::Text(t) => Some(t),
            _ => {
                self.wrong("E0603", format!("{what} is a text in quotes"), e.span, "here");
                None
            }
        }
    }

    fn table(&mut self, name: &tree::Ident, word: &str, args: &[tree::Arg], span: Span) -> Option<Table> {
        let Some(path) = args.iter().find(|a| a.name.is_none()) else {
            self.wrong("E0503", format!("`{word}` needs the path of a file"), span, "not given");
            return None;
        };
        let path = self.text(&path.value, "a path")?.clone();
        if path.is_empty() {
            self.wrong("E0603", "a path is not empty", span, "here");
            return None;
        }
        let (mut header, mut separator) = (Header::First, b',');
        for a in args.iter().skip(1) {
            match a.name.as_ref().map(|n| &*n.name) {
                Some("header") if word == "csv" => {
                    header = match &a.value.kind {
                        ExprKind::Bool(true) => Header::First,
                        ExprKind::Bool(false) => Header::None,
                        ExprKind::List(parts) => {
                            let mut names = vec![];
                            for p in parts {
                                names.extend(self.fields(p, &Header::None)?);
                            }
                            Header::Names(names)
                        }
                        _ => {
                            self.wrong("E0603", "`header` is `true`, `false` or a list of names", a.value.span, "here");
                            return None;
                        }
                    }
                }
                Some("separator") if word == "csv" => match self.text(&a.value, "a separator")?.as_bytes() {
                    [one] => separator = *one,
                    _ => {
                        self.wrong("E0603", "a separator is one character", a.value.span, "here");
                        return None;
                    }
                },
                Some(other) => {
                    let span = a.name.as_ref().map_or(a.value.span, |n| n.span);
                    let known: &[&str] = if word == "csv" { &["header", "separator"] } else { &[] };
                    self.unknown("E0501", &format!("`{word}` has no parameter:"), other, span, known);
                    return None;
                }
                None => {
                    self.wrong("E0502", format!("`{word}` takes one path"), a.value.span, "one too many");
                    return None;
                }
            }
        }
        let format = match word {
            "csv" => Format::Csv { header, separator },
            "npz" => Format::Npz,
            _ => Format::Npy,
        };
        Some(Table { name: name.name.clone(), path, format })
    }

    fn part(&mut self, name: &tree::Ident, args: &[tree::Arg], span: Span) -> Option<Part> {
        if !matches!(&*name.name, "valid" | "test") {
            let mut d = Diagnostic::error("E0604", format!("there is no part `{}`", name.name), name.span, "parts are `valid` and `test`");
            if let Some(near) = did_you_mean(&name.name, ["valid", "test"]) {
                d = d.fix(format!("did you mean `{near}`?"), name.span, near);
            }
            self.report(d.note("what remains is `train`"));
            return None;
        }
        let (mut fraction, mut seed, mut stratify) = (None, 0, None);
        for a in args {
            match a.name.as_ref().map(|n| &*n.name) {
                None => {
                    let x = self.plain_number(&a.value)?;
                    if !(x > 0.0 && x < 1.0) {
                        self.wrong("E0604", "a part is a share between 0% and 100%", a.value.span, format!("this is {}%", x * 100.0));
                        return None;
                    }
                    fraction = Some(x);
                }
                Some("seed") => seed = self.natural(&a.value, "a seed")? as u64,
                Some("stratify") => match &a.value.kind {
                    ExprKind::Name(n) => stratify = Some(n.clone()),
                    _ => {
                        self.wrong("E0603", "`stratify` takes a column's name", a.value.span, "here");
                        return None;
                    }
                },
                Some(other) => {
                    let at = a.name.as_ref().map_or(span, |n| n.span);
                    self.unknown("E0501", "`split` has no parameter:", other, at, &["seed", "stratify"]);
                    return None;
                }
            }
        }
        let Some(fraction) = fraction else {
            self.wrong("E0503", "`split` needs a share", span, "for example `split(20%, seed: 42)`");
            return None;
        };
        Some(Part { name: name.name.clone(), fraction, seed, stratify })
    }

    /// A number known when compiling.
    pub(super) fn plain_number(&mut self, e: &tree::Expr) -> Option<f64> {
        let mut b = Body::new("".into(), false, self.options.real, false);
        match self.expr(&mut b, e) {
            Value::Poison => None,
            Value::Static(s) if s.number().is_some() => s.number(),
            other => {
                self.wrong("E0603", "a number is needed here", e.span, format!("this is {}", other.describe()));
                None
            }
        }
    }

    /// A whole number that is not negative.
    pub(super) fn natural(&mut self, e: &tree::Expr, what: &str) -> Option<i64> {
        let n = self.whole(e)?;
        if n < 0 {
            self.wrong("E0603", format!("{what} is not negative"), e.span, format!("this is {n}"));
            return None;
        }
        Some(n)
    }

    /// Names that an argument of `columns` stands for; `a..b` where only the file knows what is between.
    fn fields(&mut self, e: &tree::Expr, header: &Header) -> Option<Vec<String>> {
        match &e.kind {
            ExprKind::Text(t) => Some(vec![t.to_string()]),
            ExprKind::Int(n) if *n >= 0 => Some(vec![n.to_string()]),
            ExprKind::Range(a, c) => match (&a.kind, &c.kind) {
                (ExprKind::Int(x), ExprKind::Int(y)) if x <= y && y - x < 1_000_000 => Some((*x..=*y).map(|n| n.to_string()).collect()),
                (ExprKind::Text(x), ExprKind::Text(y)) => {
                    if let Header::Names(names) = header {
                        let at = |n: &str| names.iter().position(|m| m == n);
                        if let (Some(i), Some(j)) = (at(x), at(y))
                            && i <= j
                        {
                            return Some(names[i..=j].to_vec());
                        }
                    }
                    let digits = |s: &str| s.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + s[i..].chars().next().map_or(1, char::len_utf8));
                    let ((p, n), (q, m)) = (x.split_at(digits(x)), y.split_at(digits(y)));
                    match (n.parse::<u32>(), m.parse::<u32>()) {
                        (Ok(n), Ok(m)) if p == q && n <= m && m - n < 1_000_000 => Some((n..=m).map(|k| format!("{p}{k}")).collect()),
                        _ => Some(vec![format!("{x}..{y}")]),
                    }
                }
                _ => {
                    self.wrong("E0603", "a range of columns goes from a name to a name or from a number to a number", e.span, "here");
                    None
                }
            },
            _ => {
                self.wrong("E0603", "a column is named by a text or a number", e.span, "here");
                None
            }
        }
    }

    fn column(&mut self, info: &mut DataInfo, e: &tree::Expr, out: &mut ColumnInfo) -> Option<()> {
        match &e.kind {
            ExprKind::Binary(op @ (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div), x, y) => {
                let (inner, other, left) = if reads_table(x) { (x, y, true) } else { (y, x, false) };
                self.column(info, inner, out)?;
                let c = self.plain_number(other)?;
                match (op, left) {
                    (BinaryOp::Add, _) => out.column.steps.push(Scaling::Add(c)),
                    (BinaryOp::Mul, _) => out.column.steps.push(Scaling::Mul(c)),
                    (BinaryOp::Sub, true) => out.column.steps.push(Scaling::Add(-c)),
                    (BinaryOp::Sub, false) => out.column.steps.extend([Scaling::Mul(-1.0), Scaling::Add(c)]),
                    (_, true) if c == 0.0 => {
                        self.wrong("E0304", "division by zero", other.span, "the divisor is 0");
                        return None;
                    }
                    (_, true) => out.column.steps.push(Scaling::Div(c)),
                    (_, false) => {
                        self.wrong("E0603", "a column is divided by a number, not the other way round", e.span, "here");
                        return None;
                    }
                }
                Some(())
            }
            ExprKind::Unary(UnaryOp::Neg, x) => {
                self.column(info, x, out)?;
                out.column.steps.push(Scaling::Mul(-1.0));
                Some(())
            }
            ExprKind::Pipe(x, f) => {
                let (callee, mut args) = match &f.kind {
                    ExprKind::Call { callee, args } => (callee.clone(), args.clone()),
                    _ => (f.clone(), vec![]),
                };
                args.insert(0, tree::Arg { name: None, value: (**x).clone() });
                self.column(info, &tree::Expr { kind: ExprKind::Call { callee, args }, span: e.span }, out)
            }
            ExprKind::Call { callee, args } => match &callee.kind {
                ExprKind::Field(base, word) => self.fields_of(info, base, word, args, e.span, out),
                ExprKind::Name(word) => self.transform(info, word, callee.span, args, e.span, out),
                _ => {
                    self.not_a_column(e.span);
                    None
                }
            },
            _ => {
                self.not_a_column(e.span);
                None
            }
        }
    }

    fn not_a_column(&mut self, span: Span) {
        let d = Diagnostic::error("E0601", "this is neither a file, nor a column, nor a part", span, "not a value of a `data` section");
        self.report(d.note("for example `table = csv(\"a.csv\")`, `x = table.columns(\"a\", \"b\") / 16`, `test = split(20%, seed: 1)`"));
    }

    fn fields_of(
        &mut self,
        info: &mut DataInfo,
        base: &tree::Expr,
        word: &tree::Ident,
        args: &[tree::Arg],
        span: Span,
        out: &mut ColumnInfo,
    ) -> Option<()> {
        let ExprKind::Name(table) = &base.kind else {
            if matches!(&*word.name, "standardize" | "reshape" | "classes") {
                let d = Diagnostic::error("E0601", format!("`{}` is no method", word.name), word.span, "a function here");
                self.report(d.note(format!("functions take columns as arguments: `{0}(x, ..)`, or `x |> {0}(..)`", word.name)));
            } else {
                self.not_a_column(span);
            }
            return None;
        };
        let Some(at) = info.tables.iter().position(|(t, ..)| t.name == *table) else {
            if info.broken.contains(table) {
                return None;
            }
            let known: Vec<&str> = info.tables.iter().map(|(t, ..)| &*t.name).collect();
            self.unknown("E0602", "the file", table, base.span, &known);
            return None;
        };
        info.tables[at].2 = true;
        out.column.table = at;
        let header = match &info.tables[at].0.format {
            Format::Csv { header, .. } => Some(header.clone()),
            Format::Npz | Format::Npy => None,
        };
        let one = match &*word.name {
            "columns" => false,
            "column" => true,
            "rows" if args.is_empty() => {
                out.shape = Some(vec![]);
                out.column.dtype = DType::I64;
                return Some(());
            }
            other => {
                self.unknown("E0602", "a file has no:", other, word.span, &["columns", "column", "rows"]);
                return None;
            }
        };
        let mut fields = vec![];
        for a in args {
            fields.extend(self.fields(&a.value, header.as_ref().unwrap_or(&Header::First))?);
        }
        if fields.is_empty() || one && (fields.len() > 1 || fields[0].contains("..")) {
            self.wrong("E0502", format!("`{}` needs {}", word.name, if one { "one name" } else { "names" }), span, "here");
            return None;
        }
        if let Some(Header::Names(names)) = &header {
            for f in &fields {
                if !names.contains(f) && !f.contains("..") && f.parse::<usize>().map_or(true, |n| n >= names.len()) {
                    let known: Vec<&str> = names.iter().map(String::as_str).collect();
                    self.unknown("E0602", "the column", f, span, if known.len() > 12 { &known[..0] } else { &known });
                    return None;
                }
            }
        }
        let counted = header.is_some() && !fields.iter().any(|f| f.contains(".."));
        out.shape = match (one, counted) {
            (true, _) if header.is_some() => Some(vec![]),
            (false, true) => Some(vec![Size::constant(fields.len() as i64)]),
            _ => None,
        };
        out.column.fields = fields;
        Some(())
    }

    fn transform(&mut self, info: &mut DataInfo, word: &str, at: Span, args: &[tree::Arg], span: Span, out: &mut ColumnInfo) -> Option<()> {
        let Some(first) = args.first() else {
            self.not_a_column(span);
            return None;
        };
        match word {
            "standardize" if args.len() == 1 => {
                self.column(info, &first.value, out)?;
                out.column.steps.push(Scaling::Standardize);
                Some(())
            }
            "reshape" => {
                self.column(info, &first.value, out)?;
                let mut shape = vec![];
                for a in &args[1..] {
                    shape.push(Size::constant(self.natural(&a.value, "a size")?));
                }
                let product = |s: &[Size]| s.iter().try_fold(Size::constant(1), |s, x| s.checked_mul(x));
                if let Some(old) = &out.shape
                    && product(old) != product(&shape)
                {
                    let message = format!("{} cannot become {}: the numbers of elements differ", shape_text(old), shape_text(&shape));
                    self.wrong("E0314", message, span, "reshaped here");
                    return None;
                }
                out.shape = Some(shape);
                Some(())
            }
            "classes" => {
                self.column(info, &first.value, out)?;
                let Some(ExprKind::List(parts)) = args.get(1).map(|a| &a.value.kind) else {
                    self.wrong("E0503", "`classes` needs the words in order", span, "for example `classes(t.column(\"kind\"), [\"cat\", \"dog\"])`");
                    return None;
                };
                for p in parts {
                    let word = self.text(p, "a class")?.to_string();
                    if out.column.classes_named.contains(&word) {
                        self.wrong("E0603", format!("the class \"{word}\" is listed twice"), p.span, "again here");
                        return None;
                    }
                    out.column.classes_named.push(word);
                }
                Some(())
            }
            other => {
                self.unknown("E0602", "in a `data` section the function", other, at, COLUMN_WORDS);
                None
            }
        }
    }

    /// Type and meaning from the annotation.
    fn annotate(&mut self, out: &mut ColumnInfo, ty: Option<&tree::TypeExpr>) -> Option<()> {
        let words = out.column.classes_named.len() as i64;
        if let Some(ty) = ty {
            let mut b = Body::new("".into(), false, self.options.real, false);
            let (dtype, meaning) = self.head(&mut b, ty, false)?;
            out.column.dtype = dtype;
            out.meaning = meaning;
            if let Some(axes) = &ty.shape {
                let mut shape = vec![];
                for axis in axes {
                    let Axis::Size(e) = axis else {
                        self.wrong("E0603", "a column's axes are sizes", ty.span, "here");
                        return None;
                    };
                    shape.push(self.size(&mut b, e)?);
                }
                let product = |s: &[Size]| s.iter().try_fold(Size::constant(1), |s, x| s.checked_mul(x));
                if let Some(old) = &out.shape
                    && product(old) != product(&shape)
                {
                    let message = format!("the column has the shape {} for each row, but is declared {}", shape_text(old), shape_text(&shape));
                    self.wrong("E0302", message, ty.span, "declared here");
                    return None;
                }
                out.shape = Some(shape);
            }
        } else if words > 0 {
            out.column.dtype = DType::I64;
            out.meaning = Meaning::Class(Size::constant(words));
        }
        if let Meaning::Class(n) | Meaning::Token(n) = &out.meaning {
            let at = ty.map_or(out.span, |t| t.span);
            let n = self.constant_size(n, at, "how many classes or words there are")?;
            if words > 0 && words != n {
                self.wrong("E0402", format!("{words} words are listed for {n} classes"), at, format!("{n} classes"));
                return None;
            }
            out.column.bound = Some(n);
        } else if words > 0 {
            self.wrong("E0402", "words stand for classes", ty.map_or(out.span, |t| t.span), format!("write `class<{words}>`"));
            return None;
        }
        Some(())
    }

    /// Sections into the program, and names that nobody reads.
    pub(super) fn finish_data(&mut self) {
        for info in std::mem::take(&mut self.data) {
            // Another mistake may be why nothing reads it.
            let good = self.errors() == 0;
            for c in info.columns.iter().filter(|c| good && info.used && !c.used) {
                let d = Diagnostic::error("E0605", format!("the column `{}` is not used", c.column.name), c.span, "no recipe reads it");
                self.report(d.note("remove it, or use it in a `train` section"));
            }
            let columns = info.columns.into_iter().map(|c| {
                let shape = c.shape.unwrap_or_default().iter().map(|s| s.as_const().unwrap_or(-1)).collect();
                recipe::Column { shape, ..c.column }
            });
            self.program.data.push(recipe::Data {
                name: info.name,
                tables: info.tables.into_iter().map(|(t, ..)| t).collect(),
                columns: columns.collect(),
                parts: info.parts.into_iter().map(|(p, _)| p).collect(),
            });
        }
    }
}

/// Whether a file is read somewhere in the expression.
fn reads_table(e: &tree::Expr) -> bool {
    match &e.kind {
        ExprKind::Call { callee, args } => matches!(callee.kind, ExprKind::Field(..)) || args.iter().any(|a| reads_table(&a.value)),
        ExprKind::Binary(_, x, y) | ExprKind::Pipe(x, y) => reads_table(x) || reads_table(y),
        ExprKind::Unary(_, x) => reads_table(x),
        _ => false,
    }
}
