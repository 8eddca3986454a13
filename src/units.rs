//! How numbers with units are written: three digits, the unit beside them, the same everywhere.

/// Three significant digits; whole numbers from 100 on.
///
/// ```
/// use tawpipe::units::number;
/// assert_eq!([1.234, 12.34, 123.4, 1234.0].map(number), ["1.23", "12.3", "123", "1234"]);
/// ```
pub fn number(value: f64) -> String {
    // Rounding may carry into another digit: 9.996 is 10.0.
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

/// Seconds in a unit that leaves digits before the point.
///
/// ```
/// use tawpipe::units::seconds;
/// assert_eq!([128.4, 0.0375, 2e-6].map(seconds), ["128 s", "37.5 ms", "2.00 µs"]);
/// ```
pub fn seconds(value: f64) -> String {
    let (factor, unit) = match value {
        0.9995.. => (1.0, "s"),
        0.9995e-3.. => (1e3, "ms"),
        _ => (1e6, "µs"),
    };
    format!("{} {unit}", number(value * factor))
}

/// Bytes in powers of a thousand.
///
/// ```
/// use tawpipe::units::size;
/// assert_eq!([860_809_592_832, 33_000_000, 1500, 12].map(size), ["861 GB", "33.0 MB", "1.50 kB", "12 B"]);
/// ```
pub fn size(bytes: usize) -> String {
    scaled(bytes, 1000.0, ["kB", "MB", "GB", "TB", "PB"])
}

/// Bytes in powers of 1024, as memory is built.
///
/// ```
/// use tawpipe::units::binary;
/// assert_eq!([80_000_000_000, 1 << 20].map(binary), ["74.5 GiB", "1.00 MiB"]);
/// ```
pub fn binary(bytes: usize) -> String {
    scaled(bytes, 1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// Memory both ways, for messages: decks and data sheets use either.
///
/// ```
/// assert_eq!(tawpipe::units::memory(80_000_000_000), "80.0 GB (74.5 GiB)");
/// ```
pub fn memory(bytes: usize) -> String {
    format!("{} ({})", size(bytes), binary(bytes))
}

fn scaled(bytes: usize, base: f64, units: [&str; 5]) -> String {
    if (bytes as f64) < base {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / base;
    let mut at = 0;
    while value >= 999.5 && at + 1 < units.len() {
        value /= base;
        at += 1;
    }
    format!("{} {}", number(value), units[at])
}
