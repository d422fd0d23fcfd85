//! The playground in headless Chromium, by `tools/page.py`. Where no browser can be had the test says so and passes, unless the environment's
//! REQUIRE names `browser`.

use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// What `tools/browser.sh` ends with where it finds no browser and can install none.
const MISSING: i32 = 77;

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).current_dir(ROOT).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

#[test]
fn a_person_can_use_the_playground() {
    let found = run("tools/browser.sh", &[]);
    let said = String::from_utf8_lossy(&found.stderr);
    if found.status.code() == Some(MISSING) {
        let required = std::env::var("REQUIRE").is_ok_and(|r| r.split(',').any(|w| w == "browser"));
        assert!(!required, "REQUIRE names browser: {said}");
        println!("NOT TESTED: the playground needs a browser. {said}");
        return;
    }
    assert!(found.status.success(), "{said}");
    let browser = String::from_utf8(found.stdout).unwrap();
    let args = ["tools/page.py", env!("CARGO_BIN_EXE_osprey"), browser.trim(), "target/browser/shots"];
    let out = run("target/browser/bin/python", &args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
