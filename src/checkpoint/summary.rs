//! What `osprey inspect` shows of a model folder: architecture, tensors, totals. A struct, printed as text or serialised as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::config::Config;
use super::inventory::Part;
use super::storage::StoredTensor;
use super::weights::ModelFiles;

/// The content of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub config: Config,
    /// Ordered by name.
    pub tensors: Vec<TensorLine>,
    /// By dtype name.
    pub by_dtype: BTreeMap<String, Total>,
    /// By part of the model: vision, text, embed, head.
    pub by_part: BTreeMap<Part, Total>,
    pub total: Total,
}

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorLine {
    pub name: String,
    pub part: Part,
    pub dtype: String,
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
    fn add(&mut self, tensor: &StoredTensor) {
        self.tensors += 1;
        self.parameters += tensor.elements() as u64;
        self.bytes += tensor.data().len() as u64;
    }
}

impl Summary {
    /// Summarises an opened folder.
    pub fn new(files: &ModelFiles) -> Summary {
        let mut summary = Summary {
            config: files.config.clone(),
            tensors: Vec::new(),
            by_dtype: BTreeMap::new(),
            by_part: BTreeMap::new(),
            total: Total::default(),
        };
        for tensor in files.weights.tensors() {
            let line = line(tensor);
            summary.by_dtype.entry(line.dtype.clone()).or_default().add(tensor);
            summary.by_part.entry(line.part).or_default().add(tensor);
            summary.total.add(tensor);
            summary.tensors.push(line);
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
            ("trained in", c.torch_dtype.map_or("not stated", |d| d.name()).to_string()),
        ]
    }
}

fn line(tensor: &StoredTensor) -> TensorLine {
    let file = tensor.file().file_name().map(|f| f.to_string_lossy().into_owned());
    TensorLine {
        name: tensor.name().to_string(),
        part: Part::of(tensor.name()),
        dtype: tensor.dtype().name().to_string(),
        shape: tensor.shape().to_vec(),
        bytes: tensor.data().len() as u64,
        file: file.unwrap_or_default(),
    }
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
            writeln!(f, "{:<name$}  {:<5}{shape:<24}{:>14}  {}", t.name, t.dtype, t.bytes, t.file)?;
        }
        writeln!(f)?;
        for (part, total) in &self.by_part {
            total_line(f, part.name(), total)?;
        }
        for (dtype, total) in &self.by_dtype {
            total_line(f, dtype, total)?;
        }
        total_line(f, "total", &self.total)
    }
}

fn total_line(f: &mut fmt::Formatter<'_>, label: &str, t: &Total) -> fmt::Result {
    writeln!(f, "{label:<8}{:>6} tensors {:>14} parameters {:>16} bytes", t.tensors, t.parameters, t.bytes)
}
