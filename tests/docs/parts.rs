//! Parts of a Markdown file between `<!-- WHAT NAME -->` and `<!-- end WHAT -->`.

/// Replaces the inside of every such part by what `write` makes of its name; what it knows nothing of stays.
pub fn replace(text: &str, what: &str, write: impl Fn(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    let (open, close) = (format!("<!-- {what} "), format!("<!-- end {what} -->"));
    while let Some(start) = rest.find(&open) {
        let line = start + rest[start..].find('\n').expect("a marker has a line of its own") + 1;
        let name = rest[start + open.len()..line].trim().trim_end_matches("-->").trim();
        let end = rest.find(&close).unwrap_or_else(|| panic!("{what} {name} has no end"));
        out += &rest[..line];
        out += &write(name).unwrap_or_else(|| rest[line..end].to_string());
        out += &close;
        rest = &rest[end + close.len()..];
    }
    out + rest
}

/// Parts replace their inside only, and only those that are known.
#[test]
fn parts_are_replaced() {
    let text = "a\n<!-- x one -->\nold\n<!-- end x -->\nb\n<!-- x two -->\nkept\n<!-- end x -->\n";
    let found = replace(text, "x", |name| (name == "one").then(|| "new\n".to_string()));
    assert_eq!(found, text.replace("old", "new"));
}
