//! Live progress on a terminal, one line every few seconds elsewhere, and the summary at the end.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use millrace_crds::contract::Report;
use millrace_sql::plan::{OperatorKind, Plan};
use tokio::sync::watch;
use tracing::info;

use crate::clock::Clock;
use crate::coordinator::JobEnd;
use crate::coordinator::report::{JobReport, Phase, Totals};
use crate::model::EventTime;
use crate::topology::Topology;

/// How often a terminal's line is drawn anew.
const TERMINAL_EVERY: Duration = Duration::from_millis(500);
/// Rates are over at least this long: workers tell their figures once a second.
const RATES_OVER: Duration = Duration::from_secs(3);
/// How often a line is written elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// One line that is drawn anew.
    Terminal,
    Lines,
    /// As records of the log, which others read.
    Log,
}

impl Shown {
    /// What suits standard error.
    pub fn fitting(logs_json: bool) -> Self {
        match (logs_json, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Log,
            (false, true) => Shown::Terminal,
            (false, false) => Shown::Lines,
        }
    }
}

/// Shows progress until dropped.
pub async fn show(name: String, plan: Plan, report: watch::Receiver<JobReport>, clock: Clock, shown: Shown) {
    let every = if shown == Shown::Terminal { TERMINAL_EVERY } else { LINE_EVERY };
    let sources = source_chains(&plan);
    let mut seen = VecDeque::from([(clock.elapsed(), Totals::default())]);
    let (mut shown_at, mut generation) = (clock.elapsed(), 0);
    let mut began: Option<(Duration, f64)> = None;
    loop {
        clock.sleep(every).await;
        let report = report.borrow().clone();
        let totals = report.totals(&sources);
        let restored = Totals { rows_out: report.restored_rows_out, ..Totals::default() };
        let report = report.public;
        let now = clock.elapsed();
        if report.generation != generation {
            // What was written before is no rate of this generation.
            (generation, began) = (report.generation, None);
            seen = VecDeque::from([(shown_at, restored)]);
        }
        shown_at = now;
        let seconds = seen.front().map_or(0.0, |(at, _)| (now - *at).as_secs_f64());
        let before = seen.front().map_or(Totals::default(), |(_, totals)| *totals);
        let (began_at, began_with) = *began.get_or_insert((now, totals.progress));
        let left = time_left(now - began_at, began_with, totals.progress);
        let part = part_done(totals.progress, left, shown == Shown::Terminal);
        let line = line(&name, &report, &totals, &before, seconds, &part, clock.now_ms());
        seen.push_back((now, totals));
        while seen.len() > 1 && seen.get(1).is_some_and(|(at, _)| now - *at >= RATES_OVER) {
            seen.pop_front();
        }
        match shown {
            Shown::Terminal => {
                eprint!("\r\x1b[2K{line}");
                // A terminal that is gone needs no progress.
                let _ = std::io::stderr().flush();
            }
            Shown::Lines => eprintln!("{line}"),
            Shown::Log => info!(
                phase = ?report.phase,
                rows_in = totals.rows_in,
                rows_out = totals.rows_out,
                state_bytes = totals.state_bytes,
                epoch = report.last_checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch),
                restarts = report.restarts,
                "{line}"
            ),
        }
    }
}

/// How long the rest of a bounded input takes if it goes on as it did; `None` while that cannot be told.
fn time_left(since: Duration, before: f64, now: f64) -> Option<Duration> {
    let done = now - before;
    (done > 0.0 && since >= TERMINAL_EVERY && now < 1.0).then(|| since.mul_f64(((1.0 - now) / done).min(1e6)))
}

/// Width of the bar in characters.
const BAR: usize = 20;

/// How much of a bounded input is done; nothing of one that has no end.
fn part_done(progress: f64, left: Option<Duration>, has_bar: bool) -> String {
    if progress <= 0.0 {
        return String::new();
    }
    let full = ((progress * BAR as f64) as usize).min(BAR);
    let bar = match has_bar {
        true => format!("  [{}{}]", "█".repeat(full), "░".repeat(BAR - full)),
        false => String::new(),
    };
    let left = left.map(|left| format!(", {} left", length(left))).unwrap_or_default();
    format!("{bar}  {:.0} %{left}", progress * 100.0)
}

/// Chains that begin with a source.
pub fn source_chains(plan: &Plan) -> Vec<u32> {
    let topology = Topology::of(plan, 1);
    let chains = topology.chains.iter().enumerate();
    let is_source =
        |operators: &[usize]| matches!(plan.operators[operators[0]].kind, Some(OperatorKind::Source(_)));
    chains.filter(|(_, operators)| is_source(operators)).map(|(chain, _)| chain as u32).collect()
}

fn line(
    name: &str,
    report: &Report,
    now: &Totals,
    before: &Totals,
    seconds: f64,
    part: &str,
    now_ms: u64,
) -> String {
    let rate = |now: u64, before: u64| human(now.saturating_sub(before) as f64 / seconds.max(0.001));
    let mut line = format!("{name}: {:?}", report.phase);
    if report.phase == Phase::Running {
        line.push_str(&format!(
            "  in {}/s  out {}/s",
            rate(now.rows_in, before.rows_in),
            rate(now.rows_out, before.rows_out)
        ));
        line.push_str(part);
        if let Some(watermark) = now.watermark_ms.filter(|time| *time > EventTime::MIN.0) {
            line.push_str(&format!("  watermark {}", EventTime(watermark)));
            if watermark < EventTime::MAX.0 {
                line.push_str(&format!(" ({})", lag(watermark, now_ms)));
            }
        }
        if let Some(records) = now.lag_records {
            line.push_str(&format!("  lag {} records", human(records as f64).trim()));
        }
        line.push_str(&format!("  state {}B", human(now.state_bytes as f64)));
        if now.late_rows > 0 {
            line.push_str(&format!("  late {}", now.late_rows));
        }
        if now.skipped_records > 0 {
            line.push_str(&format!("  bad records left out {}", now.skipped_records));
        }
    }
    if let Some(why) = report.last_failure.as_ref().filter(|_| report.phase != Phase::Running) {
        let mut short: String = why.chars().take(REASON_MAX).collect();
        if short.len() < why.len() {
            short.push('…');
        }
        line.push_str(&format!(": {short}"));
    }
    if let Some(checkpoint) = &report.last_checkpoint {
        let age = now_ms.saturating_sub(checkpoint.completed_at_ms) / 1000;
        line.push_str(&format!(
            "  checkpoint {} ({age} s ago, {} ms, {}B)",
            checkpoint.epoch,
            checkpoint.duration_ms,
            human(checkpoint.bytes as f64)
        ));
    }
    if report.restarts > 0 {
        line.push_str(&format!("  restarts {}", report.restarts));
    }
    line
}

/// Characters of the reason why a job does not run, in a line.
const REASON_MAX: usize = 160;

/// How far a watermark is from the clock.
fn lag(watermark_ms: i64, now_ms: u64) -> String {
    let seconds = (now_ms as i64).saturating_sub(watermark_ms).div_euclid(1000);
    let side = if seconds < 0 { "ahead" } else { "behind" };
    format!("{} {side}", length(Duration::from_secs(seconds.unsigned_abs())))
}

/// Prints what a run has done.
pub fn summary(name: &str, end: JobEnd, report: &JobReport, clock: Clock) {
    let how = match end {
        JobEnd::Finished => "finished",
        JobEnd::Stopped => "stopped; the next run goes on from here",
    };
    let report = &report.public;
    let checkpoint = report.last_checkpoint.clone().unwrap_or_default();
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    println!(
        "{name}: {how} after {:.1} s: {} rows in, {} rows out, checkpoint {}, {} restarts",
        clock.elapsed().as_secs_f64(),
        checkpoint.rows_in,
        checkpoint.rows_out,
        checkpoint.epoch,
        report.restarts
    );
    if checkpoint.late_rows > 0 {
        println!("{name}: {} late rows dropped: their windows had fired", checkpoint.late_rows);
    }
    for column in &checkpoint.checksums {
        println!("{name}: checksum of {}.{}: {}", column.sink, column.column, column.checksum);
    }
}

/// Logs what a coordinator's run has done.
pub fn log_summary(end: JobEnd, report: &JobReport) {
    let report = &report.public;
    let checkpoint = report.last_checkpoint.clone().unwrap_or_default();
    info!(
        ?end,
        rows_in = checkpoint.rows_in,
        rows_out = checkpoint.rows_out,
        late_rows = checkpoint.late_rows,
        epoch = checkpoint.epoch,
        restarts = report.restarts,
        "the job has ended"
    );
}

/// A number of bytes with a unit.
pub fn bytes(bytes: u64) -> String {
    format!("{}B", human(bytes as f64))
}

/// A length of time in a fitting unit.
pub fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
    match units.into_iter().find(|(length, _)| seconds >= 2 * length) {
        Some((length, unit)) => format!("{} {unit}", seconds / length),
        None => format!("{seconds} s"),
    }
}

/// A time in UTC.
pub fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).map_or_else(
        || "at the end of time".to_owned(),
        |time| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    )
}

/// A number with three digits and a unit.
fn human(number: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", number / unit),
        None => format!("{number:.0} "),
    }
}

#[cfg(test)]
mod tests {
    use millrace_crds::contract::ReportedCheckpoint;

    use super::*;

    #[test]
    fn a_line_says_how_the_job_goes() {
        let mut report = Report { phase: Phase::Running, restarts: 1, ..Default::default() };
        report.last_checkpoint = Some(ReportedCheckpoint {
            epoch: 7,
            completed_at_ms: 57_000,
            duration_ms: 31,
            bytes: 2_048,
            ..Default::default()
        });
        let before = Totals { rows_in: 1_000, rows_out: 10, ..Totals::default() };
        let now = Totals {
            rows_in: 41_000,
            rows_out: 30,
            watermark_ms: Some(50_000),
            late_rows: 3,
            state_bytes: 5_000_000,
            progress: 0.25,
            ..Totals::default()
        };

        assert_eq!(
            line("totals", &report, &now, &before, 2.0, &part_done(now.progress, None, false), 60_000),
            "totals: Running  in 20.00 k/s  out 10 /s  25 %  watermark 1970-01-01 00:00:50.000 (10 s behind)  state 5.00 MB  late 3  \
             checkpoint 7 (3 s ago, 31 ms, 2.05 kB)  restarts 1"
        );
    }

    #[test]
    fn of_a_bounded_input_a_bar_says_what_is_done_and_how_long_the_rest_takes() {
        let seconds = Duration::from_secs;
        let left = time_left(seconds(30), 0.25, 0.5);
        assert_eq!(left, Some(seconds(60)));
        assert_eq!(part_done(0.5, left, true), "  [██████████░░░░░░░░░░]  50 %, 60 s left");
        assert_eq!(part_done(0.5, left, false), "  50 %, 60 s left");
        assert_eq!(part_done(0.0, None, true), "");
        for (since, before, now) in [(0, 0.0, 0.5), (9, 0.5, 0.5), (9, 0.5, 1.0)] {
            assert_eq!(time_left(seconds(since), before, now), None);
        }
    }

    #[test]
    fn a_watermarks_lag_is_said_in_a_fitting_unit() {
        let now = 1_000_000_000_000;
        let cases = [(0, "0 s behind"), (119, "119 s behind"), (7_300, "2 h behind"), (-200, "3 min ahead")];
        for (seconds, expected) in cases {
            assert_eq!(lag(now - seconds * 1000, now as u64), expected);
        }
        assert_eq!(lag(now - 86_400_000 * 400, now as u64), "400 d behind");
    }
}
