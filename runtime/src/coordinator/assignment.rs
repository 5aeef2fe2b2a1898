//! Which worker runs which slot. Pure.

use crate::model::WorkerId;

/// What a worker offers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offer {
    pub worker: WorkerId,
    /// How many slots it can run.
    pub slots: u32,
    /// Those whose state it still has in memory.
    pub held: Vec<u32>,
}

/// Assigns `parallelism` slots to workers: evenly, and each to the worker that has its state as far as that allows; the same for the
/// same offers. `None`: too few slots.
pub fn assign(offers: &[Offer], parallelism: u32) -> Option<Vec<WorkerId>> {
    let mut offers = offers.to_vec();
    offers.sort_unstable();
    let mut shares = shares(&offers, parallelism)?;
    let mut assigned = vec![None; parallelism as usize];
    for offer in &offers {
        for slot in &offer.held {
            let place = shares.iter().rposition(|worker| *worker == offer.worker);
            if let Some((place, free @ None)) = place.zip(assigned.get_mut(*slot as usize)) {
                *free = Some(shares.remove(place));
            }
        }
    }
    let mut rest = shares.into_iter();
    assigned.into_iter().map(|worker| worker.or_else(|| rest.next())).collect()
}

/// Each worker as often as it runs a slot, in turns.
fn shares(offers: &[Offer], parallelism: u32) -> Option<Vec<WorkerId>> {
    let rounds = offers.iter().map(|offer| offer.slots).max().unwrap_or_default();
    let turns = (0..rounds).flat_map(|round| offers.iter().filter(move |offer| offer.slots > round));
    let shares: Vec<WorkerId> = turns.map(|offer| offer.worker).take(parallelism as usize).collect();
    (shares.len() == parallelism as usize).then_some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(offers: &[(u32, u32, &[u32])], parallelism: u32) -> Option<Vec<u32>> {
        let offer = |(worker, slots, held): &(u32, u32, &[u32])| Offer {
            worker: WorkerId(*worker),
            slots: *slots,
            held: held.to_vec(),
        };
        let offers: Vec<Offer> = offers.iter().map(offer).collect();
        assign(&offers, parallelism).map(|assigned| assigned.iter().map(|worker| worker.0).collect())
    }

    #[test]
    fn slots_are_spread_evenly() {
        let workers: [(u32, u32, &[u32]); 2] = [(2, 2, &[]), (1, 3, &[])];

        assert_eq!(ids(&workers, 2), Some(vec![1, 2]));
        assert_eq!(ids(&workers, 5), Some(vec![1, 2, 1, 2, 1]));
        assert_eq!(ids(&workers, 6), None);
        assert_eq!(ids(&[], 1), None);
    }

    #[test]
    fn slots_stay_where_their_state_is() {
        // The first worker was lost; the third takes its place.
        assert_eq!(ids(&[(2, 2, &[1, 3]), (3, 2, &[])], 4), Some(vec![3, 2, 3, 2]));
        // Nobody came: the other one has room for all.
        assert_eq!(ids(&[(2, 4, &[1, 3])], 4), Some(vec![2, 2, 2, 2]));
        // Another worker came: its share moves, and nothing else.
        assert_eq!(ids(&[(1, 4, &[0, 1]), (2, 4, &[2, 3]), (3, 4, &[])], 4), Some(vec![1, 1, 2, 3]));
        // What two claim goes to one; what there is not, to none.
        assert_eq!(ids(&[(1, 2, &[0, 1]), (2, 2, &[1, 0, 7])], 3), Some(vec![1, 1, 2]));
        assert_eq!(ids(&[(1, 1, &[1, 0]), (2, 2, &[0])], 3), Some(vec![2, 1, 2]));
    }
}
