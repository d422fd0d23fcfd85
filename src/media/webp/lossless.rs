//! A lossless WebP picture (VP8L) walked without its pixels: is every one of them coded?
//!
//! Owns: the prefix codes, back references and sub-images of the format, as far as they decide where the data end. Refuses to know colours
//! and transforms; <https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification> has both.
//! Surprise: a pixel may take no bits at all, so a short file is no sign of damage, and a few bytes may make a code of kilobytes.

/// What the walk's own codes may take.
const MAX_CODE_BYTES: usize = 16 << 20;
/// Sizes of the alphabets: green, lengths and cache; red; blue; alpha; distance.
const ALPHABETS: [usize; 5] = [256 + 24, 256, 256, 256, 40];

/// Walks the stream behind the picture's size. Pixels are walked only where the decoder, with 5 bytes a pixel and its tables, would take
/// more than `on_trust` bytes. `None` where the decoder would fail.
pub(super) fn walk(stream: &[u8], width: usize, height: usize, on_trust: usize) -> Option<()> {
    let mut walk =
        Walk { bits: Bits { rest: stream, held: 0, count: 0 }, code_bytes: 0, decoder_bytes: 5 * width * height };
    let width = walk.transforms(width, height)?;
    let coder = walk.coder(width, height, true)?;
    if walk.decoder_bytes > on_trust {
        walk.pixels(&coder, width, height, None)?;
    }
    Some(())
}

/// Bits, the lowest of each byte first.
struct Bits<'a> {
    rest: &'a [u8],
    held: u64,
    count: u32,
}

impl Bits<'_> {
    fn take(&mut self, n: u32) -> Option<usize> {
        while self.count < n {
            let (&byte, rest) = self.rest.split_first()?;
            self.held |= (byte as u64) << self.count;
            self.count += 8;
            self.rest = rest;
        }
        let value = self.held & ((1 << n) - 1);
        self.held >>= n;
        self.count -= n;
        Some(value as usize)
    }
}

/// A canonical prefix code: how many symbols have each length, and the symbols in the order of their codes.
struct Code {
    counts: [u16; 16],
    symbols: Box<[u16]>,
}

impl Code {
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; 16];
        lengths.iter().for_each(|&l| counts[l as usize] += 1);
        counts[0] = 0;
        let mut symbols: Vec<u16> = (0..lengths.len() as u16).filter(|&s| lengths[s as usize] > 0).collect();
        symbols.sort_by_key(|&s| lengths[s as usize]);
        let space: usize = (1..16).map(|l| (counts[l] as usize) << (15 - l)).sum();
        let valid = symbols.len() == 1 || space == 1 << 15;
        valid.then(|| Code { counts, symbols: symbols.into() })
    }

    /// A code's only symbol takes no bits.
    fn read(&self, bits: &mut Bits) -> Option<usize> {
        if let [only] = *self.symbols {
            return Some(only as usize);
        }
        let (mut code, mut first, mut index) = (0, 0, 0);
        for &count in &self.counts[1..] {
            code |= bits.take(1)?;
            let count = count as usize;
            if code < first + count {
                return Some(self.symbols[index + code - first] as usize);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }

    /// Bytes that `image_webp::huffman` takes: a table of at most 10 bits, two nodes for each longer code.
    fn decoder_bytes(&self) -> usize {
        let longest = self.counts.iter().rposition(|&n| n > 0).unwrap_or(0);
        let long: usize = self.counts[11..].iter().map(|&n| n as usize).sum();
        64 + (4 << longest.min(10)) + 32 * long
    }
}

/// The codes of an image, and which group of five holds where.
struct Coder {
    cache_bits: Option<u32>,
    /// Each entry serves a square of `1 << bits` pixels; empty where there is one group.
    map: Vec<u32>,
    bits: u32,
    stride: usize,
    groups: Vec<[Code; 5]>,
}

impl Coder {
    fn group(&self, x: usize, y: usize) -> &[Code; 5] {
        let at = (y >> self.bits) * self.stride + (x >> self.bits);
        &self.groups[self.map.get(at).map_or(0, |&argb| group_of(argb))]
    }
}

/// Red and green name the group.
fn group_of(argb: u32) -> usize {
    (argb >> 8 & 0xFFFF) as usize
}

struct Walk<'a> {
    bits: Bits<'a>,
    code_bytes: usize,
    decoder_bytes: usize,
}

impl Walk<'_> {
    /// Passes the transforms; the width of the image that is coded.
    fn transforms(&mut self, mut width: usize, height: usize) -> Option<usize> {
        let mut seen = [false; 4];
        while self.bits.take(1)? == 1 {
            let kind = self.bits.take(2)?;
            if std::mem::replace(&mut seen[kind], true) {
                return None;
            }
            match kind {
                0 | 1 => {
                    let side = 1 << (self.bits.take(3)? + 2);
                    self.image(width.div_ceil(side), height.div_ceil(side))?;
                }
                2 => {}
                _ => {
                    let colours = self.bits.take(8)? + 1;
                    self.image(colours, 1)?;
                    width = width.div_ceil(match colours {
                        0..=2 => 8,
                        3..=4 => 4,
                        5..=16 => 2,
                        _ => 1,
                    });
                }
            }
        }
        Some(width)
    }

    /// Reads a sub-image.
    fn image(&mut self, width: usize, height: usize) -> Option<Vec<u32>> {
        let coder = self.coder(width, height, false)?;
        let mut pixels = Vec::with_capacity(width * height);
        self.pixels(&coder, width, height, Some(&mut pixels))?;
        Some(pixels)
    }

    fn coder(&mut self, width: usize, height: usize, is_picture: bool) -> Option<Coder> {
        let cache_bits = match self.bits.take(1)? {
            0 => None,
            _ => Some(self.bits.take(4)? as u32).filter(|bits| (1..=11).contains(bits)).map(Some)?,
        };
        let (mut map, mut bits, mut stride) = (Vec::new(), 0, 0);
        if is_picture && self.bits.take(1)? == 1 {
            bits = self.bits.take(3)? as u32 + 2;
            stride = width.div_ceil(1 << bits);
            map = self.image(stride, height.div_ceil(1 << bits))?;
        }
        let count = map.iter().map(|&argb| group_of(argb) + 1).max().unwrap_or(1);
        let mut groups = Vec::new();
        for _ in 0..count {
            let cache = cache_bits.map_or(0, |bits| 1 << bits);
            let [a, b, c, d, e] = ALPHABETS;
            groups.push([self.code(a + cache)?, self.code(b)?, self.code(c)?, self.code(d)?, self.code(e)?]);
        }
        Some(Coder { cache_bits, map, bits, stride, groups })
    }

    /// Reads a code over `alphabet` symbols.
    fn code(&mut self, alphabet: usize) -> Option<Code> {
        let code =
            if self.bits.take(1)? == 1 { self.short_code(alphabet)? } else { Code::new(&self.lengths(alphabet)?)? };
        self.code_bytes += size_of::<Code>() + 2 * code.symbols.len();
        self.decoder_bytes += code.decoder_bytes();
        (self.code_bytes <= MAX_CODE_BYTES).then_some(code)
    }

    /// One or two symbols, spelled out.
    fn short_code(&mut self, alphabet: usize) -> Option<Code> {
        let two = self.bits.take(1)?;
        let width = if self.bits.take(1)? == 1 { 8 } else { 1 };
        let mut symbols = vec![self.bits.take(width)? as u16];
        if two == 1 {
            symbols.push(self.bits.take(8)? as u16);
        }
        let mut counts = [0; 16];
        counts[1] = symbols.len() as u16;
        symbols.iter().all(|&s| (s as usize) < alphabet).then(|| Code { counts, symbols: symbols.into() })
    }

    /// The lengths of a code, themselves coded.
    fn lengths(&mut self, alphabet: usize) -> Option<Vec<u8>> {
        const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut outer = [0; 19];
        for &at in &ORDER[..4 + self.bits.take(4)?] {
            outer[at] = self.bits.take(3)? as u8;
        }
        let outer = Code::new(&outer)?;
        let mut tokens = alphabet;
        if self.bits.take(1)? == 1 {
            let width = 2 + 2 * self.bits.take(3)? as u32;
            tokens = Some(2 + self.bits.take(width)?).filter(|&n| n <= alphabet)?;
        }
        let mut lengths = Vec::with_capacity(alphabet);
        let mut previous = 8;
        while lengths.len() < alphabet && tokens > 0 {
            tokens -= 1;
            let (length, times) = match outer.read(&mut self.bits)? {
                16 => (previous, 3 + self.bits.take(2)?),
                17 => (0, 3 + self.bits.take(3)?),
                18 => (0, 11 + self.bits.take(7)?),
                length => (length as u8, 1),
            };
            if length > 0 {
                previous = length;
            }
            lengths.extend(std::iter::repeat_n(length, times));
        }
        let whole = lengths.len() <= alphabet;
        lengths.resize(alphabet, 0);
        whole.then_some(lengths)
    }

    /// Walks the pixels and keeps them in `kept`, if there is one.
    fn pixels(&mut self, coder: &Coder, width: usize, height: usize, mut kept: Option<&mut Vec<u32>>) -> Option<()> {
        let mut cache = vec![0; coder.cache_bits.map_or(0, |bits| 1 << bits)];
        let mut at = 0;
        while at < width * height {
            let [green, red, blue, alpha, distance] = coder.group(at % width, at / width);
            let symbol = green.read(&mut self.bits)?;
            let before = at;
            if symbol < 256 {
                let [r, b, a] = [red.read(&mut self.bits)?, blue.read(&mut self.bits)?, alpha.read(&mut self.bits)?];
                at += 1;
                if let Some(kept) = &mut kept {
                    kept.push((a << 24 | r << 16 | symbol << 8 | b) as u32);
                }
            } else if symbol < ALPHABETS[0] {
                let length = self.prefixed(symbol - 256)?;
                let symbol = distance.read(&mut self.bits)?;
                let distance = pixels_back(self.prefixed(symbol)?, width);
                if at < distance || width * height - at < length {
                    return None;
                }
                at += length;
                if let Some(kept) = &mut kept {
                    (before - distance..at - distance).for_each(|i| kept.push(kept[i]));
                }
            } else {
                let colour = *cache.get(symbol - ALPHABETS[0])?;
                at += 1;
                if let Some(kept) = &mut kept {
                    kept.push(colour);
                }
            }
            if let (Some(kept), Some(bits)) = (&kept, coder.cache_bits) {
                for &argb in &kept[before..at] {
                    cache[(0x1E35_A7BD_u32.wrapping_mul(argb) >> (32 - bits)) as usize] = argb;
                }
            }
        }
        Some(())
    }

    /// A length or distance: a prefix and the bits it asks for.
    fn prefixed(&mut self, prefix: usize) -> Option<usize> {
        if prefix < 4 {
            return Some(prefix + 1);
        }
        let extra = (prefix - 2) >> 1;
        Some(((2 + (prefix & 1)) << extra) + self.bits.take(extra as u32)? + 1)
    }
}

/// The distance in pixels that a distance code means: the first 120 are neighbours (x to the left, y above).
fn pixels_back(code: usize, width: usize) -> usize {
    #[rustfmt::skip]
    const NEIGHBOURS: [(i8, i8); 120] = [
        (0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1), (2, 2), (-2, 2),
        (0, 3), (3, 0), (1, 3), (-1, 3), (3, 1), (-3, 1), (2, 3), (-2, 3), (3, 2), (-3, 2), (0, 4), (4, 0),
        (1, 4), (-1, 4), (4, 1), (-4, 1), (3, 3), (-3, 3), (2, 4), (-2, 4), (4, 2), (-4, 2), (0, 5), (3, 4),
        (-3, 4), (4, 3), (-4, 3), (5, 0), (1, 5), (-1, 5), (5, 1), (-5, 1), (2, 5), (-2, 5), (5, 2), (-5, 2),
        (4, 4), (-4, 4), (3, 5), (-3, 5), (5, 3), (-5, 3), (0, 6), (6, 0), (1, 6), (-1, 6), (6, 1), (-6, 1),
        (2, 6), (-2, 6), (6, 2), (-6, 2), (4, 5), (-4, 5), (5, 4), (-5, 4), (3, 6), (-3, 6), (6, 3), (-6, 3),
        (0, 7), (7, 0), (1, 7), (-1, 7), (5, 5), (-5, 5), (7, 1), (-7, 1), (4, 6), (-4, 6), (6, 4), (-6, 4),
        (2, 7), (-2, 7), (7, 2), (-7, 2), (3, 7), (-3, 7), (7, 3), (-7, 3), (5, 6), (-5, 6), (6, 5), (-6, 5),
        (8, 0), (4, 7), (-4, 7), (7, 4), (-7, 4), (8, 1), (8, 2), (6, 6), (-6, 6), (8, 3), (5, 7), (-5, 7),
        (7, 5), (-7, 5), (8, 4), (6, 7), (-6, 7), (7, 6), (-7, 6), (8, 5), (7, 7), (-7, 7), (8, 6), (8, 7),
    ];
    match NEIGHBOURS.get(code - 1) {
        Some(&(x, y)) => (x as isize + y as isize * width as isize).max(1) as usize,
        None => code - NEIGHBOURS.len(),
    }
}
