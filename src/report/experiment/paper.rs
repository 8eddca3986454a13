//! The TawPipe paper's ratios (AAAI 2026, arXiv 2511.09741: main table, table of width 1024, ablation) beside ours.

use super::columns::{Column, Defined};
use super::view::View;

/// How often as fast TawPipe is as something else, at a width of the model, with sequences of 16,384 on 24 GPUs: the label
/// that the other has in our experiments, the paper's name for it, width, ratio.
const PUBLISHED: [(&str, &str, usize, f64); 12] = [
    ("WeiPipe", "WeiPipe", 4096, 1377.6 / 1232.4),
    ("1F1B blocking", "1F1B", 4096, 1377.6 / 1114.2),
    ("FSDP as in the paper", "FSDP", 4096, 1377.6 / 956.1),
    ("TawPipe flat", "w/o GWPS", 4096, 1.38 / 1.26),
    ("TawPipe no overlap", "w/o CCO", 4096, 1.38 / 1.14),
    ("TawPipe flat", "w/o GWPS", 2048, 4.18 / 3.91),
    ("TawPipe no overlap", "w/o CCO", 2048, 4.18 / 3.47),
    ("WeiPipe", "WeiPipe", 1024, 8914.0 / 8412.0),
    ("1F1B blocking", "1F1B", 1024, 8914.0 / 5594.0),
    ("FSDP as in the paper", "FSDP", 1024, 8914.0 / 6751.0),
    ("TawPipe flat", "w/o GWPS", 1024, 8.91 / 8.59),
    ("TawPipe no overlap", "w/o CCO", 1024, 8.91 / 8.22),
];

/// Variants that are not in the paper.
const MORE: [(&str, &str); 2] = [("1F1B", "1F1B with overlap"), ("FSDP", "FSDP with prefetch")];

/// The table, for experiments that repeat the paper's cases: those whose models or links are named after its widths.
/// `beside` are the same cases elsewhere.
pub fn paper(view: &View, beside: &View) -> Option<Defined> {
    let (here, meaning) = match view.measured() {
        true => ("speedup, measured", "the same ratio of our systems, measured here"),
        false => ("speedup, simulated", "the same ratio of our systems, predicted by the simulator"),
    };
    let with = !beside.entries.is_empty();
    let mut columns = vec![
        Column::new(
            "system",
            "what TawPipe as published (preset *paper*) is compared with, as the paper calls it (*w/o GWPS*: TawPipe \
             without the group-based weight pipeline scheduler, *w/o CCO*: without communication-computation \
             overlap, *with overlap*, *with prefetch*: variants that are not in the paper)",
        ),
        Column::new("width", "hidden size of the model"),
        Column::new("speedup, published", "TawPipe's tokens/s divided by the system's, from the paper's tables"),
        Column::new(here, meaning),
    ];
    columns.extend(with.then(|| {
        Column::new("speedup, simulated for the paper's cluster", "the same ratio in the results named by --beside")
    }));
    let mut table = Defined::new(columns);
    let mut rows = 0;
    let number = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.3}"));
    let more =
        [4096, 2048, 1024].into_iter().flat_map(|width| MORE.map(|(label, name)| (label, name, width, f64::NAN)));
    for (label, name, width, published) in PUBLISHED.into_iter().chain(more) {
        let Some(ours) = ratio(view, label, width) else { continue };
        let mut row = vec![name.to_string(), width.to_string(), number(Some(published).filter(|r| r.is_finite()))];
        row.push(number(Some(ours)));
        row.extend(with.then(|| number(ratio(beside, label, width))));
        table.row(row);
        rows += 1;
    }
    (rows > 0).then_some(table)
}

/// Speed of the published TawPipe over that of a series, in the case of a width. Before there were presets it was called
/// "TawPipe".
fn ratio(view: &View, series: &str, width: usize) -> Option<f64> {
    let mark = |text: &str| text.ends_with(&format!("H{width}")) || text.ends_with(&format!("H={width}"));
    let cases = (0..view.settings.len()).filter(|&s| {
        let setting = &view.settings[s];
        (mark(&setting.model) || mark(&setting.link)) && (setting.seq == 16384 || setting.model != format!("H{width}"))
    });
    let published = |s| view.find(s, "TawPipe paper").or_else(|| view.find(s, "TawPipe"));
    let mut ratios = cases.filter_map(|s| Some(published(s)?.speed()? / view.find(s, series)?.speed()?));
    ratios.next()
}
