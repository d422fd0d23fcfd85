//! What a run that is cut off leaves for the next: the samples' rows before the next layer, and the report so far.

use super::Report;
use crate::checkpoint::writer::put;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Its file in the folder that is being written.
const FILE: &str = "osprey-quantize.state";

/// Where a run stands.
pub(super) struct State {
    /// f32 `[T, D]` of each sample.
    pub rows: Vec<Vec<f32>>,
    pub report: Report,
    /// The next layer.
    pub first: usize,
}

fn path(out: &Path) -> PathBuf {
    out.join(FILE)
}

impl State {
    /// What an earlier run left, if its layers are really written and its rows are those of samples of so many values.
    pub fn load(out: &Path, written: usize, lengths: &[usize]) -> Result<Option<State>> {
        let path = path(out);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let fits =
            |state: &State| state.first <= written && state.rows.iter().map(Vec::len).eq(lengths.iter().copied());
        Ok(parse(&bytes).filter(fits))
    }

    /// Leaves where this run stands.
    pub fn save(out: &Path, rows: &[Vec<f32>], report: &Report, first: usize) -> Result<()> {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let head = serde_json::to_vec(&(first, lengths, report)).map_err(|e| Error::io(path(out), e.into()))?;
        let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
        bytes.extend(head);
        rows.iter().for_each(|rows| bytes.extend_from_slice(bytemuck::cast_slice(rows)));
        put(&path(out), &bytes)
    }

    /// Removes what was left: the folder is whole.
    pub fn remove(out: &Path) -> Result<()> {
        let path = path(out);
        if path.exists() { fs::remove_file(&path).map_err(|e| Error::io(&path, e)) } else { Ok(()) }
    }
}

/// None if the file is not what [`State::save`] wrote: then the run begins anew.
fn parse(bytes: &[u8]) -> Option<State> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let (head, mut rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let (first, lengths, report): (usize, Vec<usize>, Report) = serde_json::from_slice(head).ok()?;
    let mut rows = Vec::with_capacity(lengths.len());
    for len in lengths {
        let (values, after) = rest.split_at_checked(len.checked_mul(4)?)?;
        rows.push(bytemuck::pod_collect_to_vec(values));
        rest = after;
    }
    Some(State { rows, report, first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_other_rows_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report {
            format: "w4a16".into(),
            method: "gptq".into(),
            group_size: 128,
            zero_points: false,
            samples: 2,
            tokens: 3,
            lines: Vec::new(),
        };
        let rows = vec![vec![1.0, -2.0], vec![0.5; 4]];
        State::save(dir.path(), &rows, &report, 1).unwrap();
        let load = |written, lengths: &[usize]| State::load(dir.path(), written, lengths).unwrap();
        let state = load(1, &[2, 4]).unwrap();
        assert_eq!((state.rows, state.report, state.first), (rows, report, 1));
        assert!(load(0, &[2, 4]).is_none(), "its layer is not written");
        for other in [&[2][..], &[4, 2], &[2, 4, 0]] {
            assert!(load(1, other).is_none(), "{other:?}");
        }
    }
}
