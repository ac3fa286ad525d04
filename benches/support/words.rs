//! Texts whose words are as frequent as in natural languages, for benchmarks of searches.

/// The number of different words.
const WORDS: usize = 50_000;

/// The greatest length of a text, in bytes.
const TEXT_BYTES: usize = 64;

/// Random words. The frequency of a word is inverse to its rank (Zipf's law).
pub(crate) struct Words {
    words: Vec<String>,
    /// For each word, the sum of the frequencies of all words up to it.
    sums: Vec<f64>,
}

impl Words {
    /// Returns the same words every time.
    pub(crate) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let mut known = std::collections::HashSet::new();
        let mut words = Vec::with_capacity(WORDS);
        while words.len() < WORDS {
            let letters = random.usize(2..=9);
            let word: String = (0..letters).map(|_| random.lowercase()).collect();
            if known.insert(word.clone()) {
                words.push(word);
            }
        }
        let mut sum = 0.0;
        let sums = (1..=WORDS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { sums: sums.collect(), words }
    }

    /// Returns the word with this rank, beginning with 0 for the most common one.
    pub(crate) fn get(&self, rank: usize) -> &str {
        &self.words[rank]
    }

    /// Returns a text of random words.
    pub(crate) fn text(&self, random: &mut fastrand::Rng) -> String {
        let mut text = String::with_capacity(TEXT_BYTES);
        loop {
            let at = random.f64() * self.sums[WORDS - 1];
            let word = &self.words[self.sums.partition_point(|sum| *sum < at).min(WORDS - 1)];
            if text.len() + 1 + word.len() > TEXT_BYTES {
                return text;
            }
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
    }
}
