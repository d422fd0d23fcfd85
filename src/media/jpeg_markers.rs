//! The markers of a JPEG file, found without decoding it.
//!
//! Owns: where segments begin and end, as libjpeg's `next_marker` sees it. Refuses to know what they mean, but for the frame and its scans.
//! Surprise: a file without its coefficients is a file. libjpeg reads it as a grey picture, with every error that the whole one would raise.

/// Start of scan: coefficients follow its segment.
pub(super) const SOS: u8 = 0xDA;
const EOI: u8 = 0xD9;

/// One marker.
pub(super) struct Marker<'a> {
    /// Where its 0xFF lies in the file.
    at: usize,
    pub code: u8,
    /// What follows the length; empty for markers without one.
    pub data: &'a [u8],
}

/// The markers behind the first, up to the end of the picture or as far as they are whole. Stuffed zeros, fill bytes, restarts and what a
/// scan holds are passed over.
pub(super) fn markers(bytes: &[u8]) -> impl Iterator<Item = Marker<'_>> {
    let mut next = Some(2);
    std::iter::from_fn(move || {
        let from = next.take()?;
        let is_marker = |w: &[u8]| w[0] == 0xFF && !matches!(w[1], 0 | 1 | 0xD0..=0xD7 | 0xFF);
        let at = from + bytes.get(from..)?.windows(2).position(is_marker)?;
        let code = bytes[at + 1];
        if code == EOI {
            return Some(Marker { at, code, data: &[] });
        }
        let length = u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]).max(2) as usize;
        let data = bytes.get(at + 4..at + 2 + length)?;
        next = Some(at + 2 + length);
        Some(Marker { at, code, data })
    })
}

/// Whether `code` begins a frame: SOF0 to SOF15 without DHT, JPG and DAC, which lie between them.
fn is_frame(code: u8) -> bool {
    matches!(code, 0xC0..=0xCF) && !matches!(code, 0xC4 | 0xC8 | 0xCC)
}

/// Whether libjpeg reads the whole file into coefficients before the first row: the frame is progressive, or its first scan lacks a
/// component.
pub(super) fn keeps_coefficients(bytes: &[u8]) -> bool {
    let frame = markers(bytes).find(|m| is_frame(m.code));
    let scan = markers(bytes).find(|m| m.code == SOS);
    frame
        .zip(scan)
        .is_some_and(|(frame, scan)| matches!(frame.code, 0xC2 | 0xCA) || scan.data.first() < frame.data.get(5))
}

/// The file, in pieces, without coefficients and with a size of 1 x 1.
pub(super) fn skeleton(bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut from = Some(0); // where the next piece begins, if not at the next marker
    let mut sized = false;
    for marker in markers(bytes) {
        let start = from.unwrap_or(marker.at);
        from = Some(start);
        if is_frame(marker.code) && !sized && marker.data.len() >= 5 {
            pieces.extend([&bytes[start..marker.at + 5], &[0, 1, 0, 1]]);
            (from, sized) = (Some(marker.at + 9), true);
        } else if marker.code == SOS {
            pieces.push(&bytes[start..marker.at + 4 + marker.data.len()]);
            from = None;
        } else if marker.code == EOI {
            pieces.push(&bytes[start..marker.at + 2]);
        }
    }
    pieces
}
