//! How good an answer is, and how far two distributions over tokens lie apart. Plain numbers; no files, no models.

use crate::media::boxes::{self, LabelledBox};
use serde::Serialize;

/// ANLS counts an answer as wrong from this distance on (Biten et al. 2019, "Scene Text Visual Question Answering", section 3.2).
const ANLS_LIMIT: f64 = 0.5;
/// A box is found if it overlaps the wanted one so much (PASCAL VOC's criterion).
const FOUND: f64 = 0.5;

/// What one answer is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answered {
    /// Equal but for blanks at the ends.
    pub exact: bool,
    pub anls: f64,
    /// Of the first boxes, where the wanted answer has one.
    pub iou: Option<f64>,
    /// Boxes: the right label and an overlap of a half. Others: exact.
    pub right: bool,
}

/// Compares an answer with the wanted one.
pub fn answered(said: &str, wanted: &str) -> Answered {
    let exact = said.trim() == wanted.trim();
    let boxes = boxes::parse(wanted).into_iter().next().map(|w| (boxes::parse(said).into_iter().next(), w));
    let iou = boxes.as_ref().map(|(said, wanted)| said.as_ref().map_or(0.0, |said| overlap(said, wanted)));
    let labelled = boxes.as_ref().is_some_and(|(said, wanted)| said.as_ref().is_some_and(|s| s.label == wanted.label));
    Answered { exact, anls: anls(said, wanted), iou, right: iou.map_or(exact, |iou| labelled && iou >= FOUND) }
}

/// Average normalised Levenshtein similarity of one answer, letters' case aside.
fn anls(said: &str, wanted: &str) -> f64 {
    let similarity = strsim::normalized_levenshtein(&said.trim().to_lowercase(), &wanted.trim().to_lowercase());
    if 1.0 - similarity < ANLS_LIMIT { similarity } else { 0.0 }
}

/// Intersection over union.
fn overlap(a: &LabelledBox, b: &LabelledBox) -> f64 {
    let (a, b) = (a.corners.map(f64::from), b.corners.map(f64::from));
    let area = |r: [f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

/// Accuracy over a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Accuracy {
    pub items: usize,
    /// Percent.
    pub right: f64,
    /// Percent.
    pub exact: f64,
    /// 0 to 1.
    pub anls: f64,
    /// Mean overlap over the items with a box.
    pub iou: Option<f64>,
}

impl Accuracy {
    /// Of all answers.
    pub fn of(answers: &[Answered]) -> Accuracy {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let all = |f: fn(&Answered) -> f64| mean(&answers.iter().map(f).collect::<Vec<_>>());
        let boxes: Vec<f64> = answers.iter().filter_map(|a| a.iou).collect();
        Accuracy {
            items: answers.len(),
            right: 100.0 * all(|a| f64::from(u8::from(a.right))),
            exact: 100.0 * all(|a| f64::from(u8::from(a.exact))),
            anls: all(|a| a.anls),
            iou: (!boxes.is_empty()).then(|| mean(&boxes)),
        }
    }
}

/// What a model and its reference say about one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Of the reference's distribution to the model's, in nats (Kullback and Leibler 1951).
    pub kl: f64,
    /// Both think the same token most probable.
    pub agree: bool,
    /// Negative log-probabilities of the wanted token, in nats: reference, model.
    pub surprise: [f64; 2],
}

/// Compares two rows of logits where `wanted` comes next.
pub fn compared(reference: &[f32], model: &[f32], wanted: u32) -> Compared {
    let (p, q) = (log_softmax(reference), log_softmax(model));
    let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    let surprise = [-p[wanted as usize], -q[wanted as usize]];
    // Rounding takes equal rows a little below 0.
    Compared { kl: kl.max(0.0), agree: best(&p) == best(&q), surprise }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let total = logits.iter().map(|&x| (x as f64 - top).exp()).sum::<f64>().ln();
    logits.iter().map(|&x| x as f64 - top - total).collect()
}

/// The first of the largest.
fn best(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best })
}

/// Distance over a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Distance {
    pub tokens: usize,
    pub mean_kl: f64,
    pub p99_kl: f64,
    /// Percent of tokens.
    pub top1_agreement: f64,
    pub reference_perplexity: f64,
    pub perplexity: f64,
}

impl Distance {
    /// Of all tokens.
    pub fn of(tokens: &[Compared]) -> Distance {
        if tokens.is_empty() {
            return Distance::default();
        }
        let n = tokens.len();
        let mean = |f: &dyn Fn(&Compared) -> f64| tokens.iter().map(f).sum::<f64>() / n as f64;
        let mut kl: Vec<f64> = tokens.iter().map(|t| t.kl).collect();
        kl.sort_by(f64::total_cmp);
        Distance {
            tokens: n,
            mean_kl: mean(&|t| t.kl),
            p99_kl: kl[(n * 99 / 100).min(n - 1)],
            top1_agreement: 100.0 * mean(&|t| f64::from(u8::from(t.agree))),
            reference_perplexity: mean(&|t| t.surprise[0]).exp(),
            perplexity: mean(&|t| t.surprise[1]).exp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(label: &str, [a, b, c, d]: [u32; 4]) -> String {
        format!("<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({a},{b}),({c},{d})<|box_end|>")
    }

    #[test]
    fn words_count_by_distance_and_boxes_by_overlap() {
        let a = answered(" Seven\n", "seven");
        assert_eq!((a.exact, a.anls, a.right, a.iou), (false, 1.0, false, None));
        // One of six letters: 1 - 1/6. Three of five are too many.
        assert_eq!(answered("silver", "silvar").anls, 1.0 - 1.0 / 6.0);
        assert_eq!(answered("abxyz", "abcde").anls, 0.0);
        let want = boxed("cup", [0, 0, 200, 200]);
        let near = answered(&boxed("cup", [0, 0, 200, 100]), &want);
        assert_eq!((near.iou, near.right, near.exact), (Some(0.5), true, false));
        assert!(!answered(&boxed("mug", [0, 0, 200, 200]), &want).right);
        assert_eq!(answered("no box", &want).iou, Some(0.0));
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        // p = (1/2, 1/2), q = (3/4, 1/4): sum p ln(p / q) = ln(2 / sqrt(3)).
        let c = compared(&[0.0, 0.0], &[3f32.ln(), 0.0], 1);
        assert!((c.kl - (2.0 / 3f64.sqrt()).ln()).abs() < 1e-7, "{c:?}");
        assert!((c.surprise[0] - 2f64.ln()).abs() < 1e-12 && (c.surprise[1] - 4f64.ln()).abs() < 1e-7);
        assert!(c.agree && !compared(&[0.0, 1.0], &[1.0, 0.0], 0).agree);
        let same = compared(&[0.5, -3.0, 2.0], &[0.5, -3.0, 2.0], 0);
        assert_eq!((same.kl, same.agree), (0.0, true));
        let d = Distance::of(&[same, c]);
        assert_eq!((d.tokens, d.top1_agreement, d.p99_kl), (2, 100.0, c.kl));
    }

    #[test]
    fn a_set_is_the_mean_of_its_items() {
        let all = [answered("a", "a"), answered("b", "a"), answered("x", &boxed("cup", [0, 0, 9, 9]))];
        let a = Accuracy::of(&all);
        assert_eq!((a.items, a.iou), (3, Some(0.0)));
        assert!((a.right - 100.0 / 3.0).abs() < 1e-9 && (a.exact - 100.0 / 3.0).abs() < 1e-9);
    }
}
