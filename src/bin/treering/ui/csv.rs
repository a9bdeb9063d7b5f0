//! Comma-separated values, quoted where they must be.

/// One record, without its line end.
pub(crate) fn record<I: IntoIterator<Item = S>, S: AsRef<str>>(fields: I) -> String {
    fields.into_iter().map(|field| quoted(field.as_ref())).collect::<Vec<_>>().join(",")
}

fn quoted(field: &str) -> String {
    let plain = !field.contains([',', '"', '\n', '\r']) && field.trim() == field;
    if plain { field.to_string() } else { format!("\"{}\"", field.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_would_be_misread() {
        assert_eq!(record(["a", "", "1.5"]), "a,,1.5");
        assert_eq!(record(["a,b", "say \"x\"", "two\nlines", " x"]), "\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\" x\"");
    }
}
