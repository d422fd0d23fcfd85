//! How the times are distributed: for each kind the share of its values that are at most so long, over a logarithmic axis.

use super::client::{Answer, Outcome};
use super::load::Shows;
use crate::cli::page::{WIDTH, standalone};
use std::fmt::Write;

const HEIGHT: f64 = 420.0;
/// Where the curves are drawn: left, right, top and bottom.
const FRAME: [f64; 4] = [60.0, WIDTH - 20.0, 40.0, 370.0];
/// Points of a curve at most.
const POINTS: usize = 400;

/// The picture.
pub fn svg(outcomes: &[(Shows, Outcome)]) -> String {
    let answers = || {
        outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        })
    };
    let kinds = [
        ("decode", "between tokens", sorted(answers().flat_map(|a| a.gaps.iter().copied()))),
        ("prefill", "first token", sorted(answers().map(|a: &Answer| a.ttft))),
        ("vision", "whole answer", sorted(answers().map(|a| a.whole))),
    ];
    let all = || kinds.iter().flat_map(|(.., ms)| ms.iter().copied());
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN_POSITIVE, f64::max));
    let low = least.min(most).log10().floor();
    let axis = Axis { low, high: most.log10().ceil().max(low + 1.0) };
    let mut s = axis.lines();
    for (i, (class, name, ms)) in kinds.iter().enumerate() {
        let (x, y) = (FRAME[0] + 160.0 * i as f64, FRAME[2] - 22.0);
        let _ = writeln!(s, "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{y}\" r=\"5\"/>", x + 5.0);
        let _ = writeln!(s, "<text x=\"{:.1}\" y=\"{:.1}\">{name}</text>", x + 16.0, y + 4.0);
        curve(&mut s, class, ms, &axis);
    }
    standalone(HEIGHT, &s)
}

/// Milliseconds, least first.
fn sorted(seconds: impl Iterator<Item = f64>) -> Vec<f64> {
    // What the clock does not tell from nothing is drawn at a microsecond.
    let mut ms: Vec<f64> = seconds.map(|s| (s * 1e3).max(1e-3)).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

/// Powers of ten of a millisecond.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn x(&self, ms: f64) -> f64 {
        let [left, right, ..] = FRAME;
        left + (ms.log10() - self.low) / (self.high - self.low) * (right - left)
    }

    fn y(share: f64) -> f64 {
        let [.., top, bottom] = FRAME;
        bottom - share * (bottom - top)
    }

    fn lines(&self) -> String {
        let ([left, right, top, bottom], mut s) = (FRAME, String::new());
        for power in self.low as i32..=self.high as i32 {
            let ms = 10f64.powi(power);
            let x = self.x(ms);
            let _ = writeln!(s, "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>");
            let _ = writeln!(s, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ms} ms</text>", bottom + 18.0);
        }
        for percent in [0, 50, 90, 99] {
            let y = Axis::y(percent as f64 / 100.0);
            let _ = writeln!(s, "<line class=\"axis\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let (x, y) = (left - 8.0, y + 4.0);
            let _ = writeln!(s, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{percent} %</text>");
        }
        s
    }
}

fn curve(s: &mut String, class: &str, ms: &[f64], axis: &Axis) {
    let Some(last) = ms.len().checked_sub(1) else { return };
    let points = last.clamp(1, POINTS);
    let point = |i: usize| {
        let at = i * last / points;
        format!("{:.1},{:.1}", axis.x(ms[at]), Axis::y((at + 1) as f64 / ms.len() as f64))
    };
    let start = format!("{:.1},{:.1}", axis.x(ms[0]), Axis::y(0.0));
    let line: Vec<String> = std::iter::once(start).chain((0..=points).map(point)).collect();
    let _ = writeln!(s, "<polyline class=\"curve {class}\" points=\"{}\"/>", line.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_end_at_the_longest_time() {
        let answer = |ttft: f64| Outcome::Answered(Answer { ttft, whole: 1.0, ..Answer::default() });
        let svg = svg(&[(Shows::Text, answer(0.01)), (Shows::Text, answer(0.1)), (Shows::Text, Outcome::Refused(429))]);
        // From 10 to 1000 ms: the first tokens end in the middle, the answers at the right.
        let [left, right, top, _] = FRAME;
        let end = |x: f64| format!("{x:.1},{top:.1}\"/>");
        assert!(svg.contains(&end((left + right) / 2.0)) && svg.contains(&end(right)), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    }
}
