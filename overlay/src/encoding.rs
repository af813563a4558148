//! How bytes are written as text: z-base-32 for what people see, base64 for what travels in JSON.

use std::sync::LazyLock;

use data_encoding::{BASE64, Encoding, Specification};

/// z-base-32: lower case, no padding, no characters that look alike; `pkarr` shows keys in it, and so does Thirl.
pub(crate) static ZBASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
    #[expect(clippy::expect_used, reason = "a constant alphabet of 32 distinct symbols; every test uses it")]
    specification.encoding().expect("32 distinct symbols")
});

/// `#[serde(with = "base64_array")]`: an array of fixed length as a base64 string.
pub(crate) mod base64_array {
    use super::BASE64;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| D::Error::custom("expected base64"))?;
        bytes.try_into().map_err(|_| D::Error::custom(format_args!("expected {N} bytes of base64")))
    }
}

/// `#[serde(with = "base64_bytes")]`: bytes as a base64 string. Whoever uses it checks the length.
pub(crate) mod base64_bytes {
    use super::BASE64;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(|_| D::Error::custom("expected base64"))
    }
}
