//! Which worker runs which slot. Pure.

use crate::model::WorkerId;

/// Assigns `parallelism` slots to workers with free slots: evenly, the same for the same workers. `None`: too few slots.
pub fn assign(workers: &[(WorkerId, u32)], parallelism: u32) -> Option<Vec<WorkerId>> {
    let mut workers = workers.to_vec();
    workers.sort_unstable();
    let mut assigned = Vec::with_capacity(parallelism as usize);
    let mut round = 0;
    while (assigned.len() as u32) < parallelism {
        let before = assigned.len();
        for (worker, slots) in &workers {
            if *slots > round && (assigned.len() as u32) < parallelism {
                assigned.push(*worker);
            }
        }
        if assigned.len() == before {
            return None;
        }
        round += 1;
    }
    Some(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_spread_evenly() {
        let workers = [(WorkerId(2), 2), (WorkerId(1), 3)];
        let ids =
            |assigned: Option<Vec<WorkerId>>| assigned.map(|a| a.iter().map(|id| id.0).collect::<Vec<_>>());

        assert_eq!(ids(assign(&workers, 2)), Some(vec![1, 2]));
        assert_eq!(ids(assign(&workers, 5)), Some(vec![1, 2, 1, 2, 1]));
        assert_eq!(ids(assign(&workers, 6)), None);
        assert_eq!(ids(assign(&[], 1)), None);
    }
}
