//! Constraints from schemas, expressions and choices: whatever is drawn at random among the allowed tokens has the form.

use osprey::engine::Constraint;
use osprey::intake::grammar::{Form, Function, Grammars, MAX_FORM};
use osprey::text::tokenizer::{Show, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const VOCAB: usize = 1152;
const ENDS: [u32; 2] = [1132, 1130];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::load(Path::new("models/demo")).unwrap());
static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(&TOKENIZER, VOCAB, &ENDS).unwrap());

fn allowed(constraint: &mut dyn Constraint) -> Vec<u32> {
    let mask = constraint.allowed().unwrap();
    (0..VOCAB as u32).filter(|id| mask.get(*id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)).collect()
}

/// The token of a text.
fn id(text: &str) -> u32 {
    (0..VOCAB as u32).find(|id| TOKENIZER.bytes(*id).is_some_and(|bytes| bytes == text.as_bytes())).unwrap()
}

/// Draws tokens until one ends the answer: at random, and after `patience` of them what closes most.
fn walk(mut constraint: Box<dyn Constraint>, seed: u64, patience: usize) -> String {
    let mut random = Random(seed);
    let mut bytes = Vec::new();
    for step in 0..4000 {
        let ids = allowed(&mut *constraint);
        assert!(!ids.is_empty(), "a dead end after {:?}", String::from_utf8_lossy(&bytes));
        let shown = ids.iter().find(|id| !ENDS.contains(id) && !TOKENIZER.shows(**id, Show::Text));
        assert_eq!(shown, None, "a special token is allowed");
        let ranks = |id: &u32| {
            ENDS.contains(id) || [&b"\"}"[..], b"}", b"]", b"\""].contains(&&TOKENIZER.bytes(*id).unwrap()[..])
        };
        let closing = ids.iter().copied().find(|id| step >= patience && ranks(id));
        let id = closing.unwrap_or_else(|| ids[random.below(ids.len())]);
        constraint.take(id).unwrap();
        if ENDS.contains(&id) {
            return String::from_utf8(bytes).unwrap();
        }
        bytes.extend(TOKENIZER.bytes(id).unwrap());
    }
    panic!("no end: {:?}", String::from_utf8_lossy(&bytes));
}

/// xorshift64*, Vigna 2016.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

/// Answers of a form, which ends by itself or after some `patience`.
fn walks(form: &Form, count: u64, patience: usize) -> Vec<String> {
    (1..=count).map(|seed| walk(GRAMMARS.constraint("form", form).unwrap(), seed * 0x9E37_79B9, patience)).collect()
}

#[test]
fn answers_follow_their_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "zone": { "type": "string", "enum": ["north", "south \"x\"", "ost\u{20ac}"] },
            "count": { "type": "integer", "minimum": -3, "maximum": 120 },
            "tags": { "type": "array", "items": { "type": "string", "maxLength": 5, "pattern": "^[a-z]+$" }, "minItems": 1, "maxItems": 3 },
            "inner": { "$ref": "#/$defs/inner" },
            "maybe": { "type": ["null", "boolean"] },
        },
        "required": ["zone", "count", "tags", "inner"],
        "additionalProperties": false,
        "$defs": { "inner": { "type": "object", "properties": { "x": { "const": 1.5 } }, "required": ["x"], "additionalProperties": false } },
    });
    let texts = walks(&Form::Schema(schema), 60, usize::MAX);
    for text in &texts {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let map = value.as_object().unwrap();
        assert!(["north", "south \"x\"", "ost\u{20ac}"].contains(&map["zone"].as_str().unwrap()), "{text}");
        assert!((-3..=120).contains(&map["count"].as_i64().unwrap()), "{text}");
        let tags = map["tags"].as_array().unwrap();
        let word = |tag: &Value| tag.as_str().unwrap().bytes().all(|b| b.is_ascii_lowercase());
        let tag = |tag: &Value| (1..=5).contains(&tag.as_str().unwrap().len()) && word(tag);
        assert!((1..=3).contains(&tags.len()) && tags.iter().all(tag), "{text}");
        assert_eq!(map["inner"], json!({ "x": 1.5 }), "{text}");
        let known = ["zone", "count", "tags", "inner", "maybe"];
        assert!(map.keys().all(|key| known.contains(&key.as_str())), "{text}");
        assert!(map.get("maybe").is_none_or(|maybe| maybe.is_null() || maybe.is_boolean()), "{text}");
    }
    let some = |piece: &str| texts.iter().any(|text| text.contains(piece));
    assert!(some("north") && some("south") && some("maybe"), "every branch is taken");
}

#[test]
fn any_object_is_an_object() {
    for text in walks(&Form::Object, 40, 80) {
        assert!(serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}")).is_object(), "{text}");
    }
}

#[test]
fn the_whole_answer_matches_an_expression() {
    for regex in [r"[A-Z]{2}-\d{4}(/[a-c]+)?", r"(?i)yes|no/\w{1,3}", "\u{20ac}{1,4}|a\nb", r"start: \x2f"] {
        let whole = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
        for text in walks(&Form::Regex(regex.into()), 25, usize::MAX) {
            assert!(whole.is_match(&text), "{text:?} is not {regex}");
        }
    }
}

#[test]
fn one_of_the_choices_is_the_answer() {
    let choices = ["yes", "no", "a|b", "yes, but \\d+", "\"", "start: x\n"].map(String::from);
    let texts = walks(&Form::Choice(choices.to_vec()), 120, usize::MAX);
    assert!(texts.iter().all(|text| choices.contains(text)), "{texts:?}");
    assert!(choices.iter().all(|choice| texts.contains(choice)), "{texts:?}");
}

#[test]
fn calls_are_those_of_the_functions() {
    let digits = json!({ "type": "object", "properties": { "d": { "$ref": "#/$defs/d" } }, "required": ["d"], "additionalProperties": false,
        "$defs": { "d": { "type": "integer", "minimum": 0, "maximum": 9 } } });
    let none = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let function = |name: &str, parameters: &Value| Function { name: name.into(), parameters: parameters.clone() };
    let functions = vec![function("digit", &digits), function("no_ar-gs", &none)];
    let call = regex::Regex::new("(?s)^<tool_call>\n(\\{.*?\\})\n</tool_call>$").unwrap();
    let mut most = 0;
    for several in [false, true] {
        for text in walks(&Form::Calls { functions: functions.clone(), several }, 30, usize::MAX) {
            let calls: Vec<&str> =
                text.split_inclusive("</tool_call>").map(|call| call.trim_start_matches('\n')).collect();
            most = most.max(calls.len());
            assert!(several || calls.len() == 1, "{text}");
            for text in calls {
                let found = call.captures(text).unwrap_or_else(|| panic!("{text:?}"));
                let value: Value = serde_json::from_str(&found[1]).unwrap();
                match value["name"].as_str() {
                    Some("digit") => assert!((0..=9).contains(&value["arguments"]["d"].as_i64().unwrap()), "{text}"),
                    _ => assert_eq!(value, json!({ "name": "no_ar-gs", "arguments": {} })),
                }
            }
        }
    }
    assert!(most > 1);
}

/// Where the answer could go on, it may end; where it is not complete, it may not.
#[test]
fn an_answer_may_end_where_it_is_complete() {
    let mut constraint = GRAMMARS.constraint("form", &Form::Regex("ab?".into())).unwrap();
    assert!(allowed(&mut *constraint).iter().all(|id| !ENDS.contains(id)));
    constraint.take(id("a")).unwrap();
    let mut fork = constraint.fork();
    assert_eq!(allowed(&mut *constraint), [id("b"), 1130, 1132]);
    constraint.take(id("b")).unwrap();
    assert_eq!(allowed(&mut *constraint), [1130, 1132], "nothing but the end");
    assert_eq!(allowed(&mut *fork), [id("b"), 1130, 1132], "a fork goes its own way");
    assert!(fork.take(id("a")).is_err());
}

fn refused(form: &Form) -> String {
    let error = GRAMMARS.constraint("the.field", form).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("the.field: ") && error.len() < 500 && !error.contains(['\n', '<']), "{error}");
    error
}

#[test]
fn what_is_no_form_is_refused_by_name() {
    assert!(refused(&Form::Schema(json!([1]))).contains("object"));
    assert!(refused(&Form::Schema(json!({ "type": "strange" }))).contains("strange"));
    assert!(refused(&Form::Schema(json!({ "$ref": "#/nowhere" }))).contains("nowhere"));
    assert!(refused(&Form::Schema(json!({ "$ref": "http://127.0.0.1:1/x" }))).contains("127.0.0.1"));
    assert!(refused(&Form::Schema(json!({ "type": "array", "uniqueItems": true }))).contains("uniqueItems"));
    refused(&Form::Schema(json!({ "type": "integer", "minimum": 5, "maximum": 4 })));
    assert!(refused(&Form::Schema(json!({ "$ref": "#" }))).contains("describes no text"));
    assert!(
        refused(&Form::Schema(json!({ "type": "integer", "minimum": -1e300, "maximum": 1e300 }))).contains("compiler")
    );
    assert!(refused(&Form::Regex("(".into())).contains("unclosed group"));
    refused(&Form::Regex("a/ \"x\"\nother: /b(".into()));
    refused(&Form::Regex("(?=a)b".into()));
    refused(&Form::Choice(vec![]));
    assert!(refused(&Form::Choice(vec![String::new()])).contains("empty"));
    assert!(refused(&Form::Choice(vec!["x".into(); 513])).contains("513"));
    assert!(refused(&Form::Regex("x".repeat(MAX_FORM + 1))).contains("65537"));
    assert!(refused(&Form::Schema(json!({ "const": "x".repeat(MAX_FORM) }))).contains("bytes"));
}

/// What is small to write and large to follow is refused, or followed, in bounded time; most would run for hours or overflow a stack without a limit.
#[test]
fn bombs_are_bounded() {
    let double = |n: usize| -> Value {
        let level = |i: usize| {
            (
                format!("d{i}"),
                json!({ "type": "array", "prefixItems": [{ "$ref": format!("#/$defs/d{}", i + 1) }, { "$ref": format!("#/$defs/d{}", i + 1) }], "items": false, "minItems": 2 }),
            )
        };
        let defs: serde_json::Map<String, Value> =
            (0..n).map(level).chain([(format!("d{n}"), json!({ "type": "integer" }))]).collect();
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    };
    let nested = |key: &str, n: usize| {
        (0..n).fold(json!({ "type": "integer" }), |inner, _| json!({ key: [inner.clone(), inner] }))
    };
    let deep = |n: usize| {
        (0..n).fold(
            json!({ "type": "integer" }),
            |inner, _| json!({ "type": "object", "properties": { "a": inner }, "required": ["a"] }),
        )
    };
    let many = |n: usize| {
        (0..n)
            .map(|i| (format!("k{i}"), json!({ "type": "string", "pattern": format!("^.*{i}.{{{i}}}$") })))
            .collect::<serde_json::Map<_, _>>()
    };
    let schemas = [
        double(40),
        json!({ "$ref": "#" }),
        json!({ "allOf": [{ "$ref": "#" }] }),
        json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }] }),
        json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "allOf": [{ "$ref": "#/$defs/a" }] } } }),
        nested("anyOf", 9),
        nested("allOf", 9),
        nested("oneOf", 9),
        deep(100),
        json!({ "type": "string", "minLength": 1_000_000_000 }),
        json!({ "type": "string", "maxLength": 1_000_000_000 }),
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 1_000_000_000 }),
        json!({ "type": "array", "items": { "type": "integer" }, "maxItems": 1_000_000 }),
        json!({ "type": "number", "multipleOf": 1e-300 }),
        json!({ "type": "integer", "minimum": -1e300, "maximum": 1e300 }),
        json!({ "type": "object", "properties": many(300) }),
        json!({ "type": "object", "patternProperties": many(60) }),
        json!({ "enum": (0..4000).collect::<Vec<i32>>() }),
        json!({ "type": "string", "pattern": "^(((((((a*)*)*)*)*)*)*)*b$" }),
    ];
    let ends = |n: usize| {
        (0..n).map(|i| format!("(.*{}.{{{}}})", char::from(b'a' + (i % 26) as u8), 20 + i)).collect::<Vec<_>>()
    };
    let both = ends(8).into_iter().map(|end| json!({ "type": "string", "pattern": format!("^{end}*$") }));
    let fields =
        |n: usize| (0..n).map(|i| (format!("k{i}"), json!({ "type": "string" }))).collect::<serde_json::Map<_, _>>();
    let more = [json!({ "allOf": both.collect::<Value>() }), json!({ "type": "object", "properties": fields(2500) })];
    let regexes = [
        "((a{1000}){1000}){1000}",
        "(((((((a*)*)*)*)*)*)*)*b",
        r"\w{1,5000}\d{1,5000}x",
        "(a|b|ab)*c{4000}",
        r"(\w\W?){1,3000}",
        // Without limits this one is not done after minutes.
        &format!("(?:{}){{50}}", ends(50).join("|")),
    ]
    .map(|regex| Form::Regex(regex.into()));
    let forms = schemas.into_iter().chain(more).map(Form::Schema).chain(regexes);
    let mut limited = Vec::new();
    for form in forms {
        let start = Instant::now();
        let what = format!("{form:?}").chars().take(120).collect::<String>();
        let outcome = match GRAMMARS.constraint("form", &form) {
            Err(e) => e.to_string(),
            Ok(mut constraint) => {
                let mut random = Random(7);
                let step = |_| {
                    let ids = constraint.allowed().map(|mask| {
                        (0..VOCAB as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect::<Vec<_>>()
                    });
                    ids.and_then(|ids| constraint.take(ids[random.below(ids.len())])).err()
                };
                (0..300).find_map(step).map_or("followed".into(), |e| e.to_string())
            }
        };
        println!("{:>8.0?} {what}: {outcome}", start.elapsed());
        assert!(!outcome.contains('<'), "{outcome}");
        // Five seconds would do on a machine that does nothing else.
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        limited.extend(["states", "expressions", "items"].into_iter().filter(|word| outcome.contains(word)));
    }
    limited.sort_unstable();
    limited.dedup();
    assert_eq!(limited, ["expressions", "items", "states"], "every kind of limit was met");
}

/// Models that are at a loss fill JSON with white space.
#[test]
fn white_space_ends() {
    let mut constraint = GRAMMARS.constraint("form", &Form::Object).unwrap();
    constraint.take(id("{")).unwrap();
    let mut spaces = 0;
    while allowed(&mut *constraint).contains(&id(" ")) {
        constraint.take(id(" ")).unwrap();
        spaces += 1;
        assert!(spaces <= 32);
    }
    assert!(spaces >= 16, "enough to indent: {spaces}");
}
