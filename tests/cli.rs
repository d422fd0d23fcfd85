//! The `osprey` binary as users meet it: what it prints, how it ends, what it writes.
//!
//! Models and pictures are the goldens'. The surprise: `trace` is held against transformers' numbers here, in f32, exactly for everything that is not
//! computed by a model.

use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

#[path = "cli/bench.rs"]
mod bench;
mod command;

use command::{call, copied, good, osprey};

fn golden(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path).display().to_string()
}

/// `run` with a tiny model and more flags.
fn run_args<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--model", model, "--prompt", "What is in this picture?"], more].concat()
}

fn one_line(out: &Output) -> String {
    let text = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("error: ") && !text.contains("panic"), "{text}");
    text
}

/// The command fails with code 1 and one line that has `words`; nothing on stdout.
fn fails(args: &[&str], words: &[&str]) {
    let out = call(args);
    let line = one_line(&out);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {line}");
    assert!(out.stdout.is_empty(), "{args:?}");
    assert!(words.iter().all(|w| line.contains(w)), "{line} should have {words:?}");
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(dir: &tempfile::TempDir, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

#[test]
fn run_streams_the_text_that_json_holds() {
    let (model, image) = (golden("tiny_b"), golden("images/rgb_97x61.png"));
    let args = run_args(&model, &["--input", &image, "--max-new-tokens", "24"]);
    let json: Value = serde_json::from_str(&good(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(good(&args), format!("{}\n", json["text"].as_str().unwrap()));
    assert_eq!(json["ids"].as_array().unwrap().len(), 24);
    assert_eq!(json["finish_reason"], "length");
    assert_eq!(json["prompt_tokens"], 33);
    assert_eq!(json["dtype"], "bf16");
    assert_eq!(json["device"], "cpu");
    assert_eq!(json["boxes"], serde_json::json!([]));
    assert_eq!(json["media"][0]["size"], serde_json::json!([97, 61]));
    assert_eq!(json["media"][0]["resized"], serde_json::json!([84, 56]));
    assert_eq!(json["timing"]["prefill_tokens"], 33);
    assert_eq!(json["timing"]["decode_tokens"], 23);
    assert_eq!(json["sampling"]["temperature"]["source"], "generation_config.json");
}

#[test]
fn run_ends_at_the_tokens_of_the_checkpoint() {
    let (model, image) = (golden("tiny_b"), golden("images/rgb_97x61.png"));
    let args = run_args(&model, &["--input", &image, "--dtype", "f32", "--max-new-tokens", "32", "--json"]);
    let json: Value = serde_json::from_str(&good(&args)).unwrap();
    assert_eq!(json["finish_reason"], "stop");
    let golden: Value = serde_json::from_str(&fs::read_to_string(golden("traces.json")).unwrap()).unwrap();
    assert_eq!(json["ids"], golden["tiny_b"]["image_one"]["generated"]);
}

#[test]
fn run_takes_several_pictures_and_a_video() {
    let model = golden("tiny_a");
    let images = ["images/square_28x28.png", "images/half_70x42.png", "images/tiny_9x14.png"].map(golden);
    let frames = ["frames/ball_0.png", "frames/ball_1.png", "frames/ball_2.png"].map(golden);
    let mut args = run_args(&model, &["--json", "--max-new-tokens", "2", "--system", "Be brief."]);
    args.extend(["--input", &images[0], &images[1], "--input", &images[2], "--video-frames"]);
    args.extend(frames.iter().map(String::as_str));
    args.extend(["--fps", "2"]);
    let json: Value = serde_json::from_str(&good(&args)).unwrap();
    let kinds: Vec<&str> = json["media"].as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["image", "image", "image", "video"]);
    assert_eq!(json["media"][3]["grid_thw"][0], 2);
}

#[test]
fn flags_override_the_checkpoint_and_say_so() {
    let model = golden("tiny_a");
    let flags = ["--temperature", "0.5", "--top-k", "7", "--seed", "3", "--json", "--max-new-tokens", "4"];
    let json: Value = serde_json::from_str(&good(&run_args(&model, &flags))).unwrap();
    let sampling = &json["sampling"];
    assert_eq!(sampling["temperature"], serde_json::json!({"value": 0.5, "source": "flag"}));
    assert_eq!(sampling["top_k"], serde_json::json!({"value": 7, "source": "flag"}));
    assert_eq!(sampling["top_p"], serde_json::json!({"value": 0.001, "source": "generation_config.json"}));
    assert_eq!(sampling["min_p"], serde_json::json!({"value": 0.0, "source": "default"}));
}

#[test]
fn equal_seeds_draw_equal_answers() {
    let model = golden("tiny_b");
    let draw = |seed| good(&run_args(&model, &["--temperature", "1", "--seed", seed, "--max-new-tokens", "16"]));
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn boxes_are_drawn_on_the_picture_as_it_was_given() {
    let (dir, model, image) = (temp(), golden("tiny_a"), golden("images/rgb_97x61.png"));
    let out = dir.path().join("boxes.png");
    good(&run_args(&model, &["--input", &image, "--max-new-tokens", "2", "--boxes", out.to_str().unwrap()]));
    let reader = png::Decoder::new(BufReader::new(fs::File::open(out).unwrap())).read_info().unwrap();
    assert_eq!((reader.info().width, reader.info().height), (97, 61));
}

#[test]
fn statistics_go_to_stderr() {
    let model = golden("tiny_a");
    let out = call(&run_args(&model, &["--max-new-tokens", "3", "--stats"]));
    let text = String::from_utf8(out.stderr).unwrap();
    for word in ["bf16 on cpu", "threads", "top_k 1 (generation_config.json)", "prefill", "decode", "memory"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!String::from_utf8(out.stdout).unwrap().contains("prefill"));
}

/// Every tensor of a trace that does not depend on arithmetic is transformers', bit for bit; so are the greedy tokens in f32.
#[test]
fn traces_match_transformers() {
    let dir = temp();
    let facts: Value = serde_json::from_str(&fs::read_to_string(golden("traces.json")).unwrap()).unwrap();
    for model in ["tiny_a", "tiny_b"] {
        for (conversation, fact) in facts[model].as_object().unwrap() {
            let (path, out) = (golden(model), dir.path().join("trace.safetensors"));
            let file = golden(&format!("conversations/{conversation}.json"));
            good(&[
                "trace",
                "--model",
                &path,
                "--conversation",
                &file,
                "--dtype",
                "f32",
                "--out",
                out.to_str().unwrap(),
            ]);
            let (got, want) = (fs::read(&out).unwrap(), fs::read(golden(fact["file"].as_str().unwrap())).unwrap());
            let (got, want) = (SafeTensors::deserialize(&got).unwrap(), SafeTensors::deserialize(&want).unwrap());
            compare(&format!("{model}/{conversation}"), &got, &want, fact);
        }
    }
}

fn compare(at: &str, got: &SafeTensors, want: &SafeTensors, fact: &Value) {
    let names = ["input_ids", "position_ids", "image_grid_thw", "video_grid_thw", "generated_ids"];
    for name in names.into_iter().chain(["pixel_values", "pixel_values_videos"]) {
        let Ok(want) = want.tensor(name) else { continue };
        let got = got.tensor(name).unwrap();
        assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{at} {name}");
        assert!(got.data() == want.data(), "{at} {name}");
    }
    for name in ["pixel_values", "pixel_values_videos"] {
        let sum = &fact[format!("{name}_sha256")];
        assert_eq!(got.tensor(name).is_ok(), sum.is_string(), "{at} {name}");
        if let Ok(got) = got.tensor(name) {
            let hex: String = Sha256::digest(got.data()).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(sum, &Value::String(hex), "{at} {name}");
            assert_eq!(serde_json::json!(got.shape()), fact[format!("{name}_shape")], "{at} {name}");
        }
    }
    for name in ["image_embeds", "video_embeds"] {
        assert_eq!(got.tensor(name).is_ok(), want.tensor(name).is_ok(), "{at} {name}");
        if let (Ok(got), Ok(want)) = (got.tensor(name), want.tensor(name)) {
            assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{at} {name}");
        }
    }
    let tokens = fact["tokens"].as_u64().unwrap() as usize;
    assert_eq!(got.tensor("logits").unwrap().shape()[0], tokens, "{at}");
}

#[test]
fn a_trace_of_all_tensors_has_every_block() {
    let dir = temp();
    let (model, file, out) =
        (golden("tiny_b"), golden("conversations/images_three.json"), dir.path().join("t.safetensors"));
    let out = out.to_str().unwrap();
    good(&["trace", "--model", &model, "--conversation", &file, "--tensors", "all", "--out", out]);
    let (got, want) = (fs::read(out).unwrap(), fs::read(golden("traces/tiny_b/images_three.safetensors")).unwrap());
    let (got, want) = (SafeTensors::deserialize(&got).unwrap(), SafeTensors::deserialize(&want).unwrap());
    for name in ["visual.blocks.0", "visual.blocks.2", "model.layers.0", "model.layers.2"] {
        let (got, want) = (got.tensor(name).unwrap(), want.tensor(name).unwrap());
        assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{name}");
    }
}

#[test]
fn a_trace_of_nan_logits_is_an_error() {
    let (dir, file) = (temp(), golden("conversations/images_three.json"));
    copied(golden("tiny_a"), dir.path().into());
    let mut weights = fs::read(golden("tiny_a/model.safetensors")).unwrap();
    let at = {
        let norm = SafeTensors::deserialize(&weights).unwrap().tensor("model.norm.weight").unwrap().data().as_ptr();
        norm.addr() - weights.as_ptr().addr()
    };
    weights[at..at + 2].copy_from_slice(&[0xc0, 0x7f]);
    let model = dir.path().to_str().unwrap();
    write(&dir, "model.safetensors", weights);
    for new in ["0", "1"] {
        let args = ["trace", "--model", model, "--conversation", &file, "--max-new-tokens", new];
        fails(&[&args[..], &["--out", "/nonexistent/t.safetensors"]].concat(), &["NaN"]);
    }
}

/// Pipes `lines` into `chat`.
fn chat(model: &str, more: &[&str], lines: &str) -> Output {
    let mut child = osprey()
        .args(["chat", "--model", model, "--max-new-tokens", "8"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn chat_answers_a_pipe_and_reuses_what_was_said() {
    let image = golden("images/square_28x28.png");
    // More than a block of the cache.
    let hello = "Hello. I shall show you a picture, and you will say what it is.";
    let lines = format!("{hello}\n/image {image}\nWhat is this?\n\n/reset\n{hello}\n/quit\nnever read\n");
    let out = chat(&golden("tiny_b"), &["--json"], &lines);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let turns: Vec<Value> =
        String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(turns.len(), 3);
    assert!(turns[1]["timing"]["reused_tokens"].as_u64().unwrap() >= 32, "{}", turns[1]);
    assert_eq!(turns[1]["media"][0]["kind"], "image");
    assert_eq!(turns[0]["ids"], turns[2]["ids"]);
}

#[test]
fn chat_prints_one_answer_per_message_and_ends_with_its_input() {
    let out = chat(&golden("tiny_a"), &[], "Hello.\nAgain");
    assert!(out.status.success());
    assert!(out.stdout.ends_with(b"\n") && out.stderr.is_empty());
}

#[test]
fn chat_reads_a_picture_again_after_reset() {
    let (dir, model) = (temp(), golden("tiny_a"));
    let image = write(&dir, "picture.png", grey_png(30, 40));
    let mut child = osprey()
        .args(["chat", "--model", &model, "--max-new-tokens", "1", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut lines, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut size = |commands: &str| -> Value {
        writeln!(lines, "{commands}/image {image}\nWhat is this?").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["media"].as_array().unwrap().last().unwrap()["size"].clone()
    };
    assert_eq!(size(""), serde_json::json!([30, 40]));
    write(&dir, "picture.png", grey_png(50, 20));
    assert_eq!(size(""), serde_json::json!([30, 40]));
    assert_eq!(size("/reset\n"), serde_json::json!([50, 20]));
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn chat_stops_a_pipe_at_the_first_error() {
    for (lines, words) in
        [("/image nowhere.png\nHello.\n", "nowhere.png"), ("/image\n", "/image PATH"), ("/imgae x\n", "/imgae")]
    {
        let out = chat(&golden("tiny_a"), &[], lines);
        assert_eq!(out.status.code(), Some(1));
        assert!(one_line(&out).contains(words) && out.stdout.is_empty());
    }
    let out = chat(&golden("tiny_a"), &["--context", "24"], &format!("{}\n", "many words ".repeat(50)));
    assert_eq!(out.status.code(), Some(1));
    assert!(one_line(&out).contains("--context"));
}

#[test]
fn inspect_shows_tensors_and_memory() {
    let model = golden("tiny_b");
    let text = good(&["inspect", "--model", &model]);
    for word in ["3 layers, hidden 144", "lm_head.weight", "model-00003-of-00003.safetensors", "memory of a run", "kv"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
    let json = |context| -> Value {
        serde_json::from_str(&good(&["inspect", "--model", &model, "--json", "--context", context])).unwrap()
    };
    let (small, large) = (json("64"), json("128"));
    assert_eq!(small["memory"]["weights"], small["total"]["bytes"]);
    assert_eq!(small["memory"]["regions"]["kv"].as_u64().unwrap() * 2, large["memory"]["regions"]["kv"]);
    let int8 = good(&["inspect", "--model", &model, "--kv-cache-dtype", "int8", "--json", "--context", "128"]);
    let int8: Value = serde_json::from_str(&int8).unwrap();
    assert_eq!(
        (&large["memory"]["kv_cache_dtype"], &int8["memory"]["kv_cache_dtype"]),
        (&large["memory"]["dtype"], &json!("i8"))
    );
    for run in [&large, &int8] {
        assert_eq!(run["memory"]["regions"]["kv"], 128 * run["memory"]["kv_bytes_per_token"].as_u64().unwrap());
    }
    assert_eq!(large["memory"]["regions"]["kv"], 128 * large["memory"]["kv_bytes_per_token"].as_u64().unwrap());
}

#[test]
fn inspect_takes_any_limit_of_pixels() {
    let model = golden("tiny_b");
    for flag in ["--max-pixels", "--min-pixels"] {
        let args = ["inspect", "--model", &model, "--json", "--context", "64", flag, "18446744073709551615"];
        let json: Value = serde_json::from_str(&good(&args)).unwrap();
        assert_eq!(json["memory"]["patches"], 64 * 4, "{flag}");
    }
}

#[test]
fn the_cache_of_the_hub_can_be_moved() {
    let dir = temp();
    let repo = dir.path().join("models--org--tiny");
    let snapshot = repo.join("snapshots/0123");
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(repo.join("refs/main"), "0123").unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(golden(&format!("tiny_a/{name}")), snapshot.join(name)).unwrap();
    }
    let mut command = osprey();
    // Nothing listens on port 1.
    command.env("HF_HUB_CACHE", dir.path()).env("HF_HOME", "/nonexistent").env("HF_ENDPOINT", "http://127.0.0.1:1");
    let out = command.args(["inspect", "--model", "org/tiny"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_bad_model_is_named() {
    let dir = temp();
    let broken = dir.path().join("broken");
    fs::create_dir(&broken).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.json"] {
        fs::copy(golden(&format!("tiny_a/{file}")), broken.join(file)).unwrap();
    }
    let weights = fs::read(golden("tiny_a/model.safetensors")).unwrap();
    fs::write(broken.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let path = broken.to_str().unwrap();
    fails(&run_args(path, &[]), &["model.safetensors"]);
    fails(&["inspect", "--model", path], &["model.safetensors"]);
    fs::write(broken.join("config.json"), "{\n").unwrap();
    fails(&run_args(path, &[]), &["config.json"]);
    fails(&run_args("/nonexistent/model", &[]), &["--model", "/nonexistent/model"]);
    fails(&run_args(&golden("tiny_a/config.json"), &[]), &["--model", "is a file"]);
}

/// A device never ends; a test that fails hangs.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused() {
    let (dir, model) = (temp(), golden("tiny_a"));
    fails(
        &["trace", "--model", &model, "--conversation", "/dev/zero", "--out", "/nonexistent/t.safetensors"],
        &["/dev/zero", "not a regular file"],
    );
    copied(&model, dir.path().into());
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let path = dir.path().join(file);
        let kept = fs::read(&path).ok();
        // Absent in this model, if there is nothing to keep.
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        fails(&run_args(dir.path().to_str().unwrap(), &[]), &[file, "not a regular file"]);
        fs::remove_file(&path).unwrap();
        kept.iter().for_each(|bytes| fs::write(&path, bytes).unwrap());
    }
}

#[test]
fn a_bad_picture_is_named() {
    let (dir, model) = (temp(), golden("tiny_a"));
    let bad = |image: &str, words: &[&str]| {
        fails(
            &run_args(&model, &["--input", image]),
            &[&[Path::new(image).file_name().unwrap().to_str().unwrap()], words].concat(),
        );
    };
    bad(&golden("images/broken_empty.jpg"), &["is empty"]);
    bad(&golden("images/broken_truncated.png"), &["broken PNG"]);
    bad(&golden("images/broken_text.png"), &["not a JPEG, PNG"]);
    bad(dir.path().to_str().unwrap(), &[]);
    bad("/nonexistent/cat.png", &["No such file"]);
    bad(&write(&dir, "bomb.png", png_header(30_000, 30_000)), &["900000000 pixels"]);
    bad(&write(&dir, "thin.png", grey_png(1, 201)), &["201 times"]);
    good(&run_args(&model, &["--max-new-tokens", "1", "--input", &write(&dir, "thin_enough.png", grey_png(1, 200))]));
    // The name itself may break lines.
    fails(&run_args(&model, &["--input", "cat\nfood.png"]), &["cat food.png"]);
}

#[test]
fn media_beyond_the_context_are_refused_before_they_are_resized() {
    let (dir, model) = (temp(), golden("tiny_a"));
    let image = write(&dir, "one.png", grey_png(1, 1));
    let words = ["one.png", "tokens", "32768", "--max-pixels"];
    fails(&run_args(&model, &["--min-pixels", "4000000000", "--input", &image]), &words);
    // The sum counts, and a video is refused before its second frame is looked for.
    let large = ["--min-pixels", "20000000"];
    fails(&run_args(&model, &[&large[..], &["--input", &image, &image]].concat()), &words);
    let frames = ["--video-frames", &image, "/nonexistent/b.png", "/nonexistent/c.png"];
    fails(&run_args(&model, &[&large[..], &frames].concat()), &words);
    let out = chat(&model, &["--min-pixels", "100000", "--context", "64"], &format!("/image {image}\n"));
    assert_eq!(out.status.code(), Some(1));
    assert!(["one.png", "--context"].iter().all(|w| one_line(&out).contains(w)));
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(png::Encoder::new(&mut bytes, width, height).write_header().unwrap());
    bytes
}

fn grey_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = png::Encoder::new(&mut bytes, width, height).write_header().unwrap();
    writer.write_image_data(&vec![128; (width * height) as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn a_bad_prompt_is_refused() {
    let (dir, model) = (temp(), golden("tiny_a"));
    fails(&["run", "--model", &model, "--prompt", " \n"], &["--prompt", "is empty"]);
    fails(&["run", "--model", &model, "--prompt-file", "/nonexistent/p.txt"], &["/nonexistent/p.txt"]);
    let binary = write(&dir, "binary.txt", [0xff, 0xfe]);
    fails(&["run", "--model", &model, "--prompt-file", &binary], &["binary.txt", "UTF-8"]);
    let long = write(&dir, "long.txt", "many words ".repeat(40_000));
    fails(&["run", "--model", &model, "--prompt-file", &long], &["32768", "max_position_embeddings"]);
    fails(&run_args(&model, &["--max-new-tokens", "40000"]), &["--max-new-tokens", "32768"]);
    fails(&run_args(&model, &["--min-pixels", "9000", "--max-pixels", "4000"]), &["--min-pixels", "--max-pixels"]);
    fails(
        &run_args(&model, &["--device", "emulator", "--dtype", "f32"]),
        &["--dtype f32", "--dtype bf16", "--device cpu"],
    );
}

/// Where a driver is, the GPU itself is tested.
#[test]
fn a_missing_gpu_is_named() {
    if !osprey::exec::cuda::driver::is_present() {
        let flags = ["--device", "cuda", "--dtype", "bf16"];
        fails(&run_args(&golden("tiny_a"), &flags), &["no CUDA driver", "--device cpu"]);
    }
}

#[test]
fn a_bad_conversation_is_refused() {
    let (dir, model) = (temp(), golden("tiny_a"));
    let trace = |text: &str, more: &[&str], words: &[&str]| {
        let file = write(&dir, "talk.json", text);
        let args = ["trace", "--model", &model, "--out", "/nonexistent/t.safetensors", "--conversation", &file];
        fails(&[&args, more].concat(), words);
    };
    let placeholder = r#"[{"role":"user","content":"<|vision_start|><|image_pad|><|vision_end|> what?"}]"#;
    trace(placeholder, &["--special-tokens-in-text"], &["1 image placeholder", "0 images"]);
    // As text it is only text; what fails is the output file.
    trace(placeholder, &["--max-new-tokens", "1"], &["/nonexistent/t.safetensors"]);
    trace("[", &[], &["talk.json"]);
    trace("[]", &[], &["talk.json", "empty"]);
    trace(r#"[{"role":"user","content":[{"type":"image"}]}]"#, &[], &["content[0].image"]);
    let url = r#"[{"role":"user","content":[{"type":"image","image":"https://example.org/a.png"}]}]"#;
    trace(url, &[], &["https://example.org/a.png", "download"]);
}

#[test]
fn wrong_usage_ends_with_2() {
    let model = golden("tiny_a");
    let wrong: [&[&str]; 11] = [
        &[],
        &["run", "--model", &model],
        &["run", "--prompt", "a", "--prompt-file", "b"],
        &["run", "--prompt", "a", "--temperature", "-1"],
        &["run", "--prompt", "a", "--temperature", "nan"],
        &["run", "--prompt", "a", "--top-p", "1.5"],
        &["run", "--prompt", "a", "--fps", "2"],
        &["run", "--prompt", "a", "--max-new-tokens", "0"],
        &["run", "--prompt", "a", "--no-such-flag"],
        &["run", "--prompt", "a", "--threads", "0"],
        &["run", "--prompt", "a", "--threads", "257"],
    ];
    for args in wrong {
        let out = call(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(out.stdout.is_empty() && !String::from_utf8_lossy(&out.stderr).contains("panic"), "{args:?}");
    }
}

/// A long answer: this one goes round in circles, and there is room for 30,000 tokens.
fn endless(stdout: Stdio) -> std::process::Child {
    let model = golden("tiny_a");
    osprey()
        .args(run_args(&model, &["--max-new-tokens", "30000"]))
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let mut child = endless(Stdio::piped());
    let mut first = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_generated() {
    let mut child = endless(Stdio::piped());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = vec![0];
    stdout.read_exact(&mut text).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    while stdout.read_until(b'\n', &mut text).unwrap() > 0 {}
    assert!(text.len() > 1 && text.ends_with(b"\n"));
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_full_disk_is_an_error() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        eprintln!("skipped: no /dev/full");
        return;
    };
    let out = endless(full.into()).wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(one_line(&out).contains("stdout"));
}

#[test]
fn the_missing_demo_model_is_said() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/model.safetensors");
    let out = call(&["run", "--prompt", "Hello.", "--max-new-tokens", "1"]);
    if demo.exists() {
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    } else {
        assert!(one_line(&out).contains("models/demo"));
    }
}
