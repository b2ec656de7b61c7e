//! Money is a whole number of cents. How it is shown to people.

/// Cents as a person writes them: `1,234.05`.
///
/// ```
/// use unanimous_examples::money::show;
/// assert_eq!(show(123_405), "1,234.05");
/// assert_eq!(show(-7), "-0.07");
/// ```
pub fn show(cents: i64) -> String {
    let (whole, rest) = (cents.unsigned_abs() / 100, cents.unsigned_abs() % 100);
    let digits = whole.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    format!("{}{shown}.{rest:02}", if cents < 0 { "-" } else { "" })
}
