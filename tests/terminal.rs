//! What people see and answer on a terminal: the bar of a run, the questions of a review. A pseudo-terminal stands for it.

use crate::support::desk::{Desk, PROGRAM, models};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, ExitStatus};

/// What stands on a terminal where `command` runs and `typed` is typed, with its echo; and how the command ends.
fn on_a_terminal(mut command: Command, typed: &str) -> (String, ExitStatus) {
    let (mut own, mut its) = (0, 0);
    let size = libc::winsize { ws_row: 30, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: places for two descriptors, no name, the usual settings, a size; both are nobody else's then.
    let (mut own, its) = unsafe {
        assert_eq!(libc::openpty(&mut own, &mut its, std::ptr::null_mut(), std::ptr::null(), &size), 0);
        (File::from_raw_fd(own), OwnedFd::from_raw_fd(its))
    };
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let mut child = command.stdin(its.try_clone().unwrap()).stdout(its.try_clone().unwrap()).stderr(its).spawn().unwrap();
    // Its end is seen here once nobody else holds the other side.
    drop(command);
    own.write_all(typed.as_bytes()).unwrap();
    let (mut screen, mut some) = (vec![], [0; 4096]);
    while let Ok(n @ 1..) = own.read(&mut some) {
        screen.extend_from_slice(&some[..n]);
    }
    (String::from_utf8_lossy(&screen).into_owned(), child.wait().unwrap())
}

/// 200 epochs of one sample a step last longer, on any machine, than it takes until the bar says how it goes.
#[test]
fn a_run_shows_how_far_it_is() {
    let desk = Desk::new();
    let args =
        format!("run {} --set train.batch=1 --set train.epochs=200 --set early_stop.patience=200 --threads 1", models().join("digits.nn").display());
    let (screen, ended) = on_a_terminal(desk.command(&args), "");
    assert!(ended.success(), "{screen}");
    let frames: Vec<&str> = screen.split('\r').filter(|frame| frame.contains('━')).collect();
    let whole = frames.iter().find(|frame| frame.contains(" left")).unwrap_or_else(|| panic!("{screen}"));
    for part in ["epoch ", "/200 ", "/1258  loss ", "  accuracy 0.", " samples/s  "] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    // What stays are an epoch's lines, the curves and where it is saved; the bar is gone.
    let end = screen.rsplit("\x1b[2K").next().unwrap();
    assert!(!end.contains('━') && end.trim_end().ends_with("saved in runs/digits/fit/1"), "{end}");
    let piped = desk.run(&args);
    assert!(piped.stderr.is_empty() && !piped.stdout.iter().any(|b| [b'\r', 0x1b].contains(b)), "{}", String::from_utf8_lossy(&piped.stdout));
}

#[test]
fn a_review_asks_about_each_difference() {
    let desk = Desk::new();
    let snap = "snap kinds.nn --part interface,plan,graph";
    desk.done(snap);
    let read = || ["interface", "plan", "graph"].map(|part| String::from_utf8(desk.read(&format!("snapshots/kinds.{part}.snap"))).unwrap());
    let before = read();
    desk.write("kinds.nn", PROGRAM.replace("\"fc\"", "\"out\""));
    let review = || desk.command(&format!("{snap} --review"));
    let (screen, ended) = on_a_terminal(review(), "perhaps\ny\nn\nq\n");
    assert_eq!(ended.code(), Some(130), "{screen}");
    let asked = |part: &str| screen.matches(&format!("accept snapshots/kinds.{part}.snap? [y]es, [n]o, [q]uit: ")).count();
    assert_eq!(["interface", "plan", "graph"].map(asked), [2, 1, 1], "{screen}");
    assert!(screen.contains("\x1b[31m-") && screen.contains("\x1b[32m+"), "{screen}");
    let after = read();
    assert!(after[0].contains("Kinds.out.bias") && after[1..] == before[1..], "only what was agreed to is written");
    // What was refused is asked again, and a review in which all is agreed to leaves nothing.
    let (screen, ended) = on_a_terminal(review(), "n\ny\n");
    assert_eq!(ended.code(), Some(1), "{screen}");
    assert!(on_a_terminal(review(), "yes\n").1.success());
    desk.done(&format!("{snap} --ci"));
}
