//! Coordinators and workers over virtual time, a simulated network and store, and seeded faults: the real protocol code, in
//! hundreds of schedules, each the same every time.

#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeMap;

use millrace::fault::Safeguards;
use run::{Outcome, simulate};

/// Schedules that must all give the right rows; `MILLRACE_TEST_SEEDS` asks for more, `MILLRACE_TEST_SEED` for a single one.
const SEEDS: u64 = 300;

/// The schedules are shared among this many tests, which run side by side.
const SHARDS: u64 = 2;

/// Within this many schedules a missing safeguard must show.
const SEEDS_TO_SHOW: u64 = 300;

/// Runs every `SHARDS`th schedule twice: the rows must be right, and the trace the same again.
fn every_schedule_is_right_twice(shard: u64) {
    let expected = simulate(None, Safeguards::default());
    assert!(expected.rows.len() > 100 && expected.stuck.is_none());
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let asked = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let only = asked("MILLRACE_TEST_SEED");
    let seeds = only.map_or(0..asked("MILLRACE_TEST_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    for seed in seeds.filter(|seed| seed % SHARDS == shard) {
        let (first, second) =
            (simulate(Some(seed), Safeguards::default()), simulate(Some(seed), Safeguards::default()));
        assert!(
            first.is_right(&expected),
            "seed {seed}, again by `make simulate SEED={seed}`: {}",
            first.describe(&expected)
        );
        let differs = first.trace.iter().zip(&second.trace).position(|(a, b)| a != b);
        assert_eq!(differs.map(|at| (&first.trace[at], &second.trace[at])), None, "seed {seed}");
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
        assert_eq!(first.rows, second.rows, "seed {seed}");
        first.faults.iter().for_each(|(fault, times)| *faults.entry(*fault).or_insert(0) += times);
        for (kind, sign) in [
            ("torn write", " torn"),
            ("failed write", ": failed"),
            ("taken place", ": Exists"),
            ("late record", ": late by"),
        ] {
            *faults.entry(kind).or_insert(0) +=
                first.trace.iter().filter(|line| line.contains(sign)).count() as u64;
        }
    }
    if only.is_some() {
        return;
    }
    let kinds = [
        "crash of a worker",
        "crash of a coordinator",
        "zombies",
        "another attempt",
        "another parallelism",
        "partition",
        "stop",
        "stop taken back",
        "torn write",
        "failed write",
        "taken place",
        "late record",
        "delayed message",
    ];
    for kind in kinds {
        assert!(faults.get(kind).is_some_and(|times| *times > 0), "there was no {kind}: {faults:?}");
    }
}

#[test]
fn every_schedule_gives_each_row_once_and_the_same_trace_again_0() {
    every_schedule_is_right_twice(0);
}

#[test]
fn every_schedule_gives_each_row_once_and_the_same_trace_again_1() {
    every_schedule_is_right_twice(1);
}

#[test]
fn a_dropped_a_doubled_and_a_changed_row_are_each_seen() {
    let expected = simulate(None, Safeguards::default());
    let with = |change: fn(&mut Vec<String>)| {
        let mut outcome = simulate(None, Safeguards::default());
        change(&mut outcome.rows);
        (outcome.is_right(&expected), outcome.describe(&expected))
    };

    assert!(with(|_| {}).0);
    let (is_right, described) = with(|rows| drop(rows.remove(7)));
    assert!(!is_right && described.contains("lost [\""), "{described}");
    let (is_right, described) = with(|rows| rows.insert(7, rows[7].clone()));
    assert!(!is_right && described.contains("doubled [\""), "{described}");
    assert!(!with(|rows| rows[7] = rows[7].replace("total\":", "total\":1")).0);
}

/// What a missing safeguard does to a job.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// It ends well, and its rows are not those that there should be.
    WrongRows,
    /// It can never go on: what it would have to restore is damaged, or an older leader has taken the place of its next record, which
    /// the fence checks notice before a row is wrong; or it rests with results that nobody makes visible.
    NoEnd,
}

fn is_caught(safeguards: Safeguards, harm: Harm, first: u64) -> Option<u64> {
    let expected: Outcome = simulate(None, Safeguards::default());
    (first..first + SEEDS_TO_SHOW).find(|seed| {
        let outcome = simulate(Some(*seed), safeguards);
        match harm {
            Harm::WrongRows => outcome.stuck.is_none() && outcome.rows != expected.rows,
            Harm::NoEnd => outcome.stuck.is_some(),
        }
    })
}

macro_rules! caught {
    ($($name:ident: $field:ident $harm:ident from $first:literal)*) => {
        $(#[test]
        fn $name() {
            let caught = is_caught(Safeguards { $field: false, ..Safeguards::default() }, Harm::$harm, $first);
            assert!(caught.is_some(), "{:?} was not seen in {SEEDS_TO_SHOW} schedules from {} on", Harm::$harm, $first);
            println!("caught by seed {caught:?}");
        })*
    };
}

caught! {
    a_missing_fence_check_is_caught: checks_fence WrongRows from 0
    a_missing_seal_is_caught: seals NoEnd from 0
    a_missing_replay_of_commits_is_caught: replays_commits WrongRows from 0
    missing_alignment_is_caught: aligns_barriers WrongRows from 0
    a_missing_look_at_what_was_written_is_caught: verifies_segments NoEnd from 0
    a_missing_comparison_of_what_is_in_memory_is_caught: compares_images WrongRows from 0
    a_missing_look_at_a_manifest_is_caught: verifies_manifests NoEnd from 0
    a_rest_without_a_seal_is_caught: rests_sealed NoEnd from 0
    a_gap_in_the_records_is_caught: fills_gaps NoEnd from 300
}
