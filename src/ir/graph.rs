//! Functions of primitives: nodes with ordered operands and typed ids. The only file that names petgraph.

use crate::ir::nest::{Nest, Place, Scatter};
use crate::ir::scalar::{DType, Scalar};
use crate::ir::size::Size;
use crate::span::Span;
use std::sync::Arc;

/// Index of a function in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(pub u32);

/// Index of a node in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// One result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub result: u32,
}

/// A tensor type: element type and symbolic shape, outermost axis first; storage is row-major unless a plan says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    /// Of the elements.
    pub dtype: DType,
    /// Empty for a scalar.
    pub shape: Vec<Size>,
}

impl Type {
    /// `dtype[shape]`
    pub fn new(dtype: DType, shape: impl Into<Vec<Size>>) -> Type {
        Type { dtype, shape: shape.into() }
    }

    /// A rank-0 tensor.
    pub fn scalar(dtype: DType) -> Type {
        Type { dtype, shape: vec![] }
    }
}

/// A primitive. Operands are the node's; every operation is pure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Input number `n` of the function. No operands.
    Input(usize),
    /// A literal tensor, row-major; its shape is constant. No operands.
    Constant(Arc<[Scalar]>),
    /// See [`Nest`].
    Nest(Nest),
    /// See [`Place`].
    Place(Place),
    /// See [`Scatter`].
    Scatter(Scatter),
    /// See [`Scan`].
    Scan(Scan),
    /// Sorts along the last axis: results are the sorted values and their positions (i64). Stable; NaN is largest.
    Sort { descending: bool },
    /// Splits and merges adjacent axes: same elements in the same row-major order, the node's type has the new shape.
    Reshape,
    /// The operand; its derivative is zero.
    StopGradient,
    /// Results of `function` on the operands.
    Call(FunctionId),
    /// The operand number 0, once every element of operand 1 (bool) is true; else the run stops with the message and the node's span.
    Check(Arc<str>),
}

/// A loop: `body(i, carries.., slices.., constants..) -> (carries.., stacked..)` for `i` in `0..length`, backwards if `reversed`.
///
/// Operands: initial carries, then sequences, then constants. `i` (i64 scalar) is the body's first input and always the position along time.
/// Results: final carries, then stacked outputs; the axis of time is put in at the stated place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// One step.
    pub body: FunctionId,
    /// The number of steps.
    pub length: Size,
    /// From the last to the first.
    pub reversed: bool,
    /// How many values are carried.
    pub carries: usize,
    /// For each sequence operand, which axis is time.
    pub inputs: Vec<usize>,
    /// For each stacked result, which axis is time.
    pub outputs: Vec<usize>,
}

/// A node: an operation, its operands, the types of its results.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// On what.
    pub operands: Vec<Value>,
    /// One type a result.
    pub types: Vec<Type>,
    /// The binding's name in the source, where it has one: for readers only.
    pub name: Option<Arc<str>>,
    /// The source.
    pub span: Span,
}

/// A function: inputs to results through nodes in topological order (operands come first).
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Unique in the module; printed after `@`.
    pub name: Arc<str>,
    /// Name and type of every input: data, then weights (by their path relative to the function), states, scalars, key.
    pub inputs: Vec<Input>,
    /// In topological order. Inputs are nodes too, in any place before their use.
    pub nodes: Vec<Node>,
    /// The results, named where the source names them.
    pub results: Vec<(Option<Arc<str>>, Value)>,
    /// Own derivative instead of the derived one.
    pub gradient: Option<CustomGradient>,
}

/// An input of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub ty: Type,
}

/// A derivative written by hand.
///
/// `forward(inputs..) -> (results.., saved..)` and `backward(saved.., cotangents..) -> cotangents of inputs [of]`: for the inputs numbered in `wrt`, in that order;
/// the others' are zero. There is a cotangent for every result that is a float, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomGradient {
    /// Results and saved values.
    pub forward: FunctionId,
    /// From saved values and cotangents.
    pub backward: FunctionId,
    /// Which inputs `backward`'s results belong to.
    pub wrt: Vec<usize>,
}

/// A declared dim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim {
    /// Its name.
    pub name: Arc<str>,
    /// Smallest size, at least 0.
    pub min: i64,
    /// Largest size, where bounded.
    pub max: Option<i64>,
}

/// A whole program in one stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Free dims, in declaration order.
    pub dims: Vec<Dim>,
    /// The functions; callees come before callers.
    pub functions: Vec<Function>,
    /// What a user can run.
    pub entries: Vec<Entry>,
}

/// A function that can be run from outside, and what its inputs and results are.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `init`, `train:fit`, `eval:fit`, `infer:Digits`, `finish:fit`
    pub name: Arc<str>,
    /// The function.
    pub function: FunctionId,
    /// For each input, where it comes from.
    pub inputs: Vec<nnc_runtime::manifest::Source>,
    /// For each result, where it goes.
    pub results: Vec<nnc_runtime::manifest::Sink>,
}

impl Module {
    /// The same program with these functions.
    pub fn with(&self, functions: Vec<Function>) -> Module {
        Module { dims: self.dims.clone(), functions, entries: self.entries.clone() }
    }

    /// The function.
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.0 as usize]
    }

    /// Adds a function; a name already taken gets `.2`, `.3`, ...
    pub fn add(&mut self, mut function: Function) -> FunctionId {
        let base = function.name.clone();
        let mut n = 1;
        while self.functions.iter().any(|f| f.name == function.name) {
            n += 1;
            function.name = format!("{base}.{n}").into();
        }
        self.functions.push(function);
        FunctionId(self.functions.len() as u32 - 1)
    }

    /// The function called `name`.
    pub fn find(&self, name: &str) -> Option<FunctionId> {
        self.functions.iter().position(|f| &*f.name == name).map(|i| FunctionId(i as u32))
    }
}

impl Function {
    /// An empty function.
    pub fn new(name: &str) -> Function {
        Function { name: name.into(), inputs: vec![], nodes: vec![], results: vec![], gradient: None }
    }

    /// A function of the same name, inputs and gradient that holds nothing yet.
    pub fn like(f: &Function) -> Function {
        Function { name: f.name.clone(), inputs: f.inputs.clone(), nodes: vec![], results: vec![], gradient: f.gradient.clone() }
    }

    /// The node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The value's type.
    pub fn ty(&self, value: Value) -> &Type {
        &self.node(value.node).types[value.result as usize]
    }

    /// Every node with its id, operands first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }

    /// Appends a node with one result and returns it.
    pub fn push(&mut self, op: Op, operands: impl Into<Vec<Value>>, ty: Type, span: Span) -> Value {
        Value { node: self.push_node(Node { op, operands: operands.into(), types: vec![ty], name: None, span }), result: 0 }
    }

    /// Appends a node.
    pub fn push_node(&mut self, node: Node) -> NodeId {
        debug_assert!(node.operands.iter().all(|v| (v.node.0 as usize) < self.nodes.len()), "operand of a later node: {node:?}");
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// Declares an input and returns its value.
    pub fn input(&mut self, name: &str, ty: Type) -> Value {
        let n = self.inputs.len();
        self.inputs.push(Input { name: name.into(), ty: ty.clone() });
        let node = Node { op: Op::Input(n), operands: vec![], types: vec![ty], name: Some(name.into()), span: Span::default() };
        Value { node: self.push_node(node), result: 0 }
    }

    /// Appends a map or fold nest over `operands`; the type follows from the nest.
    ///
    /// # Panics
    /// If the body is ill-typed.
    pub fn nest(&mut self, nest: Nest, operands: impl Into<Vec<Value>>, span: Span) -> Value {
        let operands = operands.into();
        let dtype = nest.body.dtype(&|k| self.ty(operands[k]).dtype).unwrap_or_else(|| panic!("ill-typed nest {nest:?}"));
        let mut types = vec![Type::new(dtype, nest.outs.clone())];
        if nest.fold.results() == 2 {
            types.push(Type::new(DType::I64, nest.outs.clone()));
        }
        Value { node: self.push_node(Node { op: Op::Nest(nest), operands, types, name: None, span }), result: 0 }
    }

    /// Appends a call of `callee`; its results are `Value { node, result: 0.. }`.
    pub fn call(&mut self, id: FunctionId, callee: &Function, operands: impl Into<Vec<Value>>, span: Span) -> NodeId {
        let types = callee.results.iter().map(|(_, v)| callee.ty(*v).clone()).collect();
        self.push_node(Node { op: Op::Call(id), operands: operands.into(), types, name: None, span })
    }

    /// The dependency graph as DOT, for pictures and for those who want petgraph's algorithms.
    pub fn dot(&self, module: &Module) -> String {
        let mut graph = petgraph::graph::DiGraph::<String, u32>::new();
        let ids: Vec<_> = self.iter().map(|(id, _)| graph.add_node(crate::ir::print::node(module, self, id))).collect();
        for (id, node) in self.iter() {
            for operand in &node.operands {
                graph.add_edge(ids[operand.node.0 as usize], ids[id.0 as usize], operand.result);
            }
        }
        format!("{}", petgraph::dot::Dot::with_config(&graph, &[petgraph::dot::Config::EdgeNoLabel]))
    }
}
