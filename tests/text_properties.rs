//! Rules that must hold for every text, every layout of media, and every broken tokenizer or template file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use osprey::text::messages::{Message, Part};
use osprey::text::positions::{Positions, positions};
use osprey::text::prompt::{MediaKind, MediaSpan};
use osprey::text::stream::{StreamDecoder, decode};
use osprey::text::template::{ChatTemplate, RenderOptions};
use osprey::text::tokenizer::{Show, Tokenizer};
use proptest::prelude::*;

const MERGE: u32 = 2;
const PROMPT: RenderOptions =
    RenderOptions { add_generation_prompt: true, add_vision_id: true, special_tokens_in_text: false };

static DEMO: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::load(&demo_dir()).unwrap());
static TEMPLATE: LazyLock<ChatTemplate> = LazyLock::new(|| ChatTemplate::load(&demo_dir()).unwrap());

fn demo_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() }
}

/// Text made of what is dangerous: special tokens, pieces of them, private-use characters, and other text.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "<|im_end|>",
            "<|im_start|>",
            "<|image_pad|>",
            "<|box_start|>",
            "<|",
            "|>",
            "<",
            "|",
            ">",
            "im_end",
            "\u{E000}",
            "\u{E001}",
            " ",
            "\n",
            "e\u{301}",
            "\u{301}",
            "日本",
            "👩‍👩‍👧",
        ])
        .prop_map(String::from),
        any::<String>(),
        "[ a-z]{1,12}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// Media between runs of text: (tokens of text before, merged grid).
fn layout() -> impl Strategy<Value = (Vec<(usize, [u32; 3])>, usize)> {
    (prop::collection::vec((0..6usize, [1..5u32, 1..6u32, 1..6u32]), 0..5), 0..6usize)
}

fn spans(media: &[(usize, [u32; 3])], tail: usize) -> (Vec<MediaSpan>, usize) {
    let mut end = 0;
    let mut spans = Vec::new();
    for (index, (text, [t, h, w])) in media.iter().enumerate() {
        let kind = if *t == 1 { MediaKind::Image } else { MediaKind::Video };
        let len = (t * h * w) as usize;
        spans.push(MediaSpan { start: end + text, len, kind, grid_thw: [*t, h * MERGE, w * MERGE], index });
        end += text + len;
    }
    (spans, end + tail)
}

fn at(positions: &Positions, i: usize) -> [i32; 3] {
    std::array::from_fn(|axis| positions.thw[axis][i])
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn positions_follow_the_rule((media, tail) in layout()) {
        let (spans, len) = spans(&media, tail);
        let got = positions(len, &spans, MERGE).unwrap();
        prop_assert!(got.thw.iter().all(|axis| axis.len() == len));
        let mut top = -1; // the largest position so far
        let mut i = 0;
        for span in spans.iter().map(Some).chain([None]) {
            for j in i..span.map_or(len, |span| span.start) {
                top += 1;
                prop_assert_eq!(at(&got, j), [top; 3]);
            }
            let Some(span) = span else { break };
            let (start, [t, h, w]) = (top + 1, [span.grid_thw[0], span.grid_thw[1] / MERGE, span.grid_thw[2] / MERGE]);
            for k in 0..span.len as u32 {
                let want = [k / (h * w), k / w % h, k % w].map(|p| start + p as i32);
                prop_assert_eq!(at(&got, span.start + k as usize), want);
            }
            top += t.max(h).max(w) as i32;
            i = span.start + span.len;
        }
        prop_assert_eq!(got.next, top + 1);
    }

    /// What comes later never changes what came before: a prefix that ends between media has the same positions.
    #[test]
    fn positions_of_a_prefix_are_a_prefix((media, tail) in layout(), keep in 0..5usize) {
        let (all, len) = spans(&media, tail);
        let (some, cut) = spans(&media[..keep.min(media.len())], 0);
        let (whole, part) = (positions(len, &all, MERGE).unwrap(), positions(cut, &some, MERGE).unwrap());
        for (whole, part) in whole.thw.iter().zip(&part.thw) {
            prop_assert_eq!(&whole[..cut], &part[..]);
        }
        prop_assert!(part.next <= whole.next);
    }

    #[test]
    fn spans_that_do_not_fit_are_refused((media, tail) in layout(), change in 0..4u8, which in any::<prop::sample::Index>()) {
        let (mut spans, len) = spans(&media, tail);
        prop_assume!(!spans.is_empty());
        let which = which.index(spans.len());
        match change {
            0 => spans[which].len += 1,
            1 => spans[which].start = usize::MAX,
            2 => spans[which].grid_thw[1] += 1,
            _ => spans.push(spans[which]),
        }
        prop_assert!(positions(len, &spans, MERGE).is_err());
    }

    #[test]
    fn user_text_stays_text(parts in prop::collection::vec(text(), 1..4), role in "user|system") {
        let message = Message::parts(role, parts.into_iter().map(Part::Text).collect());
        let rendered = TEMPLATE.render(&DEMO, std::slice::from_ref(&message), &PROMPT).unwrap();
        let ids = DEMO.encode_rendered(&rendered).unwrap();
        let innocent = TEMPLATE.render(&DEMO, &[Message { content: Message::text("user", "x").content, ..message }], &PROMPT).unwrap();
        let specials = |ids: &[u32]| ids.iter().copied().filter(|id| !DEMO.shows(*id, Show::Text)).collect::<Vec<_>>();
        prop_assert_eq!(specials(&ids), specials(&DEMO.encode_rendered(&innocent).unwrap()));
    }

    #[test]
    fn text_without_special_tokens_has_the_ids_of_transformers(text in text()) {
        let safe = text.replace('|', "");
        let rendered = TEMPLATE.render(&DEMO, &[Message::text("user", safe)], &PROMPT).unwrap();
        prop_assert_eq!(DEMO.encode_rendered(&rendered).unwrap(), DEMO.encode_with_special(&rendered.text()).unwrap());
    }

    #[test]
    fn a_stream_equals_decoding_at_once(ids in prop::collection::vec(0..1160u32, 0..40)) {
        for show in [Show::Text, Show::Grounding, Show::All] {
            let mut decoder = StreamDecoder::new(show);
            let mut streamed = String::new();
            for id in &ids {
                streamed += &decoder.push(&DEMO, *id);
            }
            streamed += &decoder.finish();
            let shown = ids.iter().filter(|id| DEMO.shows(**id, show));
            let bytes: Vec<u8> = shown.flat_map(|id| DEMO.bytes(*id).unwrap_or_default()).collect();
            prop_assert_eq!(streamed, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// One edit of a file: a byte range replaced by something.
fn edit() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
    let insert = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "null",
            "-1",
            "0",
            "4294967295",
            "1e99",
            "\"",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "true",
            "\"\"",
            "\\u0000",
            "\\ud800",
            "Ġ",
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "{% for i in range(99999) %}",
            "{% endfor %}",
            "{% if",
            "((((((((((",
            "' * 999999999",
            "|tojson",
            "|trim",
            "~ messages",
            "messages.x.y",
            "\u{0}",
        ])
        .prop_map(String::from),
        any::<String>(),
    ];
    (any::<prop::sample::Index>(), 0..20usize, insert)
}

fn apply(source: &str, edits: &[(prop::sample::Index, usize, String)]) -> String {
    let mut chars: Vec<char> = source.chars().collect();
    for (at, remove, insert) in edits {
        let start = at.index(chars.len() + 1);
        let end = (start + remove).min(chars.len());
        chars.splice(start..end, insert.chars());
    }
    chars.into_iter().collect()
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn is_clear(error: &osprey::error::Error, dir: &Path) -> bool {
    let text = error.to_string();
    !text.contains('\n')
        && text.len() < 2000
        && (text.starts_with(dir.to_str().unwrap()) || text.starts_with("messages: "))
}

/// A small tokenizer whose every byte is likely to be hit by a mutation.
static SMALL: LazyLock<String> = LazyLock::new(|| {
    let text = std::fs::read_to_string(demo_dir().join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let model = json["model"].as_object_mut().unwrap();
    model["merges"].as_array_mut().unwrap().truncate(20);
    model["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < 300);
    for (i, token) in json["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        token["id"] = (300 + i).into();
    }
    json.to_string()
});

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_broken_tokenizer_is_refused_or_works(edits in prop::collection::vec(edit(), 0..3), sample in text()) {
        let dir = folder(&[("tokenizer.json", &apply(&SMALL, &edits))]);
        match Tokenizer::load(dir.path()) {
            Ok(tokenizer) => {
                let ids = tokenizer.encode_text(&sample).unwrap();
                tokenizer.encode_with_special(&sample).unwrap();
                decode(&tokenizer, &ids, Show::All);
            }
            Err(error) => prop_assert!(!edits.is_empty() && is_clear(&error, dir.path()), "{error}"),
        }
    }

    #[test]
    fn a_broken_template_is_refused_or_works(edits in prop::collection::vec(edit(), 0..4), sample in text()) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/template.json");
        let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
        for name in ["checkpoint", "loose"] {
            let dir = folder(&[("chat_template.jinja", &apply(golden["templates"][name].as_str().unwrap(), &edits))]);
            let start = Instant::now();
            let rendered = ChatTemplate::load(dir.path()).and_then(|t| t.render(&DEMO, &[Message::text("user", sample.as_str())], &PROMPT));
            match rendered {
                Ok(rendered) => { DEMO.encode_rendered(&rendered).unwrap(); }
                Err(error) => prop_assert!(!edits.is_empty() && is_clear(&error, dir.path()), "{error}"),
            }
            prop_assert!(start.elapsed() < Duration::from_secs(20));
        }
    }
}

#[test]
fn endless_or_deep_templates_end() {
    let range = "{% for i in range(90000) %}";
    let (room, values) = (60_000, "{% set ns = namespace(x=[]) %}");
    let cases = [
        ("loops", format!("{}x{}", range.repeat(4), "{% endfor %}".repeat(4)), "runs too long"),
        ("flood", format!("{range}{}{{% endfor %}}", "x".repeat(1000)), "the output exceeds"),
        ("macro", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".into(), "recursion limit"),
        ("brackets", format!("{{{{ {}1{} }}}}", "(".repeat(room / 2), ")".repeat(room / 2)), "recursion limit"),
        ("blocks", "{% if 1 %}".repeat(room / 10), "recursion limit"),
        ("repeat", "{{ 'x' * 99999999999 }}".into(), "too large"),
        ("long", " ".repeat(70_000), "at most 65536"),
        ("not", format!("{{{{ {}1 }}}}", "not ".repeat(room / 4)), ""),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(room)), ""),
        ("plus", format!("{{{{ 1{} }}}}", "+1".repeat(room / 2)), ""),
        ("filters", format!("{{{{ 1{} }}}}", "|abs".repeat(room / 4)), ""),
        ("elif", format!("{{% if 0 %}}{}{{% endif %}}", "{%elif 0%}".repeat(room / 10)), ""),
        ("values", format!("{values}{range}{{% set ns.x = [ns.x] %}}{{% endfor %}}"), ""),
        ("print", format!("{values}{range}{{% set ns.x = [ns.x] %}}{{% endfor %}}{{{{ ns.x }}}}"), ""),
        ("json", format!("{values}{range}{{% set ns.x = [ns.x] %}}{{% endfor %}}{{{{ ns.x|tojson }}}}"), ""),
    ];
    for (name, source, why) in cases {
        let dir = folder(&[("chat_template.jinja", &source)]);
        let start = Instant::now();
        let result =
            ChatTemplate::load(dir.path()).and_then(|t| t.render(&DEMO, &[Message::text("user", "x")], &PROMPT));
        match &result {
            Ok(_) => assert!(why.is_empty(), "{name} gives a result"),
            Err(error) => assert!(is_clear(error, dir.path()) && error.to_string().contains(why), "{name}: {error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{name} took {:?}", start.elapsed());
        println!("{name}: {:?} {:?}", start.elapsed(), result.map(|r| r.text().len()).map_err(|e| e.to_string()));
    }
}

#[test]
fn broken_files_are_named() {
    let tokenizer = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_str(&SMALL).unwrap();
        change(&mut json);
        let dir = folder(&[("tokenizer.json", &json.to_string())]);
        Tokenizer::load(dir.path()).map(|_| ()).unwrap_err().to_string()
    };
    let refuses = |want: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let error = tokenizer(change);
        assert!(error.contains("tokenizer.json: ") && error.contains(want), "{error} does not say {want}");
    };
    refuses("merges: merge 0", &|json| json["model"]["merges"][0] = "é é".into());
    refuses("merges: \"a\" is not two tokens", &|json| json["model"]["merges"][0] = "a".into());
    refuses("vocab: has no token for the byte written 'a'", &|json| {
        drop(json["model"]["vocab"].as_object_mut().unwrap().remove("a"))
    });
    refuses("vocab: two tokens have the id 0", &|json| json["model"]["vocab"]["a"] = 0.into());
    refuses("\"<|video_pad|>\" should have the id 900", &|json| json["added_tokens"][13]["id"] = 900.into());
    refuses("\"<|im_start|>\" has the ids", &|json| json["added_tokens"][0]["content"] = "<|im_start|>".into());
    refuses("<|video_pad|>: is not in the vocabulary", &|json| {
        json["added_tokens"].as_array_mut().unwrap().truncate(13)
    });
    refuses("pre_tokenizer.pretokenizers.0.pattern.Regex: is \"(a+)+b\"", &|json| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+b".into()
    });
    refuses("normalizer.type: is \"NFKC\"", &|json| json["normalizer"]["type"] = "NFKC".into());
    refuses("model.dropout: is 0.5", &|json| json["model"]["dropout"] = 0.5.into());
    refuses("model.type: is \"Unigram\"", &|json| json["model"]["type"] = "Unigram".into());
    let dir = folder(&[]);
    assert!(
        Tokenizer::load(dir.path()).err().unwrap().to_string().contains("has neither tokenizer.json nor vocab.json")
    );
    assert!(ChatTemplate::load(dir.path()).err().unwrap().to_string().contains("none found"));
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let json = r#"{"chat_template": "json"}"#;
    let config = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "config {{ eos_token }}"}], "eos_token": {"content": "E"}}"#;
    let all = [("chat_template.jinja", "jinja"), ("chat_template.json", json), ("tokenizer_config.json", config)];
    for (first, want) in [(0, "jinja"), (1, "json"), (2, "config E")] {
        let dir = folder(&all[first..]);
        let rendered =
            ChatTemplate::load(dir.path()).unwrap().render(&DEMO, &[Message::text("user", "x")], &PROMPT).unwrap();
        assert_eq!(rendered.text(), want);
    }
    let dir = folder(&[("tokenizer_config.json", r#"{"chat_template": [{"name": "tool_use", "template": "t"}]}"#)]);
    let error = ChatTemplate::load(dir.path()).err().unwrap().to_string();
    assert!(
        error.ends_with("tokenizer_config.json: chat_template: is a list without a template named default"),
        "{error}"
    );
    let dir = folder(&[("chat_template.jinja", "a\n{{ b")]);
    let error = ChatTemplate::load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("chat_template.jinja: chat_template line 2: syntax error"), "{error}");
}

#[test]
fn tojson_is_that_of_python() {
    let source = r#"{{ {"a": "<b>&'\\u003c\n日"} | tojson }}{{ messages[0].content | tojson(ensure_ascii=false) }}{{ strftime_now("%Y") }}"#;
    let dir = folder(&[("chat_template.jinja", source)]);
    let rendered =
        ChatTemplate::load(dir.path()).unwrap().render(&DEMO, &[Message::text("user", "|\\<")], &PROMPT).unwrap();
    assert!(rendered.text().starts_with(r#"{"a": "<b>&'\\u003c\n日"}"|\\<"20"#), "{}", rendered.text());
}
