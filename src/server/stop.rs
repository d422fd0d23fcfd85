//! Stop strings: cuts a stream of text exactly before the first one, and holds back what may be the beginning of one.

/// Watches a stream of text for the strings that end it.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    strings: Vec<String>,
    /// Not yet given out: it may be the beginning of a stop string.
    held: String,
}

/// What may be given out, and whether a stop string was found behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    pub text: String,
    pub stopped: bool,
}

impl Stops {
    /// Watches for any of `strings`; none of them is empty.
    pub fn new(strings: Vec<String>) -> Stops {
        Stops { strings, held: String::new() }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held += piece;
        let found = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        let end = found.unwrap_or_else(|| self.held.len() - self.undecided());
        let rest = self.held.split_off(end);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: found.is_some() }
    }

    /// The text ends here: what was held back began no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the longest end of `held` that begins a stop string.
    fn undecided(&self) -> usize {
        let starts = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        starts.filter(|end| self.strings.iter().any(|stop| stop.starts_with(end))).map(str::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that a stream of `pieces` gives out.
    fn cut(stops: &[String], pieces: &[String]) -> String {
        let mut stream = Stops::new(stops.to_vec());
        let mut out = String::new();
        for piece in pieces {
            let passed = stream.push(piece);
            out += &passed.text;
            if passed.stopped {
                return out;
            }
        }
        out + &stream.finish()
    }

    proptest! {
        #[test]
        fn a_stream_is_cut_where_the_whole_text_would_be(
            stops in prop::collection::vec("[ab€]{1,4}", 0..4),
            pieces in prop::collection::vec("[ab€]{0,3}", 0..12),
        ) {
            let whole = pieces.concat();
            let first = stops.iter().filter_map(|stop| whole.find(stop.as_str())).min().unwrap_or(whole.len());
            // A longer string may end, and so be seen, after a shorter one that begins behind it: the cut is where the seen one begins.
            let cut = cut(&stops, &pieces);
            prop_assert!(whole.starts_with(&cut) && cut.len() >= first);
            prop_assert!(cut.len() == whole.len() || stops.iter().any(|stop| whole[cut.len()..].starts_with(stop.as_str())));
            prop_assert!(stops.iter().all(|stop| !cut.contains(stop.as_str())));
        }
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back() {
        let mut stream = Stops::new(vec!["END".into()]);
        assert_eq!(stream.push("one EN"), Passed { text: "one ".into(), stopped: false });
        assert_eq!(stream.push("E"), Passed { text: "EN".into(), stopped: false });
        assert_eq!(stream.push("ND of"), Passed { text: String::new(), stopped: true });
    }
}
