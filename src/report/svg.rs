//! SVG, as much of it as charts need.

use std::fmt::{self, Write};

/// Fonts of all drawings but figures.
pub const PLAIN: &str = "Helvetica, Arial, sans-serif";

/// A drawing in progress; coordinates are pixels from the upper left corner.
#[derive(Debug, Default)]
pub struct Svg {
    body: String,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A box.
#[derive(Clone, Copy, Debug)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Svg {
    /// A filled box; `title` is what a browser shows when the pointer rests on it.
    pub fn rect(&mut self, rect: Rect, fill: &str, title: Option<&str>) {
        let Rect { x, y, width, height } = rect;
        self.write(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\"",
            Px(x),
            Px(y),
            Px(width),
            Px(height)
        ));
        match title {
            Some(title) => self.write(format_args!("><title>{}</title></rect>\n", Escaped(title))),
            None => self.write(format_args!("/>\n")),
        }
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.write(format_args!(
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{colour}\" stroke-width=\"{}\"/>\n",
            Px(from.0),
            Px(from.1),
            Px(to.0),
            Px(to.1),
            Px(width)
        ));
    }

    /// A box with a border.
    pub fn outlined(&mut self, rect: Rect, fill: &str, stroke: &str) {
        let Rect { x, y, width, height } = rect;
        self.write(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.2\"/>\n",
            Px(x),
            Px(y),
            Px(width),
            Px(height)
        ));
    }

    /// A line through several points; `dash` as SVG wants it, empty for none.
    pub fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dash: &str) {
        let words: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", Px(*x), Px(*y))).collect();
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        self.write(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{dash}/>\n",
            words.join(" "),
            Px(width)
        ));
    }

    /// A filled polygon with a border.
    pub fn polygon(&mut self, points: &[(f64, f64)], fill: &str, stroke: &str) {
        let words: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", Px(*x), Px(*y))).collect();
        self.write(format_args!(
            "<polygon points=\"{}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.2\"/>\n",
            words.join(" ")
        ));
    }

    /// A filled circle with a border.
    pub fn circle(&mut self, at: (f64, f64), radius: f64, fill: &str, stroke: &str) {
        self.write(format_args!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.2\"/>\n",
            Px(at.0),
            Px(at.1),
            Px(radius)
        ));
    }

    /// A line of bold text.
    pub fn bold(&mut self, at: (f64, f64), anchor: Anchor, size: f64, colour: &str, text: &str) {
        self.body.push_str("<g font-weight=\"bold\">");
        self.text(at, anchor, size, colour, text);
        self.body.push_str("</g>\n");
    }

    /// A line of text whose base line is at `at`.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, size: f64, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.write(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\" font-size=\"{}\" fill=\"{colour}\">{}</text>\n",
            Px(at.0),
            Px(at.1),
            Px(size),
            Escaped(text)
        ));
    }

    /// A centred text that reads upwards.
    pub fn upwards(&mut self, at: (f64, f64), size: f64, colour: &str, text: &str) {
        self.write(format_args!(
            "<text transform=\"translate({} {}) rotate(-90)\" text-anchor=\"middle\" font-size=\"{}\" fill=\"{colour}\">{}</text>\n",
            Px(at.0),
            Px(at.1),
            Px(size),
            Escaped(text)
        ));
    }

    /// The whole document, in these fonts.
    pub fn finish(self, width: f64, height: f64, fonts: &str) -> String {
        let (width, height) = (Px(width.ceil()), Px(height.ceil()));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{fonts}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn write(&mut self, text: fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(text);
    }
}

/// Rough width of a text in a sans-serif font of some size.
pub fn text_width(text: &str, size: f64) -> f64 {
    let em: f64 = text.chars().map(|c| if "/.,:-il ".contains(c) { 0.32 } else { 0.57 }).sum();
    em * size
}

/// Pixels to two digits, without zeros at the end.
struct Px(f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Text as XML wants it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
