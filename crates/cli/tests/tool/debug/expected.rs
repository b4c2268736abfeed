//! The values that the guests print, as trees, and their comparison with what a debugger shows.

use serde_json::Value as Json;

use super::dap::Dap;

/// A value that a guest has printed.
#[derive(Debug, PartialEq)]
pub enum Tree {
    /// A structure or union.
    Record(Vec<(Option<String>, Tree)>),
    List(Vec<Tree>),
    Text(Vec<u8>),
    /// A pointer, without what it points to.
    Pointer(u64),
    /// A number, an enumerator, a boolean or a character.
    Word(String),
    /// A form that only the guest's language has.
    Other,
}

/// The result of a comparison.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// The number of equal scalars.
    Right(usize),
    /// The debugger shows an error, which is this text.
    Missing(String),
    /// The debugger shows the value in a form that cannot be compared.
    OtherForm,
    /// What is wrong.
    Wrong(String),
}

impl Tree {
    /// Parses a value as the guests print it.
    pub fn parse(text: &str) -> Self {
        let mut parser = Parser(text);
        let tree = parser.value();
        if parser.0.is_empty() { tree } else { Self::Other }
    }
}

struct Parser<'t>(&'t str);

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken.into()
    }

    fn value(&mut self) -> Tree {
        if self.eat("{") {
            let mut members = Vec::new();
            while !self.eat("}") {
                let before = self.0;
                let name = self.take_while(|c| !" ,={}[]()\"".contains(c));
                let name = if !name.is_empty() && self.eat(" = ") {
                    Some(name)
                } else {
                    self.0 = before;
                    None
                };
                members.push((name, self.value()));
                if !self.eat(", ") && !self.0.starts_with('}') {
                    return Tree::Other;
                }
            }
            return Tree::Record(members);
        }
        if self.eat("[") {
            let mut elements = Vec::new();
            while !self.eat("]") {
                elements.push(self.value());
                if !self.eat(", ") && !self.0.starts_with(']') {
                    return Tree::Other;
                }
            }
            return Tree::List(elements);
        }
        if self.0.starts_with(['"', '\'']) {
            let quote = self.0.chars().next().unwrap();
            let (bytes, rest) = unescape(&self.0[1..], quote);
            self.0 = rest;
            return match (quote, &bytes[..]) {
                ('\'', [byte]) => Tree::Word(byte.to_string()),
                ('\'', _) => Tree::Other,
                _ => Tree::Text(bytes),
            };
        }
        if self.eat("0x") {
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            let address = u64::from_str_radix(&digits, 16).unwrap();
            if self.eat(" -> ") || (self.0.starts_with(" \"") && self.eat(" ")) {
                self.value();
            }
            return Tree::Pointer(address);
        }
        let word = self.take_while(|c| !" ,=(){}[]".contains(c));
        if word.is_empty() || self.0.starts_with(['(', ' ']) {
            self.0 = "?";
            return Tree::Other;
        }
        Tree::Word(word)
    }
}

/// Returns the bytes of the content of a literal, and the text after it. Knows the escapes of the guests and of LLDB.
fn unescape(text: &str, quote: char) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == quote {
            break;
        }
        if c != '\\' {
            bytes.extend(c.to_string().as_bytes());
            continue;
        }
        let Some(escape) = rest.chars().next() else { break };
        rest = &rest[escape.len_utf8()..];
        let hex = |rest: &str, len: usize| u32::from_str_radix(rest.get(..len)?, 16).ok();
        match escape {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'v' => bytes.push(11),
            'f' => bytes.push(12),
            'e' => bytes.push(27),
            '0' => bytes.push(0),
            'x' => {
                bytes.push(u8::try_from(hex(rest, 2).unwrap()).unwrap());
                rest = &rest[2..];
            }
            'u' | 'U' => {
                let len = if escape == 'u' { 4 } else { 8 };
                let c = char::from_u32(hex(rest, len).unwrap()).unwrap();
                bytes.extend(c.to_string().as_bytes());
                rest = &rest[len..];
            }
            other => bytes.extend(other.to_string().as_bytes()),
        }
    }
    (bytes, rest)
}

/// Compares a variable of a debugger with the expected value.
pub fn compare(dap: &mut Dap, variable: &Json, expected: &Tree) -> Found {
    let text = variable["value"].as_str().unwrap();
    if is_error(text) {
        return Found::Missing(text.into());
    }
    match expected {
        Tree::Other => Found::OtherForm,
        Tree::Record(members) => {
            let children = dap.variables(&variable["variablesReference"]);
            let pairs = members.iter().map(|(name, expected)| {
                let name = name.as_deref()?;
                let child = children.iter().find(|child| child["name"] == *name)?;
                Some((child, expected))
            });
            compare_all(dap, pairs.collect())
        }
        Tree::List(elements) => {
            let children = dap.variables(&variable["variablesReference"]);
            let pairs = elements.iter().enumerate().map(|(i, expected)| {
                let name = format!("[{i}]");
                Some((children.iter().find(|child| child["name"] == name)?, expected))
            });
            compare_all(dap, pairs.collect())
        }
        Tree::Text(bytes) => match text.split_once('"') {
            Some((_, rest)) => {
                let mut found = unescape(rest, '"').0;
                // LLDB shows the bytes of an array after the terminating NUL too.
                if found.get(bytes.len()) == Some(&0) {
                    found.truncate(bytes.len());
                }
                equal(&found, bytes)
            }
            None => Found::OtherForm,
        },
        Tree::Pointer(address) => match text.split_whitespace().next().and_then(parse_pointer) {
            Some(found) => equal(&found, address),
            None => Found::OtherForm,
        },
        Tree::Word(word) => compare_word(text, word),
    }
}

/// Compares the members of a value. `None` is a member that the debugger shows in another form.
fn compare_all(dap: &mut Dap, pairs: Vec<Option<(&Json, &Tree)>>) -> Found {
    let mut count = 0;
    for pair in &pairs {
        let Some((child, expected)) = pair else { return Found::OtherForm };
        match compare(dap, child, expected) {
            Found::Right(n) => count += n,
            other => return other,
        }
    }
    Found::Right(count)
}

fn equal<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Found {
    match found == expected {
        true => Found::Right(1),
        false => Found::Wrong(format!("{found:?}, not {expected:?}")),
    }
}

/// Returns whether a debugger shows an error in place of a value.
fn is_error(text: &str) -> bool {
    text.starts_with('<') || text.contains("error:") || text.contains("not available")
}

fn parse_pointer(text: &str) -> Option<u64> {
    match text {
        "NULL" | "nullptr" => Some(0),
        text => u64::from_str_radix(text.strip_prefix("0x")?, 16).ok(),
    }
}

fn compare_word(text: &str, word: &str) -> Found {
    // LLDB does not escape a quote in quotes.
    let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    if let Some((bytes, _)) = quoted.map(|text| unescape(text, '\0')) {
        let shown = match std::str::from_utf8(&bytes).ok().and_then(|text| text.chars().next()) {
            Some(c) => u32::from(c),
            None => bytes.first().copied().map_or(0, u32::from),
        };
        let value: i128 = match word.parse() {
            Ok(value) => value,
            Err(_) => return Found::Wrong(format!("{text}, not {word}")),
        };
        let is_byte = i128::from(shown) == value || i128::from(shown) == value + 256;
        return if is_byte { Found::Right(1) } else { Found::Wrong(format!("{text}, not {word}")) };
    }
    if text == word || text.rsplit("::").next() == Some(word) {
        return Found::Right(1);
    }
    let number = |text: &str| match text {
        "NaN" | "nan" => Some(f64::NAN),
        "true" => Some(1.0),
        "false" => Some(0.0),
        text => text.parse::<f64>().ok(),
    };
    match (text.parse::<i128>(), word.parse::<i128>()) {
        (Ok(found), Ok(expected)) => return equal(&found, &expected),
        (Err(_), Err(_)) | (Ok(_), Err(_)) | (Err(_), Ok(_)) => {}
    }
    match (number(text), number(word)) {
        (Some(found), Some(expected)) => {
            let is_equal = found == expected
                || (found.is_nan() && expected.is_nan())
                // LLDB prints few digits.
                || (found - expected).abs() <= expected.abs() * 1e-6;
            match is_equal {
                true => Found::Right(1),
                false => Found::Wrong(format!("{text}, not {word}")),
            }
        }
        (None, _) => Found::OtherForm,
        (Some(_), None) => Found::Wrong(format!("{text}, not {word}")),
    }
}

#[test]
fn parses_what_guests_print() {
    let word = |text: &str| Tree::Word(text.into());
    assert_eq!(Tree::parse("-12"), word("-12"));
    assert_eq!(Tree::parse("'b'"), word("98"));
    assert_eq!(Tree::parse("0xfda8 -> {x = 1}"), Tree::Pointer(0xfda8));
    assert_eq!(Tree::parse("0x10 \"a, b\""), Tree::Pointer(0x10));
    assert_eq!(Tree::parse("\"B\\tb\\\"\\xff\""), Tree::Text(b"B\tb\"\xff".to_vec()));
    let point = Tree::Record(vec![(Some("x".into()), word("1")), (None, Tree::List(vec![]))]);
    assert_eq!(Tree::parse("[{x = 1, []}, RED]"), Tree::List(vec![point, word("RED")]));
    assert_eq!(Tree::parse("Some(1)"), Tree::Other);
    assert_eq!(Tree::parse("0.125 - 2.5i"), Tree::Other);
}

#[test]
fn compares_what_a_debugger_shows() {
    for (text, word) in [
        ("'\\xc8'", "200"),
        ("'\\x9c'", "-100"),
        ("Color::RED", "RED"),
        ("1.5", "1.5"),
        ("1", "true"),
    ] {
        assert_eq!(compare_word(text, word), Found::Right(1), "{text}");
    }
    for (text, word) in [("'a'", "98"), ("GREEN", "7"), ("1.25", "1.5"), ("-1", "255")] {
        assert_ne!(compare_word(text, word), Found::Right(1), "{text}");
    }
}
