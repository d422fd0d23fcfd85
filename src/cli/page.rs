//! Reports as one page that needs nothing else: text and plain SVG.

use std::fmt::Write;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222;background:#fff}\
pre{overflow-x:auto;font-size:12px;line-height:1.35}svg{width:100%;height:auto}text{font-size:12px;fill:#222}\
.axis{stroke:#bbb;stroke-width:1}.roof{stroke:#222;stroke-width:2;fill:none}.decode{fill:#0072b2}.prefill{fill:#d55e00}.vision{fill:#009e73}\
.limit{stroke:#222;stroke-width:1;stroke-dasharray:4 3}\
.curve{fill:none;stroke-width:2}.curve.decode{stroke:#0072b2}.curve.prefill{stroke:#d55e00}.curve.vision{stroke:#009e73}";

/// A plot's width.
pub const WIDTH: f64 = 960.0;

/// A page around its body.
pub fn html(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n{body}</html>\n"
    )
}

/// A plot as a file of its own.
pub fn standalone(height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui,sans-serif\">\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Text that means nothing to HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// One bar of a plot.
pub struct Bar {
    pub label: String,
    /// Its colour: `decode`, `prefill` or `vision`.
    pub class: &'static str,
    pub value: f64,
}

/// Bars under each other, and a line to compare with; nothing if there are none.
pub fn bars(title: &str, limit: Option<f64>, bars: &[Bar]) -> String {
    if bars.is_empty() {
        return String::new();
    }
    let most = bars.iter().map(|b| b.value).fold(limit.unwrap_or(0.0), f64::max).max(f64::MIN_POSITIVE);
    let (left, height) = (300.0, 20.0 * bars.len() as f64 + 10.0);
    let wide = |value: f64| value / most * (WIDTH - left - 90.0);
    let mut s = format!("<h2>{}</h2>\n<svg viewBox=\"0 0 {WIDTH} {height}\">\n", escape(title));
    for (i, bar) in bars.iter().enumerate() {
        let (y, w) = (20.0 * i as f64, wide(bar.value));
        let _ = writeln!(
            s,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"{}\" x=\"{left}\" y=\"{}\" width=\"{w:.1}\" height=\"14\"/><text \
             x=\"{:.1}\" y=\"{}\">{}</text>",
            left - 8.0,
            y + 15.0,
            escape(&bar.label),
            bar.class,
            y + 4.0,
            left + w + 6.0,
            y + 15.0,
            short(bar.value)
        );
    }
    if let Some(limit) = limit {
        let at = left + wide(limit);
        let _ = writeln!(s, "<line class=\"limit\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{height}\"/>");
    }
    s + "</svg>\n"
}

/// Three decimals, or as many digits of what is smaller.
fn short(value: f64) -> String {
    if value == 0.0 || value >= 0.01 { format!("{value:.3}") } else { format!("{value:.2e}") }
}
