//! What the process's environment says: the key counts, proxies do not.

use crate::client::*;
use crate::command::osprey;
use serde_json::json;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn the_variable_has_the_key_where_no_flag_does() {
    let status = |server: &Server, key: &str| {
        server.send("GET", "/v1/models", &format!("Authorization: Bearer {key}\r\n"), b"").status
    };
    let server = Server::start_in(&["--host", "0.0.0.0"], &[("OSPREY_API_KEY", "from-the-variable")]);
    assert_eq!(["from-the-variable", "other"].map(|key| status(&server, key)), [200, 401]);
    for method in ["GET", "HEAD", "OPTIONS", "POST", "TRACE"] {
        assert_eq!(server.send(method, "/v1/models", "", b"").status, 401, "{method}");
    }
    assert!(!server.log().contains("from-the-variable"));
    let server = Server::start_in(&["--api-key", "flag"], &[("OSPREY_API_KEY", "variable")]);
    assert_eq!(["flag", "variable"].map(|key| status(&server, key)), [200, 401]);
}

/// No key is none of the answers to one that cannot be read.
#[test]
fn a_variable_that_has_no_key_is_refused() {
    for wrong in [&b""[..], b"a b", b"a\n", "k\u{e9}y".as_bytes(), b"\xff\xfe"] {
        let args = ["serve", "--port", "0", "--host", "0.0.0.0", "--device", "cpu"];
        let out = osprey().args(args).env("OSPREY_API_KEY", OsStr::from_bytes(wrong)).output().unwrap();
        let line = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(1) && line.contains("OSPREY_API_KEY: must be visible"), "{wrong:?}: {line}");
    }
}

/// One would look names up itself, and ask where nobody judged.
#[test]
fn proxies_are_not_asked_for_pictures() {
    let proxy = "http://proxy.invalid:1";
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let variables: Vec<_> =
        names.into_iter().map(|name| (name, proxy)).chain([("NO_PROXY", ""), ("no_proxy", "")]).collect();
    let server = Server::start_in(&["--allow-image-host", "http://127.0.0.1"], &variables);
    let reply = server.post(CHAT, &ask(json!([image("http://127.0.0.1/a.png")])));
    assert_eq!(error(&reply, 400), "messages[0].content[0].image_url");
    assert!(reply.body.contains("not public"), "{}", reply.body);
}
