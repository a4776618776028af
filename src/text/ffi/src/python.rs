//! What Python prints: str(), repr() and json.dumps() of template values, as Hugging Face's templates expect them.
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Deeper values are refused: a template can nest lists without end.
const MAX_DEPTH: usize = 100;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("value is nested more than {MAX_DEPTH} deep"))
}

/// str(value); nothing for undefined, as Jinja prints it.
pub fn str_of(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None if value.is_undefined() => Ok(String::new()),
        None => {
            let mut out = String::new();
            repr(value, 0, &mut out)?;
            Ok(out)
        }
    }
}

fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value, "nan", "inf")),
        ValueKind::String => repr_string(value.as_str().unwrap_or_default(), out),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn repr_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// str.isprintable(): the standard library's escaping follows the same rule (it also escapes a combining mark, but only
/// one that starts a text).
fn is_printable(c: char) -> bool {
    (' '..='~').contains(&c) || (!c.is_ascii() && String::from_iter(['a', c]).escape_debug().count() == 2)
}

/// Python's shortest form that reads back the same: exponents from 1e16 up and below 1e-4, at least two digits long.
fn number(value: &Value, nan: &str, infinity: &str) -> String {
    let float = match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float,
        _ => return value.to_string(),
    };
    if float.is_nan() {
        return nan.to_string();
    }
    if float.is_infinite() {
        return format!("{}{infinity}", if float < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let plain = float.to_string();
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

/// The `tojson` filter of transformers: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub fn to_json(value: &Value, positional: &[Value], kwargs: &Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Value, Error> {
        match positional.get(index) {
            Some(value) => Ok(value.clone()),
            None => Ok(kwargs.get::<Option<Value>>(name)?.unwrap_or_default()),
        }
    };
    let ensure_ascii = argument(0, "ensure_ascii")?;
    let indent = argument(1, "indent")?;
    let separators = argument(2, "separators")?;
    let sort_keys = argument(3, "sort_keys")?;
    kwargs.assert_all_used()?;

    let indent = if let Some(text) = indent.as_str() {
        Some(text.to_string())
    } else if indent.is_undefined() || indent.is_none() {
        None
    } else {
        let width = i64::try_from(indent)?.clamp(0, 100) as usize;
        Some(" ".repeat(width))
    };
    let (between, after_key) = if separators.is_undefined() || separators.is_none() {
        (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string())
    } else {
        (separators.get_item_by_index(0)?.to_string(), separators.get_item_by_index(1)?.to_string())
    };
    let style =
        JsonStyle { ensure_ascii: ensure_ascii.is_true(), indent, between, after_key, sort_keys: sort_keys.is_true() };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

struct JsonStyle {
    ensure_ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

impl JsonStyle {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, "NaN", "Infinity")),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(keys.len(), ('{', '}'), depth, out, |i, out| {
                    self.key(&keys[i], out)?;
                    out.push_str(&self.after_key);
                    self.write(&value.get_item(&keys[i])?, depth + 1, out)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let values: Vec<Value> = value.try_iter()?.collect();
                self.items(values.len(), ('[', ']'), depth, out, |i, out| self.write(&values[i], depth + 1, out))?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {kind} value is not JSON serializable"),
                ))
            }
        }
        Ok(())
    }

    fn items(
        &self,
        count: usize,
        brackets: (char, char),
        depth: usize,
        out: &mut String,
        mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(brackets.0);
        for i in 0..count {
            out.push_str(if i == 0 { "" } else { &self.between });
            self.new_line(depth + 1, out);
            item(i, out)?;
        }
        if count > 0 {
            self.new_line(depth, out);
        }
        out.push(brackets.1);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn key(&self, key: &Value, out: &mut String) -> Result<(), Error> {
        if let Some(text) = key.as_str() {
            self.string(text, out);
            return Ok(());
        }
        let mut text = String::new();
        self.write(key, MAX_DEPTH, &mut text)?;
        self.string(&text, out);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ensure_ascii && u32::from(c) > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// String methods that `minijinja_contrib::pycompat` lacks or answers differently from Python.
pub fn string_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let one = || args.first().and_then(|value| value.as_str()).filter(|_| args.len() == 1);
    let part =
        |left: &str, separator: &str, right: &str| Ok([left, separator, right].into_iter().map(Value::from).collect());
    Some(match (method, one()) {
        ("removeprefix", Some(prefix)) => Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text))),
        ("removesuffix", Some(suffix)) => Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text))),
        ("partition", Some(separator)) => match text.split_once(separator) {
            Some((left, right)) => part(left, separator, right),
            None => part(text, "", ""),
        },
        ("rpartition", Some(separator)) => match text.rsplit_once(separator) {
            Some((left, right)) => part(left, separator, right),
            None => part("", "", text),
        },
        // pycompat would search for ever.
        ("count", Some("")) => Ok(Value::from(text.chars().count() + 1)),
        ("isdigit" | "isnumeric" | "isalpha" | "isalnum" | "isspace", None) if text.is_empty() => {
            Ok(Value::from(false))
        }
        ("isupper", None) => Ok(Value::from(has_case(text) && !text.chars().any(char::is_lowercase))),
        ("islower", None) => Ok(Value::from(has_case(text) && !text.chars().any(char::is_uppercase))),
        _ => return None,
    })
}

fn has_case(text: &str) -> bool {
    text.chars().any(|c| c.is_uppercase() || c.is_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts are what CPython 3.11 prints for repr().
    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (123456789.125, "123456789.125"),
            (5e-324, "5e-324"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (value, text) in cases {
            assert_eq!(number(&Value::from(value), "nan", "inf"), text);
        }
    }
}
