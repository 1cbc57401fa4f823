//! The C library, by those for whom it is: a C program and a Rust process exchange buffers, a C program does all wrong that it
//! can, a Python program reads.
//!
//! The programs beside this file are compiled by `cc` and `c++`, with every warning an error, and run under the sanitizers of
//! the compiler and under valgrind where there are any.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::large_stack_frames,
    reason = "a test stops at the first thing that is not as expected"
)]

#[path = "../host_process/mod.rs"]
mod host_process;

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use host_process::private::{not_run, output};
use host_process::{Folder, again, lines, role};
use serde_json::Value;
use spinwire_dataplane::pool::{Description, PoolError, PoolGeometry, Shape};
use spinwire_dataplane::shm::lease;
use spinwire_hostshim::mem::{PageKind, PagePolicy};
use spinwire_hostshim::plane::Plane;
use spinwire_hostshim::pool::{BufferPool, PoolConfig, PoolHandle};
use spinwire_layouts::shm::{BufferId, DType};

const PATIENCE: Duration = Duration::from_secs(60);
const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-D_GNU_SOURCE"];

fn here(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(part)
}

/// The folder of `libspinwire.so`, which cargo builds for this.
fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--locked", "--message-format=json", "--manifest-path"])
            .arg(here("../hostshim/capi/Cargo.toml"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(built.status.success(), "the library does not build");
        let text = String::from_utf8(built.stdout).unwrap();
        let mut names = text.lines().filter_map(|line| {
            let message: Value = serde_json::from_str(line).unwrap();
            let names = message["filenames"].as_array()?.clone();
            names
                .iter()
                .filter_map(Value::as_str)
                .find(|n| n.ends_with("/libspinwire.so"))
                .map(PathBuf::from)
        });
        names.next_back().expect("libspinwire.so").parent().unwrap().to_owned()
    })
}

/// Compiles a program beside this file into `folder`; `None`, told aloud, where there is no such compiler or sanitizer.
fn compile(folder: &Folder, compiler: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    if let Err(e) = output(compiler, &["--version"]) {
        not_run(
            &format!("{source} by {compiler}"),
            &format!("{e}; remedy: apt-get install gcc g++"),
        );
        return None;
    }
    let name = Path::new(source).file_name().unwrap().to_string_lossy();
    let program = folder.path().join(format!("{name}-{compiler}-{}", flags.len()));
    let library = library();
    let mut command = Command::new(compiler);
    command.args(flags).args(WARNINGS).arg("-I").arg(here("../hostshim/capi/include"));
    command.arg(here("tests/c_library").join(source)).arg("-o").arg(&program);
    command.arg("-L").arg(library).args(["-lspinwire", "-lpthread"]);
    command.arg(format!("-Wl,-rpath,{}", library.display()));
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success()
        && flags.iter().any(|f| f.contains("sanitize"))
        && said.contains("cannot find")
    {
        not_run(&format!("{source} under sanitizers"), "the compiler has none");
        return None;
    }
    assert!(ran.status.success(), "{compiler} {flags:?} {source}: {said}");
    Some(program)
}

/// Runs a program to its end, with its segments in a folder that is empty afterwards.
fn run(program: &Path, wrapper: &[&str], arguments: &[&str]) -> String {
    let segments = Folder::new();
    let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(std::ffi::OsStr::new).collect();
    words.push(program.as_os_str());
    let mut command = Command::new(words.first().unwrap());
    command.args(words.get(1..).unwrap()).args(arguments);
    let ran = command.env("SPINWIRE_SHM_DIR", segments.path()).output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(segments.names(), Vec::<String>::new(), "left behind");
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn what_c_does_wrong_is_told() {
    let folder = Folder::new();
    if let Some(program) = compile(&folder, "cc", "misuse.c", &["-std=c11"]) {
        assert_eq!(run(&program, &[], &[]), "done\n");
        let valgrind = [
            "valgrind",
            "-q",
            "--error-exitcode=9",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite",
        ];
        match output("valgrind", &["--version"]) {
            Ok(_) => assert_eq!(run(&program, &valgrind, &["checked"]), "done\n"),
            Err(e) => not_run(
                "misuse.c under valgrind",
                &format!("{e}; remedy: apt-get install valgrind"),
            ),
        }
    }
    let sanitizers = ["-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    if let Some(program) = compile(&folder, "cc", "misuse.c", &sanitizers) {
        assert_eq!(run(&program, &[], &["checked"]), "done\n");
    }
    if let Some(program) = compile(&folder, "c++", "misuse.c", &["-x", "c++", "-std=c++17"]) {
        assert_eq!(run(&program, &[], &[]), "done\n");
    }
}

/// The C end of an exchange.
struct Partner {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Partner {
    fn start(program: &Path, pool: &str) -> Self {
        let mut command = Command::new(program);
        command.arg(pool);
        Self::start_as(&mut command)
    }

    fn start_as(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let (input, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut partner = Self { child, input, said: BufReader::new(out).lines() };
        assert_eq!(partner.hear(), "open");
        partner
    }

    fn hear(&mut self) -> String {
        self.said.next().expect("it has ended early: see above").unwrap()
    }

    fn ask(&mut self, text: &str) -> String {
        writeln!(self.input, "{text}").unwrap();
        self.hear()
    }

    fn id(&mut self, text: &str) -> BufferId {
        BufferId::from_raw(self.ask(text).parse().unwrap())
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

const fn config() -> PoolConfig {
    PoolConfig {
        geometry: PoolGeometry::new(4).class(4096, 8),
        pages: PagePolicy::Only(PageKind::Base4K),
        death_noticed_within: Duration::from_millis(20),
    }
}

/// A tensor of floats, 3 x 4, and what `exchange.c` expects to hear of it.
fn floats(handle: &PoolHandle<'_>) -> BufferId {
    let mut guard = handle.acquire(48).unwrap();
    let bytes: Vec<u8> = (0..12_u8).flat_map(|n| (f32::from(n) * 0.5).to_le_bytes()).collect();
    guard.copy_from(0, &bytes).unwrap();
    let label = |text: &str| {
        let mut label = [0; 32];
        label.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        label
    };
    let shape = Shape::contiguous(DType::F32, &[3, 4]).unwrap();
    let description = Description {
        timestamp_ns: 123_456_789,
        sequence: 42,
        content_type: label("tensor/test"),
        producer: label("rust"),
        ..Description::new(DType::F32, shape)
    };
    guard.describe(&description).unwrap();
    guard.detach().unwrap()
}

/// What `exchange.c` fills in.
fn check_integers(handle: &PoolHandle<'_>, id: BufferId, detached: bool) {
    let guard = if detached { handle.adopt(id) } else { handle.get(id) }.unwrap();
    let description = guard.description().unwrap();
    assert_eq!(description.dtype, DType::I32);
    assert_eq!(
        (description.shape.lengths(), description.shape.strides()),
        (&[2, 5][..], &[20, 4][..])
    );
    assert_eq!((description.timestamp_ns, description.sequence), (987_654_321, 7));
    assert_eq!(&description.content_type, b"0123456789abcdef0123456789abcdef");
    assert!(description.producer.starts_with(b"c\0"));
    let mut bytes = [0; 40];
    guard.copy_to(0, &mut bytes).unwrap();
    let numbers: Vec<i32> =
        bytes.as_chunks().0.iter().map(|four| i32::from_le_bytes(*four)).collect();
    assert_eq!(numbers, (0..10).map(|n| n * n - 20).collect::<Vec<i32>>());
}

/// The reader's folder, and where else the caller has modules.
fn python_path() -> std::ffi::OsString {
    let mut path = here("../tools/examples/python").into_os_string();
    if let Some(more) = std::env::var_os("PYTHONPATH") {
        path.push(":");
        path.push(more);
    }
    path
}

/// A program in Python, or the reader itself where none is given.
fn python(script: &str, arguments: &[String]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B");
    match script {
        "" => command.arg(here("../tools/examples/python/spinwire.py")),
        script => command.args(["-c", script]),
    };
    command.args(arguments).env("PYTHONPATH", python_path());
    command.env("SPINWIRE_LIBRARY", library().join("libspinwire.so"));
    command
}

fn in_use(pool: &BufferPool) -> u32 {
    pool.stats().iter().map(|class| class.slots - class.free).sum()
}

/// Runs `inside` in a process of its own whose segments lie in a folder of its own.
fn alone(test: &str, inside: fn()) {
    if role().is_some() {
        return inside();
    }
    let folder = Folder::new();
    let mut process = again(test, "inside").env("SPINWIRE_SHM_DIR", folder.path()).spawn().unwrap();
    for line in lines(&mut process) {
        println!("{line}");
    }
    assert!(process.wait().unwrap().success(), "see above");
    assert_eq!(folder.names(), Vec::<String>::new(), "left behind");
}

#[test]
fn buffers_go_both_ways_between_rust_and_c() {
    alone("buffers_go_both_ways_between_rust_and_c", || {
        let programs = Folder::new();
        for flags in [&["-std=c11"][..], &["-std=c11", "-fsanitize=address,undefined"]] {
            let Some(program) = compile(&programs, "cc", "exchange.c", flags) else { continue };
            let pool = BufferPool::create("exchange", &config()).unwrap();
            let mut memory = Plane::memory(1 << 20).unwrap();
            let bump = Plane::arena(&mut memory);
            let handle = pool.handle(&bump).unwrap();
            let mut partner = Partner::start(&program, "exchange");

            let id = floats(&handle);
            assert_eq!(handle.ref_count(id), Ok(1));
            assert_eq!(partner.ask(&format!("adopt {}", id.as_raw())), "ok");
            assert_eq!(handle.ref_count(id), Err(PoolError::Stale), "C's was the last reference");

            let id = partner.id("make");
            assert_eq!(handle.ref_count(id), Ok(1));
            check_integers(&handle, id, true);
            assert_eq!(handle.ref_count(id), Err(PoolError::Stale));

            let id = partner.id("publish");
            check_integers(&handle, id, false);
            let mine = handle.get(id).unwrap();
            assert_eq!(partner.ask(&format!("count {}", id.as_raw())), "2");
            assert_eq!(handle.get_mut(id).unwrap_err(), PoolError::Busy);
            assert_eq!(partner.ask("release"), "ok");
            assert_eq!(partner.ask(&format!("count {}", id.as_raw())), "1");
            drop(mine);
            assert_eq!(in_use(&pool), 0);
            partner.end();
            assert_eq!(lease::rows(&pool.segment()).count(), 1, "it has left");
            drop(handle);
            pool.unlink().unwrap();
        }
    });
}

#[test]
fn what_a_killed_c_process_held_is_taken_back() {
    alone("what_a_killed_c_process_held_is_taken_back", || {
        let programs = Folder::new();
        let Some(program) = compile(&programs, "cc", "exchange.c", &["-std=c11"]) else { return };
        let pool = BufferPool::create("mortals", &config()).unwrap();
        let mut memory = Plane::memory(1 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let mine = handle.acquire(8).unwrap().publish().unwrap();
        let mut partner = Partner::start(&program, "mortals");
        let written = partner.id("hold");
        let shared = partner.id("publish");
        assert_eq!(partner.ask(&format!("read {}", mine.id().as_raw())), "ok");
        assert_eq!(handle.ref_count(mine.id()), Ok(2));
        assert_eq!(handle.get(written).unwrap_err(), PoolError::Busy);
        let detached = partner.id("make");
        assert_eq!(in_use(&pool), 4);
        partner.kill();
        let began = Instant::now();
        while lease::rows(&pool.segment()).count() > 1 {
            assert!(began.elapsed() < PATIENCE, "nobody takes back");
            pool.reclaim();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(handle.ref_count(mine.id()), Ok(1));
        assert_eq!(handle.get(written).unwrap_err(), PoolError::Stale);
        assert_eq!(handle.get(shared).unwrap_err(), PoolError::Stale);
        check_integers(&handle, detached, true);
        drop(mine);
        assert_eq!(in_use(&pool), 0);
        assert_eq!(
            pool.reclaim(),
            spinwire_dataplane::pool::Reclaimed::default(),
            "nothing more to find"
        );
        drop(handle);
        pool.unlink().unwrap();
    });
}

/// All that a program in Python can do wrong and be told, with the ids of three buffers.
const WRONGS: &str = "
import sys, spinwire
from spinwire import Pool, Error
with Pool('frames') as pool:
    with pool.adopt(int(sys.argv[1])) as buffer:
        raw = buffer.raw()
        try: raw[0] = 1
        except TypeError: print('read-only')
    try: raw[0]
    except ValueError: print('released')
    # An array of NumPy cannot be told that its buffer is gone, so the buffer stays.
    buffer = pool.adopt(int(sys.argv[2]))
    view = buffer.view()
    if spinwire.numpy is None:
        buffer.release()
        try: view[0, 1]
        except ValueError: print('told')
    else:
        part = view[1]
        del view
        try: buffer.release()
        except BufferError: print('told' if part[0] == 2.0 else part)
        del part
        buffer.release()
    try:
        with pool.adopt(int(sys.argv[3])) as buffer:
            view = buffer.view()
            raise KeyError('mine')
    except KeyError: print('not hidden')
    del view
    buffer.release()
    buffer.release()
    try: pool.get(int(sys.argv[1]))
    except Error as e: print(e.status, e)
try: Pool('nobody')
except Error as e: print(e.status)";

#[test]
fn python_reads_what_rust_wrote() {
    alone("python_reads_what_rust_wrote", || {
        if let Err(e) = output("python3", &["--version"]) {
            return not_run(
                "the reader in Python",
                &format!("{e}; remedy: apt-get install python3"),
            );
        }
        let pool = BufferPool::create("frames", &config()).unwrap();
        let mut memory = Plane::memory(1 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let ids = [floats(&handle), floats(&handle)];
        let python = |script: &str, arguments: &[String]| {
            let ran = python(script, arguments).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            String::from_utf8(ran.stdout).unwrap()
        };
        let words: Vec<String> = ["frames".to_owned()]
            .into_iter()
            .chain(ids.map(|id| id.as_raw().to_string()))
            .collect();
        let said = python("", &words);
        let row = "tensor/test #42 (3, 4) [[0.0, 0.5, 1.0, 1.5], [2.0, 2.5, 3.0, 3.5], [4.0, 4.5, 5.0, 5.5]]";
        let shown: Vec<&str> =
            said.lines().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
        assert_eq!(shown, [row, row]);
        if !said.starts_with("array ") {
            not_run(
                "the reader in Python with NumPy",
                "python3 has no numpy; remedy: python3 -m pip install numpy, or apt-get install python3-numpy",
            );
        }
        assert_eq!(in_use(&pool), 0, "released on exit");

        // It cannot write, cannot see what was released, and hears the reason.
        let ids = [0; 3].map(|_| floats(&handle).as_raw().to_string());
        let said = python(WRONGS, &ids);
        let lines: Vec<&str> = said.lines().collect();
        let told = ["read-only", "released", "told", "not hidden"];
        assert_eq!(lines.first_chunk(), Some(&told), "{said}");
        assert!(lines.get(4).is_some_and(|line| line.starts_with("3 sw_get: stale")), "{said}");
        assert_eq!(lines.get(5), Some(&"22"));
        assert_eq!(in_use(&pool), 0);
        drop(handle);
        pool.unlink().unwrap();
    });
}

/// One tensor in the hands of three processes at once, each of which has its own reference; one of them is killed.
#[test]
fn rust_c_and_python_share_one_tensor() {
    alone("rust_c_and_python_share_one_tensor", || {
        if let Err(e) = output("python3", &["--version"]) {
            return not_run("three languages", &format!("{e}; remedy: apt-get install python3"));
        }
        let programs = Folder::new();
        let Some(program) = compile(&programs, "cc", "exchange.c", &["-std=c11"]) else { return };
        let pool = BufferPool::create("shared", &config()).unwrap();
        let mut memory = Plane::memory(1 << 20).unwrap();
        let bump = Plane::arena(&mut memory);
        let handle = pool.handle(&bump).unwrap();
        let script = "
from spinwire import Pool
with Pool('shared') as pool:
    print('open', flush=True)
    with pool.adopt(int(input())) as buffer:
        view = buffer.view()
        print(view.tolist()[2][3], buffer.description.sequence, flush=True)
        input()";
        let mut reader = Partner::start_as(&mut python(script, &[]));
        let mut partner = Partner::start(&program, "shared");

        let writer = handle.get_mut(floats(&handle)).unwrap();
        writer.set_ref_count(3).unwrap(); // one for each of the others
        let id = writer.id();
        let mine = writer.publish().unwrap();
        assert_eq!(reader.ask(&id.as_raw().to_string()), "5.5 42");
        assert_eq!(handle.ref_count(id), Ok(3));
        assert_eq!(partner.ask(&format!("adopt {}", id.as_raw())), "ok");
        assert_eq!(handle.ref_count(id), Ok(2), "C has seen it and let go");
        drop(mine);
        assert_eq!(handle.get_mut(id).unwrap_err(), PoolError::Busy, "Python reads it");
        reader.kill();
        let began = Instant::now();
        while handle.ref_count(id) != Err(PoolError::Stale) {
            assert!(began.elapsed() < PATIENCE, "nobody takes back");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(in_use(&pool), 0);
        partner.end();
        drop(handle);
        pool.unlink().unwrap();
    });
}

/// The programs of `README.md` in C and Python, as they stand there.
#[test]
fn the_programs_of_the_readme_run() {
    let readme = std::fs::read_to_string(here("../README.md")).unwrap();
    let block = |language: &str| {
        let text = readme.split_once(&format!("```{language}\n")).expect("a block of code").1;
        text.split_once("```").unwrap().0.to_owned()
    };
    let (programs, segments) = (Folder::new(), Folder::new());
    let source = programs.path().join("frames.c");
    std::fs::write(&source, block("c")).unwrap();
    let name = source.to_str().unwrap().to_owned();
    let Some(program) = compile(&programs, "cc", &name, &["-std=c11"]) else { return };
    let wrote = Command::new(program).env("SPINWIRE_SHM_DIR", segments.path()).output().unwrap();
    assert!(wrote.status.success(), "{wrote:?}");
    let id = String::from_utf8(wrote.stdout).unwrap();
    if let Err(e) = output("python3", &["--version"]) {
        not_run("README.md in Python", &format!("{e}; remedy: apt-get install python3"));
        return;
    }
    let mut python = python(&block("python"), &[id.trim().to_owned()]);
    let read = python.env("SPINWIRE_SHM_DIR", segments.path()).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    assert_eq!(String::from_utf8(read.stdout).unwrap(), "[1.5, 2.5, 4.0]\n");
}
