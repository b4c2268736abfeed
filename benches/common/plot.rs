//! SVG line plots with two logarithmic axes.

use std::fmt::Write;

/// A named line of a plot.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// A plot of time in seconds over another quantity.
pub struct Plot {
    pub title: String,
    /// The tick marks of the horizontal axis, with their labels.
    pub marks: Vec<(f64, String)>,
    pub lines: Vec<Line>,
}

const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#777777", "#009e73", "#cc79a7", "#b8860b", "#56b4e9"];
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;

impl Plot {
    /// Returns the plot as SVG.
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let least = points().map(|point| point.1).fold(f64::MAX, f64::min);
        let most = points().map(|point| point.1).fold(f64::MIN, f64::max);
        // The axis spans whole powers of ten.
        let (low, high) = (least.log10().floor(), most.log10().ceil());
        let (first, last) = (self.marks[0].0, self.marks[self.marks.len() - 1].0);
        let x =
            |value: f64| LEFT + (value / first).ln() / (last / first).ln() * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| {
            HEIGHT - BOTTOM - (value.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        };

        let mut svg = String::new();
        let mut put = |line: String| writeln!(svg, "{line}").unwrap();
        put(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        ));
        put(format!(r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#));
        put(text(LEFT, 22.0, "start", &self.title).replace("<text", r#"<text font-size="14""#));
        let mut power = low;
        while power <= high {
            let at = y(10_f64.powf(power));
            put(rule(LEFT, at, WIDTH - RIGHT, at));
            put(text(LEFT - 8.0, at + 4.0, "end", &seconds(power)));
            power += 1.0;
        }
        for (value, name) in &self.marks {
            let at = x(*value);
            put(rule(at, TOP, at, HEIGHT - BOTTOM));
            put(text(at, HEIGHT - BOTTOM + 18.0, "middle", name));
        }
        let mut heights: Vec<f64> = Vec::new();
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let path: Vec<_> =
                line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
            let path = path.join(" ");
            put(format!(
                r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#
            ));
            for (a, b) in &line.points {
                put(format!(
                    r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
                    x(*a),
                    y(*b)
                ));
            }
            // Places the label next to the end of its line, below the labels placed so far.
            let end = line.points[line.points.len() - 1];
            let mut at = y(end.1) + 4.0;
            while heights.iter().any(|height| (height - at).abs() < 15.0) {
                at += 15.0;
            }
            heights.push(at);
            let name = text(x(end.0) + 10.0, at, "start", line.name);
            put(name.replace("<text", &format!(r#"<text fill="{colour}""#)));
        }
        put("</svg>".into());
        svg
    }
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#)
}

fn rule(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!(
        r##"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="#dddddd" stroke-width="1"/>"##
    )
}

/// Formats `10^power` seconds.
fn seconds(power: f64) -> String {
    match power {
        ..0.0 => format!("{} ms", 10_f64.powf(power + 3.0)),
        _ => format!("{} s", 10_f64.powf(power)),
    }
}
