//! `osprey trace` against transformers 4.57.6 on two tiny random models and eleven conversations: ids, positions, embeddings, logits at every
//! position, hidden states, greedy tokens. The goldens and how they were made: `tests/golden/README.md`.

mod traces;

use traces::{
    F32_MEAN, MODELS, bf16_noise, check_rounded, close, conversations, distance, golden, logits, regret, same, trace,
};

#[test]
fn f32_equals_transformers() {
    for model in MODELS {
        for conversation in conversations() {
            let at = format!("{model}/{conversation}");
            let (got, want) = (trace(model, &conversation, "f32", &[]), golden(model, &conversation));
            for name in ["input_ids", "position_ids", "image_grid_thw", "video_grid_thw", "generated_ids"] {
                same::<i64>(&got, &want, name, &at);
            }
            for name in ["pixel_values", "pixel_values_videos"].into_iter().filter(|n| want.has(n)) {
                same::<f32>(&got, &want, name, &at);
            }
            for name in ["image_embeds", "video_embeds"].into_iter().filter(|n| want.has(n)) {
                close(&got, &want, name, &at);
            }
            let (g, w, vocab) = logits(&got, &want);
            let (d, regret) = (distance(&g, &w), regret(&g, &w, vocab));
            println!("{at}: logits mean {:.1e} p99 {:.1e} regret {regret:.1e}", d.mean, d.p99);
            assert!(d.mean <= F32_MEAN && regret == 0.0, "{at}: {d:?}, regret {regret}");
        }
    }
}

#[test]
fn hidden_states_equal_transformers_after_every_block() {
    for model in MODELS {
        let (got, want) = (trace(model, "images_three", "f32", &["--tensors", "all"]), golden(model, "images_three"));
        let blocks =
            want.0.tensors().map(|t| t.name().to_string()).filter(|n| n.contains("blocks.") || n.contains("layers."));
        let mut count = 0;
        for name in blocks {
            close(&got, &want, &name, model);
            count += 1;
        }
        assert!(count >= 4, "{model}: {count} blocks compared");
    }
}

#[test]
fn bf16_and_f16_are_no_noisier_than_transformers() {
    for model in MODELS {
        check_rounded(model, "bf16", &[]);
        check_rounded(model, "f16", &[]);
    }
}

/// The kernels, on the emulator. They take heads of 128 and 80 only.
#[test]
fn kernels_are_no_noisier_than_transformers() {
    check_rounded("tiny_a", "bf16", &["--device", "emulator"]);
    check_rounded("tiny_a", "f16", &["--device", "emulator"]);
}

/// An int8 element is off by 1/sqrt(12) of its row's step in the root mean square, 1/127 of the largest element; the largest of `d` normal numbers
/// is at most sqrt(2 ln 2d) deviations in the mean (Boucheron, Lugosi and Massart, Concentration Inequalities, 2.5). A bf16 in 1..2 is off by 1/sqrt(12) of
/// 2^-7, and is 1.5 in the mean. Small independent errors propagate linearly, and transformers' bf16 run rounds at least eight tensors a layer,
/// keys and values among them: these two alone give half of its distance, times the quotient of the roundings.
#[test]
fn int8_keys_and_values_are_off_by_their_rounding() {
    for (model, d) in [("tiny_a", 128.0), ("tiny_b", 24.0)] {
        let coarser = (2.0 * f64::ln(2.0 * d)).sqrt() / 127.0 / (2f64.powi(-7) / 1.5);
        let [mean, p99] = ["mean", "p99"].map(|key| coarser / 2.0 * bf16_noise(model, key));
        for conversation in conversations() {
            let at = format!("{model}/{conversation}");
            let got = trace(model, &conversation, "f32", &["--kv-cache-dtype", "int8"]);
            let (g, w, _) = logits(&got, &golden(model, &conversation));
            let far = distance(&g, &w);
            println!("{at}: int8 cache: mean {:.1e} of {mean:.1e}, p99 {:.1e} of {p99:.1e}", far.mean, far.p99);
            assert!(far.mean <= mean && far.p99 <= p99, "{at}: {far:?}, expected {mean:.1e} and {p99:.1e}");
            assert!(far.mean > F32_MEAN, "{at}: {far:?}: nothing was rounded");
        }
    }
}

/// The kernels round where the CPU's bodies round, so their image rows are about as far from the f32 golden: at most twice, since the roundings differ.
#[test]
fn image_rows_of_the_kernels_are_as_near_as_the_cpus() {
    for conversation in ["images_three", "video_5"] {
        let want = golden("tiny_a", conversation);
        let name = ["image_embeds", "video_embeds"].into_iter().find(|n| want.has(n)).unwrap();
        let off = |device: &str| {
            let got = trace("tiny_a", conversation, "bf16", &["--device", device]);
            distance(&got.get::<f32>(name).1, &want.get::<f32>(name).1)
        };
        let (cpu, emulator) = (off("cpu"), off("emulator"));
        println!("{conversation}: cpu {cpu:?}, emulator {emulator:?}");
        assert!(
            emulator.mean <= 2.0 * cpu.mean && emulator.p99 <= 2.0 * cpu.p99,
            "{conversation}: {emulator:?}, {cpu:?}"
        );
    }
}
