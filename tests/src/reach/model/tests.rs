use super::super::{Pair, simulated};
use super::*;
use crate::behaviour::Filtering;
use crate::sim::{Hairpin, Speaks};

const EIM: Mapping = Mapping::EndpointIndependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const EIF: Filtering = Filtering::EndpointIndependent;
const ADF: Filtering = Filtering::AddressDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

fn nat(mapping: Mapping, filtering: Filtering) -> Layer {
    Layer::Nat(NatSpec::new(mapping, filtering), None)
}

#[test]
fn the_pairs_of_the_matrix_are_what_their_rules_say() {
    for pair in Pair::all() {
        assert_eq!(expectation(&simulated::topology(pair)), Expectation::of(pair), "{pair}");
    }
}

#[test]
fn layers_are_as_strict_as_the_strictest() {
    let home = nat(EIM, APDF);
    let cases: [(&[Layer], &[Layer], Expectation); 6] = [
        (&[nat(EIM, EIF), nat(APDM, APDF)], &[home], Expectation::Birthday),
        (&[nat(APDM, APDF), nat(EIM, EIF)], &[home], Expectation::Birthday),
        (&[nat(APDM, EIF), nat(EIM, EIF)], &[nat(APDM, APDF)], Expectation::Punch),
        (&[home, home, home], &[home, home], Expectation::Punch),
        (&[nat(APDM, APDF), home], &[home, nat(EIM, ADF)], Expectation::Birthday),
        (&[Layer::Firewall(FirewallSpec::stateful(APDF)), home], &[home], Expectation::Punch),
    ];
    for (a, b, expected) in cases {
        for topology in [Topology::apart(a, b), Topology::apart(b, a)] {
            assert_eq!(expectation(&topology), expected, "{topology:?}");
        }
    }
}

#[test]
fn two_dependent_mappings_are_met_where_a_filter_looks_at_addresses_only() {
    let cases = [
        (nat(APDM, ADF), nat(APDM, APDF), Expectation::Birthday),
        (nat(APDM, ADF), nat(APDM, ADF), Expectation::Birthday),
        (nat(APDM, APDF), nat(APDM, APDF), Expectation::Relayed),
    ];
    for (a, b, expected) in cases {
        for topology in [Topology::apart(&[a], &[b]), Topology::apart(&[b], &[a])] {
            assert_eq!(expectation(&topology), expected, "{topology:?}");
        }
    }
    let strict = Topology::apart(&[nat(APDM, ADF), nat(EIM, APDF)], &[nat(APDM, APDF)]);
    assert_eq!(expectation(&strict), Expectation::Relayed, "the outer one looks at ports too");
}

#[test]
fn a_gateway_behind_another_nat_opens_nothing() {
    let symmetric = NatSpec::new(APDM, APDF);
    let mapped = Layer::Nat(symmetric, Some(Speaks::Pcp));
    let other = nat(APDM, APDF);
    assert_eq!(expectation(&Topology::apart(&[mapped], &[other])), Expectation::Mapping);
    assert_eq!(expectation(&Topology::apart(&[mapped, nat(EIM, APDF)], &[other])), Expectation::Relayed);
}

#[test]
fn what_comes_back_depends_on_the_hairpin_and_its_filter() {
    for (hairpin, mapping, expected) in [
        (Hairpin::ExternalSource, EIM, Expectation::Punch),
        (Hairpin::None, EIM, Expectation::Relayed),
        (Hairpin::ExternalSource, APDM, Expectation::Relayed),
    ] {
        let around = Layer::Nat(NatSpec { hairpin, ..NatSpec::new(mapping, APDF) }, None);
        let mut topology = Topology::apart(&[nat(EIM, APDF)], &[nat(EIM, APDF)]);
        topology.shared = vec![around];
        assert_eq!(expectation(&topology), expected, "{hairpin:?} {mapping:?}");
    }
}

#[test]
fn where_nothing_is_let_out_there_is_nothing() {
    let sealed = Layer::Firewall(FirewallSpec::tcp_only(TcpPolicy::Port(80)));
    assert_eq!(expectation(&Topology::apart(&[sealed], &[])), Expectation::Nothing);
}
