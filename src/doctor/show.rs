//! The findings, for people and for programs.

use serde_json::{Value as Json, json as object};

use super::{Finding, Verdict};

/// One line a finding: verdict, topic, what was found, what to do.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let Finding { topic, verdict, says, now, advice } = finding;
        text += &format!("{:<9}  {topic:<15}  {says}", verdict.word());
        for (before, more) in [("; ", now), ("; to do: ", advice)] {
            if !more.is_empty() {
                text += before;
                text += more;
            }
        }
        text += "\n";
    }
    text
}

/// The same as one JSON object.
pub fn json(findings: &[Finding], ranks: usize) -> Json {
    object!({
        "format": "tawpipe doctor 1",
        "version": env!("CARGO_PKG_VERSION"),
        "ranks": ranks,
        "verdict": findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine),
        "findings": findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A finding is one line, whatever it holds.
    #[test]
    fn one_line_each() {
        let plain = Finding::new("HDF5", Verdict::Fine, "version 1.10.8");
        let full =
            Finding::new("memory", Verdict::Attention, "2.0 GB in all").now("0.5 GB available now").advice("buy more");
        assert_eq!(
            text(&[plain.clone(), full.clone()]),
            "fine       HDF5             version 1.10.8\n\
             attention  memory           2.0 GB in all; 0.5 GB available now; to do: buy more\n"
        );
        let json = json(&[plain, full], 2);
        assert_eq!((&json["verdict"], &json["findings"][1]["advice"]), (&"attention".into(), &"buy more".into()));
    }
}
