//! What the options of a system mean: the documentation comments of their types, read from the source.

use super::path;

/// An option of a system: key and meaning.
pub struct Meaning {
    pub key: String,
    pub words: String,
}

/// The options of a system of the table, in the order of their type.
pub fn of(system: &str) -> Vec<Meaning> {
    let source = source();
    let Some(options) = options_type(&source, system) else { return Vec::new() };
    let body = body(&source, "struct", &options).unwrap_or_else(|| panic!("no pub struct {options}"));
    let field = |line: &str| {
        let (key, ty) = line.strip_prefix("pub ")?.split_once(':')?;
        let ty = ty.trim().trim_end_matches(',');
        // What can be left to the program is of the type inside.
        let ty = ty.strip_prefix("Choice<").and_then(|ty| ty.strip_suffix('>')).unwrap_or(ty);
        Some((key.to_string(), ty.to_string()))
    };
    let mut meanings = Vec::new();
    for (doc, (key, ty)) in documented(body, field) {
        let words = match body_words(&source, &ty) {
            Some(words) => format!("{doc} {words}"),
            None => doc,
        };
        meanings.push(Meaning { key, words });
    }
    meanings
}

/// All sources of the systems.
fn source() -> String {
    let (mut folders, mut text) = (vec![path("src/plan/systems")], String::new());
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                text += &std::fs::read_to_string(entry).unwrap();
            }
        }
    }
    text
}

/// The lines between the braces of a public type.
fn body<'a>(source: &'a str, what: &str, name: &str) -> Option<&'a str> {
    let start = source.find(&format!("pub {what} {name} {{\n"))?;
    let inside = &source[start..];
    Some(&inside[inside.find('\n')? + 1..inside.find("\n}")?])
}

/// Items of a body that `item` recognises, each with the documentation above it.
fn documented<T>(body: &str, item: impl Fn(&str) -> Option<T>) -> Vec<(String, T)> {
    let (mut doc, mut found) = (String::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            doc = format!("{doc} {}", words.trim()).trim().to_string();
        } else if let Some(item) = item(line) {
            found.push((std::mem::take(&mut doc), item));
        }
    }
    found
}

/// The type of a system's options: what its variant of `SystemOptions` holds.
fn options_type(source: &str, system: &str) -> Option<String> {
    let body = body(source, "enum", "SystemOptions").expect("the options of all systems");
    let mut renamed = None;
    for line in body.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[serde(rename = \"") {
            renamed = rest.split('"').next().map(str::to_string);
        } else if line.starts_with(char::is_alphabetic) {
            let variant: String = line.chars().take_while(|c| c.is_alphanumeric()).collect();
            let name = renamed.take().unwrap_or_else(|| kebab(&variant));
            if name == system {
                return line.split_once('(').map(|(_, rest)| rest.trim_end_matches("),").to_string());
            }
        }
    }
    None
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if i > 0 && c.is_uppercase() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// The words of an option that is an enum, with their meanings.
fn body_words(source: &str, ty: &str) -> Option<String> {
    let variant = |line: &str| {
        let name = line.strip_suffix(',').unwrap_or(line);
        name.chars().next().filter(|c| c.is_uppercase())?;
        name.chars().all(char::is_alphanumeric).then(|| kebab(name))
    };
    let words = documented(body(source, "enum", ty)?, variant);
    let words: Vec<String> = words.into_iter().map(|(doc, word)| format!("`{word}`: {}", lower(&doc))).collect();
    Some(words.join(" "))
}

/// A sentence that goes on behind a colon.
fn lower(doc: &str) -> String {
    let mut chars = doc.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// The reader of sources finds what stands there.
#[test]
fn meanings_are_read() {
    let found = of("tawpipe");
    let embed = found.iter().find(|meaning| meaning.key == "embed").unwrap();
    assert!(
        embed.words.contains("Where embedding and head live.")
            && embed.words.contains("`replicated`: they are on every rank")
    );
    assert!(of("single").is_empty());
}
