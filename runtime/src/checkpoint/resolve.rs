//! What the objects mean: from facts to what a new coordinator does. Pure.

use super::records::{EpochRecord, GenerationClaim, JobRecord, OLDEST_FORMAT_VERSION};
use crate::model::{Attempt, Epoch, Generation, JobUid};

/// May a coordinator with this attempt claim a generation?
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Claim this generation.
    Next(Generation),
    /// A newer attempt of the same job has claimed: this process ends itself.
    Superseded { by: Attempt },
}

/// Decides on a claim from the newest one.
pub fn next_claim(newest: Option<&(Generation, GenerationClaim)>, uid: &JobUid, attempt: Attempt) -> Claim {
    match newest {
        Some((_, claim)) if claim.uid == uid.0 && claim.attempt > attempt.0 => {
            Claim::Superseded { by: Attempt(claim.attempt) }
        }
        Some((generation, _)) => Claim::Next(Generation(generation.0 + 1)),
        None => Claim::Next(Generation(1)),
    }
}

/// Whether the state at a location is this job's.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    Ours,
    /// Another job's state is here.
    Other {
        name: String,
        uid: String,
    },
    /// Ours, but the number of key groups was changed, which would lose state.
    OtherMaxParallelism {
        stored: u32,
    },
    /// Written before the first form that is read.
    OlderFormat {
        format: u32,
    },
    /// Written by a newer release.
    NewerFormat {
        format: u32,
    },
}

/// Compares the stored job with ours.
pub fn owner(stored: &JobRecord, ours: &JobRecord) -> Owner {
    if stored.format < OLDEST_FORMAT_VERSION {
        Owner::OlderFormat { format: stored.format }
    } else if stored.format > ours.format || stored.key_encoding > ours.key_encoding {
        Owner::NewerFormat { format: stored.format.max(stored.key_encoding) }
    } else if stored.uid != ours.uid {
        Owner::Other { name: stored.name.clone(), uid: stored.uid.clone() }
    } else if stored.max_parallelism != ours.max_parallelism {
        Owner::OtherMaxParallelism { stored: stored.max_parallelism }
    } else {
        Owner::Ours
    }
}

/// The newest checkpoint among records, which may be in any order: seals are none.
pub fn newest_checkpoint(records: &[(Epoch, EpochRecord)]) -> Option<&(Epoch, EpochRecord)> {
    records.iter().filter(|(_, record)| !record.manifest.is_empty()).max_by_key(|(epoch, _)| *epoch)
}

/// The epoch that a new generation seals: the one after the newest record.
pub fn epoch_to_seal(epochs: impl Iterator<Item = Epoch>) -> Epoch {
    epochs.max().unwrap_or_default().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(generation: u64, uid: &str, attempt: u64) -> (Generation, GenerationClaim) {
        (Generation(generation), GenerationClaim { uid: uid.to_owned(), attempt, nonce: 0, parallelism: 1 })
    }

    #[test]
    fn an_older_attempt_never_claims_after_a_newer_one() {
        let uid = JobUid("a".to_owned());
        let cases = [
            (None, 1, Claim::Next(Generation(1))),
            (Some(claim(4, "a", 1)), 1, Claim::Next(Generation(5))),
            (Some(claim(4, "a", 1)), 2, Claim::Next(Generation(5))),
            (Some(claim(4, "a", 3)), 2, Claim::Superseded { by: Attempt(3) }),
            (Some(claim(4, "other", 3)), 2, Claim::Next(Generation(5))),
        ];
        for (newest, attempt, expected) in cases {
            assert_eq!(next_claim(newest.as_ref(), &uid, Attempt(attempt)), expected, "{newest:?}");
        }
    }

    #[test]
    fn a_seal_is_not_a_checkpoint() {
        let record = |manifest: &str| EpochRecord { generation: 1, manifest: manifest.to_owned(), nonce: 0 };
        let records = [(Epoch(3), record("")), (Epoch(2), record("m2")), (Epoch(1), record("m1"))];

        assert_eq!(newest_checkpoint(&records).map(|(epoch, _)| *epoch), Some(Epoch(2)));
        assert_eq!(newest_checkpoint(&records[..1]), None);
        assert_eq!(epoch_to_seal(records.iter().map(|(epoch, _)| *epoch)), Epoch(4));
        assert_eq!(epoch_to_seal(std::iter::empty()), Epoch(1));
    }

    #[test]
    fn state_of_another_job_is_told_apart() {
        let ours = JobRecord {
            uid: "a".into(),
            format: 4,
            max_parallelism: 1024,
            key_encoding: 1,
            name: "ns/a".into(),
        };
        let stored = |change: fn(&mut JobRecord)| {
            let mut stored = ours.clone();
            change(&mut stored);
            owner(&stored, &ours)
        };

        assert_eq!(stored(|_| {}), Owner::Ours);
        assert_eq!(stored(|job| job.uid = "b".into()), Owner::Other { name: "ns/a".into(), uid: "b".into() });
        assert_eq!(stored(|job| job.max_parallelism = 64), Owner::OtherMaxParallelism { stored: 64 });
        assert_eq!(stored(|job| job.format = 3), Owner::Ours);
        assert_eq!(stored(|job| job.format = 2), Owner::OlderFormat { format: 2 });
        assert_eq!(stored(|job| job.format = 5), Owner::NewerFormat { format: 5 });
    }
}
