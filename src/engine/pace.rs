//! How much a step may take on beside running streams: between two of their tokens no more than about three decode steps should pass, whatever the machine.
//!
//! It only decides when something is computed. What comes out does not depend on it.

use std::collections::VecDeque;
use std::time::Duration;

/// Decode steps whose median counts.
const REMEMBERED: usize = 33;
/// Prefill rows beside decoding ones before anything was measured.
const FIRST_ROWS: usize = 32;
/// Fewer prefill rows than this are not worth a step.
const LEAST_ROWS: usize = 8;

/// What steps took lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    decodes: VecDeque<Duration>,
    /// Seconds of a prefill row.
    row: Option<f64>,
}

impl Pace {
    /// Notes a step of so many decoding and so many prefilling rows.
    pub fn note(&mut self, decoding: usize, prefilling: usize, took: Duration) {
        if prefilling == 0 {
            self.decodes.push_back(took);
            if self.decodes.len() > REMEMBERED {
                self.decodes.pop_front();
            }
            return;
        }
        let other = if decoding > 0 { self.decode().unwrap_or_default() } else { Duration::ZERO };
        let row = took.saturating_sub(other).as_secs_f64() / prefilling as f64;
        self.row = Some(self.row.map_or(row, |before| (before + row) / 2.0));
    }

    /// The median decode step.
    fn decode(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.decodes.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// How long a slice of vision may last: two decode steps, or one before a step that has prompts too, so that both together last as long as three;
    /// none before one was measured.
    pub fn slice(&self, before_prompts: bool) -> Option<Duration> {
        self.decode().map(|d| if before_prompts { d } else { 2 * d })
    }

    /// Prefill rows that make a step last as long as two.
    pub fn rows(&self) -> usize {
        match (self.decode(), self.row) {
            (Some(decode), Some(row)) if row > 0.0 => ((decode.as_secs_f64() / row) as usize).max(LEAST_ROWS),
            _ => FIRST_ROWS,
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
        assert_eq!((pace.slice(false), pace.rows()), (None, FIRST_ROWS));
        [9, 10, 500, 10, 11].into_iter().for_each(|t| pace.note(3, 0, ms(t)));
        assert_eq!([false, true].map(|prompts| pace.slice(prompts)), [20, 10].map(|t| Some(ms(t))));
        // 20 rows beside a decode step took 40 ms more than it.
        pace.note(3, 20, ms(50));
        assert_eq!(pace.rows(), LEAST_ROWS);
        pace.note(0, 100, ms(10));
        let row: f64 = (2.0 + 0.1) / 2.0;
        assert_eq!(pace.rows(), ((10.0 / row) as usize).max(LEAST_ROWS));
        (0..20).for_each(|_| pace.note(0, 100, ms(10)));
        assert!((98..=100).contains(&pace.rows()), "{}", pace.rows());
    }
}
