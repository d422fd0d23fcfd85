//! From the messages of a conversation to a request that the engine takes: media are read, the template rendered, the text tokenised, the form of an answer compiled. The
//! command line and the server share it; it refuses to know flags, sockets and executors.

pub mod grammar;
pub mod media;
pub mod prepare;
pub mod sampling;

use crate::checkpoint::ModelFiles;
use crate::media::patches::ImageProcessor;
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;

/// An opened model folder with everything that turns requests into tokens and back.
pub struct Model {
    /// As the user called it.
    pub name: String,
    pub files: ModelFiles,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    pub images: ImageProcessor,
    pub videos: ImageProcessor,
}

#[cfg(test)]
impl Model {
    /// The demo model.
    pub fn demo() -> Model {
        let files = ModelFiles::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo")).unwrap();
        Model {
            name: "demo".into(),
            tokenizer: Tokenizer::load(&files.dir).unwrap(),
            template: ChatTemplate::load(&files.dir).unwrap(),
            images: ImageProcessor::default(),
            videos: ImageProcessor::default(),
            files,
        }
    }
}
