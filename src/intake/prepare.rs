//! From messages to a prompt with positions and pixels.

use super::Model;
use super::media::{Budget, Info, Item, Library};
use crate::engine::{Controls, Picture, Request, Sampling};
use crate::error::{Error, Result};
use crate::text::messages::{self, Message};
use crate::text::positions::{Positions, positions};
use crate::text::prompt::{MediaKind, Prompt};
use crate::text::template::RenderOptions;
use std::time::{Duration, Instant};

/// What limits the tokens of a prompt that is not part of a chat.
pub const MODEL_LIMIT: &str = "max_position_embeddings of config.json";

/// A prompt that is ready for the engine.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub prompt: Prompt,
    pub positions: Positions,
    /// In the order of the prompt's spans.
    pub media: Vec<Picture>,
    pub infos: Vec<Info>,
    /// Time to read and resize the media.
    pub elapsed: Duration,
}

/// Renders, tokenises and reads everything that `messages` name, ready to be answered.
///
/// # Errors
/// Naming the file, also the one that exceeds the budget, or `messages` if they and the chat template do not fit.
pub fn prepare(
    model: &Model,
    library: &mut Library,
    messages: &[Message],
    special: bool,
    mut budget: Budget,
) -> Result<Prepared> {
    let start = Instant::now();
    let budget = &mut budget;
    let images = messages::images(messages).map(|i| library.image(model, i, budget)).collect::<Result<Vec<Item>>>()?;
    let videos = messages::videos(messages).map(|v| library.video(model, v, budget)).collect::<Result<Vec<Item>>>()?;
    let elapsed = start.elapsed();
    let options =
        RenderOptions { add_generation_prompt: true, special_tokens_in_text: special, ..RenderOptions::default() };
    let rendered = model.template.render(&model.tokenizer, messages, &options)?;
    let ids = model.tokenizer.encode_rendered(&rendered)?;
    let merge = model.files.config.vision.spatial_merge_size as u32;
    let prompt = Prompt::new(&ids, &model.tokenizer.special_ids(), &grids(&images)?, &grids(&videos)?, merge)?;
    let positions = positions(prompt.ids.len(), &prompt.spans, merge)?;
    let item = |kind, index: usize| match kind {
        MediaKind::Image => &images[index],
        MediaKind::Video => &videos[index],
    };
    let items: Vec<&Item> = prompt.spans.iter().map(|span| item(span.kind, span.index)).collect();
    Ok(Prepared {
        media: items.iter().map(|i| i.picture.clone()).collect(),
        infos: items.iter().map(|i| i.info.clone()).collect(),
        prompt,
        positions,
        elapsed,
    })
}

fn grids(items: &[Item]) -> Result<Vec<[u32; 3]>> {
    let side = |n: usize| u32::try_from(n).map_err(|_| Error::request("image", "has too many patches"));
    items
        .iter()
        .map(|item| {
            let [t, h, w] = item.picture.grid_thw;
            Ok([side(t)?, side(h)?, side(w)?])
        })
        .collect()
}

impl Prepared {
    /// Patches of the largest picture or video.
    pub fn largest(&self) -> usize {
        self.infos.iter().map(|i| i.grid_thw.iter().product()).max().unwrap_or(0)
    }

    /// How many new tokens have room behind this prompt: `wanted` if given, else `default` or what is left.
    ///
    /// # Errors
    /// [`Error::Request`] if `wanted`, or a single one, does not fit into `context`; `limit` says where that comes from.
    pub fn room(&self, wanted: Option<u64>, default: usize, context: usize, limit: &str) -> Result<usize> {
        let have = self.prompt.ids.len();
        let left = context.saturating_sub(have);
        match wanted.map(|n| n as usize) {
            _ if left == 0 => Err(Error::request(
                "prompt",
                format!("its {have} tokens leave no room in {context} ({limit}): shorten it or lower --max-pixels"),
            )),
            Some(n) if n > left => Err(Error::request(
                "--max-new-tokens",
                format!("{n} and a prompt of {have} tokens exceed {context} ({limit}): at most {left} fit"),
            )),
            Some(n) => Ok(n),
            None => Ok(default.min(left)),
        }
    }

    /// The request of the prompt followed by the wanted answer and the end of its turn, and where the answer begins.
    ///
    /// # Errors
    /// [`Error::Request`] if the answer is no text for the tokenizer.
    pub fn with_answer(&self, model: &Model, answer: &str) -> Result<(Request, usize)> {
        let (tokenizer, merge) = (&model.tokenizer, model.files.config.vision.spatial_merge_size as u32);
        let mut request = self.request(model, Sampling::GREEDY, 0);
        let first = request.prompt.ids.len();
        request.prompt.ids.extend(tokenizer.encode_with_special(answer)?);
        request.prompt.ids.push(tokenizer.special_ids().im_end);
        request.positions = positions(request.prompt.ids.len(), &request.prompt.spans, merge)?;
        Ok((request, first))
    }

    /// The request to continue it.
    pub fn request(&self, model: &Model, sampling: Sampling, max_new_tokens: usize) -> Request {
        Request {
            prompt: self.prompt.clone(),
            positions: self.positions.clone(),
            media: self.media.clone(),
            sampling,
            controls: Controls::default(),
            choices: 1,
            priority: 0,
            max_new_tokens,
            stop: model.files.eos_token_ids().to_vec(),
        }
    }
}
