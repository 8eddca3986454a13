//! Axes: where numbers lie, and which of them are written.

/// How numbers are laid out on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm.
    Log,
}

/// Largest number that an axis shows; its inverse is the smallest.
const MOST: f64 = 1e30;

/// An axis of some length in pixels.
#[derive(Clone, Debug)]
pub struct Ruler {
    scale: Scale,
    low: f64,
    high: f64,
    start: f64,
    length: f64,
}

impl Ruler {
    /// An axis that is long enough for all values; `length` may be negative, for axes that grow upwards.
    pub fn new(scale: Scale, values: impl Iterator<Item = f64>, start: f64, length: f64) -> Ruler {
        // A damaged file may say anything; an axis wants numbers that it can divide.
        let good = |value: &f64| match scale {
            Scale::Linear => value.abs() <= MOST && (*value == 0.0 || value.abs() >= 1.0 / MOST),
            Scale::Log => (1.0 / MOST..=MOST).contains(value),
        };
        let (low, high) = values.filter(good).fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = match scale {
            _ if high <= 0.0 => (if scale == Scale::Linear { 0.0 } else { 0.5 }, 1.0),
            Scale::Linear => (0.0, high),
            Scale::Log if low < high => {
                let more = (high / low).powf(0.06).max(1.05);
                (low / more, high * more)
            }
            Scale::Log => (low / 2.0, high * 2.0),
        };
        Ruler { scale, low, high, start, length }
    }

    /// Pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.start + part.clamp(-1.0, 2.0) * self.length
    }

    /// Pixel of the axis's end.
    pub fn end(&self) -> f64 {
        self.start + self.length
    }

    /// Values to write beside the axis, about `most` or fewer.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = nice((self.high - self.low) / most.max(1) as f64);
                (0..).map(|i| i as f64 * step).take_while(|tick| *tick <= self.high * (1.0 + 1e-9)).collect()
            }
            Scale::Log => {
                let digits: [&[f64]; 4] =
                    [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
                let of = |digits: &[f64]| -> Vec<f64> {
                    let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
                    let all = decades.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
                    all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
                };
                let lists = digits.map(of);
                lists.iter().find(|list| list.len() <= most).unwrap_or(&lists[3]).clone()
            }
        }
    }
}

/// The least of 1, 2, 2.5, 5 times a power of ten that is not below.
fn nice(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|s| *s >= least * 0.999).unwrap_or(power)
}

/// A number in three digits, with thousands and millions as `k` and `M`.
pub fn amount(value: f64) -> String {
    let (value, unit) = match value.abs() {
        1e7.. => (value / 1e6, "M"),
        1e4.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        1000.0.. | 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}{unit}")
}

/// A tick: as [`amount`], without zeros that say nothing.
pub fn tick(value: f64) -> String {
    let text = amount(value);
    let (number, unit) = text.split_at(text.trim_end_matches(['k', 'M']).len());
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks are round, few, and inside the axis.
    #[test]
    fn ticks_are_round() {
        let linear = Ruler::new(Scale::Linear, [3.0, 47.0].into_iter(), 0.0, 100.0);
        assert_eq!(linear.ticks(5), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!((linear.at(0.0), linear.at(47.0)), (0.0, 100.0));
        let log = Ruler::new(Scale::Log, [8.0, 1024.0].into_iter(), 0.0, 100.0);
        assert_eq!(log.ticks(8), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        let narrow = Ruler::new(Scale::Log, [1400.0, 5600.0].into_iter(), 0.0, 100.0);
        assert!(narrow.ticks(8).starts_with(&[1500.0, 2000.0, 3000.0, 4000.0, 5000.0]));
        let empty = Ruler::new(Scale::Log, std::iter::empty(), 0.0, 100.0);
        assert!(empty.at(1.0).is_finite() && !empty.ticks(5).is_empty());
    }

    /// Numbers keep three digits.
    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.1234, 1.5, 12.34, 1234.0, 12_345.0, 23_456_789.0];
        assert_eq!(all.map(amount), ["0", "0.123", "1.50", "12.3", "1234", "12.3k", "23.5M"]);
        assert_eq!([0.5, 20.0, 12_500.0, 200.0].map(tick), ["0.5", "20", "12.5k", "200"]);
    }
}
