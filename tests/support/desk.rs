//! A folder in which the built `nnc` is used as a person would.

use nnc_runtime::artifact::Artifact;
use nnc_runtime::tensors::Tensors;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A classifier of two numbers, [`POINTS`] its data.
pub const PROGRAM: &str = "\
nn 1

dim B

model Kinds(x: f32[B, 2]) -> logits[B, 3] {
    linear(x, 3, name: \"fc\")
}

data points {
    table = csv(\"points.csv\")
    x     = table.columns(\"a\", \"b\")
    kind  = table.column(\"kind\"): class<3>
}

train fit {
    data      = points
    scores    = Kinds(x)
    loss      = cross_entropy(scores, kind)
    optimizer = sgd(lr: 0.1)
    batch     = 2
    epochs    = 2
    seed      = 1
}
";

/// Four rows.
pub const POINTS: &str = "a,b,kind\n0,1,0\n1,0,1\n1,1,2\n0.5,0,1\n";

/// The built command.
pub const NNC: &str = env!("CARGO_BIN_EXE_nnc");

/// A folder to work in, and what was typed there.
pub struct Desk {
    pub folder: tempfile::TempDir,
    pub transcript: String,
}

impl Desk {
    /// With `kinds.nn` and its data.
    pub fn new() -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap(), transcript: String::new() };
        desk.write("kinds.nn", PROGRAM);
        desk.write("points.csv", POINTS);
        desk
    }

    /// Where `name` is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `nnc` with these words, in the folder.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(NNC);
        command.current_dir(self.folder.path()).args(args.split_whitespace()).env_remove("NNC_LEVEL").env_remove("CI");
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs what must work.
    pub fn done(&self, args: &str) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "nnc {args}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail with `code`, into the transcript; standard output must stay empty.
    pub fn fails(&mut self, code: i32, args: &str) {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "nnc {args}\n{said}");
        assert!(output.stdout.is_empty(), "nnc {args}\n{}", String::from_utf8_lossy(&output.stdout));
        self.transcript += &format!("$ nnc {args}\n{}\n[{code}]\n\n", said.trim_end());
    }

    /// As [`Desk::fails`], after a word about what is special.
    pub fn fails_with(&mut self, what: &str, code: i32, args: &str) {
        self.transcript += &format!("# {what}\n");
        self.fails(code, args);
    }

    /// Compares the transcript.
    pub fn snapshot(&self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../../snapshots/cli");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, self.transcript));
    }

    /// Writes `word` for a figure that is right but changes with the machine code.
    pub fn stands_for(&mut self, figure: &str, word: &str) {
        assert!(self.transcript.contains(figure), "{figure}\n{}", self.transcript);
        self.transcript = self.transcript.replace(figure, word);
    }

    /// Names in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Parameters and states of a finished run.
    pub fn weights(&self, run: &str) -> Tensors {
        let manifest = Artifact::read(&self.path(run).join("model.nnc")).unwrap().manifest;
        let mut tensors: Vec<_> = manifest.tensors;
        tensors.retain(|t| t.role != nnc_runtime::manifest::Role::Optimizer);
        let mut store = Tensors::new(&tensors).unwrap();
        nnc_runtime::weights::load(&mut store, &self.path(run).join("best.safetensors")).unwrap();
        store
    }
}

/// The programs that are shipped.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// The file `name` of the runtime's package `package`: built here as it is shipped, without LLVM.
pub fn runtime(package: &str, name: &str) -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["build", "--quiet", "--package", package, "--message-format", "json"];
    let output = Command::new(cargo).current_dir(env!("CARGO_MANIFEST_DIR")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let messages: Vec<serde_json::Value> = lines.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let mut files = messages.iter().flat_map(|m| m["filenames"].as_array().into_iter().flatten()).filter_map(|f| f.as_str());
    PathBuf::from(files.find(|f| f.ends_with(&format!("/{name}"))).expect("cargo names what it built"))
}
