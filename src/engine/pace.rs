//! How much a step may take on beside running streams: between two of their tokens no more than about three decode steps should pass, whatever the machine.
//!
//! A step's prompts take about as long as its streams: no token comes later than after two decode steps, and prompts have half of the time. What both
//! take is measured where they are alone, since a step has a price that neither is to blame for. The surprise: so where it is not known what so many
//! streams take, and now and then, a step leaves prompts out. It only decides when something is computed. What comes out does not depend on it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Steps of a kind that count.
const REMEMBERED: usize = 33;
/// Of so many steps in a row one decodes only.
const PERIOD: usize = 16;
/// Prefill rows beside decoding ones before anything was measured.
const FIRST_ROWS: usize = 32;
/// Fewer prefill rows than this are not worth a step, whatever they take.
const LEAST_ROWS: usize = 8;

/// What steps took lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Those that decode only, by the number of streams, rounded up to a power of two.
    decodes: BTreeMap<usize, VecDeque<Duration>>,
    /// Those that prefill only, and their rows.
    prefills: VecDeque<(Duration, usize)>,
    /// Steps that do both since the last one that decodes only.
    mixed: usize,
}

fn remember<T>(latest: &mut VecDeque<T>, value: T) {
    latest.push_back(value);
    if latest.len() > REMEMBERED {
        latest.pop_front();
    }
}

impl Pace {
    /// Notes a step of so many decoding and so many prefilling rows.
    pub fn note(&mut self, decoding: usize, prefilling: usize, took: Duration) {
        match (decoding, prefilling) {
            (0, _) => remember(&mut self.prefills, (took, prefilling)),
            (_, 0) => remember(self.decodes.entry(decoding.next_power_of_two()).or_default(), took),
            _ => {}
        }
        self.mixed = if decoding > 0 && prefilling > 0 { self.mixed + 1 } else { 0 };
    }

    /// The median step of so many streams, or of the most below for which it is known.
    fn decode(&self, streams: usize) -> Option<Duration> {
        let (_, latest) = self.decodes.range(..=streams.next_power_of_two()).next_back()?;
        let mut sorted: Vec<Duration> = latest.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// How long a slice of vision may last beside so many streams: two decode steps, or one before a step that has prompts too, so that both together
    /// last as long as three; none before one was measured.
    pub fn slice(&self, streams: usize, before_prompts: bool) -> Option<Duration> {
        self.decode(streams).map(|d| if before_prompts { d } else { 2 * d })
    }

    /// Prefill rows that make a step of so many streams last as long as two; none if it is to say how long one lasts.
    pub fn rows(&self, streams: usize) -> usize {
        let known = self.decodes.contains_key(&streams.next_power_of_two());
        let (took, rows) =
            self.prefills.iter().fold((0.0, 0), |(t, n), (took, rows)| (t + took.as_secs_f64(), n + rows));
        match self.decode(streams) {
            Some(decode) if known && self.mixed < PERIOD - 1 => {
                if took > 0.0 {
                    ((decode.as_secs_f64() / took * rows as f64) as usize).max(LEAST_ROWS)
                } else {
                    FIRST_ROWS
                }
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_lasts_two_medians() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!((pace.slice(3, false), pace.rows(3)), (None, 0));
        [9, 10, 500, 10, 11].into_iter().for_each(|t| pace.note(3, 0, ms(t)));
        assert_eq!([false, true].map(|prompts| pace.slice(4, prompts)), [20, 10].map(|t| Some(ms(t))));
        assert_eq!((pace.rows(3), pace.rows(5)), (FIRST_ROWS, 0), "nothing is known of five");
        pace.note(1, 0, ms(3));
        assert_eq!([1, 2, 3].map(|streams| pace.slice(streams, true)), [3, 3, 10].map(|t| Some(ms(t))));
        // A short prompt's rows are dear; there are few of them.
        pace.note(0, 2, ms(8));
        pace.note(0, 98, ms(92));
        (0..15).for_each(|_| {
            assert_eq!(pace.rows(3), 10);
            pace.note(3, 10, ms(300));
        });
        assert_eq!(pace.rows(3), 0, "it is time to look again");
        pace.note(3, 0, ms(10));
        assert_eq!(pace.rows(3), 10);
    }

    #[test]
    fn what_steps_took_long_ago_is_forgotten() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.note(1, 0, ms(10)));
        (0..100).for_each(|_| pace.note(0, 10, ms(8)));
        assert_eq!((pace.slice(1, true), pace.rows(1)), (Some(ms(10)), 12));
        // Half of those that count are enough for the median, all for the mean.
        (0..REMEMBERED / 2 + 1).for_each(|_| pace.note(1, 0, ms(31)));
        (0..REMEMBERED).for_each(|_| pace.note(0, 10, ms(20)));
        assert_eq!((pace.slice(1, true), pace.rows(1)), (Some(ms(31)), 15));
    }

    /// As many prompts of 567 tokens come at once as can run, each with an answer of 128 tokens, on a machine whose steps take so many microseconds, and so
    /// many more for each row, and a mixed step `extra`. How long the prompts took, as a part of what they take alone, and the longest step
    /// beside streams, as a part of one without prompts.
    fn ramp(step: f64, row: f64, extra: f64) -> (f64, f64) {
        const STREAMS: usize = 16;
        const PROMPT: usize = 567;
        let micros = |us: f64| Duration::from_nanos((1e3 * us) as u64);
        let mut pace = Pace::default();
        // Somebody was here before.
        pace.note(0, 40, micros(step + 40.0 * row));
        (0..REMEMBERED).for_each(|_| pace.note(1, 0, micros(step + row)));
        let (mut left, mut begun, mut answers) = (STREAMS * PROMPT, 0, Vec::new());
        let (mut time, mut longest) = (0.0, 0.0);
        while left > 0 {
            let streams = answers.len();
            let rows = if streams > 0 { pace.rows(streams) } else { 512 }.min(left);
            let alone = step + row * streams as f64;
            let took = step + row * (streams + rows) as f64 + if streams > 0 && rows > 0 { extra } else { 0.0 };
            longest = if streams > 0 { f64::max(longest, took / alone) } else { longest };
            pace.note(streams, rows, micros(took));
            (time, left) = (time + took, left - rows);
            answers.iter_mut().for_each(|answer| *answer += 1);
            answers.retain(|answer: &u32| *answer < 128);
            let read = STREAMS - left.div_ceil(PROMPT);
            answers.resize(answers.len() + read - begun, 0);
            begun = read;
        }
        let chunks = (STREAMS * PROMPT) as f64 / 512.0;
        (time / (chunks * (step + row * 512.0)), longest)
    }

    /// Half of the time is the prompts', less a step in sixteen, and no gap is longer than two steps, up to rounding, or the least slice and the price of
    /// a mixed step.
    #[test]
    fn prompts_that_come_together_are_read_in_twice_their_time() {
        for (step, row, extra) in
            [(370.0, 130.0, 0.0), (20_000.0, 900.0, 0.0), (1500.0, 7.0, 0.0), (1500.0, 7.0, 3000.0)]
        {
            let (time, longest) = ramp(step, row, extra);
            println!("{step} {row} {extra}: {time:.2} of the time alone, {longest:.2} steps");
            let price = extra / step;
            let least = 1.0 + (LEAST_ROWS as f64 + 0.01) * row / (step + row);
            assert!(longest <= f64::max(2.05, least) + price, "{step} {row} {extra}: a step as long as {longest:.2}");
            assert!(time <= 2.2 + price, "{step} {row} {extra}: {time:.2} of the time alone");
        }
    }
}
