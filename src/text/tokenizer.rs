//! Text to token ids. Owns the byte-level BPE of a model folder and the names of its special tokens; knows no templates.
//!
//! The surprise: [`Tokenizer::encode_text`] never yields a special token, whatever the text says. Only
//! [`Tokenizer::encode_with_special`] reads `<|im_end|>` as one, as transformers always does.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{OffsetReferential, OffsetType};
use tokenizers::{AddedVocabulary, SplitDelimiterBehavior};

use super::guard::{Guard, Rendered};
use super::tokenizer_files::{self, Files, SPLIT};
use super::{bytes, one_line};
use crate::error::{Error, Result};

/// The longest text that is tokenised, in bytes: about a million tokens, above any context. The regex engine gives up, by a
/// panic, between runs of 9 and 11 million spaces.
pub const MAX_TEXT: usize = 4 << 20;

/// Tokens around objects and boxes in grounding answers. They control nothing, so a model's own words may contain them.
pub const GROUNDING: [&str; 6] =
    ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"];

/// A byte-level BPE tokenizer with the special tokens of the Qwen-VL family.
pub struct Tokenizer {
    /// Skips special tokens: they are text to it.
    plain: tokenizers::Tokenizer,
    added: AddedVocabulary,
    nfc: Option<NFC>,
    guard: Guard,
    ids: SpecialIds,
    grounding: Vec<(u32, String)>,
}

/// Ids of the tokens that the engine knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    pub endoftext: u32,
    pub im_start: u32,
    pub im_end: u32,
    pub vision_start: u32,
    pub vision_end: u32,
    pub image_pad: u32,
    pub video_pad: u32,
}

/// Which special tokens decoded text shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// None, as transformers with `skip_special_tokens=True`.
    Text,
    /// Objects and boxes only ([`GROUNDING`]).
    Grounding,
    /// All.
    All,
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder.
    pub fn load(dir: &Path) -> Result<Self> {
        let files = tokenizer_files::read(dir)?;
        let file = files.file.clone();
        let nfc = files.nfc.then_some(NFC);
        let expected = files.added.by_id.clone();
        let mut plain = assemble(files).map_err(|e| Error::checkpoint(&file, "tokenizer", one_line(&e.to_string())))?;
        if let Some((id, token)) = expected.iter().find(|(id, token)| plain.token_to_id(&token.content) != Some(**id)) {
            let got = plain.token_to_id(&token.content).map_or("none".to_string(), |id| id.to_string());
            return Err(Error::checkpoint(
                &file,
                "added tokens",
                format!("{:?} should have the id {id}, it gets {got}", token.content),
            ));
        }
        let added = plain.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let guard = Guard::new(expected.values().filter(|token| token.special).map(|token| token.content.as_str()));
        let grounding =
            GROUNDING.iter().filter_map(|name| Some((plain.token_to_id(name)?, name.to_string()))).collect();
        let ids = special_ids(&file, &plain)?;
        Ok(Tokenizer { plain, added, nfc, guard, ids, grounding })
    }

    /// Ids of `text` as ordinary text: special tokens in it are just characters.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        check_size(text)?;
        let encoding =
            self.plain.encode_fast(text, false).map_err(|e| Error::request("text", one_line(&e.to_string())))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of `text` as transformers computes them: special tokens in it count.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_pieces(text, |piece| self.encode_text(piece))
    }

    /// Ids of a rendered conversation: the template's special tokens count, those in user text do not.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        self.encode_pieces(rendered.marked(), |piece| self.encode_text(&rendered.stand_ins().show(piece)))
    }

    fn encode_pieces(&self, text: &str, encode: impl Fn(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
        check_size(text)?;
        let pieces = self.added.extract_and_normalize(self.nfc.as_ref(), text);
        let mut ids = Vec::new();
        for (piece, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match tokens {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => ids.extend(encode(piece)?),
            }
        }
        Ok(ids)
    }

    /// The id of a token by its exact content.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.plain.token_to_id(token)
    }

    /// Ids of the well-known special tokens.
    pub fn special_ids(&self) -> SpecialIds {
        self.ids
    }

    /// The bytes that a token stands for; `None` for an id without a token (the padding of a vocabulary).
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some(token) = self.added.get_added_tokens_decoder().get(&id) {
            return Some(token.content.clone().into_bytes());
        }
        self.plain.id_to_token(id).map(|token| bytes::token_bytes(&token))
    }

    /// Whether decoded text shows this token.
    pub fn shows(&self, id: u32, show: Show) -> bool {
        let special = self.added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special);
        match show {
            Show::All => true,
            Show::Text => !special,
            Show::Grounding => !special || self.grounding.iter().any(|(known, _)| *known == id),
        }
    }

    /// The protection of user text against this tokenizer's special tokens.
    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The grounding tokens that this tokenizer has.
    pub(super) fn grounding(&self) -> Vec<String> {
        self.grounding.iter().map(|(_, name)| name.clone()).collect()
    }
}

fn check_size(text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(Error::request("text", format!("has {} bytes, at most {MAX_TEXT} are taken", text.len())));
    }
    Ok(())
}

fn assemble(files: Files) -> tokenizers::Result<tokenizers::Tokenizer> {
    let bpe = BPE::builder()
        .vocab_and_merges(files.vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), files.merges)
        .ignore_merges(files.ignore_merges)
        .build()?;
    let mut plain = tokenizers::Tokenizer::new(bpe);
    plain.with_normalizer(files.nfc.then_some(NFC))?;
    let split = Split::new(SplitPattern::Regex(SPLIT.to_string()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, true, false);
    plain.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    plain.add_tokens(files.added.by_id.into_values())?;
    Ok(plain)
}

fn special_ids(file: &Path, plain: &tokenizers::Tokenizer) -> Result<SpecialIds> {
    let id = |token: &str| {
        plain.token_to_id(token).ok_or_else(|| Error::checkpoint(file, token, "is not in the vocabulary"))
    };
    Ok(SpecialIds {
        endoftext: id("<|endoftext|>")?,
        im_start: id("<|im_start|>")?,
        im_end: id("<|im_end|>")?,
        vision_start: id("<|vision_start|>")?,
        vision_end: id("<|vision_end|>")?,
        image_pad: id("<|image_pad|>")?,
        video_pad: id("<|video_pad|>")?,
    })
}
