//! The texts of the library and of the models.

use nnc::span::Sources;

#[test]
fn every_text_parses_and_is_formatted() {
    for folder in ["src/std", "models", "models/bench"] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "nn") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let mut sources = Sources::default();
            let id = sources.add(&path.to_string_lossy(), &text);
            let (_, diagnostics) = nnc::parse::parse(&text, id);
            assert!(diagnostics.is_empty(), "{}", nnc::diagnostic::render(&diagnostics, &sources, false));
            assert!(nnc::parse::format(&text).is_ok_and(|laid_out| laid_out == text), "`nnc fmt {}` changes it", path.display());
        }
    }
}
