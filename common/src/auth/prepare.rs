//! Usernames, realms and passwords that are no ASCII: brought to one form before they are hashed or compared.
//!
//! RFC 8489 asks for the OpaqueString profile of PRECIS (RFC 8265, section 4.2), RFC 5389 asked for SASLprep (RFC 4013),
//! and browsers do neither. They differ: OpaqueString leaves "Ⅸ" alone, of which SASLprep makes "IX", and refuses the
//! soft hyphen, which SASLprep drops. So the password of RFC 5769, section 2.4, becomes "TheMatrIX" by SASLprep only,
//! although RFC 8489, appendix B.1, says the same of OpaqueString. A client takes [`opaque_string`]; a server that has
//! the password tries all three forms, which are one for ASCII.

use std::borrow::Cow;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::{Profile, stabilize};

/// Whoever chose the text has to choose another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A character that the profile does not let stand, such as a control character, or nothing at all.
    #[error("the text is empty or has a character that may not stand in a username, a realm or a password")]
    Disallowed,
}

/// OpaqueString (RFC 8265, section 4.2): spaces of any kind become U+0020, the rest is composed (NFC), case is kept.
pub fn opaque_string(text: &str) -> Result<Cow<'_, str>, PrepareError> {
    if is_plain(text) {
        return Ok(Cow::Borrowed(text));
    }
    // Composing may give what the profile disallows: its rules apply "until the output string is stable" (RFC 8264,
    // section 7).
    stabilize(text, |text| OpaqueString::new().enforce(text)).map_err(|_| PrepareError::Disallowed)
}

/// SASLprep (RFC 4013), for peers of RFC 5389.
pub fn saslprep(text: &str) -> Result<Cow<'_, str>, PrepareError> {
    if is_plain(text) {
        return Ok(Cow::Borrowed(text));
    }
    stringprep::saslprep(text).map_err(|_| PrepareError::Disallowed)
}

/// The distinct forms that a peer may have made of `text`: prepared, prepared as RFC 5389 asks, and as it is.
pub(super) fn forms(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut forms: [Option<Cow<'_, str>>; 3] = [opaque_string(text).ok(), None, None];
    if !is_plain(text) {
        forms[1] = saslprep(text).ok().filter(|form| forms[0].as_ref() != Some(form));
        forms[2] = Some(Cow::Borrowed(text)).filter(|form| !forms[..2].contains(&Some(form.clone())));
    }
    forms.into_iter().flatten()
}

/// Both profiles leave printable ASCII alone.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x20..=0x7E))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769, section 2.4.
    const PASSWORD: &str = "The\u{AD}M\u{AA}tr\u{2168}";

    #[test]
    fn the_two_profiles_differ_where_the_module_says() {
        assert_eq!(saslprep(PASSWORD).unwrap(), "TheMatrIX");
        assert_eq!(opaque_string(PASSWORD), Err(PrepareError::Disallowed));
        assert_eq!(opaque_string("M\u{AA}tr\u{2168}").unwrap(), "M\u{AA}tr\u{2168}");
        assert_eq!(saslprep("M\u{AA}tr\u{2168}").unwrap(), "MatrIX");
    }

    #[test]
    fn the_examples_of_rfc_8265() {
        // Section 4.3, table 4.
        for (text, prepared) in [
            ("correct horse battery staple", "correct horse battery staple"),
            ("Correct Horse Battery Staple", "Correct Horse Battery Staple"),
            ("\u{3C0}\u{DF}\u{E5}", "\u{3C0}\u{DF}\u{E5}"),
            ("Jack of \u{2666}s", "Jack of \u{2666}s"),
            ("foo\u{1680}bar", "foo bar"),
        ] {
            assert_eq!(opaque_string(text).unwrap(), prepared);
        }
        // U+0387 is composed to U+00B7, which may stand between two letters l only.
        for text in ["", "my cat is a \u{9}by", "\u{387}"] {
            assert_eq!(opaque_string(text), Err(PrepareError::Disallowed), "{text:?}");
        }
    }

    #[test]
    fn ascii_has_one_form_and_other_text_at_most_three() {
        let forms = |text| forms(text).map(Cow::into_owned).collect::<Vec<_>>();
        assert_eq!(forms("secret"), ["secret"]);
        assert_eq!(forms(PASSWORD), ["TheMatrIX", PASSWORD]);
        assert_eq!(forms("\u{3000}\u{2168}"), [" \u{2168}", " IX", "\u{3000}\u{2168}"]);
        assert_eq!(forms("マトリックス"), ["マトリックス"]);
        assert_eq!(forms("a\u{7}"), ["a\u{7}"]);
    }
}
