//! Captions of figures: what is drawn, on which axes, in which units, and what to look for.

/// What is written about a figure.
struct Caption {
    /// Its name as a file, without extension.
    name: &'static str,
    /// In two or three words, for readers who do not see it.
    title: &'static str,
    /// What is drawn, over which axes.
    drawn: &'static [&'static str],
    /// Where the numbers come from if they are measured, and if they are predicted.
    sources: [&'static str; 2],
    /// What a reader should look for.
    look: &'static str,
}

const SPEEDS: [&str; 2] = ["Speeds are medians over the measured steps.", "The simulator predicts all speeds."];
const COUNTED: &str = "Only what the plans contain is counted.";
const SCALING: &str = "Panels of speed show the tokens/s of all ranks together (vertical axis, logarithmic), panels \
                       of efficiency the tokens/s per rank in percent of those on the fewest ranks.";
const IDEAL: &str =
    "Look for how far a line falls below the dotted one, on which speed grows in proportion to the ranks.";
const PANELS: &str = "The panels show the tokens/s per rank, the kB that are sent between nodes for each token (both \
                      logarithmic), and the memory in GB of the rank that needs most.";
const CROSSINGS: &str = "Look for lines that cross: there the order of the series changes.";

static CAPTIONS: [Caption; 12] = [
    Caption {
        name: "map",
        title: "Map of the fastest systems",
        drawn: &[
            "The horizontal axis is the number of tokens in a sequence, the vertical axis the rate of a node's link \
             in Gbit/s. In each field the colour and the upper lines name the fastest series. The last line says by \
             how much its tokens/s exceed those of the fastest series of any other kind of system: in percent, or as \
             a factor if they are at least twice as many. \"= X; lead\" means that the kind X is less than 1 % \
             slower, and gives the lead over the fastest kind that is slower than that.",
        ],
        sources: SPEEDS,
        look: "Look for areas of one colour and for where they end. Above the dashed line, if there is one, \
               computing a step takes longer than the transfers of TawPipe without a weight cache.",
    },
    Caption {
        name: "throughput",
        title: "Throughput",
        drawn: &[
            "Each bar is the number of tokens per second (horizontal axis) that all ranks together process with one \
             series. Each setting has a panel with a scale of its own.",
        ],
        sources: [
            "A bar ends at the median over the measured steps; the black line across its end reaches from the \
             slowest to the fastest step, and differences within these lines mean little. A diamond is the \
             simulator's prediction.",
            SPEEDS[1],
        ],
        look: "Longer bars are faster.",
    },
    Caption {
        name: "weak-scaling",
        title: "Weak scaling",
        drawn: &[
            "Every rank has the same number of sequences, and the number of ranks grows (horizontal axis, \
             logarithmic).",
            SCALING,
        ],
        sources: SPEEDS,
        look: IDEAL,
    },
    Caption {
        name: "strong-scaling",
        title: "Strong scaling",
        drawn: &[
            "All ranks together have the same number of sequences, and the number of ranks grows (horizontal axis, \
             logarithmic).",
            SCALING,
        ],
        sources: SPEEDS,
        look: IDEAL,
    },
    Caption {
        name: "sequence",
        title: "Longer sequences",
        drawn: &["The horizontal axis, which is logarithmic, is the number of tokens in a sequence.", PANELS],
        sources: SPEEDS,
        look: CROSSINGS,
    },
    Caption {
        name: "depth",
        title: "Deeper models",
        drawn: &["The horizontal axis, which is logarithmic, is the number of transformer blocks.", PANELS],
        sources: SPEEDS,
        look: CROSSINGS,
    },
    Caption {
        name: "link",
        title: "Faster links",
        drawn: &["The horizontal axis, which is logarithmic, is the rate of a node's link in Gbit/s.", PANELS],
        sources: SPEEDS,
        look: "Look for where a line of speed becomes level: from there on computation hides the communication.",
    },
    Caption {
        name: "time",
        title: "Where the time of a step goes",
        drawn: &["Each bar is the time of a step in seconds (horizontal axis), divided into computing, exposed \
             communication (nothing is computed because data are still moving) and, in predictions, waiting for other \
             ranks."],
        sources: [
            "Measured times are medians of rank 0, whose exposed communication includes waiting for other ranks.",
            "Predicted times are means over ranks.",
        ],
        look: "Everything right of the first part is time that overlap does not hide.",
    },
    Caption {
        name: "bytes",
        title: "Bytes that leave a node",
        drawn: &["Each bar is what leaves a node in a step, in MB (horizontal axis), mean over nodes."],
        sources: [
            "Bars and numbers are counted in the plan. A diamond, and the percentage in brackets, is what the \
             network interfaces counted, headers included. A diamond at the end of its bar means that the program \
             sent what its plan says.",
            COUNTED,
        ],
        look: "Look for short bars: these systems need least of the network.",
    },
    Caption {
        name: "memory",
        title: "Memory by purpose",
        drawn: &[
            "Each bar is the memory of the rank that needs most, in MB or GB (horizontal axis), divided by purpose.",
        ],
        sources: [COUNTED, COUNTED],
        look: "Look for the largest parts: they decide whether a job fits.",
    },
    Caption {
        name: "ablation",
        title: "What each part of TawPipe contributes",
        drawn: &[
            "Each bar is the number of tokens/s of a variant of TawPipe, in percent of those of the variant that the \
             title names (horizontal axis; dashed line at 100 %).",
        ],
        sources: SPEEDS,
        look: "A bar that ends left of the dashed line shows what leaving out or changing that part costs.",
    },
    Caption {
        name: "prediction",
        title: "Measured and predicted speed",
        drawn: &[
            "Each point is a series in a setting: measured tokens/s on the horizontal axis, predicted tokens/s on \
             the vertical axis, both logarithmic and of all ranks together.",
        ],
        sources: SPEEDS,
        look: "On the solid line both are equal, between the dashed lines they differ by at most 10 %. Points above \
               the solid line were predicted faster than they were measured.",
    },
];

/// Title and caption of a figure.
pub fn caption(name: &str, measured: bool) -> (&'static str, String) {
    let caption = CAPTIONS.iter().find(|caption| caption.name == name).expect("every figure has a caption");
    let source = caption.sources[usize::from(!measured)];
    (caption.title, format!("{} {source} {}", caption.drawn.join(" "), caption.look))
}
