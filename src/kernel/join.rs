//! Maps over one box as one stage: what several of them compute is computed once, and what one stores and the next reads stays in registers.
//!
//! In: a kernel whose stages are a nest each. Out: one that means the same, with fewer stages; a stage without a fold may have several results.

use crate::ir::Fold;
use crate::kernel::{Index, Instr, Kernel, Stage, Store, Target};

/// Stages do not grow over so many instructions.
const LARGEST: usize = 160;

/// Joins neighbouring maps wherever nothing can tell.
pub fn join(kernel: &mut Kernel) {
    let mut stages: Vec<Stage> = Vec::with_capacity(kernel.stages.len());
    for stage in std::mem::take(&mut kernel.stages) {
        match stages.last_mut().map(|last| joined(last, &stage)) {
            Some(Some(both)) => *stages.last_mut().expect("it was joined with") = both,
            _ => stages.push(stage),
        }
    }
    kernel.stages = stages;
    unread(kernel);
}

/// Takes out locals that nobody reads, because they stayed in registers.
fn unread(kernel: &mut Kernel) {
    let read: Vec<bool> =
        (0..kernel.locals.len()).map(|local| kernel.stages.iter().any(|s| any(&s.body, &|i| matches!(i, Instr::Local(l) if *l == local)))).collect();
    let numbers: Vec<usize> = read.iter().scan(0, |next, read| Some(std::mem::replace(next, *next + *read as usize))).collect();
    let mut kept = read.iter();
    kernel.locals.retain(|_| *kept.next().unwrap_or(&true));
    for stage in &mut kernel.stages {
        renumber(&mut stage.body, &numbers);
        stage.stores.retain(|s| !matches!(s.target, Target::Local(l) if !read[l]));
        for store in &mut stage.stores {
            if let Target::Local(l) = &mut store.target {
                *l = numbers[*l];
            }
        }
        if stage.fold == Fold::None && stage.values.len() > 1 {
            let used: Vec<usize> = (0..stage.values.len()).filter(|v| stage.stores.iter().any(|s| s.result == *v)).collect();
            stage.stores.iter_mut().for_each(|s| s.result = used.iter().position(|v| *v == s.result).expect("it is stored"));
            let used = used.into_iter().map(|v| stage.values[v]).collect::<Vec<_>>();
            stage.values = if used.is_empty() { vec![stage.values[0]] } else { used };
        }
    }
}

fn renumber(body: &mut [Instr], numbers: &[usize]) {
    for instr in body {
        match instr {
            Instr::Local(l) => *l = numbers[*l],
            Instr::Select { then, otherwise, .. } => [then, otherwise].into_iter().for_each(|side| renumber(&mut side.0, numbers)),
            Instr::Const(_) | Instr::Load { .. } | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => {}
        }
    }
}

fn any(body: &[Instr], such: &dyn Fn(&Instr) -> bool) -> bool {
    body.iter().any(|i| match i {
        Instr::Select { then, otherwise, .. } => any(&then.0, such) || any(&otherwise.0, such),
        i => such(i),
    })
}

/// What a stage leaves: the numbers of the values that its stores put somewhere.
struct Left<'a> {
    locals: Vec<(usize, usize)>,
    elements: Vec<(usize, &'a [Index], usize)>,
}

/// `b` after `a` at each point instead of after all of `a`.
fn joined(a: &Stage, b: &Stage) -> Option<Stage> {
    let plain = |s: &Stage| s.fold == Fold::None && s.guards.is_empty() && !s.skip;
    if !plain(a) || !plain(b) || a.inner != b.inner || a.body.len() + b.body.len() > LARGEST {
        return None;
    }
    let mut left = Left { locals: vec![], elements: vec![] };
    for store in &a.stores {
        let value = a.values[store.result];
        match &store.target {
            Target::Local(l) => left.locals.push((*l, value)),
            Target::Param { param, index, fold: None } => left.elements.push((*param, index, value)),
            Target::Param { .. } => return None,
        }
    }
    for store in &b.stores {
        if let Target::Param { param, index, fold } = &store.target {
            // Other points of `a` come later now.
            let read = any(&a.body, &|i| matches!(i, Instr::Load { param: p, .. } if p == param));
            let affine = index.iter().all(|i| matches!(i, Index::Affine(_)));
            if read || fold.is_some() || !affine || left.elements.iter().any(|(p, ..)| p == param) {
                return None;
            }
        }
    }
    let (mut body, mut numbers) = (a.body.clone(), vec![]);
    left.block(&b.body, &mut numbers, &mut body, 0)?;
    let mut values = a.values.clone();
    values.extend(b.values.iter().map(|v| numbers[*v]));
    let more = a.values.len();
    let later = b.stores.iter().map(|s| Store { result: s.result + more, ..s.clone() });
    let stores = a.stores.iter().cloned().chain(later).collect();
    Some(Stage { body, values, stores, ..a.clone() })
}

impl Left<'_> {
    /// Appends a block to `to`, whose first instruction has number `first`; `numbers` are the new ones of what the block may refer to.
    fn block(&self, body: &[Instr], numbers: &mut Vec<usize>, to: &mut Vec<Instr>, first: usize) -> Option<()> {
        for instr in body {
            let new = match instr {
                Instr::Load { param, index, otherwise } => {
                    let mut here = self.elements.iter().filter(|(p, ..)| p == param);
                    if let Some((_, at, value)) = here.next() {
                        // What was stored, if it is that and nothing else.
                        if here.next().is_some() || index != at || index.iter().any(|i| matches!(i, Index::Value(_))) {
                            return None;
                        }
                        numbers.push(*value);
                        continue;
                    }
                    let index = index.iter().map(|i| if let Index::Value(v) = i { Index::Value(numbers[*v]) } else { i.clone() });
                    Instr::Load { param: *param, index: index.collect(), otherwise: *otherwise }
                }
                Instr::Local(l) => match self.locals.iter().rev().find(|(local, _)| local == l) {
                    Some((_, value)) => {
                        numbers.push(*value);
                        continue;
                    }
                    None => instr.clone(),
                },
                Instr::Op(op, args) => Instr::Op(*op, args.iter().map(|a| numbers[*a]).collect()),
                Instr::Cast(ty, from) => Instr::Cast(*ty, numbers[*from]),
                Instr::Select { condition, then, otherwise } => {
                    let own = first + to.len();
                    let side = |(body, value): &(Vec<Instr>, usize)| {
                        let (mut inside, mut block) = (numbers.clone(), vec![]);
                        self.block(body, &mut inside, &mut block, own)?;
                        Some(Box::new((block, inside[*value])))
                    };
                    Instr::Select { condition: numbers[*condition], then: side(then)?, otherwise: side(otherwise)? }
                }
                Instr::Const(_) | Instr::Index(_) | Instr::Holds(_) => instr.clone(),
            };
            // Numbers inside blocks depend on where they stand.
            let known = to.iter().position(|old| {
                *old == new && !matches!(&new, Instr::Select { then, otherwise, .. } if !then.0.is_empty() || !otherwise.0.is_empty())
            });
            numbers.push(first + known.unwrap_or(to.len()));
            if known.is_none() {
                to.push(new);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::parse::kernel;
    use crate::kernel::print;

    const PAIR: &str = "kernel f(n0) {
  p0: f32[n0, 8]
  p1: out f32[n0, 8]
  p2: out f32[n0, 8]
  outer [i0 < n0]
  stage map inner [i1 < 8] {
    %0 = load p0[i0, i1]
    %1 = tanh %0
    fold %1
    p1[i0, i1] = result 0
  }
  stage map inner [i1 < 8] {
    %0 = 2.0
    %1 = load p0[i0, i1]
    %2 = tanh %1
    %3 = %2 <= %0
    %4 = select %3 {
      %4 = load p1[i0, i1]
      %5 = %4 * %0
      yield %5
    } else {
      yield %1
    }
    fold %4
    p2[i0, i1] = result 0
  }
}
";

    #[test]
    fn maps_of_one_box_are_one_stage() {
        let mut found = kernel(PAIR).unwrap();
        join(&mut found);
        crate::kernel::verify::check(&found);
        let text = print::kernel(&found);
        let expected = "  stage map inner [i1 < 8] {
    %0 = load p0[i0, i1]
    %1 = tanh %0
    %2 = 2.0
    %3 = %1 <= %2
    %4 = select %3 {
      %4 = %1 * %2
      yield %4
    } else {
      yield %0
    }
    fold %1, %4
    p1[i0, i1] = result 0
    p2[i0, i1] = result 1
  }
";
        assert!(text.contains(expected), "{text}");
        assert!(kernel(&text).unwrap() == found, "{text}");
    }

    /// What other points left, or will leave, and another box.
    #[test]
    fn maps_that_wait_for_others_stay_apart() {
        for (from, to) in [
            ("%4 = load p1[i0, i1]", "%4 = load p1[i0, 7 - i1]"),
            ("p2[i0, i1] = result 0", "p1[i0, i1] = result 0"),
            ("stage map inner [i1 < 8] {\n    %0 = 2.0", "stage map inner [i1 < 7] {\n    %0 = 2.0"),
        ] {
            let text = PAIR.replace(from, to);
            assert!(text != PAIR, "{from}");
            let mut found = kernel(&text).unwrap();
            join(&mut found);
            assert_eq!(found.stages.len(), 2, "{}", print::kernel(&found));
        }
    }
}
