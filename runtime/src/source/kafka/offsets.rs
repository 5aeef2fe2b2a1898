//! Where reading of a partition begins and ends, in the modes that Flink has.

use std::collections::BTreeMap;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};
use millrace_sql::connectors::parse_offsets;

use super::Position;
use crate::kafka::{Client, KafkaError, LEADER_NOT_AVAILABLE, Partition, checked, name};
use crate::options::{OptionError, TableOptions};

/// Newest version that this program needs.
const LIST_OFFSETS_VERSION: i16 = 7;
/// In place of times, in requests.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Where a partition is read from, at the job's first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    /// At the first record of this time, in milliseconds, or a later one.
    Time(i64),
    /// By partition; from the beginning where there is none.
    Offsets(BTreeMap<i32, i64>),
}

/// Where a partition ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Never,
    /// Where it ended at the job's first start.
    Latest,
    /// Before the first record of this time, in milliseconds, or a later one; or where it ended at the job's first start.
    Time(i64),
    /// Before these, by partition; where there is none nothing is read.
    Offsets(BTreeMap<i32, i64>),
}

impl Start {
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        const MODE: &str = "scan.startup.mode";
        let (time, offsets) =
            given(options, "scan.startup.timestamp-millis", "scan.startup.specific-offsets")?;
        match (options.optional(MODE).as_deref(), time, offsets) {
            (None | Some("earliest-offset"), None, None) => Ok(Start::Earliest),
            (Some("latest-offset"), None, None) => Ok(Start::Latest),
            (Some("timestamp"), Some(time), None) => Ok(Start::Time(time)),
            (Some("specific-offsets"), None, Some(offsets)) => Ok(Start::Offsets(offsets)),
            _ => Err(options.wrong(MODE, "does not fit the options that go with it")),
        }
    }
}

impl End {
    pub fn new(options: &mut TableOptions<'_>) -> Result<Self, OptionError> {
        const MODE: &str = "scan.bounded.mode";
        let (time, offsets) =
            given(options, "scan.bounded.timestamp-millis", "scan.bounded.specific-offsets")?;
        match (options.optional(MODE).as_deref(), time, offsets) {
            (None | Some("unbounded"), None, None) => Ok(End::Never),
            (Some("latest-offset"), None, None) => Ok(End::Latest),
            (Some("timestamp"), Some(time), None) => Ok(End::Time(time)),
            (Some("specific-offsets"), None, Some(offsets)) => Ok(End::Offsets(offsets)),
            _ => Err(options.wrong(MODE, "does not fit the options that go with it")),
        }
    }
}

type Given = (Option<i64>, Option<BTreeMap<i32, i64>>);

fn given(options: &mut TableOptions<'_>, time: &str, offsets: &str) -> Result<Given, OptionError> {
    let millis: Option<u64> = options.parsed(time, "a time in milliseconds")?;
    let by_partition = match options.optional(offsets) {
        None => None,
        Some(text) => Some(parse_offsets(&text).ok_or_else(|| {
            options.wrong(offsets, "is not such as 'partition:0,offset:42;partition:1,offset:7'")
        })?),
    };
    Ok((millis.map(|millis| millis as i64), by_partition))
}

/// Where the partitions of a topic begin and end.
///
/// # Errors
/// If the brokers do not answer, or the topic is not there.
pub async fn positions(
    client: &mut Client,
    topic: &str,
    start: &Start,
    end: &End,
    is_committed_only: bool,
) -> Result<Vec<Position>, KafkaError> {
    // Once: another broker may not have heard of a new partition yet, which must not look like one without records.
    let partitions = client.partitions(topic).await?;
    let mut asked = Asked { client, topic, partitions, is_committed_only };
    let latest = asked.offsets(LATEST).await?;
    let begins = match start {
        Start::Earliest | Start::Offsets(_) => asked.offsets(EARLIEST).await?,
        Start::Latest => latest.clone(),
        Start::Time(time) => asked.offsets(*time).await?,
    };
    let ends = match end {
        End::Time(time) => asked.offsets(*time).await?,
        _ => BTreeMap::new(),
    };
    let position = |(partition, latest): (&i32, &i64)| {
        // No record is as new as the wanted time: that is where the partition ends now.
        let or_latest = |offsets: &BTreeMap<i32, i64>| {
            offsets.get(partition).copied().filter(|offset| *offset >= 0).unwrap_or(*latest)
        };
        let next = match start {
            Start::Offsets(wanted) => wanted.get(partition).copied().unwrap_or(or_latest(&begins)),
            _ => or_latest(&begins),
        };
        let end = match end {
            End::Never => None,
            End::Latest => Some(*latest),
            End::Time(_) => Some(or_latest(&ends)),
            End::Offsets(wanted) => Some(wanted.get(partition).copied().unwrap_or(next)),
        };
        Position { partition: *partition, next, end, topic: topic.to_owned() }
    };
    Ok(latest.iter().map(position).collect())
}

/// Where the partitions of a topic end.
///
/// # Errors
/// If it is not there, or a broker does not answer.
pub async fn ends(
    client: &mut Client,
    topic: &str,
    is_committed_only: bool,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let partitions = client.partitions(topic).await?;
    Asked { client, topic, partitions, is_committed_only }.offsets(LATEST).await
}

struct Asked<'a> {
    client: &'a mut Client,
    topic: &'a str,
    partitions: Vec<Partition>,
    is_committed_only: bool,
}

impl Asked<'_> {
    /// By partition: the first offset of a time or later; negative if there is none.
    async fn offsets(&mut self, time: i64) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let topic = self.topic;
        let mut offsets = BTreeMap::new();
        for partition in &self.partitions {
            let action = format!("find offsets of partition {} of '{topic}'", partition.index);
            let Some(leader) = &partition.leader else {
                checked(LEADER_NOT_AVAILABLE, &action, "the cluster")?;
                continue;
            };
            let asked = ListOffsetsPartition::default()
                .with_partition_index(partition.index)
                .with_current_leader_epoch(-1)
                .with_timestamp(time);
            let asked = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![asked]);
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(i8::from(self.is_committed_only))
                .with_topics(vec![asked]);
            let answer = self.client.call(leader, &request, LIST_OFFSETS_VERSION).await?;
            let found = answer.topics.first().and_then(|topic| topic.partitions.first());
            let Some(found) = found else {
                let message = "it names no offset".to_owned();
                return Err(KafkaError::Malformed { action, address: leader.clone(), message });
            };
            checked(found.error_code, &action, leader)?;
            offsets.insert(partition.index, found.offset);
        }
        Ok(offsets)
    }
}

#[cfg(test)]
mod tests {
    use millrace_sql::plan::Table;

    use super::*;

    fn modes(options: &[(&str, &str)]) -> Result<(Start, End), String> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let table = Table { name: "t".to_owned(), options, ..Table::default() };
        let options = &mut TableOptions::new(&table);
        let read = Start::new(options).and_then(|start| Ok((start, End::new(options)?)));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn modes_have_the_options_that_they_need() {
        let offsets = |offsets: &[(i32, i64)]| offsets.iter().copied().collect::<BTreeMap<_, _>>();

        assert_eq!(modes(&[]), Ok((Start::Earliest, End::Never)));
        assert_eq!(
            modes(&[
                ("scan.startup.mode", "specific-offsets"),
                ("scan.startup.specific-offsets", "partition:0,offset:42;partition:3,offset:7"),
                ("scan.bounded.mode", "timestamp"),
                ("scan.bounded.timestamp-millis", "12"),
            ]),
            Ok((Start::Offsets(offsets(&[(0, 42), (3, 7)])), End::Time(12)))
        );
        assert_eq!(
            modes(&[
                ("scan.startup.mode", "timestamp"),
                ("scan.startup.timestamp-millis", "12"),
                ("scan.bounded.mode", "specific-offsets"),
                ("scan.bounded.specific-offsets", "partition:1,offset:9"),
            ]),
            Ok((Start::Time(12), End::Offsets(offsets(&[(1, 9)]))))
        );
        for wrong in [
            &[("scan.startup.mode", "timestamp")][..],
            &[("scan.startup.timestamp-millis", "1")],
            &[("scan.startup.mode", "specific-offsets"), ("scan.startup.specific-offsets", "0:1")],
            &[("scan.bounded.mode", "specific-offsets")],
            &[("scan.bounded.mode", "group-offsets")],
        ] {
            assert!(modes(wrong).is_err(), "{wrong:?}");
        }
    }
}
