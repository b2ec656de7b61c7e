//! Transactions a second by clients, as a picture. Pure.

use std::fmt::{self, Write as _};

use super::{numbers::real, report::Found, stage::Target};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// The lines, with their colours.
const LINES: [(Target, &str); 5] = [
    (Target::Batching, "#0072b2"),
    (Target::Single, "#56b4e9"),
    (Target::Interactive, "#009e73"),
    (Target::BatchingNull, "#d55e00"),
    (Target::Null, "#e69f00"),
];

/// An SVG document.
pub fn svg(found: &Found) -> Result<String, fmt::Error> {
    let clients = found.clients();
    let rates =
        found.measured.iter().filter(|measured| measured.target != Target::Log).map(|measured| measured.pace.rate);
    let top = nice(rates.fold(1.0, f64::max));
    let last = real(clients.len().saturating_sub(1).max(1) as u64);
    // The numbers of clients stand side by side, evenly.
    let x = |place: usize| LEFT + real(place as u64) / last * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Transactions a second, by clients</text>\n"
    );
    for part in 0..=4_u32 {
        let rate = top * f64::from(part) / 4.0;
        let at = y(rate);
        writeln!(svg, "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>", WIDTH - RIGHT)?;
        writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.0}</text>", LEFT - 8.0, at + 4.0)?;
    }
    for (place, clients) in clients.iter().enumerate() {
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{clients}</text>",
            x(place),
            HEIGHT - BOTTOM + 20.0
        )?;
    }
    for (row, (target, colour)) in LINES.iter().enumerate() {
        let rates = clients
            .iter()
            .enumerate()
            .filter_map(|(place, clients)| Some((place, found.of(*target, *clients)?.pace.rate)));
        let points: Vec<(f64, f64)> = rates.map(|(place, rate)| (x(place), y(rate))).collect();
        if points.is_empty() {
            continue;
        }
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        )?;
        for (x, y) in points {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
        }
        let at = TOP + 10.0 + 20.0 * real(row as u64);
        let left = WIDTH - RIGHT + 15.0;
        writeln!(svg, "<rect x=\"{left}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>", at - 6.0)?;
        writeln!(svg, "<text x=\"{}\" y=\"{at}\">{}</text>", left + 18.0, target.name())?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// The next round number.
fn nice(most: f64) -> f64 {
    let power = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|round| *round >= most).unwrap_or(most)
}
