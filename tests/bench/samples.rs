//! The figures of several rounds.

#![allow(unreachable_pub)]

/// One figure in each round.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn of<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Self {
        Self(rounds.iter().map(figure).collect())
    }

    /// Round by round, so that a busy minute of the machine hits both.
    pub fn ratio(&self, ceiling: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&ceiling.0)
                .map(|(figure, ceiling)| figure / ceiling)
                .collect(),
        )
    }

    pub fn median(&self) -> f64 {
        let ascending = self.ascending();
        let middle = ascending.len() / 2;
        match ascending.len() {
            0 => f64::NAN,
            even if even % 2 == 0 => f64::midpoint(ascending[middle - 1], ascending[middle]),
            _ => ascending[middle],
        }
    }

    pub fn largest(&self) -> f64 {
        self.ascending().last().copied().unwrap_or(f64::NAN)
    }

    /// The median, and what it lies between.
    pub fn text(&self) -> String {
        match self.ascending()[..] {
            [smallest, .., largest] => {
                let median = figure(self.median());
                format!("{median} ({}–{})", figure(smallest), figure(largest))
            }
            _ => figure(self.median()),
        }
    }

    fn ascending(&self) -> Vec<f64> {
        let mut ascending = self.0.clone();
        ascending.sort_by(f64::total_cmp);
        ascending
    }
}

/// Thousands with a comma from 1,000 on; two digits behind the point below 10, one below 100.
pub fn figure(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
