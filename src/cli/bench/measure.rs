//! The timed requests: pictures, one prompt, its answer. Every run asks something new, or the cache would answer.

use super::picture::generate;
use super::table::Row;
use super::weights::mix;
use crate::cli::terminal::Progress;
use crate::engine::{Cancel, Controls, Engine, Picture, Request, Sampling, Timing};
use crate::error::Result;
use crate::media::patches::ImageProcessor;
use crate::text::positions::positions;
use crate::text::prompt::{MediaKind, MediaSpan, Prompt};
use std::ops::ControlFlow;
use std::time::Duration;

/// What to time.
pub struct Work {
    /// Width and height of pictures.
    pub sizes: Vec<(usize, usize)>,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// The best of these counts.
    pub runs: u64,
}

/// The patches (t, h, w) that a picture of width and height becomes.
///
/// # Errors
/// If it is too thin.
pub fn grid((width, height): (usize, usize)) -> Result<[usize; 3]> {
    let p = ImageProcessor::default();
    let (h, w) = p.resized(height, width)?;
    Ok([1, h / p.patch, w / p.patch])
}

/// An engine, and what its weights are called.
pub struct Subject {
    pub weights: &'static str,
    pub engine: Engine,
}

/// Times everything; the tower, which is the same in all, on the first one only.
///
/// # Errors
/// What an engine reports.
pub fn measure(subjects: &mut [Subject], work: &Work) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &size in &work.sizes {
        rows.push(image(&mut subjects[0].engine, size, work.runs)?);
    }
    rows.extend(answer(subjects, work)?);
    Ok(rows)
}

fn image(engine: &mut Engine, (width, height): (usize, usize), runs: u64) -> Result<Row> {
    let _progress = Progress::start(format!("encoding {width}x{height}"));
    let (mut source, mut best) = (generate((width, height)), Duration::MAX);
    for run in 0..runs {
        // The rows of a picture that was seen before are in the cache: each run has one of its own.
        source.data[..3 * width].fill((run as u8).wrapping_mul(37));
        let picture = Picture::new(ImageProcessor::default().process_image(&source)?);
        let request = about_picture(engine, &picture, run)?;
        best = best.min(timing(engine, &request)?.vision);
    }
    let grid = grid((width, height))?;
    let tokens = grid.iter().product::<usize>() / merge(engine).pow(2);
    Ok(Row::timed(format!("encode {width}x{height}"), best, tokens).with_cost(best, engine.vision_cost(grid)?))
}

/// Prefill and decode. All take turns, so that a machine that changes its speed does so for all.
fn answer(subjects: &mut [Subject], work: &Work) -> Result<Vec<Row>> {
    let (tokens, new) = (work.prompt_tokens, work.new_tokens);
    let _progress = Progress::start(format!("reading {tokens} tokens, writing {new}"));
    let mut best = vec![[Duration::MAX; 2]; subjects.len()];
    // After those of the pictures.
    for run in work.runs..2 * work.runs {
        for (Subject { engine, .. }, [prefill, decode]) in subjects.iter_mut().zip(&mut best) {
            let ids = (0..tokens).map(|i| token(engine, run, i)).collect();
            // The first token comes from prefill.
            let t = timing(engine, &request(Prompt { ids, spans: Vec::new() }, Vec::new(), new + 1, merge(engine))?)?;
            (*prefill, *decode) = (t.prefill.min(*prefill), t.decode.min(*decode));
        }
    }
    let mut rows = Vec::new();
    for (Subject { weights, engine }, time) in subjects.iter().zip(&best) {
        let steps = (tokens..tokens + new).map(|at| engine.step_cost(at..at + 1)).collect::<Result<Vec<_>>>()?;
        let costs = [engine.step_cost(0..tokens)?, steps.into_iter().fold(Default::default(), |a, b| a + b)];
        for (i, (what, count)) in [("prefill", tokens), ("decode", new)].into_iter().enumerate() {
            let row = Row::timed(format!("{what} {count}, {weights}"), time[i], count).with_cost(time[i], costs[i]);
            let times = (subjects.len() > 1).then(|| best[0][i].as_secs_f64() / time[i].as_secs_f64());
            rows.push(Row { times_first: times, ..row });
        }
    }
    Ok(rows)
}

fn timing(engine: &mut Engine, request: &Request) -> Result<Timing> {
    Ok(engine.generate(request, &Cancel::default(), |_| ControlFlow::Continue(()))?.timing)
}

/// A picture between two tokens, of which the first is new in each run.
fn about_picture(engine: &Engine, picture: &Picture, run: u64) -> Result<Request> {
    let merge = merge(engine);
    let len = picture.tokens(merge);
    let pad = engine.model().config.image_token_id;
    let ids = [token(engine, run, 0)].into_iter().chain(std::iter::repeat_n(pad, len)).chain([0]).collect();
    let grid_thw = picture.grid_thw.map(|n| n as u32);
    let span = MediaSpan { start: 1, len, kind: MediaKind::Image, grid_thw, index: 0 };
    request(Prompt { ids, spans: vec![span] }, vec![picture.clone()], 1, merge)
}

fn request(prompt: Prompt, media: Vec<Picture>, max_new_tokens: usize, merge: usize) -> Result<Request> {
    let positions = positions(prompt.ids.len(), &prompt.spans, merge as u32)?;
    let (sampling, controls) = (Sampling::GREEDY, Controls::default());
    Ok(Request {
        prompt,
        positions,
        media,
        sampling,
        controls,
        choices: 1,
        priority: 0,
        max_new_tokens,
        stop: Vec::new(),
    })
}

/// Any text token; token 0 of two runs never is the same one.
fn token(engine: &Engine, run: u64, i: usize) -> u32 {
    let vocab = engine.model().config.text.vocab_size.min(1000) as u64;
    let id = if i == 0 { run } else { mix(run << 32 | i as u64) };
    (id % vocab) as u32
}

fn merge(engine: &Engine) -> usize {
    engine.model().config.vision.spatial_merge_size
}
