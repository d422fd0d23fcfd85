//! Hub ids: the cache's layout, a hub on the loopback, and no hub at all.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use osprey::checkpoint::ModelFiles;
use osprey::checkpoint::hub::{Hub, resolve};
use serde_json::json;

use crate::writer::{config, tensors, write_shards, write_single};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Nothing listens on port 1.
const NOWHERE: &str = "http://127.0.0.1:1";

fn offline(cache: &Path) -> Hub {
    Hub { cache: cache.to_path_buf(), endpoint: Some(NOWHERE.into()) }
}

/// A cache as Python's library lays it out: blobs, and a snapshot of symlinks to them.
fn cache(dir: &Path, reference: Option<&str>) -> PathBuf {
    let repo = dir.join("models--org--tiny");
    let snapshot = repo.join("snapshots").join(COMMIT);
    let blobs = repo.join("blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    write_single(&blobs, &config(), &tensors());
    fs::write(blobs.join("tokenizer.json"), "{}").unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::os::unix::fs::symlink(format!("../../blobs/{name}"), snapshot.join(name)).unwrap();
    }
    if let Some(reference) = reference {
        let file = repo.join("refs").join(reference);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, COMMIT).unwrap();
    }
    snapshot
}

#[test]
fn a_folder_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(resolve(dir.path().to_str().unwrap()).unwrap(), dir.path());
    let file = dir.path().join("config.json");
    fs::write(&file, "{}").unwrap();
    let message = resolve(file.to_str().unwrap()).unwrap_err().to_string();
    assert_eq!(message, format!("--model: {} is a file: give the folder that it is in", file.display()));
}

#[test]
fn a_cached_model_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cache(dir.path(), Some("main"));
    let hub = offline(dir.path());
    assert_eq!(hub.resolve("org/tiny").unwrap(), snapshot);
    assert_eq!(hub.resolve("org/tiny@main").unwrap(), snapshot);
    assert_eq!(hub.resolve(&format!("org/tiny@{COMMIT}")).unwrap(), snapshot);
    assert_eq!(ModelFiles::open(snapshot).unwrap().weights.tensors().len(), 34);
}

#[test]
fn a_tokenizer_may_be_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cache(dir.path(), Some("main"));
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    fs::write(snapshot.join("vocab.json"), "{}").unwrap();
    let message = offline(dir.path()).resolve("org/tiny").unwrap_err().to_string();
    assert!(message.contains("partly in the local cache (no tokenizer.json)"), "{message}");
    fs::write(snapshot.join("merges.txt"), "").unwrap();
    assert_eq!(offline(dir.path()).resolve("org/tiny").unwrap(), snapshot);
}

#[test]
fn a_cached_branch() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cache(dir.path(), Some("refs/pr/1"));
    assert_eq!(offline(dir.path()).resolve("org/tiny@refs/pr/1").unwrap(), snapshot);
    let message = offline(dir.path()).resolve("org/tiny").unwrap_err().to_string();
    assert!(
        message.starts_with("--model: org/tiny (revision main) is neither a folder nor in the local cache"),
        "{message}"
    );
}

#[test]
fn offline_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let message = offline(dir.path()).resolve("org/tiny@v2").unwrap_err().to_string();
    let start = "--model: org/tiny (revision v2) is neither a folder nor in the local cache, and it cannot be had from the hub (";
    assert!(message.starts_with(start), "{message}");
    assert!(
        message.ends_with("check the id and the network, or put the checkpoint into a folder and pass --model DIR"),
        "{message}"
    );
    assert!(!message.contains('\n'));
}

#[test]
fn an_interrupted_download_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cache(dir.path(), Some("main"));
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::remove_file(snapshot.join(name)).unwrap();
        let message = offline(dir.path()).resolve("org/tiny").unwrap_err().to_string();
        let want = format!(
            "--model: org/tiny (revision main) is only partly in the local cache (no {name}), and it cannot be had"
        );
        assert!(message.starts_with(&want), "{message}");
    }
    fs::remove_dir_all(&snapshot).unwrap();
    fs::create_dir(&snapshot).unwrap();
    write_shards(&snapshot, &config(), &tensors());
    fs::write(snapshot.join("tokenizer.json"), "{}").unwrap();
    assert!(offline(dir.path()).resolve("org/tiny").is_ok());
    fs::remove_file(snapshot.join("model-00002-of-00002.safetensors")).unwrap();
    let message = offline(dir.path()).resolve("org/tiny").unwrap_err().to_string();
    assert!(message.contains("partly in the local cache (no model-00002-of-00002.safetensors)"), "{message}");
}

#[test]
fn what_is_no_id() {
    let dir = tempfile::tempdir().unwrap();
    for model in [
        "",
        "tiny",
        "a/b/c",
        "../x",
        "a/..",
        "org/.x",
        "/abs/path",
        "org/ti ny",
        "org/tiny@",
        "org/tiny@../../x",
        "org/a--b",
    ] {
        let message = offline(dir.path()).resolve(model).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("--model: \"{model}\" is neither a folder nor a hub id of the form org/name[@revision]")
        );
    }
}

#[test]
fn a_reference_cannot_leave_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = cache(dir.path(), Some("main"));
    // A complete model, so that nothing but the reference is wrong.
    let outside = dir.path().join("models--org--tiny/outside");
    fs::create_dir(&outside).unwrap();
    fs::rename(&snapshot, outside.join("model")).unwrap();
    assert!(ModelFiles::open(outside.join("model")).is_ok());
    let absolute = outside.join("model").display().to_string();
    for target in ["../outside/model", &absolute, "..", "", "/"] {
        fs::write(dir.path().join("models--org--tiny/refs/main"), target).unwrap();
        assert!(offline(dir.path()).resolve("org/tiny").is_err(), "{target}");
    }
}

/// A hub that serves one folder; returns its address and the list of paths that were asked for.
fn serve(folder: PathBuf) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&mut stream.unwrap(), &folder, &log);
        }
    });
    (address, asked)
}

fn answer(stream: &mut TcpStream, folder: &Path, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_string();
    let headers: Vec<String> = lines.take_while(|l| !l.is_empty()).map(|l| l.to_lowercase()).collect();
    log.lock().unwrap().push(path.clone());
    let (extra, body) = if path == "/api/models/org/tiny/revision/main" {
        (String::new(), listing(folder).into_bytes())
    } else if let Some(name) = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")) {
        let whole = fs::read(folder.join(name)).unwrap();
        let probe = headers.iter().any(|h| h == "range: bytes=0-0");
        let range =
            format!("content-range: bytes 0-0/{}\r\netag: \"{name}\"\r\nx-repo-commit: {COMMIT}\r\n", whole.len());
        (range, if probe { whole[..1].to_vec() } else { whole })
    } else {
        write!(stream, "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
        return;
    };
    write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n{extra}content-length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body).unwrap();
}

fn listing(folder: &Path) -> String {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.extend(["README.md".into(), "../../escape.safetensors".into(), "pytorch_model.bin".into()]);
    let siblings: Vec<_> = names.iter().map(|n| json!({"rfilename": n})).collect();
    json!({"siblings": siblings, "sha": COMMIT}).to_string()
}

#[test]
fn a_download_fills_the_cache() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_shards(source.path(), &config(), &tensors());
    for name in ["tokenizer.json", "added_tokens.json"] {
        fs::write(source.path().join(name), "{}").unwrap();
    }
    let (endpoint, asked) = serve(source.path().to_path_buf());
    let hub = Hub { cache: cache.path().to_path_buf(), endpoint: Some(endpoint) };
    let snapshot = hub.resolve("org/tiny").unwrap();
    assert_eq!(snapshot, cache.path().join("models--org--tiny/snapshots").join(COMMIT));
    assert_eq!(ModelFiles::open(&snapshot).unwrap().weights.tensors().len(), 34);
    assert!(snapshot.join("added_tokens.json").is_file());
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.iter().any(|p| p.contains("README") || p.contains("..") || p.contains("pytorch")), "{asked:?}");
    assert_eq!(offline(cache.path()).resolve("org/tiny").unwrap(), snapshot, "the cache is complete");
    let absent = hub.resolve("org/none").unwrap_err().to_string();
    assert!(absent.contains("cannot be had from the hub") && absent.contains("404"), "{absent}");
}

#[test]
fn a_repository_without_safetensors() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(source.path().join("config.json"), "{}").unwrap();
    fs::write(source.path().join("tokenizer.json"), "{}").unwrap();
    let (endpoint, _) = serve(source.path().to_path_buf());
    let hub = Hub { cache: cache.path().to_path_buf(), endpoint: Some(endpoint) };
    let message = hub.resolve("org/tiny").unwrap_err().to_string();
    assert!(message.contains("(the repository has no safetensors weights)"), "{message}");
}
