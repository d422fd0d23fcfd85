//! Requests that run together: each gets what it gets alone, bit for bit, whatever the mix, and what it held is given back.

mod bits;
mod constraint;

use bits::{Setup, generate, setup};
use constraint::{Told, Turns};
use osprey::checkpoint::ModelFiles;
use osprey::dtype::DType;
use osprey::engine::{
    BLOCK_SIZE, Cancel, Controls, Engine, Event, Finish, Limits, Logprobs, Picture, Request, RequestId, Sampling, What,
};
use osprey::exec::cuda::driver::Driver;
use osprey::intake::Model;
use osprey::intake::media::{Budget, Library};
use osprey::intake::prepare::prepare;
use osprey::media::patches::{ImageProcessor, Patches};
use osprey::model::Precision;
use osprey::model::qwen2_vl::Qwen2Vl;
use osprey::text::messages;
use osprey::text::positions::positions;
use osprey::text::prompt::{MediaKind, MediaSpan, Prompt};
use osprey::text::template::ChatTemplate;
use osprey::text::tokenizer::Tokenizer;
use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

const WIDE: Limits =
    Limits { context: 160, chunk: 64, patches: 64, samples: 1, seqs: 4, blocks: 40, images: 100, drafts: 3 };

fn engine(s: Setup, limits: Limits) -> Engine {
    Engine::new(bits::model(s), limits, |needs, weights| bits::executor(s, &needs, weights)).unwrap()
}

/// A prompt with pictures of so many patches down and across, each with its shade, behind so many tokens.
fn prompt(len: usize, seed: u32, pictures: &[(usize, [usize; 2], f32)]) -> Request {
    let ids = (0..len as u32).map(|i| (i * 131 + seed * 7 + 3) % 1000).collect();
    let picture = |(index, &(start, [h, w], _)): (usize, &(usize, [usize; 2], f32))| MediaSpan {
        start,
        len: h * w / 4,
        kind: MediaKind::Image,
        grid_thw: [1, h as u32, w as u32],
        index,
    };
    let spans: Vec<MediaSpan> = pictures.iter().enumerate().map(picture).collect();
    let patches = |&(_, [h, w], shade): &(usize, [usize; 2], f32)| {
        let data = (0..h * w * 1176).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0 + shade).collect();
        Picture::new(Patches { data, grid_thw: [1, h, w], resized: (14 * h, 14 * w) })
    };
    Request {
        positions: positions(len, &spans, 2).unwrap(),
        media: pictures.iter().map(patches).collect(),
        prompt: Prompt { ids, spans },
        sampling: Sampling::GREEDY,
        controls: Controls::default(),
        choices: 1,
        priority: 0,
        max_new_tokens: 20,
        stop: vec![],
    }
}

fn drawn(r: Request, seed: u64) -> Request {
    let sampling = Sampling { temperature: 0.9, top_p: 0.95, seed, repetition_penalty: 1.1, ..Sampling::GREEDY };
    Request { sampling, max_new_tokens: 30, ..r }
}

/// Penalties, a bias and log probabilities.
fn penalised(r: Request) -> Request {
    let logit_bias = vec![(3, 0.5), (500, -2.0)];
    let controls = Controls { presence_penalty: 0.5, frequency_penalty: 0.3, logit_bias, ..Controls::default() };
    Request { controls: Controls { top_logprobs: Some(4), ..controls }, ..r }
}

fn constrained(r: Request) -> Request {
    Request { controls: Controls { constraint: Some(Arc::new(Turns::default())), ..Controls::default() }, ..r }
}

/// Text, pictures, common beginnings, the same picture twice, penalties, constraints, nothing to draw, and two whose pixels are not numbers.
fn requests() -> Vec<Request> {
    vec![
        prompt(40, 0, &[]),
        drawn(prompt(97, 1, &[(9, [4, 6], 0.0)]), 11),
        drawn(prompt(120, 1, &[(9, [4, 6], 0.0)]), 12),
        prompt(70, 2, &[(20, [4, 6], 0.0), (40, [8, 8], 0.5)]),
        drawn(prompt(66, 3, &[(30, [4, 6], 0.0), (36, [4, 6], 0.0)]), 13),
        prompt(66, 3, &[(30, [4, 6], 0.0), (36, [4, 6], 0.25)]),
        Request { max_new_tokens: 1, ..prompt(1, 4, &[]) },
        Request { max_new_tokens: 0, ..prompt(33, 5, &[]) },
        prompt(50, 6, &[(8, [4, 4], f32::NAN)]),
        penalised(drawn(prompt(97, 1, &[(9, [4, 6], 0.0)]), 11)),
        penalised(prompt(40, 0, &[])),
        constrained(drawn(prompt(66, 3, &[(30, [4, 6], 0.0), (36, [4, 6], 0.0)]), 14)),
        penalised(prompt(50, 6, &[(8, [4, 4], f32::NAN)])),
        // Several answers: drawn, equal, and none.
        Request { choices: 3, ..drawn(prompt(85, 7, &[(9, [4, 6], 0.0)]), 15) },
        Request { choices: 2, priority: -1, ..penalised(drawn(prompt(96, 8, &[]), 16)) },
        Request { choices: 2, priority: 1, max_new_tokens: 40, ..prompt(41, 9, &[]) },
        Request { choices: 2, ..prompt(50, 6, &[(8, [4, 4], f32::NAN)]) },
    ]
}

/// A token and the bits of its log probabilities.
type Token = (u32, Vec<u32>);

fn token(what: &What) -> Option<Token> {
    let What::Token { id, logprobs } = what else { return None };
    let listed =
        |l: &Logprobs| [vec![l.drawn.to_bits()], l.top.iter().flat_map(|(id, p)| [*id, p.to_bits()]).collect()];
    Some((*id, logprobs.iter().flat_map(|l| listed(l).concat()).collect()))
}

/// What an answer is; none if it fails.
type Answer = Option<Vec<Token>>;

/// What each answer of each request is alone, with the seed that is its own.
fn alone(s: Setup) -> Vec<Vec<Answer>> {
    let answer = |r: &Request, choice: usize| {
        let sampling = Sampling { seed: r.sampling.seed + choice as u64, ..r.sampling };
        let r = Request { sampling, choices: 1, ..r.clone() };
        let mut e = engine(s, Limits::single(160, 160, 64, 1));
        e.submit(r).unwrap();
        let mut all = Vec::new();
        while !e.is_idle() {
            all.extend(e.step().unwrap().into_iter().map(|event| event.what));
        }
        let failed = all.iter().any(|what| matches!(what, What::Failed(_)));
        (!failed).then(|| all.iter().filter_map(token).collect())
    };
    requests().iter().map(|r| (0..r.choices).map(|choice| answer(r, choice)).collect()).collect()
}

#[derive(Debug, Clone)]
enum Act {
    Submit(usize),
    /// One of those under way.
    Cancel(usize),
    Step(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..17usize).prop_map(Act::Submit),
        1 => (0..9usize).prop_map(Act::Cancel),
        4 => (1..12usize).prop_map(Act::Step),
    ];
    prop::collection::vec(act, 1..40)
}

/// Answers under way by id: whose it is, and its tokens so far.
type UnderWay = HashMap<(RequestId, usize), (usize, Vec<Token>)>;

fn note(events: Vec<Event>, under_way: &mut UnderWay, want: &[Vec<Answer>]) {
    for Event { request, choice, what } in events {
        let (which, ids) = under_way.get_mut(&(request, choice)).expect("an event of an answer that is under way");
        let which = *which;
        ids.extend(token(&what));
        match what {
            What::Token { .. } => {
                let want = want[which][choice].as_ref().expect("no token of a broken request");
                assert!(want.starts_with(ids), "request {which}: {ids:?} instead of {want:?}");
            }
            What::Done(finish, timing) => {
                assert_eq!(want[which][choice].as_ref(), Some(&*ids), "request {which}");
                assert_eq!((finish, timing.decoded), (Finish::Length, ids.len().saturating_sub(1)));
                under_way.remove(&(request, choice));
            }
            What::Failed(error) => {
                assert!(want[which][choice].is_none() && error.to_string().contains("NaN"), "request {which}: {error}");
                under_way.remove(&(request, choice));
            }
        }
    }
}

/// Runs a schedule to its end; every request must be answered as alone, and the engine hold nothing but its caches.
fn run(s: Setup, limits: Limits, acts: &[Act], want: &[Vec<Answer>]) {
    let fits = |r: Request| Request { choices: r.choices.min(limits.seqs), ..r };
    let (all, mut e, mut under_way) = (requests(), engine(s, limits), UnderWay::new());
    for act in acts {
        match *act {
            Act::Submit(which) => {
                let id = e.submit(fits(all[which].clone())).unwrap();
                let choices = all[which].choices.min(limits.seqs);
                (0..choices).for_each(|choice| drop(under_way.insert((id, choice), (which, Vec::new()))));
            }
            Act::Cancel(i) => {
                let mut ids: Vec<(RequestId, usize)> = under_way.keys().copied().collect();
                ids.sort_unstable();
                if let Some(&id) = ids.get(i) {
                    e.cancel(id.0, id.1);
                    under_way.remove(&id);
                }
            }
            Act::Step(n) => (0..n).for_each(|_| note(e.step().unwrap(), &mut under_way, want)),
        }
    }
    for _ in 0..100_000 {
        if e.is_idle() {
            break;
        }
        note(e.step().unwrap(), &mut under_way, want);
    }
    assert!(e.is_idle() && under_way.is_empty(), "{} requests were never answered", under_way.len());
    let held = e.holding();
    assert_eq!((held.free_blocks + held.cached_blocks, held.pinned_rows), (limits.blocks, 0));
    e.clear_cache();
    assert_eq!((e.holding().free_blocks, e.holding().cached_blocks), (limits.blocks, 0));
}

fn setups() -> [Setup; 4] {
    let bf16 = setup(DType::Bf16);
    [setup(DType::F32), bf16, Setup { int8_cache: true, ..setup(DType::F32) }, Setup { int8_cache: true, ..bf16 }]
}

fn wants() -> &'static [Vec<Vec<Answer>>] {
    static WANTS: OnceLock<Vec<Vec<Vec<Answer>>>> = OnceLock::new();
    WANTS.get_or_init(|| setups().into_iter().map(alone).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// From room for all to room for little more than the longest request, where sequences lose their blocks and prefixes are forgotten all the time.
    #[test]
    fn any_mix_gives_what_each_gives_alone(
        acts in acts(), which in 0..4usize, seqs in 1..6usize, chunk in 6..80usize, blocks in 5..20usize, images in 22..40usize,
    ) {
        let limits = Limits { chunk, seqs, blocks, images, ..WIDE };
        run(setups()[which], limits, &acts, &wants()[which]);
    }
}

/// Runs requests together; the tokens of each one's answers, and how many tokens of the prompt each of these computed.
fn together(e: &mut Engine, requests: &[Request]) -> Vec<Vec<(Vec<u32>, usize)>> {
    let ids: Vec<RequestId> = requests.iter().map(|r| e.submit(r.clone()).unwrap()).collect();
    let mut got: Vec<Vec<_>> = requests.iter().map(|r| vec![(Vec::new(), 0); r.choices]).collect();
    while !e.is_idle() {
        for Event { request, choice, what } in e.step().unwrap() {
            let (tokens, computed) = &mut got[ids.iter().position(|id| *id == request).unwrap()][choice];
            match what {
                What::Token { id, .. } => tokens.push(id),
                What::Done(_, timing) => *computed = timing.prefilled,
                What::Failed(error) => panic!("{error}"),
            }
        }
    }
    got
}

/// Conversations about a picture each, one of them answered twice, together, in f16; and each alone on the CPU in f32. (In bf16 one begins with another
/// token, as it does in transformers: `image_one` in `bf16_noise.json`.)
#[test]
fn kernels_say_in_a_batch_what_the_cpu_says() {
    let dir = Path::new("tests/golden/tiny_a");
    let processor = || ImageProcessor::from_file(&dir.join("preprocessor_config.json")).unwrap();
    let model = Model {
        name: "tiny_a".into(),
        files: ModelFiles::open(dir).unwrap(),
        tokenizer: Tokenizer::load(dir).unwrap(),
        template: ChatTemplate::load(dir).unwrap(),
        images: processor(),
        videos: processor(),
    };
    let requests = ["cjk", "image_one", "second_turn", "system"].map(|name| {
        let messages = messages::load(&Path::new("tests/golden/conversations").join(format!("{name}.json"))).unwrap();
        let (library, budget) = (&mut Library::default(), Budget::new(96, "the test"));
        let request = prepare(&model, library, &messages, false, budget).unwrap().request(&model, Sampling::GREEDY, 6);
        assert_eq!(request.media.len(), 1);
        Request { choices: 1 + usize::from(name == "second_turn"), ..request }
    });
    let limits = Limits { context: 96, chunk: 48, patches: 24, samples: 1, seqs: 5, blocks: 15, images: 22, drafts: 0 };
    let engine = |s: Setup| {
        let (config, weights) = (&model.files.config, &model.files.weights);
        let model = Qwen2Vl::load(config, weights, Precision::new(s.dtype)).unwrap();
        Engine::new(model, limits, |needs, weights| bits::executor(s, &needs, weights)).unwrap()
    };
    let want = requests.each_ref().map(|r| generate(&mut engine(setup(DType::F32)), r));
    let kernels = bits::under(Driver::Emulator, DType::F16);
    let got = together(&mut engine(kernels), &requests);
    for (answers, want) in got.iter().zip(&want) {
        answers.iter().for_each(|(ids, _)| assert_eq!(ids, want));
    }
    assert_eq!(
        got[2].iter().map(|(_, computed)| *computed).collect::<Vec<_>>(),
        [52, 0],
        "its prompt is computed once"
    );
}

#[test]
fn kernels_give_in_a_mix_what_they_give_alone() {
    let s = bits::under(Driver::Emulator, DType::Bf16);
    let mut all = requests();
    all.iter_mut().for_each(|r| r.max_new_tokens = r.max_new_tokens.min(3));
    let some = [0, 4, 6, 9, 11].map(|i| all[i].clone());
    let want = some.each_ref().map(|r| generate(&mut engine(s, Limits::single(160, 160, 64, 1)), r));
    let got = together(&mut engine(s, Limits { chunk: 48, ..WIDE }), &some);
    assert_eq!(got.into_iter().map(|mut answers| answers.remove(0).0).collect::<Vec<_>>(), want);
}

/// Answers of one request compute its prompt once, and copy the block that it ends in for all but one of them.
#[test]
fn answers_share_their_prompt() {
    let s = setup(DType::Bf16);
    let request = Request { choices: 4, ..drawn(prompt(70, 1, &[(9, [4, 6], 0.0)]), 11) };
    let mut e = engine(s, WIDE);
    e.submit(request).unwrap();
    let (mut least, mut computed) = (WIDE.blocks, Vec::new());
    while !e.is_idle() {
        for event in e.step().unwrap() {
            if let What::Done(_, timing) = event.what {
                computed.push((event.choice, timing.prefilled, timing.encoded));
            }
        }
        least = least.min(e.holding().free_blocks);
    }
    computed.sort_unstable();
    assert_eq!(computed, [(0, 70, 1), (1, 0, 0), (2, 0, 0), (3, 0, 0)]);
    // Two full blocks of the prompt are everybody's; the third is copied three times, and each answer of 30 tokens takes one more.
    assert_eq!(WIDE.blocks - least, 2 + 4 + 4);
}

/// A stream that repeats itself gets several tokens a step, the same ones.
#[test]
fn tokens_that_repeat_are_tried_ahead() {
    let s = setup(DType::F32);
    let request = Request { max_new_tokens: 90, ..prompt(40, 0, &[]) };
    let answer = |request: &Request, drafts| {
        let mut e = engine(s, Limits { drafts, ..WIDE });
        let (mut ids, mut steps, mut tried) = (Vec::new(), 0, (0, 0, 0));
        e.submit(request.clone()).unwrap();
        while !e.is_idle() {
            steps += 1;
            for event in e.step().unwrap() {
                match event.what {
                    What::Token { id, .. } => ids.push(id),
                    What::Done(_, timing) => tried = (timing.drafts, timing.drafted, timing.accepted),
                    What::Failed(error) => panic!("{error}"),
                }
            }
        }
        (ids, steps, tried)
    };
    let (plain, steps, none) = answer(&request, 0);
    let (ids, fewer, (drafts, drafted, accepted)) = answer(&request, 3);
    assert_eq!((&ids, none), (&plain, (0, 0, 0)));
    assert_eq!(steps - fewer, accepted, "each token that was right saves a step");
    assert!(accepted > 5 && accepted <= drafted, "{accepted} of {drafted}");
    assert!(drafts < drafted && drafted <= 3 * drafts && drafts < fewer, "{drafts} of {fewer} steps: {drafted}");
    // Drawn ones too: each with the random number of its place.
    let mut right = 0;
    for seed in 0..8 {
        let sampling = Sampling { temperature: 1.0, top_k: 2, seed, ..Sampling::GREEDY };
        let request = Request { sampling, ..request.clone() };
        let ((plain, ..), (ids, _, (.., accepted))) = (answer(&request, 0), answer(&request, 3));
        assert_eq!(ids, plain, "seed {seed}");
        right += accepted;
    }
    assert!(right > 5, "{right} of eight answers were right ahead of their turn");
}

/// Both begin, but their answers do not fit together.
#[test]
fn a_sequence_that_loses_its_blocks_draws_the_same_tokens() {
    let s = setup(DType::Bf16);
    let long =
        |seed, first: usize| Request { max_new_tokens: 90, ..drawn(prompt(30 + first, seed, &[(9, [4, 6], 0.0)]), 5) };
    let pair = [long(1, 0), constrained(long(8, 1))];
    let want = pair.each_ref().map(|r| generate(&mut engine(s, Limits::single(160, 160, 64, 1)), r));
    // Each takes four blocks in the end.
    let mut e = engine(s, Limits { seqs: 2, blocks: 6, ..WIDE });
    let ids = pair.map(|r| Request { max_new_tokens: 90, ..r }).map(|r| e.submit(r).unwrap());
    let (mut got, mut overlap) = ([Vec::new(), Vec::new()], 0);
    while !e.is_idle() {
        for event in e.step().unwrap() {
            if let What::Token { id, .. } = event.what {
                got[usize::from(event.request == ids[1])].push(id);
            }
        }
        let young = if got[0].len() < want[0].len() { got[1].len() } else { 0 };
        overlap = overlap.max(young);
    }
    assert!(overlap > 10, "they never ran together");
    // At 97 tokens the older one takes its fourth block.
    assert!(overlap < 70, "nothing was taken from the younger one");
    assert_eq!(got, want);
}

/// A stream gets a token at least every second step, whatever else is read or looked at.
#[test]
fn a_long_prompt_and_a_picture_do_not_stall_a_stream() {
    let mut e = engine(setup(DType::F32), Limits { chunk: 8, ..WIDE });
    let stream = e.submit(Request { max_new_tokens: 120, ..prompt(8, 1, &[]) }).unwrap();
    while e.step().unwrap().is_empty() {}
    let other = e.submit(prompt(120, 2, &[(9, [8, 8], 0.0)])).unwrap();
    let (mut silent, mut steps) = (0, 0);
    loop {
        let events = e.step().unwrap();
        silent = if events.iter().any(|event| event.request == stream) { 0 } else { silent + 1 };
        assert!(silent < 2, "two steps without a token");
        steps += 1;
        if events.iter().any(|event| event.request == other) {
            break;
        }
    }
    assert_eq!(e.holding().pinned_rows, 0, "a prompt that is read needs its picture no more");
    // 120 rows in chunks of 7.
    assert!(steps >= 18, "{steps} steps");
}

/// While some answers wait for what may come next, which takes as long as it likes, others go on. What they say in the end is the same, also that of one
/// that comes when the prompt is computed and nothing is drawn yet.
#[test]
fn a_form_that_is_hard_to_follow_holds_up_its_own_answers_only() {
    let s = setup(DType::F32);
    let requests = [
        Request { max_new_tokens: 60, ..prompt(40, 0, &[]) },
        Request { max_new_tokens: 90, ..prompt(70, 2, &[]) },
        Request { max_new_tokens: 5, ..constrained(prompt(41, 1, &[])) },
    ];
    let want = requests.each_ref().map(|r| generate(&mut engine(s, WIDE), r));
    let (tell, told) = std::sync::mpsc::channel();
    let constraint = Some(Arc::new(Told::new(told)) as _);
    let [short, long, slow] = requests;
    let slow = Request { controls: Controls { constraint, ..Controls::default() }, choices: 2, ..slow };
    // The second answer of the slow one runs in place of the short one.
    let mut e = engine(s, Limits { seqs: 3, ..WIDE });
    let ids = [short, long, slow].map(|r| e.submit(r).unwrap());
    let mut got = [vec![], vec![], vec![], vec![]];
    for _ in 0..100_000 {
        for event in e.step().unwrap() {
            if let What::Token { id, .. } = event.what {
                got[ids.iter().position(|id| *id == event.request).unwrap() + event.choice].push(id);
            }
        }
        if got[1].len() == 90 {
            let _ = tell.send(());
        } else {
            assert!(got[2].is_empty() && got[3].is_empty(), "nobody told it to begin");
        }
        if e.is_idle() {
            break;
        }
    }
    assert!(e.is_idle(), "{got:?}");
    let [short, long, slow] = want;
    assert_eq!(got, [short, long, slow.clone(), slow]);
}

#[test]
fn a_picture_is_encoded_once() {
    let s = setup(DType::F32);
    let timing =
        |e: &mut Engine, r: &Request| e.generate(r, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    let mut e = engine(s, Limits { images: 22, ..WIDE });
    let other = |seed, grid| prompt(60, seed, &[(20, grid, 0.0)]);
    let [first, again] = [1, 2].map(|seed| timing(&mut e, &other(seed, [4, 6])).timing);
    assert_eq!([(first.encoded, first.reused), (again.encoded, again.reused)], [(1, 0), (0, 0)]);
    // 16 rows more fit, another 16 do not.
    assert_eq!(timing(&mut e, &other(3, [8, 8])).timing.encoded, 1);
    assert_eq!(timing(&mut e, &other(4, [4, 6])).timing.encoded, 0);
    assert_eq!(timing(&mut e, &prompt(60, 5, &[(20, [8, 8], 0.5)])).timing.encoded, 1);
    assert_eq!(timing(&mut e, &other(6, [8, 8])).timing.encoded, 1, "there was room for both");
    let got = timing(&mut e, &other(7, [8, 8]));
    assert_eq!((got.timing.encoded, got.ids), (0, generate(&mut engine(s, WIDE), &other(7, [8, 8]))));
}

/// A picture that is kept lies in the middle of the rows that the next prompt needs.
#[test]
fn kept_pictures_never_keep_a_request_out() {
    let mut e = engine(setup(DType::F32), Limits { images: 22, ..WIDE });
    generate(&mut e, &prompt(40, 1, &[(8, [4, 4], 0.0), (20, [4, 6], 0.0)]));
    e.submit(prompt(70, 2, &[(20, [4, 6], 0.0), (40, [8, 8], 0.5)])).unwrap();
    (0..1000).for_each(|_| drop(e.step().unwrap()));
    assert!(e.is_idle());
}

/// The answer of a conversation is part of what its next turn begins with.
#[test]
fn the_next_turn_begins_with_the_answer() {
    let s = setup(DType::Bf16);
    let mut e = engine(s, WIDE);
    let first = Request { max_new_tokens: 40, ..prompt(50, 1, &[(9, [4, 6], 0.0)]) };
    let answer = generate(&mut e, &first);
    let mut next = first.clone();
    next.prompt.ids.extend(answer);
    next.positions = positions(90, &next.prompt.spans, 2).unwrap();
    let got = e.generate(&next, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    // 89 tokens were computed: two full blocks.
    assert_eq!((got.timing.reused, got.timing.encoded), (2 * BLOCK_SIZE, 0));
    assert_eq!(got.ids, generate(&mut engine(s, WIDE), &next));
}

/// Same ids, but the picture stands elsewhere, has other sides, or is not there: nothing is shared.
#[test]
fn positions_and_grids_are_part_of_what_is_known() {
    let mut e = engine(setup(DType::F32), WIDE);
    generate(&mut e, &prompt(70, 1, &[(9, [4, 6], 0.0)]));
    for other in [prompt(70, 1, &[(10, [4, 6], 0.0)]), prompt(70, 1, &[(9, [6, 4], 0.0)]), prompt(70, 1, &[])] {
        let got = e.generate(&other, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(got.timing.reused, 0);
    }
    // One token is computed even where all are known.
    let again = prompt(64, 1, &[(9, [4, 6], 0.0)]);
    let got = e.generate(&again, &Cancel::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((got.timing.reused, got.timing.prefilled), (BLOCK_SIZE, BLOCK_SIZE));
}

#[test]
fn what_could_never_fit_is_refused_with_the_numbers() {
    let mut e = engine(setup(DType::F32), Limits { blocks: 3, images: 10, ..WIDE });
    let mut refused = |r: Request, words: &[&str]| {
        let error = e.submit(r).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(e.is_idle());
    };
    refused(prompt(150, 1, &[]), &["prompt", "150", "20", "160"]);
    refused(prompt(90, 1, &[]), &["prompt", "4 cache blocks", "there are 3"]);
    refused(prompt(40, 1, &[(9, [8, 8], 0.0)]), &["image", "16 rows", "10"]);
    let limits = Limits { seqs: 9, chunk: 8, ..WIDE };
    let s = setup(DType::F32);
    let made = Engine::new(bits::model(s), limits, |needs, weights| bits::executor(s, &needs, weights));
    let error = made.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("9 sequences") && error.contains("8 rows"), "{error}");
}

#[test]
fn whoever_asks_alone_waits_for_nobody() {
    let mut e = engine(setup(DType::F32), WIDE);
    e.submit(prompt(10, 1, &[])).unwrap();
    let error = e.generate(&prompt(10, 2, &[]), &Cancel::default(), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("under way"), "{error}");
}
