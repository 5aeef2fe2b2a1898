//! Random values as functions of what they belong to: the same in every run, split and order.

/// A source of random bits for one value.
#[derive(Debug, Clone, Copy)]
pub struct Bits {
    state: u64,
}

impl Bits {
    /// The bits of a column of an event.
    pub fn of(seed: u64, event: u64, column: u64) -> Self {
        Bits {
            state: seed
                ^ event.wrapping_mul(0xd6e8_feb8_6659_fd93)
                ^ column.wrapping_mul(0xa076_1d64_78bd_642f),
        }
    }

    /// 64 random bits (SplitMix64, Steele et al.).
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [0, 1).
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Appends `length` letters between `H` and `n`, eight at a time.
    pub fn letters(&mut self, length: usize, out: &mut Vec<u8>) {
        let end = out.len() + length;
        out.reserve(length + 8);
        while out.len() < end {
            let bits = self.next();
            // Per byte: five bits and three other ones, on top of 'H'.
            let word = (bits & 0x1f1f_1f1f_1f1f_1f1f)
                + ((bits >> 5) & 0x0707_0707_0707_0707)
                + 0x4848_4848_4848_4848;
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.truncate(end);
    }

    /// Appends words: letters with a blank among 13, as the benchmark's names have them.
    pub fn words(&mut self, length: usize, out: &mut Vec<u8>) {
        for place in 0..length {
            let is_blank = self.below(13) == 0 && place > 0 && place + 1 < length;
            out.push(if is_blank { b' ' } else { b'a' + self.below(26) as u8 });
        }
    }
}
