//! Draws on the host: penalties, biases, constraints and log probabilities, against what the model's logits say.

mod bits;
mod constraint;

use bits::{Setup, engine, generate, request, setup};
use constraint::{Broken, Few, Turns};
use osprey::dtype::DType;
use osprey::engine::trace::Detail;
use osprey::engine::{Controls, Engine, Event, Logprobs, Request, Sampling, What};
use osprey::error::Error;
use osprey::exec::cuda::driver::Driver;
use osprey::text::positions::positions;
use std::sync::Arc;

/// A token with its log probabilities.
type Token = (u32, Option<Box<Logprobs>>);

/// An answer, or why there is none.
fn answer(e: &mut Engine, request: &Request) -> Result<Vec<Token>, Error> {
    e.submit(request.clone())?;
    let mut tokens = Vec::new();
    while !e.is_idle() {
        for Event { what, .. } in e.step()? {
            match what {
                What::Token { id, logprobs } => tokens.push((id, logprobs)),
                What::Done(..) => {}
                What::Failed(error) => return Err(error),
            }
        }
    }
    Ok(tokens)
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|(id, _)| *id).collect()
}

/// The logits that each token of an answer was drawn from, computed as those of a prompt that contains it.
fn logits(s: Setup, request: &Request, answer: &[u32]) -> Vec<Vec<f32>> {
    let (mut whole, have) = (request.clone(), request.prompt.ids.len());
    whole.controls = Controls::default();
    whole.prompt.ids.extend(&answer[..answer.len() - 1]);
    whole.positions = positions(whole.prompt.ids.len(), &whole.prompt.spans, 2).unwrap();
    let all = engine(s).trace(&whole, Detail::Basic).unwrap().logits;
    let vocab = all.len() / whole.prompt.ids.len();
    all.chunks(vocab).skip(have - 1).map(<[f32]>::to_vec).collect()
}

fn greedy(controls: Controls) -> Request {
    Request { sampling: Sampling::GREEDY, controls, max_new_tokens: 40, ..request(40, 3, 0.0) }
}

fn with_logprobs(n: usize) -> Controls {
    Controls { top_logprobs: Some(n), ..Controls::default() }
}

/// Greedy and drawn, with the repetition penalty and without, on every kind of executor.
#[test]
fn a_control_without_effect_changes_no_token() {
    let emulated = bits::under(Driver::Emulator, DType::Bf16);
    for (s, new) in [(setup(DType::F32), 40), (setup(DType::Bf16), 40), (emulated, 3)] {
        let hot = Sampling { temperature: 1.5, top_k: 200, top_p: 0.98, min_p: 0.001, seed: 5, ..Sampling::GREEDY };
        for sampling in [Sampling::GREEDY, hot, request(40, 3, 0.0).sampling] {
            let plain = Request { sampling, max_new_tokens: new, ..request(40, 3, 0.0) };
            let controlled = Request { controls: with_logprobs(0), ..plain.clone() };
            let got = answer(&mut engine(s), &controlled).unwrap();
            assert_eq!(ids(&got), generate(&mut engine(s), &plain), "{sampling:?}");
        }
    }
}

/// Biases fix the order of six tokens, and the temperature makes them alike: only the random number says which one is drawn.
#[test]
fn every_draw_has_a_number_of_its_own() {
    let few: Vec<u32> = (100..106).collect();
    let logit_bias = few.iter().zip(1..).map(|(&id, i)| (id, 1000.0 * i as f32)).collect();
    let controls = Controls { logit_bias, constraint: Some(Arc::new(Few::new(&few))), ..Controls::default() };
    let draw = |seed| {
        let sampling = Sampling { temperature: 1e6, seed, ..Sampling::GREEDY };
        let request = Request { sampling, ..greedy(controls.clone()) };
        ids(&answer(&mut engine(setup(DType::F32)), &request).unwrap())
    };
    let got = draw(1);
    // 40 draws of six: one is missing in less than one of 200 runs, and the seed is fixed.
    assert!(few.iter().all(|id| got.contains(id)), "{got:?}");
    assert!(got.windows(2).any(|pair| pair[0] == pair[1]), "{got:?}");
    assert_eq!(got, draw(1));
    assert_ne!(got, draw(2));
}

/// In f64, as OpenAI's documentation has it: each token loses what it costs, for tokens of the answer only.
#[test]
fn penalties_and_biases_are_those_of_the_answer() {
    let s = setup(DType::F32);
    let plain = generate(&mut engine(s), &greedy(Controls::default()));
    let (presence_penalty, frequency_penalty) = (0.5, 0.25);
    let logit_bias = vec![(plain[0], -100.0), (7, 0.125)];
    let request = greedy(Controls { presence_penalty, frequency_penalty, logit_bias, ..Controls::default() });
    let got = ids(&answer(&mut engine(s), &request).unwrap());
    assert!(!got.contains(&plain[0]) && got != plain);
    for (i, row) in logits(s, &request, &got).iter().enumerate() {
        let score = |id: usize| {
            let count = got[..i].iter().filter(|t| **t as usize == id).count();
            let bias = if id as u32 == plain[0] { -100.0 } else { f64::from(u8::from(id == 7)) / 8.0 };
            f64::from(row[id]) + bias - 0.25 * count as f64 - if count > 0 { 0.5 } else { 0.0 }
        };
        let best = (0..row.len()).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
        assert_eq!(got[i] as usize, best, "token {i} of {got:?}");
    }
}

/// Each of the two alone, where the greedy answer repeats itself: one is paid once, the other each time.
#[test]
fn presence_is_paid_once_and_frequency_each_time() {
    let s = setup(DType::F32);
    let pair = [20u32, 30];
    let draw = |controls: Controls| {
        // The second token lies 10 below the first.
        let logit_bias = vec![(20, 1000.0), (30, 990.0)];
        let constraint = Some(Arc::new(Few::new(&pair)) as _);
        ids(&answer(&mut engine(s), &greedy(Controls { logit_bias, constraint, ..controls })).unwrap())
    };
    let count = |ids: &[u32], id| ids.iter().filter(|t| **t == id).count();
    let presence = draw(Controls { presence_penalty: 2.0, ..Controls::default() });
    assert_eq!(count(&presence, 20), 40, "2 is less than 10, once");
    let frequency = draw(Controls { frequency_penalty: 2.0, ..Controls::default() });
    assert!((18..=24).contains(&count(&frequency, 20)), "{frequency:?}");
}

#[test]
fn log_probabilities_are_those_of_the_logits_as_they_were() {
    let s = setup(DType::Bf16);
    let controls = Controls { logit_bias: vec![(11, 50.0)], ..with_logprobs(20) };
    let request = Request { sampling: Sampling { temperature: 0.3, ..Sampling::GREEDY }, ..greedy(controls) };
    let got = answer(&mut engine(s), &request).unwrap();
    assert!(ids(&got).contains(&11), "the bias is not in the probabilities, but in the draw");
    for ((id, logprobs), row) in got.iter().zip(logits(s, &request, &ids(&got))) {
        let logprobs = logprobs.as_deref().unwrap();
        let total = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let want = |id: u32| (f64::from(row[id as usize]) - total) as f32;
        // The last bit of f32: the sum in f64 has another order.
        let near = |a: f32, b: f32| (a - b).abs() <= b.abs() * f32::EPSILON;
        assert!(near(logprobs.drawn, want(*id)), "{} {}", logprobs.drawn, want(*id));
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
        assert_eq!(logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order[..20]);
        assert!(logprobs.top.iter().all(|&(id, p)| near(p, want(id))));
    }
}

#[test]
fn only_allowed_tokens_are_drawn() {
    let s = setup(DType::F32);
    for sampling in [Sampling::GREEDY, Sampling { temperature: 100.0, ..Sampling::GREEDY }] {
        let constraint = Some(Arc::new(Turns::default()) as _);
        let request = Request { sampling, ..greedy(Controls { constraint, ..Controls::default() }) };
        let got = ids(&answer(&mut engine(s), &request).unwrap());
        assert!(got.len() == 40 && Turns::follows(&got), "{got:?}");
        assert_eq!(ids(&answer(&mut engine(s), &request).unwrap()), got, "a request is not used up");
    }
}

/// A constraint that runs into an end fails its request, and no other.
#[test]
fn what_goes_wrong_with_one_is_its_own_failure() {
    let mut e = engine(setup(DType::F32));
    let nowhere = Controls { constraint: Some(Arc::new(Few::new(&[]))), ..Controls::default() };
    let error = answer(&mut e, &greedy(nowhere)).unwrap_err().to_string();
    assert!(error.contains("constraint") && error.contains("no token"), "{error}");
    let far = Controls { constraint: Some(Arc::new(Few::new(&[1_000_000]))), ..Controls::default() };
    assert!(answer(&mut e, &greedy(far)).is_err(), "a token beyond the vocabulary");
    let panics = Controls { constraint: Some(Arc::new(Broken)), ..Controls::default() };
    let error = answer(&mut e, &greedy(panics)).unwrap_err().to_string();
    assert!(error.contains("constraint") && error.contains("thread"), "{error}");
    let broken = Request { controls: with_logprobs(1), ..request(40, 3, f32::NAN) };
    let error = answer(&mut e, &broken).unwrap_err();
    assert!(matches!(error, Error::Numerics(_)) && error.to_string().contains("token 39"), "{error}");
    assert_eq!(answer(&mut e, &greedy(with_logprobs(1))).unwrap().len(), 40);
}

#[test]
fn controls_out_of_range_are_refused_by_name() {
    let mut e = engine(setup(DType::F32));
    let mut refused = |controls: Controls, name: &str| {
        let error = e.submit(greedy(controls)).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    };
    let none = Controls::default;
    refused(Controls { logit_bias: vec![(1_000_000, 1.0)], ..none() }, "logit_bias");
    refused(Controls { logit_bias: vec![(1, f32::NAN)], ..none() }, "logit_bias");
    refused(Controls { presence_penalty: f32::INFINITY, ..none() }, "presence_penalty");
    refused(Controls { frequency_penalty: f32::NAN, ..none() }, "frequency_penalty");
    refused(with_logprobs(21), "top_logprobs");
}
