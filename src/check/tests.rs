use super::*;

fn run(text: &str) -> (Option<Program>, Vec<Diagnostic>, Sources) {
    let mut sources = Sources::default();
    let root = sources.add("test.nn", text);
    let (program, found) = check(&mut sources, root, &|_| Err("no files here".into()), &Options::default());
    (program, found, sources)
}

fn check_ok(text: &str) -> Program {
    let (program, found, sources) = run(text);
    assert!(found.is_empty(), "{}", crate::diagnostic::render(&found, &sources, false) + &format!("{found:#?}"));
    program.expect("a program")
}

#[test]
fn models_pass() {
    let mut files: Vec<_> = std::fs::read_dir("models").expect("models").flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "nn"));
    files.sort();
    assert!(files.len() >= 12);
    for path in files {
        check_ok(&std::fs::read_to_string(&path).expect("readable"));
    }
}
