//! What a request must be before it is taken: one that could never be answered is refused at once, with the field and the numbers.

use super::{BLOCK_SIZE, Engine, Picture, Request};
use crate::error::{Error, Result};
use crate::text::prompt::MediaSpan;

impl Engine {
    /// Checks a request against the limits.
    pub(super) fn check(&self, request: &Request) -> Result<()> {
        let (have, new) = (request.prompt.ids.len(), request.max_new_tokens);
        if have == 0 {
            return Err(Error::request("prompt", "is empty; give at least one token"));
        }
        if have.saturating_add(new) > self.limits.context {
            let why =
                format!("{have} prompt tokens and {new} new ones exceed the context of {} tokens", self.limits.context);
            return Err(Error::request("prompt", why));
        }
        if !(1..=self.limits.seqs).contains(&request.choices) {
            let why = format!("{} answers are asked for, 1 to {} can run together", request.choices, self.limits.seqs);
            return Err(Error::request("n", why));
        }
        let vocab = self.model.config.text.vocab_size;
        if let Some(id) = request.prompt.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::request("prompt", format!("token id {id} is outside the vocabulary of {vocab}")));
        }
        request.controls.check(vocab)?;
        self.check_media(request)?;
        let (need, have) = ((have + new).div_ceil(BLOCK_SIZE), self.limits.blocks);
        if need > have {
            let why = format!("it and its answer take {need} cache blocks of {BLOCK_SIZE} tokens, there are {have}");
            return Err(Error::request("prompt", why));
        }
        let (need, have) = (request.prompt.spans.iter().map(|span| span.len).sum::<usize>(), self.limits.images);
        if need > have {
            let why = format!("the pictures take {need} rows, there is room for {have}: lower --max-pixels");
            return Err(Error::request("image", why));
        }
        let largest = request.media.iter().map(|m| m.grid_thw.iter().product::<usize>()).max().unwrap_or(0);
        if largest > self.limits.patches {
            let why =
                format!("a picture has {largest} patches, at most {} fit: lower --max-pixels", self.limits.patches);
            return Err(Error::request("image", why));
        }
        Ok(())
    }

    /// Checks that ids, positions, spans and pixels belong together.
    fn check_media(&self, request: &Request) -> Result<()> {
        let vision = &self.model.config.vision;
        let len = request.prompt.ids.len();
        let spans = request.prompt.spans.iter().zip(&request.media);
        let fits = |(span, patches): (&MediaSpan, &Picture)| {
            let values = patches.grid_thw.iter().product::<usize>() * vision.patch_dim();
            span.len == patches.tokens(vision.spatial_merge_size)
                && span.start.checked_add(span.len).is_some_and(|end| end <= len)
                && patches.data.len() == values
        };
        let counted = request.prompt.spans.len() == request.media.len();
        if counted && request.positions.thw.iter().all(|axis| axis.len() == len) && spans.into_iter().all(fits) {
            return Ok(());
        }
        Err(Error::request("prompt", "its ids, positions and pictures do not belong together"))
    }
}
