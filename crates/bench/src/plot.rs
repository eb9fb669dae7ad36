//! Latency curves as SVG: the share of messages on one axis, stretched towards the slowest, their latency on the other.

use core::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::latency::{Latencies, float};

/// Curves to draw together.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A name and a file that `--keep` wrote; the files of one name are one curve.
    #[arg(required = true, value_name = "NAME=FILE")]
    curves: Vec<String>,
    /// What the picture is headed.
    #[arg(long, default_value = "Latency")]
    title: String,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE")]
    svg: PathBuf,
}

/// Draws the latencies of several runs into one picture.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut curves: Vec<(&str, Latencies)> = Vec::new();
    for curve in &options.curves {
        let (name, path) = curve.split_once('=').context("a curve is NAME=FILE")?;
        let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let latencies: Latencies = serde_json::from_str(&text)
            .with_context(|| format!("{path} was not written by --keep"))?;
        match curves.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known += latencies,
            None => curves.push((name, latencies)),
        }
    }
    let curves: Vec<_> = curves.iter().map(|(name, latencies)| (*name, latencies)).collect();
    write(&options.svg, &options.title, &curves)
}

/// Writes latencies for [`run`].
pub(crate) fn keep(path: &Path, latencies: &Latencies) -> Result<()> {
    let text = serde_json::to_string(latencies)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Writes a picture of these curves, each with its name; those of nothing are left out.
pub(crate) fn write(path: &Path, title: &str, curves: &[(&str, &Latencies)]) -> Result<()> {
    fs::write(path, draw(title, curves)?).with_context(|| format!("writing {}", path.display()))
}

fn draw(title: &str, curves: &[(&str, &Latencies)]) -> Result<String> {
    let curves: Vec<_> =
        curves.iter().copied().filter(|(_, latencies)| latencies.count() > 0).collect();
    let axes = Axes::around(&curves);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\" font-size=\"12\" fill=\"#475569\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"15\" font-weight=\"600\" fill=\"#0f172a\">{}</text>\n",
        escape(title)
    );
    axes.draw(&mut svg)?;
    for (number, (name, latencies)) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        axes.draw_curve(latencies, colour, number == 0, &mut svg)?;
        let y = 48.0 + 17.0 * float(number as u64);
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\
             <text x=\"{}\" y=\"{}\">{}, {} in all</text>",
            LEFT + 18.0,
            LEFT + 25.0,
            y + 4.0,
            escape(name),
            latencies.count()
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Both axes are logarithmic: the horizontal one of 1/(1 - share), the vertical one of microseconds.
struct Axes {
    /// Powers of ten of 1/(1 - share).
    nines: f64,
    lowest: f64,
    highest: f64,
}

impl Axes {
    /// Wide enough for all curves.
    fn around(curves: &[(&str, &Latencies)]) -> Self {
        let counts = curves.iter().map(|(_, latencies)| float(latencies.count()).log10());
        // The fastest few would only press the rest of a curve together.
        let lowest = curves.iter().map(|(_, latencies)| latencies.micros_at(0.1));
        let highest = curves.iter().map(|(_, latencies)| latencies.micros_at(1.0));
        let lowest = lowest.fold(f64::INFINITY, f64::min).clamp(1.0, 1e8);
        let highest = tick_at_or_above(highest.fold(lowest, f64::max));
        // At least a power of ten, so that a few percent do not look like a cliff.
        let lowest = tick_at_or_below(lowest.min(highest / 10.0));
        Self { nines: counts.fold(2.0, f64::max), lowest, highest: highest.max(lowest * 10.0) }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + nines / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, micros: f64) -> f64 {
        let share =
            (micros.max(self.lowest) / self.lowest).log10() / (self.highest / self.lowest).log10();
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, svg: &mut String) -> Result<()> {
        for tick in ticks(self.lowest, self.highest) {
            let y = self.y(tick);
            writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#e2e8f0\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                time(tick)
            )?;
        }
        let marks = [(0.0, "0 %"), (2.0_f64.log10(), "50 %"), (1.0, "90 %"), (2.0, "99 %")];
        let more = [(3.0, "99.9 %"), (4.0, "99.99 %"), (5.0, "99.999 %"), (6.0, "99.9999 %")];
        for (nines, name) in marks.into_iter().chain(more) {
            if nines > self.nines {
                break;
            }
            let x = self.x(nines);
            writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#e2e8f0\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 19.0
            )?;
        }
        Ok(())
    }

    fn draw_curve(
        &self,
        latencies: &Latencies,
        colour: &str,
        is_labelled: bool,
        svg: &mut String,
    ) -> Result<()> {
        let end = float(latencies.count()).log10();
        let micros = |nines: f64| {
            // The last of all is the slowest, whatever rounding makes of its share.
            let quantile = if nines < end { 1.0 - 10_f64.powf(-nines) } else { 1.0 };
            latencies.micros_at(quantile)
        };
        svg.push_str("<polyline fill=\"none\" stroke-linejoin=\"round\" stroke-width=\"2.5\" ");
        write!(svg, "stroke=\"{colour}\" points=\"")?;
        for step in 0..=STEPS {
            let nines = end * float(step) / float(STEPS);
            write!(svg, "{:.1},{:.1} ", self.x(nines), self.y(micros(nines)))?;
        }
        svg.push_str("\"/>\n");
        let labelled = [2.0_f64.log10(), 1.0, 2.0, 3.0, end];
        for nines in labelled.into_iter().filter(|nines| is_labelled && *nines <= end) {
            let (x, y) = (self.x(nines), self.y(micros(nines)));
            writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" stroke=\"#ffffff\" stroke-width=\"1.5\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-weight=\"600\" fill=\"#0f172a\" \
                 paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"4\">{}</text>",
                x + 6.0,
                y - 10.0,
                time(micros(nines))
            )?;
        }
        Ok(())
    }
}

/// 1, 2 and 5 of every power of ten between two of them.
fn ticks(lowest: f64, highest: f64) -> impl Iterator<Item = f64> {
    let all = (0..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
    all.filter(move |tick| (lowest * 0.99..highest * 1.01).contains(tick))
}

fn tick_at_or_below(micros: f64) -> f64 {
    ticks(1.0, micros).last().unwrap_or(1.0)
}

fn tick_at_or_above(micros: f64) -> f64 {
    ticks(micros, 1e9).next().unwrap_or(1e9)
}

/// Three digits with the unit that suits them.
fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        ..1e3 => (micros, "µs"),
        ..1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let number = format!("{value:.digits$}");
    let number =
        if digits > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number} {unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 440.0;
/// Room around the curves.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 3] = ["#2563eb", "#f59e0b", "#10b981"];
/// Points of a curve less one.
const STEPS: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_enclose_what_is_drawn() {
        assert_eq!(ticks(200.0, 5000.0).collect::<Vec<_>>(), [200.0, 500.0, 1e3, 2e3, 5e3]);
        for (micros, below, above) in [(1.0, 1.0, 1.0), (3.0, 2.0, 5.0), (999_999.0, 1e6, 1e6)] {
            assert_eq!((tick_at_or_below(micros), tick_at_or_above(micros)), (below, above));
        }
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let times = [1.0, 12.34, 500.0, 1500.0, 20_000.0, 456_000.0, 2e6].map(time);
        assert_eq!(times, ["1 µs", "12.3 µs", "500 µs", "1.5 ms", "20 ms", "456 ms", "2 s"]);
    }

    #[test]
    fn a_picture_shows_every_curve_that_has_something_to_show() {
        let mut latencies = Latencies::default();
        for number in 1..=1000 {
            latencies.record(number * 1000);
        }
        let empty = Latencies::default();
        let svg = draw("a < b", &[("echo", &latencies), ("nothing", &empty)]).unwrap();
        assert!(svg.contains("a &lt; b") && svg.contains("echo, 1000 in all"));
        assert_eq!(svg.matches("<polyline").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(!draw("nothing", &[]).unwrap().contains("NaN"));
    }
}
