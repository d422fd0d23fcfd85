//! A server of one's own: this binary as `serve` on a free port, killed at last.

use crate::error::{Error, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{self, Command, Stdio};

/// A server that was started, and where it listens.
pub struct Child {
    process: process::Child,
    pub url: String,
}

impl Child {
    /// Starts `osprey serve` with these flags, and waits until it listens.
    ///
    /// # Errors
    /// With what the server says if it does not.
    pub fn start(flags: &[String]) -> Result<Child> {
        let exe = std::env::current_exe().map_err(|e| Error::io("the server", e))?;
        let mut command = Command::new(&exe);
        command.args(["serve", "--port", "0", "--log-format", "json"]).args(flags);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = Child { process: process.map_err(|e| Error::io(&exe, e))?, url: String::new() };
        let mut lines = child.process.stderr.take().into_iter().flat_map(|log| BufReader::new(log).lines());
        let mut said = String::new();
        while let Some(Ok(line)) = lines.next() {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = event["address"].as_str() {
                child.url = format!("http://{address}");
                // A log that nobody reads would stop its writer.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(child);
            }
            // Behind what is wrong there may be advice.
            if !said.starts_with("error") {
                said = line;
            }
        }
        Err(Error::request("osprey serve", format!("does not start: {said}")))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
