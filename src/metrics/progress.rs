//! What the user sees while a run goes on: a bar on a terminal, else a line every few seconds.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Record, Validation};

/// Least time between two lines.
const INTERVAL: Duration = Duration::from_secs(2);

/// Where progress goes.
enum Output {
    /// A terminal.
    Bar(ProgressBar),
    /// A file or a pipe, as under mpirun.
    Lines(Box<dyn Write + Send>),
}

/// Progress of a run, on rank 0.
pub struct Progress {
    output: Output,
    /// Last step of the run.
    total: u64,
    /// Steps since this process started, and when the first of them was done: it is slower than the rest.
    steps: u64,
    first: Option<Instant>,
    last_line: Option<Instant>,
    interval: Duration,
}

impl Progress {
    /// On standard error, for a run that goes to step `total` from `done` steps on.
    pub fn new(total: u64, done: u64) -> Self {
        if !stderr().is_terminal() {
            return Self::lines(total, Box::new(stderr()), INTERVAL);
        }
        // The message is cut where the terminal ends.
        let style = "{pos}/{len} {bar:12} {wide_msg}";
        let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template(style).expect("a constant"));
        bar.set_position(done);
        Self::to(Output::Bar(bar), total, INTERVAL)
    }

    /// As lines, at most one an interval, beside those of the first and the last step.
    pub fn lines(total: u64, out: Box<dyn Write + Send>, interval: Duration) -> Self {
        Self::to(Output::Lines(out), total, interval)
    }

    fn to(output: Output, total: u64, interval: Duration) -> Self {
        Progress { output, total, steps: 0, first: None, last_line: None, interval }
    }

    /// A step is done.
    pub fn step(&mut self, record: &Record) {
        self.steps += 1;
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        // Whole time since the first step, so that validations and checkpoints count too.
        let left = match self.steps - 1 {
            0 => Duration::from_secs_f64(record.step_s.max(0.0)),
            steps => (now - first).div_f64(steps as f64),
        };
        let left = left.mul_f64(self.total.saturating_sub(record.step) as f64);
        let text = text(record, left);
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_message(text);
                bar.set_position(record.step);
            }
            Output::Lines(out) => {
                let due = self.last_line.is_none_or(|last| now - last >= self.interval);
                if due || record.step == self.total {
                    self.last_line = Some(now);
                    let width = self.total.to_string().len();
                    line(out, &format!("step {:>width$}/{}  {text}", record.step, self.total));
                }
            }
        }
    }

    /// A validation is done.
    pub fn validation(&mut self, validation: &Validation) {
        let mut text = format!("step {}  validation loss {:.4}", validation.step, validation.valid_loss);
        if validation.bits_per_byte.is_finite() {
            text += &format!("  {:.4} bits per byte", validation.bits_per_byte);
        }
        self.note(&text);
    }

    /// Another line, such as a checkpoint's path.
    pub fn note(&mut self, text: &str) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(text),
            Output::Lines(out) => line(out, text),
        }
    }

    /// The run is over: leaves the bar as it is.
    pub fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }
}

/// Writes a line in one piece: standard error has no buffer, and mpirun of Open MPI 5 puts pieces of a line that it reads
/// apart from the rest into standard output. A closed pipe is no reason to stop a run.
fn line(out: &mut impl Write, text: &str) {
    let _ = out.write_all(format!("{text}\n").as_bytes());
}

/// What a step has given, and the time that is left: together with the step's number at most 100 columns.
fn text(record: &Record, left: Duration) -> String {
    let mfu = if record.mfu.is_finite() { format!("  MFU {:.1}%", 100.0 * record.mfu) } else { String::new() };
    let lr = if record.lr == 0.0 { "0".into() } else { format!("{:.1e}", record.lr) };
    format!(
        "loss {:.4}  lr {lr}  norm {}  {} tokens/s{mfu}  {} left",
        record.loss,
        norm(record.grad_norm),
        count(record.tokens_per_s),
        time(left)
    )
}

/// At most six columns: 0.123, 12.34, 1.2e6.
fn norm(x: f64) -> String {
    match x {
        x if x < 10.0 => format!("{x:.3}"),
        x if x < 100.0 => format!("{x:.2}"),
        x if x < 10_000.0 => format!("{x:.0}"),
        x => format!("{x:.1e}"),
    }
}

/// Three significant digits: 987, 12.3k, 4.56M.
fn count(x: f64) -> String {
    match x {
        x if x >= 1e6 => format!("{:.2}M", x / 1e6),
        x if x >= 1e5 => format!("{:.0}k", x / 1e3),
        x if x >= 1e3 => format!("{:.1}k", x / 1e3),
        x => format!("{x:.0}"),
    }
}

/// `2 d 03 h`, `1 h 02 min`, `3 min 04 s` or `5 s`.
fn time(duration: Duration) -> String {
    let s = duration.as_secs_f64().round() as u64;
    match s {
        86_400.. => format!("{} d {:02} h", s / 86_400, s % 86_400 / 3600),
        3600.. => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        60.. => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Lines are written whole, in one call each.
    #[test]
    fn lines_are_whole() {
        /// Keeps what every call was given.
        #[derive(Clone, Default)]
        struct Calls(Arc<Mutex<Vec<String>>>);
        impl Write for Calls {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let calls = Calls::default();
        let mut progress = Progress::lines(2, Box::new(calls.clone()), Duration::ZERO);
        progress.step(&Record { step: 1, loss: 4.0, step_s: 60.0, ..Record::default() });
        progress.note("checkpoint run/checkpoints/step_1.h5");
        let calls = calls.0.lock().unwrap();
        assert!(
            calls[0].starts_with("step 1/2  loss 4.0000") && calls[0].ends_with("  1 min 00 s left\n"),
            "{calls:?}"
        );
        assert_eq!(calls[1..], ["checkpoint run/checkpoints/step_1.h5\n"]);
    }

    /// Every number of a step is there, and a long run's line still fits into 100 columns. An unknown utilisation is left out.
    #[test]
    fn a_line_of_progress() {
        let record = Record {
            step: 100_000,
            loss: 10.123_45,
            lr: 3e-4,
            grad_norm: 12.345,
            tokens_per_s: 12_345.0,
            mfu: 0.4514,
            ..Record::default()
        };
        let line = text(&record, Duration::from_secs(86_000));
        assert_eq!(line, "loss 10.1235  lr 3.0e-4  norm 12.35  12.3k tokens/s  MFU 45.1%  23 h 53 min left");
        assert!("step 100000/100000  ".len() + line.len() <= 100, "{line}");
        let unknown = text(&Record { mfu: f64::NAN, ..record }, Duration::ZERO);
        assert!(!unknown.contains("MFU"), "{unknown}");
        assert_eq!([0.1234, 9.8765, 123.4, 1.25e6, f64::NAN].map(norm), ["0.123", "9.877", "123", "1.2e6", "NaN"]);
    }

    /// Numbers are short and times readable.
    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!([987.4, 12_345.0, 456_789.0, 4_560_000.0].map(count), ["987", "12.3k", "457k", "4.56M"]);
        let times = [5, 184, 3725, 183_600].map(|s| time(Duration::from_secs(s)));
        assert_eq!(times, ["5 s", "3 min 04 s", "1 h 02 min", "2 d 03 h"]);
    }
}
