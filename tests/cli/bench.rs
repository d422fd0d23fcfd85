//! `osprey bench` on shapes that are small: what it counts, measures and refuses.

use crate::command::{call, good};
use crate::{fails, temp};
use serde_json::Value;
use std::fs;

#[test]
fn bench_measures_the_demo_shape() {
    let args = ["--shape", "demo", "--image-size", "56x84", "--prompt-tokens", "20", "--new-tokens", "4", "--json"];
    let json: Value = serde_json::from_str(&good(&[&["bench", "generate"][..], &args].concat())).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert!(rows[..3].iter().all(|r| r["of_fma"].as_f64().unwrap() > 0.0), "{json}");
}

#[test]
fn bench_compares_a_decoder_of_codes_with_one_of_floats() {
    for format in ["w4a16", "w8a16", "w8a8"] {
        let args = [
            "bench",
            "generate",
            "--shape",
            "demo",
            "--image-size",
            "56x56",
            "--prompt-tokens",
            "9",
            "--new-tokens",
            "2",
        ];
        let json: Value =
            serde_json::from_str(&good(&[&args[..], &["--json", "--quantize", format, "--lm-head", "w8a16"]].concat()))
                .unwrap();
        let rows = json["rows"].as_array().unwrap();
        let names: Vec<&str> = rows[1..5].iter().map(|r| r["name"].as_str().unwrap()).collect();
        let want =
            ["prefill 9, bf16", "decode 2, bf16", &format!("prefill 9, {format}"), &format!("decode 2, {format}")];
        assert_eq!(names, want);
        assert!(rows[3]["times_first"].as_f64().unwrap() > 0.0 && rows[0]["times_first"].is_null());
        let bytes: Vec<u64> = json["weight_bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).collect();
        assert!(bytes[1] < bytes[0], "{bytes:?}");
    }
}

/// `bench kernels` of one op of the demo shape; its JSON.
fn bench_kernels(more: &[&str]) -> (String, Value) {
    let dir = temp();
    let file = dir.path().join("kernels.json").display().to_string();
    let args = [&["bench", "kernels", "--shape", "demo", "--json", &file], more].concat();
    let text = good(&args);
    (text, serde_json::from_slice(&fs::read(&file).unwrap()).unwrap())
}

#[test]
fn bench_counts_a_kernel_on_the_emulator() {
    let dir = temp();
    let page = dir.path().join("kernels.html").display().to_string();
    let (text, json) = bench_kernels(&["--op", "embed", "--device", "emulator", "--html", &page]);
    let rows = json["rows"].as_array().unwrap();
    let sizes: Vec<_> = rows.iter().map(|r| (r["phase"].as_str().unwrap(), r["rows"].as_u64().unwrap())).collect();
    assert_eq!(sizes, [("decode", 1), ("decode", 8), ("prefill", 512)]);
    for row in rows {
        assert!(row["error"]["of_bound"].as_f64().unwrap() <= 1.0, "{row}");
        let (counted, least) = (row["counted"]["distinct_bytes"].as_f64().unwrap(), row["bytes"].as_f64().unwrap());
        assert!((1.0..1.05).contains(&(counted / least)), "{row}");
        assert_eq!(row["counted"]["blocks"], row["rows"]);
        assert_eq!(row["timed"], Value::Null, "nothing on the emulator is a time: {row}");
    }
    assert!(text.contains("decode 8 embed (embed)") && text.contains("nothing is a time"), "{text}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("Distinct bytes over the least"), "{page}");
    assert!(!page.contains("://") && !page.contains("<script"), "the page needs nothing else");
}

#[test]
fn bench_times_a_body_on_the_cpu() {
    let args = ["--op", "gate_up", "--phase", "decode", "--device", "cpu", "--dtype", "f16", "--threads", "1"];
    let (text, json) = bench_kernels(&args);
    assert_eq!(json["dtype"], "f16");
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let t = &row["timed"];
        let seconds = t["microseconds"].as_f64().unwrap() / 1e6;
        let rate = row["flops"].as_f64().unwrap() / seconds / 1e9;
        assert!((t["gflops"].as_f64().unwrap() / rate - 1.0).abs() < 1e-6, "{row}");
        let share = t["gflops"].as_f64().unwrap() / json["roof"]["gflops"].as_f64().unwrap();
        assert!((t["of_flops"].as_f64().unwrap() / share - 1.0).abs() < 1e-6, "{row}");
        assert_eq!(row["counted"], Value::Null);
    }
    assert!(text.contains("GFLOP/s"), "{text}");
}

#[test]
fn bench_of_no_kernel_is_refused() {
    fails(&["bench", "kernels", "--device", "cpu", "--op", "sample", "--phase", "vision"], &["--op", "--phase"]);
    fails(
        &["bench", "kernels", "--shape", "demo", "--device", "cpu", "--op", "embed", "--json", "/nonexistent/x.json"],
        &["/nonexistent/x.json"],
    );
    let wrong = call(&["bench", "kernels", "--device", "cpu", "--op", "matmul"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("paged_attention"), "the ops are listed");
}
