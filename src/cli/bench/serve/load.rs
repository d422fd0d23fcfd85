//! What is asked and when: everything follows from the seed. No two prompts begin alike, or the server's cache would answer.

use super::ServeArgs;
use super::client::{Client, Outcome};
use crate::cli::bench::picture;
use crate::cli::bench::weights::mix;
use base64::Engine;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Short ones, of one token each in most vocabularies.
const WORDS: [&str; 32] = [
    "the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his",
    "they", "at", "be", "this", "have", "from", "or", "one", "had", "by", "word", "but", "not", "what", "all",
];
/// Enough for a thread that waits for a stream.
const STACK: usize = 1 << 18;

/// What a chat shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    Text,
    NewPicture,
    /// One that an earlier request showed.
    OldPicture,
}

/// A request to send.
pub struct Chat {
    /// Seconds after the start.
    pub due: f64,
    pub shows: Shows,
    prompt: String,
    /// As a data URL.
    picture: Option<Arc<str>>,
    output_tokens: u64,
}

impl Chat {
    /// The JSON of the request.
    pub fn body(&self, model: &str) -> String {
        let text = json!({ "type": "text", "text": self.prompt });
        let picture = self.picture.as_deref().map(|url| json!({ "type": "image_url", "image_url": { "url": url } }));
        let parts: Vec<_> = picture.into_iter().chain([text]).collect();
        json!({
            "model": model,
            "messages": [{ "role": "user", "content": parts }],
            "max_tokens": self.output_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
        })
        .to_string()
    }
}

/// All requests, in the order of their times.
pub struct Load {
    chats: Vec<Chat>,
    concurrency: usize,
    words: u64,
    seed: u64,
}

impl Load {
    /// What the flags ask for.
    ///
    /// # Errors
    /// If a picture cannot be encoded.
    pub fn new(args: &ServeArgs) -> anyhow::Result<Load> {
        let mut random = Random(args.seed);
        let (mut due, mut owed, mut pictures) = (0.0, 0.0, Vec::<Arc<str>>::new());
        let mut chats = Vec::new();
        for i in 0..args.num_prompts {
            owed += args.image_share;
            let mut shows = Shows::Text;
            if owed >= 1.0 - 1e-9 {
                owed -= 1.0;
                let repeats = chats.iter().filter(|c: &&Chat| c.shows != Shows::Text).count() % 2 == 1;
                shows = if repeats { Shows::OldPicture } else { Shows::NewPicture };
            }
            if shows == Shows::NewPicture {
                pictures.push(data_url(&picture::png(args.image_size, random.bits())?));
            }
            let picture = (shows != Shows::Text).then(|| pictures.last().cloned()).flatten();
            let prompt = prompt(&mut random, i + 1, args.input_tokens);
            chats.push(Chat { due, shows, prompt, picture, output_tokens: args.output_tokens });
            due += random.gap(args.request_rate);
        }
        let concurrency = args.max_concurrency.unwrap_or(args.num_prompts).min(args.num_prompts) as usize;
        Ok(Load { chats, concurrency, words: args.input_tokens, seed: args.seed })
    }

    /// A chat to send before all others.
    pub fn first(&self) -> Chat {
        let prompt = prompt(&mut Random(!self.seed), 0, self.words);
        Chat { due: 0.0, shows: Shows::Text, prompt, picture: None, output_tokens: 2 }
    }

    /// Sends everything at its time. What became of each, and the seconds from the first request to the last end.
    pub fn run(&self, client: &Client) -> (Vec<(Shows, Outcome)>, f64) {
        let (next, start) = (AtomicUsize::new(0), Instant::now());
        let work = || {
            let mut done = Vec::new();
            while let Some(chat) = self.chats.get(next.fetch_add(1, Ordering::Relaxed)) {
                let due = Duration::try_from_secs_f64(chat.due).unwrap_or(Duration::MAX);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
                done.push((chat.shows, client.chat(&chat.body(&client.model))));
            }
            done
        };
        let outcomes = std::thread::scope(|scope| {
            let threads = (0..self.concurrency).map(|_| Builder::new().stack_size(STACK).spawn_scoped(scope, work));
            // Where the system gives no more threads, those that there are do the work.
            let threads: Vec<_> = threads.flatten().collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        (outcomes, start.elapsed().as_secs_f64())
    }
}

/// Random words behind a number.
fn prompt(random: &mut Random, number: u64, words: u64) -> String {
    let word = |_| WORDS[(random.bits() % WORDS.len() as u64) as usize];
    let words: Vec<&str> = (1..words).map(word).collect();
    format!("{number} {}", words.join(" "))
}

fn data_url(png: &[u8]) -> Arc<str> {
    format!("data:image/png;base64,{}", base64::prelude::BASE64_STANDARD.encode(png)).into()
}

/// Random numbers from a seed.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(mix(self.0))
    }

    /// Seconds to the next of the requests that come `rate` times a second, whenever the last one came.
    fn gap(&mut self, rate: f64) -> f64 {
        // 53 bits: from 0 to below 1.
        let uniform = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        -(1.0 - uniform).ln() / rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_those_of_a_poisson_process() {
        let (n, rate, mut random) = (100_000, 4.0, Random(5));
        let gaps: Vec<f64> = (0..n).map(|_| random.gap(rate)).collect();
        let mean = gaps.iter().sum::<f64>() / n as f64;
        // An exponential's mean and deviation are both 1/rate: five deviations of the mean of so many.
        let five = 5.0 / rate / (n as f64).sqrt();
        assert!((mean - 1.0 / rate).abs() < five, "{mean}");
        // Above the mean lie exp(-1) of them, with the deviation of a binomial share.
        let above = gaps.iter().filter(|gap| **gap > 1.0 / rate).count() as f64 / n as f64;
        let share = (-1f64).exp();
        assert!((above - share).abs() < 5.0 * (share * (1.0 - share) / n as f64).sqrt(), "{above}");
        assert_eq!(random.gap(f64::INFINITY), 0.0);
    }
}
