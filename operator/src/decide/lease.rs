//! Who of several controllers leads: the holder of a Lease, who renews it. Pure.
//!
//! Clocks of different machines are never compared: how old a record is, each candidate tells by its own clock, from when it has seen
//! the record change. As in the leader election of Kubernetes' own components.

use std::time::Duration;

/// A record that has not changed for so long is of a holder that is gone.
pub const LEASE: Duration = Duration::from_secs(10);

/// The holder renews it as often.
const RENEW: Duration = Duration::from_secs(2);

/// A holder that has not renewed it for so long leads no more: before another one may take it.
const GIVE_UP: Duration = Duration::from_secs(7);

/// How often the others look.
const LOOK: Duration = Duration::from_secs(1);

/// A Lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Empty: it was given back.
    pub holder: String,
    pub transitions: i32,
    /// Of this very record: it changes with every renewal.
    pub version: String,
}

/// What a candidate does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease yet.
    Create,
    /// In the place of this one, unless another candidate is faster.
    Take(Held),
    /// Of its own.
    Renew(Held),
    Wait(Duration),
    /// It leads no more.
    Resign,
}

/// A controller that leads or would.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Another one in every life of a process.
    me: String,
    seen: Option<Held>,
    /// When the record has changed last.
    changed_at: Duration,
    /// When it has begun its last successful renewal, while it leads.
    renewed_at: Option<Duration>,
}

impl Candidate {
    pub fn new(me: String) -> Self {
        Candidate { me, seen: None, changed_at: Duration::ZERO, renewed_at: None }
    }

    pub fn name(&self) -> &str {
        &self.me
    }

    pub fn leads(&self) -> bool {
        self.renewed_at.is_some()
    }

    /// Its own record, while it leads.
    pub fn own(&self) -> Option<&Held> {
        self.seen.as_ref().filter(|held| self.leads() && held.holder == self.me)
    }

    /// How long it leads still if it renews no more.
    pub fn left(&self, now: Duration) -> Duration {
        let renewed_at = self.renewed_at.unwrap_or_default();
        (renewed_at + GIVE_UP).saturating_sub(now)
    }

    /// Takes in what is stored now.
    pub fn observe(&mut self, held: Option<Held>, now: Duration) {
        if self.seen != held {
            self.changed_at = now;
        }
        self.seen = held;
    }

    /// Its record is stored; `begun`: when it was sent.
    pub fn renewed(&mut self, held: Held, begun: Duration) {
        self.seen = Some(held);
        self.changed_at = begun;
        self.renewed_at = Some(begun);
    }

    /// What to do now.
    pub fn step(&self, now: Duration) -> Step {
        match (self.renewed_at, &self.seen) {
            (Some(at), _) if now.saturating_sub(at) >= GIVE_UP => Step::Resign,
            (Some(_), None) => Step::Resign,
            (Some(_), Some(held)) if held.holder != self.me => Step::Resign,
            (Some(at), Some(held)) => match RENEW.checked_sub(now.saturating_sub(at)) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Renew(held.clone()),
            },
            (None, None) => Step::Create,
            (None, Some(held)) if held.holder.is_empty() => Step::Take(held.clone()),
            (None, Some(held)) => match LEASE.checked_sub(now.saturating_sub(self.changed_at)) {
                Some(left) if !left.is_zero() => Step::Wait(left.min(LOOK)),
                _ => Step::Take(held.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, version: &str) -> Held {
        Held { holder: holder.to_owned(), transitions: 1, version: version.to_owned() }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lease_is_taken_when_there_is_none_when_it_was_given_back_and_when_its_holder_is_silent() {
        let mut candidate = Candidate::new("a".to_owned());
        assert_eq!(candidate.step(at(0)), Step::Create);
        candidate.observe(Some(held("", "1")), at(5));
        assert_eq!(candidate.step(at(5)), Step::Take(held("", "1")));
        // Whatever the times in the record say: it is as old as it has been seen.
        candidate.observe(Some(held("b", "2")), at(100));
        assert_eq!(candidate.step(at(100)), Step::Wait(LOOK));
        candidate.observe(Some(held("b", "2")), at(9_600));
        assert_eq!(candidate.step(at(9_600)), Step::Wait(at(500)));
        candidate.observe(Some(held("b", "3")), at(10_000));
        assert_eq!(candidate.step(at(10_200)), Step::Wait(LOOK), "it was renewed");
        candidate.observe(Some(held("b", "3")), at(20_000));
        assert_eq!(candidate.step(at(20_000)), Step::Take(held("b", "3")));
        assert!(!candidate.leads());
    }

    #[test]
    fn a_holder_renews_and_leads_no_more_before_others_may_take_it() {
        let mut candidate = Candidate::new("a".to_owned());
        candidate.renewed(held("a", "1"), at(1_000));
        assert!(candidate.leads());
        assert_eq!(candidate.own(), Some(&held("a", "1")));
        assert_eq!(candidate.step(at(1_500)), Step::Wait(at(1_500)));
        assert_eq!(candidate.left(at(1_500)), at(6_500));
        assert_eq!(candidate.step(at(3_000)), Step::Renew(held("a", "1")));
        assert_eq!(candidate.step(at(7_999)), Step::Renew(held("a", "1")), "no answer yet");
        assert_eq!(candidate.step(at(8_000)), Step::Resign);
        assert!(GIVE_UP < LEASE, "who sees nothing of it waits for longer");

        candidate.renewed(held("a", "2"), at(7_000));
        candidate.observe(Some(held("b", "3")), at(7_100));
        assert_eq!(candidate.step(at(7_100)), Step::Resign, "another one has taken it");
        assert_eq!(candidate.own(), None);
        candidate.observe(None, at(7_200));
        assert_eq!(candidate.step(at(7_200)), Step::Resign, "somebody has removed it");
    }
}
