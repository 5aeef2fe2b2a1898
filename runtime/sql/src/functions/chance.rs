//! Functions that give another value with each row: UUID, RAND and RAND_INTEGER. Sequences of a seed are those of `java.util.Random`,
//! as in Flink.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, StringArray};
use arrow::datatypes::{DataType, Int32Type};
use datafusion_common::{Result, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

/// Where random bits come from: whoever evaluates gives it.
#[derive(Clone)]
pub struct Chance(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Chance {
    /// Bits from elsewhere.
    pub fn new(bits: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Chance(Arc::new(bits))
    }
}

/// For what is planned and not evaluated.
impl Default for Chance {
    fn default() -> Self {
        Chance::new(|| 0)
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Uuid,
    /// From 0 to below 1.
    Rand,
    /// From 0 to below a bound.
    RandInteger,
}

/// Names, which plans store, and how they are called.
const FUNCTIONS: [(&str, &str, Kind); 3] = [
    ("uuid", "UUID()", Kind::Uuid),
    ("rand", "RAND([seed])", Kind::Rand),
    ("rand_integer", "RAND_INTEGER([seed, ]bound)", Kind::RandInteger),
];

/// The names by which users know the functions, and how they are called.
pub fn listed() -> impl Iterator<Item = (String, &'static str)> {
    FUNCTIONS.iter().map(|(name, usage, _)| (name.to_uppercase(), *usage))
}

/// The names that plans store.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, ..)| *name)
}

/// A function with its own place in a sequence.
#[derive(Debug)]
pub struct ByChance {
    name: &'static str,
    usage: &'static str,
    kind: Kind,
    chance: Chance,
    sequence: Mutex<Option<JavaRandom>>,
    signature: Signature,
}

impl ByChance {
    /// The function of a name, with these bits.
    pub fn by_name(name: &str, chance: &Chance) -> Option<Self> {
        let (name, usage, kind) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
        Some(ByChance {
            name,
            usage,
            kind: *kind,
            chance: chance.clone(),
            sequence: Mutex::default(),
            // Not the same twice, so that no constant is made of it.
            signature: Signature::user_defined(Volatility::Volatile),
        })
    }

    /// The numbers that go on from the last call, or begin with a seed, or with bits of chance.
    fn of_sequence<T>(&self, seed: Option<i32>, next: impl FnOnce(&mut JavaRandom) -> T) -> T {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || JavaRandom::new(seed.map_or_else(|| (self.chance.0)() as i64, i64::from));
        next(sequence.get_or_insert_with(begin))
    }

    fn uuid(&self) -> String {
        let bits = (u128::from((self.chance.0)()) << 64) | u128::from((self.chance.0)());
        // Version 4, of the variant of RFC 9562.
        let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The number of a row: `None` where the seed or the bound is NULL.
    fn number<T>(
        &self,
        seed: Option<&Whole>,
        row: usize,
        next: impl FnOnce(&mut JavaRandom) -> T,
    ) -> Option<T> {
        match seed {
            None => Some(self.of_sequence(None, next)),
            Some(Whole::Constant(seed)) => seed.map(|seed| self.of_sequence(Some(seed), next)),
            // Another seed each time is another sequence each time.
            Some(Whole::Values(seeds)) => {
                seeds.is_valid(row).then(|| next(&mut JavaRandom::new(seeds.value(row).into())))
            }
        }
    }
}

/// A whole number of a row.
enum Whole {
    Constant(Option<i32>),
    Values(Int32Array),
}

impl Whole {
    fn of(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(values) => Whole::Values(values.as_primitive::<Int32Type>().clone()),
            ColumnarValue::Scalar(value) => {
                let one = value.to_array_of_size(1)?;
                let one = one.as_primitive::<Int32Type>();
                Whole::Constant(one.is_valid(0).then(|| one.value(0)))
            }
        })
    }

    fn get(&self, row: usize) -> Option<i32> {
        match self {
            Whole::Constant(value) => *value,
            Whole::Values(values) => values.is_valid(row).then(|| values.value(row)),
        }
    }
}

impl PartialEq for ByChance {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ByChance {}

impl Hash for ByChance {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for ByChance {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let fits = match self.kind {
            Kind::Uuid => given.is_empty(),
            Kind::Rand => given.len() <= 1,
            Kind::RandInteger => (1..=2).contains(&given.len()),
        };
        match fits && given.iter().all(|given| given.is_integer() || *given == DataType::Null) {
            true => Ok(vec![DataType::Int32; given.len()]),
            false => {
                plan_err!("the arguments of {} do not fit; usage: {}", self.name.to_uppercase(), self.usage)
            }
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Uuid => DataType::Utf8,
            Kind::Rand => DataType::Float64,
            Kind::RandInteger => DataType::Int32,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let numbers = args.args.iter().map(Whole::of).collect::<Result<Vec<_>>>()?;
        let rows = 0..args.number_rows;
        let values: ArrayRef = match (self.kind, numbers.as_slice()) {
            (Kind::Uuid, _) => Arc::new(rows.map(|_| Some(self.uuid())).collect::<StringArray>()),
            (Kind::Rand, seed) => {
                let number = |row| self.number(seed.first(), row, JavaRandom::next_double);
                Arc::new(rows.map(number).collect::<Float64Array>())
            }
            (Kind::RandInteger, [seed @ .., bound]) => {
                let mut numbers = Vec::with_capacity(rows.len());
                for row in rows {
                    let Some(bound) = bound.get(row) else {
                        numbers.push(None);
                        continue;
                    };
                    if bound < 1 {
                        return exec_err!("RAND_INTEGER: the bound is {bound}, and has to be above 0");
                    }
                    numbers.push(self.number(seed.first(), row, |random| random.next_below(bound)));
                }
                Arc::new(Int32Array::from(numbers))
            }
            (Kind::RandInteger, []) => return exec_err!("RAND_INTEGER has no bound"),
        };
        Ok(ColumnarValue::Array(values))
    }
}

/// The linear congruential generator of `java.util.Random`, as its documentation specifies it.
#[derive(Debug, Clone)]
struct JavaRandom(u64);

impl JavaRandom {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;

    fn new(seed: i64) -> Self {
        JavaRandom((seed as u64 ^ Self::MULTIPLIER) & Self::MASK)
    }

    fn next(&mut self, bits: u32) -> i32 {
        self.0 = self.0.wrapping_mul(Self::MULTIPLIER).wrapping_add(0xB) & Self::MASK;
        (self.0 >> (48 - bits)) as i32
    }

    fn next_double(&mut self) -> f64 {
        let (high, low) = (i64::from(self.next(26)), i64::from(self.next(27)));
        ((high << 27) + low) as f64 / (1_u64 << 53) as f64
    }

    /// `bound` is above 0.
    fn next_below(&mut self, bound: i32) -> i32 {
        if bound & (bound - 1) == 0 {
            return ((i64::from(bound) * i64::from(self.next(31))) >> 31) as i32;
        }
        loop {
            let bits = self.next(31);
            let value = bits % bound;
            // Those above the last whole multiple of the bound are drawn again, so that all are as likely.
            if bits.wrapping_sub(value).wrapping_add(bound - 1) >= 0 {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::function::CHANCES;

    #[test]
    fn plans_know_which_functions_are_of_chance() {
        assert_eq!(names().collect::<Vec<_>>(), CHANCES);
    }

    #[test]
    fn sequences_are_javas() {
        let mut random = JavaRandom::new(42);
        let doubles: Vec<f64> = (0..2).map(|_| random.next_double()).collect();
        assert_eq!(doubles, [0.727_563_680_032_868_1, 0.683_223_471_759_845_4]);
        let mut random = JavaRandom::new(42);
        let numbers: Vec<i32> = (0..5).map(|_| random.next_below(10)).collect();
        assert_eq!(numbers, [0, 3, 8, 4, 0]);
        let mut random = JavaRandom::new(1);
        assert_eq!(random.next_below(8), 5);
    }

    #[test]
    fn uuids_are_of_version_4() {
        let uuid = ByChance::by_name("uuid", &Chance::new(|| u64::MAX)).unwrap().uuid();
        assert_eq!(uuid, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let uuid = ByChance::by_name("uuid", &Chance::new(|| 0)).unwrap().uuid();
        assert_eq!(uuid, "00000000-0000-4000-8000-000000000000");
    }
}
