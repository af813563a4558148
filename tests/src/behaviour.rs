//! What a NAT does, in the terms of RFC 4787: the words that the kernel lab and the simulated network share.

/// NAT mapping behaviour (RFC 4787, section 4.1): on what the choice of the external port depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// EIM: on the internal endpoint only.
    EndpointIndependent,
    /// ADM: on the destination's address too.
    AddressDependent,
    /// APDM: on the destination's address and port too. "Symmetric".
    AddressAndPortDependent,
}

impl Mapping {
    /// All of them, the kindest first.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// EIM, ADM or APDM.
    pub fn name(self) -> &'static str {
        ["EIM", "ADM", "APDM"][self as usize]
    }
}

/// NAT filtering behaviour (RFC 4787, section 5): who may answer through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// EIF: anyone.
    EndpointIndependent,
    /// ADF: any port of an address that was sent to.
    AddressDependent,
    /// APDF: only an endpoint that was sent to.
    AddressAndPortDependent,
}

impl Filtering {
    /// All of them, the kindest first.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// EIF, ADF or APDF.
    pub fn name(self) -> &'static str {
        ["EIF", "ADF", "APDF"][self as usize]
    }
}

/// How a new mapping gets its port (RFC 4787, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortAllocation {
    /// The internal port, while nobody else has it.
    Preserving,
    /// Any port from 1024 on.
    Random,
    /// 20000, 20001, … in order of asking.
    Sequential,
}

impl PortAllocation {
    /// As `thirl nat --json` names it.
    pub fn name(self) -> &'static str {
        ["preserving", "random", "sequential"][self as usize]
    }
}

/// All nine combinations of mapping and filtering.
pub fn combinations() -> impl Iterator<Item = (Mapping, Filtering)> {
    let with_each = |mapping| Filtering::ALL.map(|filtering| (mapping, filtering));
    Mapping::ALL.into_iter().flat_map(with_each)
}
