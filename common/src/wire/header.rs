//! The first 20 bytes of a STUN message (RFC 8489, section 5).

use core::fmt;

/// Length of the STUN header in bytes (RFC 8489, section 5).
pub const HEADER_LEN: usize = 20;

/// "The Magic Cookie field MUST contain the fixed value 0x2112A442" (RFC 8489, section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// What a message is within its transaction (RFC 8489, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Asks for a response.
    Request,
    /// Draws no response.
    Indication,
    /// The request was carried out.
    Success,
    /// The request was refused; an ERROR-CODE says why.
    Error,
}

/// What a message is about: 12 bits, the methods of RFC 8489, 8656 and 6062 by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(u16);

impl Method {
    /// RFC 8489, section 3.
    pub const BINDING: Method = Method(0x001);
    /// RFC 8656, section 17.
    pub const ALLOCATE: Method = Method(0x003);
    /// RFC 8656, section 17.
    pub const REFRESH: Method = Method(0x004);
    /// RFC 8656, section 17.
    pub const SEND: Method = Method(0x006);
    /// RFC 8656, section 17.
    pub const DATA: Method = Method(0x007);
    /// RFC 8656, section 17.
    pub const CREATE_PERMISSION: Method = Method(0x008);
    /// RFC 8656, section 17.
    pub const CHANNEL_BIND: Method = Method(0x009);
    /// RFC 6062, section 6.1.
    pub const CONNECT: Method = Method(0x00A);
    /// RFC 6062, section 6.1.
    pub const CONNECTION_BIND: Method = Method(0x00B);
    /// RFC 6062, section 6.1.
    pub const CONNECTION_ATTEMPT: Method = Method(0x00C);

    /// The method with this number; the upper four bits are dropped.
    pub const fn new(number: u16) -> Method {
        Method(number & 0xFFF)
    }

    /// The method's number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Method::BINDING => "Binding",
            Method::ALLOCATE => "Allocate",
            Method::REFRESH => "Refresh",
            Method::SEND => "Send",
            Method::DATA => "Data",
            Method::CREATE_PERMISSION => "CreatePermission",
            Method::CHANNEL_BIND => "ChannelBind",
            Method::CONNECT => "Connect",
            Method::CONNECTION_BIND => "ConnectionBind",
            Method::CONNECTION_ATTEMPT => "ConnectionAttempt",
            Method(number) => return write!(f, "Method({number:#05x})"),
        };
        f.write_str(name)
    }
}

/// The 96 bits that tie a response to its request (RFC 8489, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The message type field: class bits C1 and C0 stand within the method's (RFC 8489, section 5, figure 3).
pub(super) const fn message_type(class: Class, method: Method) -> u16 {
    let m = method.0;
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    (m & 0xF80) << 2 | (m & 0x070) << 1 | (m & 0x00F) | class
}

/// The inverse of [`message_type`]; the two uppermost bits are not looked at.
pub(super) const fn class_and_method(field: u16) -> (Class, Method) {
    let class = match field & 0x110 {
        0x000 => Class::Request,
        0x010 => Class::Indication,
        0x100 => Class::Success,
        _ => Class::Error,
    };
    (class, Method((field & 0x3E00) >> 2 | (field & 0x00E0) >> 1 | (field & 0x000F)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_round_trip() {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            for number in 0..=0xFFF {
                let field = message_type(class, Method(number));
                assert_eq!(field & 0xC000, 0);
                assert_eq!(class_and_method(field), (class, Method(number)));
            }
        }
    }

    #[test]
    fn types_as_the_registry_prints_them() {
        assert_eq!(message_type(Class::Request, Method::BINDING), 0x0001);
        assert_eq!(message_type(Class::Success, Method::BINDING), 0x0101);
        assert_eq!(message_type(Class::Error, Method::ALLOCATE), 0x0113);
        assert_eq!(message_type(Class::Indication, Method::DATA), 0x0017);
    }
}
