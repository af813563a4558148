//! Agents in programs of their own: libnice, by a C program that is built here, and aioice, by a Python program.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;

use super::Times;
use super::tap::Tap;
use crate::ice::scene::Scene;
use crate::{BenchError, Context};

const LIBNICE: &str = include_str!("libnice_pair.c");
const AIOICE: &str = include_str!("aioice_pair.py");

/// A program that holds both agents.
pub(in crate::ice) struct Program {
    command: Vec<String>,
}

impl Program {
    /// Builds the one for libnice.
    pub(super) fn libnice() -> Result<Program, BenchError> {
        let flags = output(Command::new("pkg-config").args(["--cflags", "--libs", "nice"]))?;
        let (source, binary) = (scratch("libnice_pair.c"), scratch("libnice_pair"));
        std::fs::write(&source, LIBNICE).context("writing a C program")?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-o"]).arg(&binary).arg(&source).args(flags.split_whitespace());
        output(&mut gcc)?;
        Ok(Program { command: vec![binary.display().to_string()] })
    }

    /// Finds a Python with aioice: `THIRL_PYTHON`, or what `cargo xtask test` made.
    pub(super) fn aioice() -> Result<Program, BenchError> {
        let own = std::env::current_exe().context("finding this program")?;
        let made = own.ancestors().nth(2).map(|target| target.join("venv/bin/python"));
        let python = std::env::var_os("THIRL_PYTHON").map(PathBuf::from).or(made).unwrap_or_default();
        output(Command::new(&python).args(["-c", "import aioice"]))?;
        let script = scratch("aioice_pair.py");
        std::fs::write(&script, AIOICE).context("writing a Python program")?;
        Ok(Program { command: vec![python.display().to_string(), script.display().to_string()] })
    }

    pub(super) fn connect(
        &self,
        tap: &Tap,
        scene: &Scene,
        rng: &mut StdRng,
    ) -> Result<[Times; 2], BenchError> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running(command.spawn().context(self.command.join(" "))?);
        let (Some(mut input), Some(out)) = (running.0.stdin.take(), running.0.stdout.take()) else {
            return Err(self.error("it has no standard input and output"));
        };
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        let mut port = || lines.next().and_then(|line| line.parse().ok());
        let (Some(a), Some(b)) = (port(), port()) else { return Err(self.error("it told no ports")) };
        let told = tap.tell([a, b], scene, rng)?;
        let mut text = String::new();
        for (n, told) in told.iter().enumerate() {
            told.iter().for_each(|line| text.push_str(&format!("{n} {line}\n")));
        }
        input.write_all((text + "go\n").as_bytes()).context("telling candidates")?;
        let mut times = [Times::default(); 2];
        for line in lines {
            let [side, what, after] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let Some(times) = side.parse().ok().and_then(|side: usize| times.get_mut(side)) else { continue };
            let after = after.parse().ok().map(Duration::from_micros);
            match what {
                "works" => times.works = after,
                "nominated" => times.nominated = after,
                _ => {}
            }
        }
        Ok(times)
    }

    fn error(&self, what: &str) -> BenchError {
        BenchError::Figures(format!("{}: {what}", self.command.join(" ")))
    }
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("thirl-bench-{}-{name}", std::process::id()))
}

impl Drop for Program {
    fn drop(&mut self) {
        for name in ["libnice_pair.c", "libnice_pair", "aioice_pair.py"] {
            let path = scratch(name);
            if self.command.contains(&path.display().to_string()) || name.ends_with(".c") {
                std::fs::remove_file(path).ok();
            }
        }
    }
}

fn output(command: &mut Command) -> Result<String, BenchError> {
    let what = format!("{command:?}");
    let output = command.output().context(&what)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::Figures(format!("{what}: {said}")))
}
