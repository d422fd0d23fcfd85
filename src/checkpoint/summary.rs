//! What `osprey inspect` shows of a model folder: architecture, tensors, totals. A struct, printed as text or serialised as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::config::Config;
use super::inventory::Part;
use super::quantized::config::Quantization;
use super::storage::{StoredMatrix, StoredTensor};
use super::weights::ModelFiles;

/// The content of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub config: Config,
    /// Ordered by name.
    pub tensors: Vec<TensorLine>,
    /// By format: a dtype's name, or that of a quantized format.
    pub by_format: BTreeMap<String, Total>,
    /// By part of the model (vision, text, embed, head), and in it by format.
    pub by_part: BTreeMap<Part, BTreeMap<String, Total>>,
    pub total: Total,
}

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorLine {
    pub name: String,
    pub part: Part,
    /// Name of its dtype or quantized format.
    pub format: String,
    pub shape: Vec<usize>,
    pub bytes: u64,
    /// Name of the file in the folder.
    pub file: String,
}

/// A sum over tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    pub tensors: usize,
    pub parameters: u64,
    pub bytes: u64,
}

impl Total {
    fn add(&mut self, line: &TensorLine) {
        self.tensors += 1;
        self.parameters += line.shape.iter().product::<usize>() as u64;
        self.bytes += line.bytes;
    }
}

impl Summary {
    /// Summarises an opened folder.
    pub fn new(files: &ModelFiles) -> Summary {
        let mut summary = Summary {
            config: files.config.clone(),
            tensors: Vec::new(),
            by_format: BTreeMap::new(),
            by_part: BTreeMap::new(),
            total: Total::default(),
        };
        summary.tensors =
            files.weights.tensors().map(float_line).chain(files.weights.matrices().map(codes_line)).collect();
        summary.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for line in &summary.tensors {
            summary.by_format.entry(line.format.clone()).or_default().add(line);
            summary.by_part.entry(line.part).or_default().entry(line.format.clone()).or_default().add(line);
            summary.total.add(line);
        }
        summary
    }

    /// The lines that describe the architecture: label and value.
    pub fn architecture(&self) -> Vec<(&'static str, String)> {
        let (c, t, v) = (&self.config, &self.config.text, &self.config.vision);
        let patch = format!("{0}x{0}, {1} frames", v.patch_size, v.temporal_patch_size);
        let ids = format!("image {}, video {}, start {}", c.image_token_id, c.video_token_id, c.vision_start_token_id);
        vec![
            ("model type", c.model_type.clone()),
            (
                "decoder",
                format!("{} layers, hidden {}, ffn {}", t.num_hidden_layers, t.hidden_size, t.intermediate_size),
            ),
            (
                "attention",
                format!("{} heads of {}, {} kv heads", t.num_attention_heads, t.head_dim, t.num_key_value_heads),
            ),
            ("rope", format!("theta {}, sections {:?}", t.rope_theta, t.mrope_section)),
            ("vocabulary", format!("{}{}", t.vocab_size, if c.tie_word_embeddings { ", tied head" } else { "" })),
            ("positions", t.max_position_embeddings.to_string()),
            ("vision", format!("{} blocks, width {}, {} heads of {}", v.depth, v.embed_dim, v.num_heads, v.head_dim)),
            ("patch", format!("{patch}, merged {0}x{0}", v.spatial_merge_size)),
            ("token ids", format!("{ids}, end {}", c.vision_end_token_id)),
            ("quantized", c.quantization.as_ref().map_or("no".into(), Quantization::to_string)),
            ("trained in", c.torch_dtype.map_or("not stated", |d| d.name()).to_string()),
        ]
    }
}

fn float_line(t: &StoredTensor) -> TensorLine {
    line(t.name(), t.file(), t.dtype().to_string(), t.shape(), t.data().len())
}

fn codes_line(m: &StoredMatrix) -> TensorLine {
    let q = m.codes();
    line(m.name(), m.file(), q.format().to_string(), &[q.n, q.k], q.bytes())
}

fn line(name: &str, file: &Path, format: String, shape: &[usize], bytes: usize) -> TensorLine {
    let file = file.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
    let (part, shape, bytes) = (Part::of(name), shape.to_vec(), bytes as u64);
    TensorLine { name: name.to_string(), part, format, shape, bytes, file }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (label, value) in self.architecture() {
            writeln!(f, "{label:<12}{value}")?;
        }
        writeln!(f)?;
        let name = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &self.tensors {
            let shape = format!("{:?}", t.shape);
            writeln!(f, "{:<name$}  {:<5}{shape:<24}{:>14}  {}", t.name, t.format, t.bytes, t.file)?;
        }
        writeln!(f)?;
        for (part, formats) in &self.by_part {
            for (format, total) in formats {
                total_line(f, &format!("{:<7}{format}", part.name()), total)?;
            }
        }
        for (format, total) in &self.by_format {
            total_line(f, &format!("{:<7}{format}", "all"), total)?;
        }
        total_line(f, "total", &self.total)
    }
}

fn total_line(f: &mut fmt::Formatter<'_>, label: &str, t: &Total) -> fmt::Result {
    writeln!(f, "{label:<14}{:>6} tensors {:>14} parameters {:>16} bytes", t.tensors, t.parameters, t.bytes)
}
