//! A path that was found is kept: through restarts, silences, sleep, and networks, servers and interfaces that change.

use std::time::Duration;

use thirl_ice_agent::agent::State;
use thirl_tests::sim::{Link, NatSpec, PREFERENCE, Pair, PortAllocation, Side};

use super::{ADF, APDF, APDM, DIRECT, EIF, EIM, RELAYED, both_behind, ip, ms, open_pair};

/// Sends a datagram each way every 20 ms, for so long, and says how many of them arrived.
fn stream_for(pair: &mut Pair, time: Duration) -> (u32, u32) {
    let (mut sent, before) = (0, pair.a.received.len() + pair.b.received.len());
    let end = pair.elapsed() + time;
    while pair.elapsed() < end {
        let now = pair.network.now();
        for peer in [&mut pair.a, &mut pair.b] {
            sent += u32::from(peer.agent.send(now, b"media").is_ok());
        }
        pair.run_for(ms(20));
    }
    pair.run_for(ms(200));
    (sent, u32::try_from(pair.a.received.len() + pair.b.received.len() - before).unwrap())
}

#[test]
fn a_restart_loses_nothing() {
    for nat in [NatSpec::new(EIM, APDF), NatSpec::new(APDM, APDF)] {
        for (seed, sides) in [(30, &[Side::A][..]), (31, &[Side::B]), (32, &[Side::A, Side::B])] {
            let mut pair = both_behind(seed, nat, nat, true);
            pair.signalling = (ms(100), ms(300));
            assert!(pair.connect(Duration::from_secs(10)));
            pair.run_for(Duration::from_secs(2));
            let allocations = pair.servers[0].allocations();
            let before = (pair.a.agent.local_credentials().clone(), pair.b.agent.local_credentials().clone());
            let selections = pair.a.selections.len();
            sides.iter().for_each(|side| pair.restart(*side));
            assert_eq!(pair.a.agent.report().restarts, u32::from(sides.contains(&Side::A)));
            assert_eq!(stream_for(&mut pair, Duration::from_secs(5)), (500, 500), "{sides:?}");
            let states = (pair.a.agent.state(), pair.b.agent.state());
            assert_eq!(states, (State::Completed, State::Completed), "{}", pair.a.agent.report());
            assert!(pair.a.selections.len() > selections, "a pair of the new session was selected");
            let after = (pair.a.agent.local_credentials().clone(), pair.b.agent.local_credentials().clone());
            assert!(before.0 != after.0 && before.1 != after.1, "both sides have new credentials");
            assert_eq!(pair.servers[0].allocations(), allocations, "allocations stay");
            let told = pair.a.remote_restarts + pair.b.remote_restarts;
            assert_eq!(told, u32::from(sides.len() == 1), "who has restarted itself needs no event");
            assert_eq!(stream_for(&mut pair, Duration::from_secs(60)), (6000, 6000), "{sides:?}");
        }
    }
}

#[test]
fn a_restart_that_nobody_answers_leaves_the_path_alone() {
    let mut pair = open_pair(33);
    pair.start();
    assert!(pair.connect(Duration::from_secs(5)));
    pair.run_for(ms(500));
    pair.a.agent.restart(pair.network.now());
    pair.a.agent.restart(pair.network.now());
    assert_eq!(stream_for(&mut pair, Duration::from_secs(100)), (10_000, 10_000));
    assert_eq!(pair.a.agent.state(), State::Connected, "nothing is nominated in the new session");
    assert!(pair.a.agent.current().is_some());
    // The peer goes: consent to the old path ends, but the new session may still find one.
    pair.network.set_down(pair.b.host, true);
    pair.run_for(Duration::from_secs(40));
    let now = pair.network.now();
    assert!(pair.a.agent.send(now, b"x").is_err());
    assert!(pair.a.failure.is_none());
}

#[test]
fn restarts_race_with_everything() {
    for seed in 0..60 {
        let mut pair = open_pair(seed);
        pair.signalling = (ms(0), ms(400));
        pair.start();
        // While gathering, while checking, while connected; by one side or both; once or twice.
        pair.run_for(ms(seed * 37 % 600));
        pair.restart(if seed % 2 == 0 { Side::A } else { Side::B });
        if seed % 3 == 0 {
            pair.run_for(ms(seed * 13 % 200));
            pair.restart(if seed % 4 == 0 { Side::A } else { Side::B });
        }
        assert!(pair.connect(Duration::from_secs(5)), "{seed}: {}", pair.a.agent.report());
        pair.run_for(Duration::from_secs(2));
        assert!(pair.connect(Duration::from_secs(5)), "{seed}: {}", pair.a.agent.report());
        assert!(pair.data_flows(), "{seed}");
        pair.run_for(Duration::from_secs(90));
        assert!(pair.data_flows(), "{seed}: {}", pair.a.agent.report());
    }
}

#[test]
fn a_failed_agent_can_be_restarted() {
    let nat = NatSpec::new(APDM, APDF);
    let mut pair = both_behind(34, nat, nat, true);
    assert!(pair.connect(Duration::from_secs(5)));
    let hosts = [pair.a.host, pair.b.host];
    hosts.iter().for_each(|host| pair.network.set_down(*host, true));
    assert!(
        pair.run_until(Duration::from_secs(60), |pair| pair.a.failure.is_some() && pair.b.failure.is_some())
    );
    hosts.iter().for_each(|host| pair.network.set_down(*host, false));
    pair.restart(Side::A);
    assert!(pair.connect(Duration::from_secs(10)), "{}", pair.a.agent.report());
    assert_eq!(pair.paths(), RELAYED);
    assert!(pair.data_flows());
}

#[test]
fn silence_is_noticed_while_data_flows() {
    let mut pair = open_pair(40);
    pair.start();
    assert!(pair.connect(Duration::from_secs(5)));
    stream_for(&mut pair, Duration::from_secs(7));
    pair.network.set_down(pair.b.host, true);
    stream_for(&mut pair, ms(2000));
    assert_eq!(pair.a.agent.state(), State::Completed);
    stream_for(&mut pair, ms(600));
    assert_eq!(pair.a.agent.state(), State::Disconnected, "some 2.5 s after the last datagram");
    pair.network.set_down(pair.b.host, false);
    assert!(pair.connect(Duration::from_secs(1)), "asked often, it comes back at once");
}

#[test]
fn a_path_that_answers_is_never_called_dead() {
    // Far away, lossy, and both; data both ways, one way, and none.
    for (seed, delay, loss) in [(41, 400, 0.0), (42, 10, 0.1), (43, 150, 0.05)] {
        for traffic in 0..3 {
            let mut pair = open_pair(seed);
            for host in [pair.a.host, pair.b.host] {
                pair.network.set_link(host, Link { loss, ..Link::delayed(ms(delay)) });
            }
            pair.start();
            assert!(pair.connect(Duration::from_secs(20)));
            for _ in 0..6000 {
                let now = pair.network.now();
                let senders = [&mut pair.a, &mut pair.b].into_iter().take(traffic);
                senders.for_each(|peer| peer.agent.send(now, b"media").unwrap());
                pair.run_for(ms(50));
            }
            for peer in [&pair.a, &pair.b] {
                let dead = peer.states.iter().filter(|(_, state)| *state == State::Disconnected);
                assert_eq!(dead.count(), 0, "{delay} ms, {loss}, {traffic}: {:?}", peer.states);
            }
        }
    }
}

#[test]
fn an_idle_path_is_quiet() {
    let nat = NatSpec::new(EIM, APDF);
    let mut pair = both_behind(44, nat, nat, false);
    assert!(pair.connect(Duration::from_secs(5)));
    pair.run_for(Duration::from_secs(60));
    let before = pair.network.sent;
    pair.run_for(Duration::from_secs(600));
    let a_minute = (pair.network.sent - before) / 10;
    // A request and an answer each way every 20 s, give or take.
    assert!((10..=14).contains(&a_minute), "{a_minute} packets a minute");
    assert_eq!(pair.a.agent.state(), State::Completed);
    assert!(pair.data_flows());
}

#[test]
fn roaming_keeps_the_path() {
    for (seed, side) in [(45, Side::A), (46, Side::B)] {
        let nat = NatSpec::new(EIM, APDF);
        let mut pair = both_behind(seed, nat, nat, true);
        assert!(pair.connect(Duration::from_secs(5)));
        stream_for(&mut pair, Duration::from_secs(5));
        // To another network with a NAT of its own, by which the old one is gone.
        let (host, old) =
            (pair.peer(side).host, ip(if side == Side::A { "192.168.1.2" } else { "192.168.2.2" }));
        let other = pair.network.add_nat(nat, ip("5.5.5.77"));
        pair.network.renumber(host, &[ip("10.0.0.7")]);
        pair.network.move_host(host, Some(other));
        pair.lose_socket(side, old);
        pair.add_socket(side, ip("10.0.0.7"), PREFERENCE);
        let (sent, arrived) = stream_for(&mut pair, Duration::from_secs(6));
        let gap = ms(20) * (600 - arrived.min(600)) / 2;
        println!("roamed on side {side:?}: {sent} sent, {arrived} arrived, a gap of some {gap:?} on average");
        assert!(gap < ms(2500), "{arrived} of {sent}: {}\n{}", pair.a.agent.report(), pair.b.agent.report());
        let states = (pair.a.agent.state(), pair.b.agent.state());
        assert_eq!(states, (State::Completed, State::Completed));
        assert_eq!(pair.paths(), DIRECT);
        let words = [&pair.a, &pair.b].map(|peer| peer.changes.last().cloned().unwrap());
        println!("they say: {words:?}");
    }
}

#[test]
fn a_new_interface_is_ready_before_the_old_one_goes() {
    for (seed, side) in (0..20).flat_map(|seed| [(seed, Side::A), (seed, Side::B)]) {
        let mut pair = open_pair(seed);
        pair.start();
        assert!(pair.connect(Duration::from_secs(5)));
        // So that the change comes at any time between two consent checks.
        stream_for(&mut pair, Duration::from_secs(3) + ms(seed * 250));
        let (host, old) = (pair.peer(side).host, if side == Side::A { "5.5.5.1" } else { "5.5.5.2" });
        pair.network.renumber(host, &[ip(old), ip("5.5.5.9")]);
        pair.add_socket(side, ip("5.5.5.9"), PREFERENCE);
        assert_eq!(stream_for(&mut pair, Duration::from_secs(1)), (100, 100));
        // What is sent from here on goes the new way; the other side hears that, and follows.
        pair.lose_socket(side, ip(old));
        let before = pair.peer(side.other()).received.len();
        let (sent, arrived) = stream_for(&mut pair, Duration::from_secs(4));
        assert_eq!(pair.peer(side.other()).received.len() - before, 200, "nothing of this side's is lost");
        // The controlling side tells the other; it hears of the other's change by data that comes another way.
        let lost = if side == Side::A { 5 } else { 75 };
        assert!(arrived >= sent - lost, "{side:?} {seed}: {arrived} of {sent} arrived");
        assert_eq!((pair.a.agent.state(), pair.b.agent.state()), (State::Completed, State::Completed));
        assert!(pair.data_flows());
    }
}

#[test]
fn a_relay_that_was_killed_is_used_again() {
    for (seed, down) in [(70, 0), (71, 10)] {
        let nat = NatSpec::new(APDM, APDF);
        let mut pair = both_behind(seed, nat, nat, true);
        assert!(pair.connect(Duration::from_secs(5)));
        stream_for(&mut pair, Duration::from_secs(5));
        pair.servers[0].down = true;
        stream_for(&mut pair, Duration::from_secs(down));
        pair.servers[0].restart();
        pair.servers[0].down = false;
        let back = pair.elapsed();
        let mut flows = false;
        while !flows && pair.elapsed() < back + Duration::from_secs(20) {
            let before = (pair.a.received.len(), pair.b.received.len());
            stream_for(&mut pair, ms(100));
            flows = pair.a.received.len() > before.0 && pair.b.received.len() > before.1;
        }
        let gap = pair.elapsed() - back;
        println!(
            "the relay was down for {down} s; {gap:?} later data flows again, since: {:?}",
            pair.a.changes
        );
        assert!(flows, "{}", pair.a.agent.report());
        assert!(gap < Duration::from_secs(10), "{gap:?}");
        assert_eq!(pair.paths(), RELAYED);
        pair.run_for(Duration::from_secs(60));
        assert!(pair.data_flows());
    }
}

#[test]
fn sleep_is_noticed_and_outlived() {
    // One side, whose NAT forgets its mapping meanwhile; or both, for longer than consent lasts.
    for (seed, sides, time) in
        [(49, &[Side::A][..], 20), (50, &[Side::B], 20), (51, &[Side::A, Side::B], 500)]
    {
        // Where both mappings are gone and come back with other ports, neither side could know where the other is.
        let nat = NatSpec { allocation: PortAllocation::Preserving, ..NatSpec::new(EIM, ADF) };
        let mut pair = both_behind(seed, nat, nat, false);
        assert!(pair.connect(Duration::from_secs(5)));
        pair.run_for(Duration::from_secs(3));
        sides.iter().for_each(|side| pair.set_asleep(*side, true));
        pair.run_for(Duration::from_secs(time));
        sides.iter().for_each(|side| pair.set_asleep(*side, false));
        if let [side] = sides {
            let at = pair.peer(*side).nat.unwrap();
            pair.network.nat_mut(at).reboot();
        }
        pair.run_for(ms(1500));
        assert!(pair.data_flows(), "{sides:?}: {}", pair.a.agent.report());
        pair.run_for(Duration::from_secs(30));
        let states = (pair.a.agent.state(), pair.b.agent.state());
        assert_eq!(states, (State::Completed, State::Completed), "{sides:?}");
    }
}

#[test]
fn nothing_is_sent_without_consent_after_a_sleep() {
    let discarded = |pair: &Pair| {
        let report = pair.a.agent.report();
        report.pairs.iter().map(|pair| pair.stats.packets_discarded_on_send).sum::<u32>()
    };
    for (seed, time) in [(52, 20), (53, 31), (54, 500)] {
        let mut pair = open_pair(seed);
        pair.start();
        assert!(pair.connect(Duration::from_secs(5)));
        stream_for(&mut pair, Duration::from_secs(3));
        [Side::A, Side::B].into_iter().for_each(|side| pair.set_asleep(side, true));
        pair.run_for(Duration::from_secs(time));
        // An answer to what was asked before the sleep is no consent. The application is quicker than the agent's timers.
        let (now, received) = (pair.network.now(), pair.b.received.len());
        pair.a.agent.send(now, b"at once").unwrap();
        [Side::A, Side::B].into_iter().for_each(|side| pair.set_asleep(side, false));
        pair.run_for(ms(10));
        let (within, late) = (time < 30, discarded(&pair));
        assert_eq!(late, u32::from(!within), "{time} s");
        pair.run_for(ms(500));
        assert_eq!(pair.b.received.len() - received, usize::from(within), "{time} s");
        assert_eq!(stream_for(&mut pair, Duration::from_secs(60)), (6000, 6000), "{time} s");
        assert_eq!(discarded(&pair), late);
        assert_eq!(pair.a.states.last().map(|(_, state)| *state), Some(State::Completed), "no reconnect");
        assert_eq!(pair.a.selections.len(), 1, "the path is the same");
    }
}

#[test]
fn a_better_interface_is_taken_at_once() {
    for (seed, renomination) in [(60, false), (61, true)] {
        let mut pair = open_pair(seed);
        if renomination {
            pair.exchange_capabilities();
        }
        pair.start();
        assert!(pair.connect(Duration::from_secs(5)));
        stream_for(&mut pair, Duration::from_secs(4));
        pair.network.renumber(pair.a.host, &[ip("5.5.5.1"), ip("5.5.5.9")]);
        pair.add_socket(Side::A, ip("5.5.5.9"), PREFERENCE + 1);
        assert_eq!(stream_for(&mut pair, Duration::from_secs(2)), (200, 200), "make before break");
        let (ours, theirs) = (pair.a.agent.selected().unwrap(), pair.b.agent.selected().unwrap());
        assert_eq!(ours.local.address.ip(), Some("5.5.5.9:50000".parse().unwrap()), "{renomination}");
        assert_eq!(theirs.remote.address, ours.local.address, "{renomination}");
        assert_eq!(pair.a.changes, ["a better interface has come"]);
        assert_eq!(pair.b.changes, ["the peer nominated it"]);
    }
}

#[test]
fn an_outage_is_survived_or_ends_the_session() {
    let mut pair = open_pair(8);
    pair.start();
    assert!(pair.connect(Duration::from_secs(5)));
    // Shorter than consent lasts: the path comes back by itself.
    pair.network.set_down(pair.b.host, true);
    pair.run_for(Duration::from_secs(20));
    assert_eq!(pair.a.agent.state(), State::Disconnected);
    pair.network.set_down(pair.b.host, false);
    assert!(pair.connect(Duration::from_secs(8)));
    assert!(pair.data_flows());
    // Longer: the agent stops sending, and says so.
    pair.network.set_down(pair.b.host, true);
    assert!(pair.run_until(Duration::from_secs(40), |pair| pair.a.failure.is_some()));
    assert!(pair.a.failure.clone().unwrap().failure.unwrap().contains("consent"));
    let now = pair.network.now();
    assert!(pair.a.agent.send(now, b"x").is_err());
}

#[test]
fn a_nat_that_reboots_is_survived() {
    for (seed, side) in [(9, Side::A), (10, Side::B), (11, Side::A), (12, Side::B)] {
        for filtering in [EIF, ADF, APDF] {
            let nat = NatSpec::new(EIM, filtering);
            let mut pair = both_behind(seed, nat, nat, true);
            assert!(pair.connect(Duration::from_secs(5)));
            pair.run_for(Duration::from_secs(3));
            let at = pair.peer(side).nat.unwrap();
            pair.network.nat_mut(at).reboot();
            pair.run_for(Duration::from_secs(25));
            let report = pair.a.agent.report();
            assert!(pair.data_flows(), "{side:?} {filtering:?}: {report}\n{}", pair.b.agent.report());
            pair.run_for(Duration::from_secs(60));
            let states = (pair.a.agent.state(), pair.b.agent.state());
            assert_eq!(states, (State::Completed, State::Completed), "{side:?} {filtering:?}");
            assert!(pair.data_flows(), "{side:?} {filtering:?}");
        }
    }
}
