//! How candidates come to the other side: half trickle (RFC 8838, section 16), answers that do not trickle, and peers whose
//! candidates are all others from one moment to the next.

use std::time::Duration;

use thirl_ice_agent::agent::{Role, State};
use thirl_ice_agent::candidate::Candidate;
use thirl_tests::sim::{NatSpec, PREFERENCE, Pair, Side};

use super::{APDF, APDM, DIRECT, EIM, RELAYED, behind, ip, ms};

/// What `side` has told so far reaches the other at once, with its credentials, and the end of the candidates if they are all.
fn tell(pair: &mut Pair, side: Side, complete: bool) {
    let now = pair.network.now();
    let agent = &pair.peer(side).agent;
    let credentials = agent.local_credentials().clone();
    let candidates: Vec<Candidate> = agent.local_candidates().cloned().collect();
    let other = &mut pair.peer(side.other()).agent;
    other.set_remote_credentials(now, credentials).unwrap();
    candidates.into_iter().for_each(|candidate| other.add_remote_candidate(now, candidate));
    if complete {
        other.set_remote_end_of_candidates(now);
    }
}

fn gather(pair: &mut Pair, side: Side) {
    let now = pair.network.now();
    pair.peer(side).agent.gather(now);
}

/// The offer has all candidates, for a peer that may not know trickle; the answer trickles, or waits for all of them.
#[test]
fn half_trickle_connects_as_soon_as_the_answer_lets_it() {
    let cases = [(NatSpec::new(EIM, APDF), DIRECT), (NatSpec::new(APDM, APDF), RELAYED)];
    for (nat, expected) in cases {
        for (role, answer_trickles) in
            [(Role::Controlling, true), (Role::Controlling, false), (Role::Controlled, true)]
        {
            let case = format!("{nat:?} {role:?} {answer_trickles}");
            let mut pair = Pair::new(80, behind(role, nat, 1), behind(role.opposite(), nat, 2), true);
            // What the offerer finds is not told one by one.
            pair.signalling = (Duration::from_secs(1000), Duration::from_secs(1000));
            gather(&mut pair, Side::A);
            assert!(pair.run_until(Duration::from_secs(6), |pair| pair.a.agent.is_gathering_complete()));
            assert_eq!(pair.a.agent.state(), State::New, "{case}");
            tell(&mut pair, Side::A, true);
            gather(&mut pair, Side::B);
            // The answer is on its way while checks of the other side's are coming in already.
            if answer_trickles {
                pair.run_for(ms(5));
                tell(&mut pair, Side::B, false);
            }
            assert!(pair.run_until(Duration::from_secs(6), |pair| pair.b.agent.is_gathering_complete()));
            pair.run_for(ms(50));
            let answered = pair.elapsed();
            tell(&mut pair, Side::B, true);
            assert!(pair.connect(Duration::from_secs(5)), "{case}: {}", pair.a.agent.report());
            let waited = pair.elapsed() - answered;
            // Nothing else is to come, so that a relay is settled for when the direct pairs have had their chance.
            let limit = if expected == DIRECT { ms(300) } else { ms(1500) };
            assert!(waited < limit, "{case}: {waited:?}");
            assert_eq!(pair.paths(), expected, "{case}");
            assert!(pair.data_flows(), "{case}");
        }
    }
}

/// The peer's network is another one each time, with new addresses and none of the old: with a restart, and without.
#[test]
fn a_peer_may_swap_all_its_candidates_as_often_as_it_likes() {
    for (seed, restart, side) in [(81, false, Side::B), (82, true, Side::B), (83, false, Side::A)] {
        let nat = NatSpec::new(EIM, APDF);
        let a = behind(Role::Controlling, nat, 1);
        let mut pair = Pair::new(seed, a, behind(Role::Controlled, nat, 2), true);
        pair.start();
        assert!(pair.connect(Duration::from_secs(5)));
        let host = pair.peer(side).host;
        let mut old = ip(if side == Side::A { "192.168.1.2" } else { "192.168.2.2" });
        for swap in 0..60 {
            let case = format!("{restart} {side:?}, swap {swap}");
            let new = ip(&format!("10.0.0.{}", swap + 1));
            pair.network.renumber(host, &[new]);
            pair.lose_socket(side, old);
            pair.add_socket(side, new, PREFERENCE);
            old = new;
            if restart {
                pair.restart(side);
            }
            let moved = |pair: &Pair| {
                let peer = if side == Side::A { &pair.a } else { &pair.b };
                let local = peer.agent.selected().and_then(|selected| selected.local.related);
                let told = local.and_then(|local| local.ip()).map(|local| local.ip());
                told == Some(new) && peer.agent.state() == State::Completed
            };
            assert!(
                pair.run_until(Duration::from_secs(12), moved),
                "{case}: {}\n{}",
                pair.a.agent.report(),
                pair.b.agent.report()
            );
            // The other side follows when it hears of the new pair.
            assert!((0..3).any(|_| pair.data_flows()), "{case}");
            let report = pair.peer(side.other()).agent.report();
            assert_eq!(report.skipped, [""; 0], "{case}");
        }
        let report = pair.peer(side.other()).agent.report();
        // Those that were told, and those that checks came from.
        assert!(report.remote_candidates.len() <= 128 + 64 && report.pairs.len() <= 100, "{report}");
        // One for each side, the last that was moved, and the one that carries data if it does.
        let allocations = pair.servers[0].allocations();
        assert!(allocations <= 4, "{allocations} allocations");
    }
}
