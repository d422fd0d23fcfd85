//! Figures of a load: counts, rates, percentiles of every time, and how many answers kept what was asked of them.

use super::ServeArgs;
use super::client::{Answer, Outcome};
use super::load::Shows;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A time that `--goodput` bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Ttft,
    Tpot,
    E2el,
}

/// Parses `ttft:500`.
pub fn goal(text: &str) -> Result<(Goal, f64), String> {
    let (name, limit) = text.split_once(':').unwrap_or((text, ""));
    let goal = match name {
        "ttft" => Some(Goal::Ttft),
        "tpot" => Some(Goal::Tpot),
        "e2el" => Some(Goal::E2el),
        _ => None,
    };
    let limit = limit.parse::<f64>().ok().filter(|ms| *ms >= 0.0);
    goal.zip(limit).ok_or_else(|| "must be ttft, tpot or e2el and milliseconds, such as ttft:500".into())
}

/// What an answer must keep, in milliseconds.
pub struct Goals<'a>(pub &'a [(Goal, f64)]);

impl Goals<'_> {
    /// True if it keeps all of them.
    fn kept(&self, answer: &Answer) -> bool {
        self.0.iter().all(|&(goal, ms)| {
            let seconds = match goal {
                Goal::Ttft => answer.ttft,
                Goal::Tpot => answer.tpot().unwrap_or(0.0),
                Goal::E2el => answer.whole,
            };
            seconds * 1e3 <= ms
        })
    }
}

/// What `--json` writes; times are in milliseconds.
#[derive(Serialize)]
pub struct Report {
    url: String,
    model: String,
    /// Requests a second; none: all at once.
    request_rate: Option<f64>,
    max_concurrency: Option<u64>,
    duration_s: f64,
    pub completed: usize,
    /// Requests that the server refused, by status.
    refused: BTreeMap<u16, usize>,
    /// Requests without a whole answer, by what broke it.
    broken: BTreeMap<String, usize>,
    total_input_tokens: u64,
    total_output_tokens: u64,
    request_throughput: f64,
    output_throughput: f64,
    total_token_throughput: f64,
    /// Answers a second that kept all goals.
    request_goodput: Option<f64>,
    ttft_ms: Option<Spread>,
    ttft_text_ms: Option<Spread>,
    ttft_new_picture_ms: Option<Spread>,
    ttft_repeated_picture_ms: Option<Spread>,
    itl_ms: Option<Spread>,
    tpot_ms: Option<Spread>,
    e2el_ms: Option<Spread>,
}

/// How values are spread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    count: usize,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    /// Of values in seconds, in milliseconds; none without values.
    fn of(seconds: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut ms: Vec<f64> = seconds.map(|s| s * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let (max, mean) = (*ms.last()?, ms.iter().sum::<f64>() / ms.len() as f64);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| quantile(&ms, share));
        Some(Spread { count: ms.len(), mean, p50, p90, p99, max })
    }
}

/// The value below which a share of the sorted values lies, on a line between its two neighbours, as numpy's `percentile`.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

impl Report {
    /// Of what became of all requests in so many seconds.
    pub fn new(url: &str, model: &str, args: &ServeArgs, seconds: f64, outcomes: &[(Shows, Outcome)]) -> Report {
        let (mut answers, mut refused, mut broken) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (shows, outcome) in outcomes {
            match outcome {
                Outcome::Answered(answer) => answers.push((*shows, answer)),
                Outcome::Refused(status) => *refused.entry(*status).or_default() += 1,
                Outcome::Broken(why) => *broken.entry(why.clone()).or_default() += 1,
            }
        }
        let goals = Goals(&args.goodput);
        let all = || answers.iter().map(|(_, answer)| *answer);
        let first = |wanted: Shows| answers.iter().filter(move |(shows, _)| *shows == wanted).map(|(_, a)| a.ttft);
        let (input, output) = (all().map(|a| a.prompt).sum::<u64>(), all().map(|a| a.completion).sum::<u64>());
        let good = all().filter(|answer| goals.kept(answer)).count();
        Report {
            url: url.into(),
            model: model.into(),
            request_rate: args.request_rate.is_finite().then_some(args.request_rate),
            max_concurrency: args.max_concurrency,
            duration_s: seconds,
            completed: answers.len(),
            refused,
            broken,
            total_input_tokens: input,
            total_output_tokens: output,
            request_throughput: answers.len() as f64 / seconds,
            output_throughput: output as f64 / seconds,
            total_token_throughput: (input + output) as f64 / seconds,
            request_goodput: (!args.goodput.is_empty()).then(|| good as f64 / seconds),
            ttft_ms: Spread::of(all().map(|a| a.ttft)),
            ttft_text_ms: Spread::of(first(Shows::Text)),
            ttft_new_picture_ms: Spread::of(first(Shows::NewPicture)),
            ttft_repeated_picture_ms: Spread::of(first(Shows::OldPicture)),
            itl_ms: Spread::of(all().flat_map(|a| a.gaps.iter().copied())),
            tpot_ms: Spread::of(all().filter_map(Answer::tpot)),
            e2el_ms: Spread::of(all().map(|a| a.whole)),
        }
    }

    /// The table.
    pub fn text(&self) -> String {
        let rate = self.request_rate.map_or("all at once".into(), |rate| format!("{rate} a second"));
        let mut s = format!("{} at {}, {rate}\n", self.model, self.url);
        let _ = write!(s, "{} answered in {:.2} s", self.completed, self.duration_s);
        self.refused.iter().for_each(|(status, n)| s += &format!(", {n} refused with {status}"));
        self.broken.iter().for_each(|(why, n)| s += &format!(", {n} broken: {why}"));
        let _ = write!(
            s,
            "\n{:.2} requests/s, {:.1} output tokens/s ({}), {:.1} tokens/s with prompts ({})",
            self.request_throughput,
            self.output_throughput,
            self.total_output_tokens,
            self.total_token_throughput,
            self.total_input_tokens
        );
        self.request_goodput.iter().for_each(|good| s += &format!(", {good:.2} good requests/s"));
        let _ = write!(s, "\n\n{:<28}", "milliseconds");
        ["count", "mean", "p50", "p90", "p99", "max"].iter().for_each(|head| s += &format!("{head:>10}"));
        s.push('\n');
        let rows = [
            ("first token", &self.ttft_ms),
            ("  of text", &self.ttft_text_ms),
            ("  of new pictures", &self.ttft_new_picture_ms),
            ("  of repeated pictures", &self.ttft_repeated_picture_ms),
            ("between tokens, every gap", &self.itl_ms),
            ("a token, mean of an answer", &self.tpot_ms),
            ("whole answer", &self.e2el_ms),
        ];
        for (name, spread) in rows {
            let Some(Spread { count, mean, p50, p90, p99, max }) = spread else { continue };
            let _ = write!(s, "{name:<28}{count:>10}");
            [mean, p50, p90, p99, max].iter().for_each(|ms| s += &format!("{ms:>10.1}"));
            s.push('\n');
        }
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([1, 2, 3, 4, 10], [50, 90, 99]) == [3, 7.6, 9.76]
        let spread = Spread::of([0.004, 0.001, 0.010, 0.003, 0.002].into_iter()).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(spread.mean, 4.0) && near(spread.p50, 3.0) && near(spread.p90, 7.6), "{spread:?}");
        assert!(near(spread.p99, 9.76) && spread.max == 10.0 && spread.count == 5, "{spread:?}");
        let one = Spread::of(std::iter::once(0.25)).unwrap();
        assert_eq!([one.mean, one.p50, one.p90, one.p99, one.max], [250.0; 5]);
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn a_good_answer_keeps_every_goal() {
        let answer = Answer { ttft: 0.5, gaps: vec![], whole: 1.5, prompt: 1, completion: 11 };
        let kept = |goals: &[&str]| Goals(&goals.iter().map(|g| goal(g).unwrap()).collect::<Vec<_>>()).kept(&answer);
        assert!(kept(&[]) && kept(&["ttft:500", "tpot:100", "e2el:1500"]));
        assert!(!kept(&["ttft:499", "tpot:100"]) && !kept(&["ttft:500", "tpot:99"]) && !kept(&["e2el:1499"]));
        assert!(["ttft", "ttft:", "ttft:-1", "ttft:NaN", "rate:5"].iter().all(|bad| goal(bad).is_err()));
    }
}
