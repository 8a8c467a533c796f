//! Any text: checked, or refused with places that can be shown. What parses has one layout, in which it means the same; what is right becomes kernels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc::driver::{self, Checked, Input};
use nnc::ir::DType;

/// Longer programs are only checked: passes take their time.
const LOWERED: usize = 1000;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let checked = check(text);
    let (errors, _) = checked.counts();
    let rendered = checked.rendered(false);
    assert_eq!(rendered.is_empty(), checked.diagnostics.is_empty());
    assert_eq!(checked.program.is_some(), errors == 0, "a program, or its mistakes:\n{rendered}");
    if let Ok(laid_out) = nnc::parse::format(text) {
        assert_eq!(nnc::parse::format(&laid_out).as_ref(), Ok(&laid_out), "laid out twice");
        let again = check(&laid_out);
        assert_eq!(codes(&again), codes(&checked), "the layout is no part of the meaning:\n{laid_out}\n{}\n{rendered}", again.rendered(false));
        assert_eq!(shown(&again), shown(&checked), "the layout is no part of the meaning:\n{laid_out}");
    }
    if let (Some(program), true) = (&checked.program, text.len() <= LOWERED) {
        let lowered = driver::lower(driver::graph(program), &checked.sources);
        driver::manifest(program, &lowered, &checked.sources);
    }
});

fn check(text: &str) -> Checked {
    let load = |path: &str| match path {
        "half.nn" => Ok("nn 1\n\nfn half(x: real[...]) -> real[...] {\n    y[...] = x[...] / 2\n}\n".to_string()),
        "text.nn" => Ok(text.to_string()),
        _ => Err("there is no such file".to_string()),
    };
    driver::check(&Input { name: "fuzz.nn", text, load: &load, real: DType::F32, set: vec![] })
}

fn shown(checked: &Checked) -> Option<String> {
    checked.program.as_ref().map(nnc::check::print::program)
}

/// Which diagnostics there are; their order is that of the text.
fn codes(checked: &Checked) -> Vec<&'static str> {
    checked.diagnostics.iter().map(|d| d.code).collect()
}
