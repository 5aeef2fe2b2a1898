//! Three brokers that keep everything three times: leaders and coordinators of transactions move while a job runs.

use crate::broker::Broker;
use crate::harness::Place;
use crate::kafka::{expected, last, restored, row, sql};

const PARTITIONS: i64 = 4;

fn send(broker: &Broker, sent: &mut i64, rows: i64) -> i64 {
    for first in (*sent..*sent + rows).step_by(500) {
        for partition in 0..PARTITIONS {
            let ids = (first..first + 500).filter(|id| id % PARTITIONS == partition);
            broker.append("events", partition as i32, &ids.map(row).collect::<Vec<_>>());
        }
    }
    *sent += rows;
    *sent
}

/// Each broker dies in turn, and stays dead until checkpoints are complete without it: what it led and coordinated moves. In between
/// the job itself dies, too.
#[test]
fn rows_pass_exactly_once_while_leaders_and_coordinators_move() {
    let mut brokers = Broker::start_three();
    for (topic, partitions) in [("events", PARTITIONS as i32), ("picked", 3), ("totals", 1)] {
        brokers[0].create_replicated_topic(topic, partitions);
    }
    let place = Place::new(2, &sql(&brokers.each_ref().map(Broker::address).join(",")));
    let mut job = place.start(&["--workers", "2"]);
    let mut sent = 0;
    let first = send(&brokers[0], &mut sent, 2_000);
    place.wait_until("a checkpoint covers the first rows", || last(&place.log(), "rows_in=") == first);

    for dead in [2, 0, 1] {
        let alive = (dead + 1) % 3;
        send(&brokers[alive], &mut sent, 2_000);
        brokers[dead].kill();
        let all = send(&brokers[alive], &mut sent, 2_000);
        place.wait_until("a checkpoint covers the rows without the broker", || {
            last(&place.log(), "rows_in=") == all
        });
        if dead == 0 {
            job.kill().unwrap();
            job.wait().unwrap();
            job = place.start(&["--workers", "2"]);
            let all = send(&brokers[alive], &mut sent, 2_000);
            place.wait_until("the job goes on without the broker", || last(&place.log(), "rows_in=") == all);
            assert!(restored(&place.log())[0] > 0, "{}", place.log());
        }
        brokers[dead].revive();
        let all = send(&brokers[dead], &mut sent, 2_000);
        place.wait_until("a checkpoint covers the rows after it", || last(&place.log(), "rows_in=") == all);
    }

    for partition in 0..PARTITIONS {
        let row = "{\"id\": 0, \"k\": -1, \"ts\": \"2027-01-01 00:00:00\"}".to_owned();
        brokers[0].append("events", partition as i32, &[row]);
    }
    let (picked, totals) = expected(sent);
    let written = (picked.len() + totals.len()) as i64;
    place.wait_until("a checkpoint covers all results", || last(&place.log(), "rows_out=") == written);
    job.kill().unwrap();
    job.wait().unwrap();
    assert_eq!(brokers[0].committed("picked", picked.len()), picked);
    assert_eq!(brokers[0].committed("totals", totals.len()), totals);
}
