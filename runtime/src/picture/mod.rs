//! Graphs as pictures: nodes in nested groups, edges from what makes a value to what reads it. As DOT for Graphviz, or laid out as SVG that needs nothing else.
//!
//! In: a [`Picture`] without circles, also none among groups (a group's nodes and what is outside of it never wait for each other). Out: text, the same for
//! the same picture. Names may hold anything.

mod layout;
mod svg;

use std::fmt::Write;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Given from outside at every run.
    Input,
    /// A stored tensor.
    Parameter,
    /// Known when compiling.
    Constant,
    /// Computed.
    Operation,
    /// Handed out.
    Result,
}

/// A box.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Lines of text; the first is its name.
    pub lines: Vec<String>,
    /// The whole story, for who points at it; may be empty.
    pub about: String,
    /// How it looks.
    pub kind: Kind,
    /// The group that it is in.
    pub group: Option<usize>,
}

/// A frame around nodes and other groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Above its content.
    pub name: String,
    /// The group that it is in, one before it.
    pub within: Option<usize>,
}

/// An arrow.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// A node.
    pub from: usize,
    /// Another, behind it.
    pub to: usize,
    /// What goes along it: element type and shape.
    pub label: String,
}

/// A graph to look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// What it shows.
    pub title: String,
    /// The boxes.
    pub nodes: Vec<Node>,
    /// The frames.
    pub groups: Vec<Group>,
    /// The arrows.
    pub edges: Vec<Edge>,
}

impl Picture {
    /// One more box.
    pub fn node(&mut self, lines: Vec<String>, about: String, kind: Kind, group: Option<usize>) -> usize {
        self.nodes.push(Node { lines, about, kind, group });
        self.nodes.len() - 1
    }

    /// One more frame.
    pub fn group(&mut self, name: &str, within: Option<usize>) -> usize {
        self.groups.push(Group { name: name.into(), within });
        self.groups.len() - 1
    }

    /// One more arrow, unless it is there.
    pub fn edge(&mut self, from: usize, to: usize, label: &str) {
        let edge = Edge { from, to, label: label.into() };
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    /// The frame's and its frames' numbers, innermost first.
    fn frames(&self, mut group: Option<usize>) -> Vec<usize> {
        let mut all = vec![];
        while let Some(g) = group {
            all.push(g);
            group = self.groups[g].within;
        }
        all
    }

    /// For Graphviz: `dot -Tsvg`.
    pub fn dot(&self) -> String {
        let mut text = format!("digraph {} {{\n", quoted(&self.title));
        text += "  rankdir=TB; fontname=\"sans-serif\"; node [shape=box, style=\"rounded,filled\", fillcolor=\"#f5f6f8\", color=\"#99a1ad\", fontname=\"sans-serif\", fontsize=11];\n";
        text += "  edge [color=\"#5b78b8\", fontname=\"sans-serif\", fontsize=9, fontcolor=\"#556070\"];\n";
        self.dot_of(None, 1, &mut text);
        for edge in &self.edges {
            let _ = writeln!(text, "  n{} -> n{} [label={}];", edge.from, edge.to, quoted(&edge.label));
        }
        text + "}\n"
    }

    fn dot_of(&self, group: Option<usize>, depth: usize, text: &mut String) {
        let indent = "  ".repeat(depth);
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.group == group) {
            let look = match node.kind {
                Kind::Input => ", shape=ellipse, fillcolor=\"#dbeafe\"",
                Kind::Parameter => ", shape=cylinder, fillcolor=\"#fef3c7\"",
                Kind::Constant => ", shape=note, fillcolor=\"#ede9fe\"",
                Kind::Operation => "",
                Kind::Result => ", shape=ellipse, fillcolor=\"#d1fae5\"",
            };
            let about = if node.about.is_empty() { String::new() } else { format!(", tooltip={}", quoted(&node.about)) };
            let _ = writeln!(text, "{indent}n{i} [label={}{look}{about}];", quoted(&node.lines.join("\n")));
        }
        for (g, inner) in self.groups.iter().enumerate().filter(|(_, g)| g.within == group) {
            let _ = writeln!(text, "{indent}subgraph cluster_{g} {{\n{indent}  label={}; style=rounded; color=\"#b8bfca\";", quoted(&inner.name));
            self.dot_of(Some(g), depth + 1, text);
            let _ = writeln!(text, "{indent}}}");
        }
    }

    /// Laid out, in colours that follow the reader's choice of light or dark.
    pub fn svg(&self) -> String {
        svg::write(self, true)
    }

    /// The same as a part of an HTML page.
    pub(crate) fn figure(&self) -> String {
        svg::write(self, false)
    }
}

/// A string of DOT's: what is special in it is escaped, and nothing else can end it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
