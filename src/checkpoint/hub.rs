//! From what the user calls a model to a folder: a path, or a hub id looked up in the local Hugging Face cache and downloaded if it is not there.
//!
//! A complete snapshot in the cache is used without asking the hub, so a cached model needs no network (and is not updated behind one's back).
//! `HF_HUB_CACHE` or `HF_HOME` move the cache and `HF_ENDPOINT` the hub, as in Python.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::index::{INDEX, Index};
use super::safetensors::SINGLE;
use crate::error::{Error, Result};

/// The files beside the weights that are taken if the repository has them. Writers copy them, if the folder has them.
pub(crate) const SIDE_FILES: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
];

/// What a tokenizer may be instead of tokenizer.json: all of these.
const TOKENIZER_PARTS: [&str; 2] = ["vocab.json", "merges.txt"];

/// The folder of `model`: itself if there is such a folder, or else that of a hub id. See [`Hub::resolve`].
pub fn resolve(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() { folder(path) } else { Hub::from_env()?.resolve(model) }
}

/// Where hub ids are looked up.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// The hub's address; the `hf-hub` crate's default if `None`.
    pub endpoint: Option<String>,
}

impl Hub {
    /// The user's cache and hub: `HF_HUB_CACHE`, or else `hub` in `HF_HOME` (default `~/.cache/huggingface`), and `HF_ENDPOINT`.
    pub fn from_env() -> Result<Hub> {
        let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || folder("HF_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache").join("huggingface")));
        match folder("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub"))) {
            Some(cache) => Ok(Hub { cache, endpoint: std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty()) }),
            None => Err(Error::request("HF_HOME", "set it to a folder for downloads: there is no home folder")),
        }
    }

    /// The snapshot folder of a hub id `org/name[@revision]`: from the cache if complete there, else downloaded (with progress bars on stderr).
    /// Fails if `model` has another form, and if the hub cannot be reached.
    pub fn resolve(&self, model: &str) -> Result<PathBuf> {
        let Some(id) = Id::parse(model) else {
            let why = format!("\"{model}\" is neither a folder nor a hub id of the form org/name[@revision]");
            return Err(Error::request("--model", why));
        };
        match self.cached(&id) {
            Some(snapshot) if lacks(&snapshot).is_none() => Ok(snapshot),
            partial => self.download(&id).map_err(|cause| id.unreachable(&cause, partial.as_deref())),
        }
    }

    /// The snapshot that the cache has for an id, complete or not.
    fn cached(&self, id: &Id) -> Option<PathBuf> {
        let repo = self.cache.join(id.repo(id.revision).folder_name());
        let commit = fs::read_to_string(repo.join("refs").join(id.revision));
        // A revision may also be a commit itself, for which Python writes no ref.
        let commit = commit.unwrap_or_else(|_| id.revision.to_string());
        let commit = commit.trim();
        let plain = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        Some(repo.join("snapshots").join(commit)).filter(|p| plain && p.is_dir())
    }

    fn download(&self, id: &Id) -> Result<PathBuf, String> {
        let cache = Cache::new(self.cache.clone());
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_retries(2);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api: Api = builder.build().map_err(|e| e.to_string())?;
        let info = api.repo(id.repo(id.revision)).info().map_err(|e| e.to_string())?;
        let names: Vec<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        // All files of one commit, even if the branch moves meanwhile.
        let repo = api.repo(id.repo(&info.sha));
        for name in SIDE_FILES.iter().filter(|n| names.contains(n)) {
            get(&repo, name)?;
        }
        get_weights(&repo, &names)?;
        cache.repo(id.repo(id.revision)).create_ref(&info.sha).map_err(|e| e.to_string())?;
        let snapshot = cache.repo(id.repo(&info.sha)).pointer_path(&info.sha);
        match lacks(&snapshot) {
            Some(file) => Err(format!("the repository has no {file}")),
            None => Ok(snapshot),
        }
    }
}

fn get(repo: &ApiRepo, name: &str) -> Result<PathBuf, String> {
    repo.get(name).map_err(|e| format!("{name}: {e}"))
}

fn get_weights(repo: &ApiRepo, names: &[&str]) -> Result<(), String> {
    if names.contains(&SINGLE) {
        return get(repo, SINGLE).map(drop);
    }
    if !names.contains(&INDEX) {
        return Err("the repository has no safetensors weights".into());
    }
    let index = Index::open(&get(repo, INDEX)?).map_err(|e| e.to_string())?;
    index.shards().into_iter().try_for_each(|shard| get(repo, shard).map(drop))
}

/// The first file that a complete snapshot has and this one does not.
fn lacks(snapshot: &Path) -> Option<String> {
    let absent = |name: &str| !snapshot.join(name).is_file();
    if absent("config.json") {
        return Some("config.json".into());
    }
    if absent("tokenizer.json") && TOKENIZER_PARTS.into_iter().any(absent) {
        return Some("tokenizer.json".into());
    }
    if !absent(SINGLE) {
        return None;
    }
    if absent(INDEX) {
        return Some(SINGLE.into());
    }
    // A broken index is complete: opening it says what is wrong.
    let index = Index::open(&snapshot.join(INDEX)).ok()?;
    index.shards().into_iter().find(|shard| absent(shard)).map(str::to_string)
}

fn folder(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    Err(Error::request("--model", format!("{} is a file: give the folder that it is in", path.display())))
}

/// A hub id, checked: it becomes part of paths and addresses.
struct Id<'a> {
    name: &'a str,
    revision: &'a str,
}

impl<'a> Id<'a> {
    fn parse(model: &'a str) -> Option<Id<'a>> {
        let (name, revision) = model.split_once('@').unwrap_or((model, "main"));
        let (org, repo) = name.split_once('/')?;
        let plain = |s: &str| {
            let chars = s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            !s.is_empty()
                && s.len() <= 96
                && chars
                && !s.starts_with(['.', '-'])
                && !s.contains("..")
                && !s.contains("--")
        };
        let valid = plain(org) && plain(repo) && revision.split('/').all(plain);
        valid.then_some(Id { name, revision })
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.to_string(), RepoType::Model, revision.to_string())
    }

    fn unreachable(&self, cause: &str, partial: Option<&Path>) -> Error {
        let Id { name, revision } = self;
        let state = match partial.and_then(lacks) {
            Some(file) => format!("is only partly in the local cache (no {file})"),
            None => "is neither a folder nor in the local cache".into(),
        };
        let cause = cause.lines().next().unwrap_or("unknown error");
        let why = format!(
            "{name} (revision {revision}) {state}, and it cannot be had from the hub ({cause}): check the id and the network, or put the \
             checkpoint into a folder and pass --model DIR"
        );
        Error::request("--model", why)
    }
}
