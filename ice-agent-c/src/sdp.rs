//! Descriptions as lines of SDP (RFC 8839, section 5).

use thirl_ice_agent::driver::Description;

/// What the peer's lines say. Whatever is not ICE is passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) ufrag: Option<String>,
    pub(crate) pwd: Option<String>,
    pub(crate) candidates: Vec<String>,
    pub(crate) end_of_candidates: bool,
}

pub(crate) fn write(description: &Description, gathered: bool) -> String {
    let Description { ufrag, pwd, candidates } = description;
    let mut lines = vec![
        format!("a=ice-ufrag:{ufrag}"),
        format!("a=ice-pwd:{pwd}"),
        "a=ice-options:ice2 trickle".to_owned(),
    ];
    lines.extend(candidates.iter().map(|candidate| format!("a={candidate}")));
    if gathered {
        lines.push("a=end-of-candidates".to_owned());
    }
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

pub(crate) fn parse(sdp: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for line in sdp.lines().map(str::trim) {
        let line = line.strip_prefix("a=").unwrap_or(line);
        if let Some(ufrag) = line.strip_prefix("ice-ufrag:") {
            parsed.ufrag = Some(ufrag.to_owned());
        } else if let Some(pwd) = line.strip_prefix("ice-pwd:") {
            parsed.pwd = Some(pwd.to_owned());
        } else if line.starts_with("candidate:") {
            parsed.candidates.push(line.to_owned());
        } else if line == "end-of-candidates" {
            parsed.end_of_candidates = true;
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let candidate = "candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host".to_owned();
        let description =
            Description { ufrag: "abcd".into(), pwd: "p".repeat(22), candidates: vec![candidate.clone()] };
        let sdp = write(&description, true);
        assert!(sdp.starts_with("a=ice-ufrag:abcd\r\na=ice-pwd:pp"), "{sdp}");
        let noise = format!("v=0\nm=audio 9 UDP/TLS/RTP/SAVPF 0\n{sdp}a=rtpmap:0 PCMU/8000\n");
        let parsed = parse(&noise);
        assert_eq!(parsed.ufrag.as_deref(), Some("abcd"));
        assert_eq!(parsed.pwd, Some("p".repeat(22)));
        assert_eq!(parsed.candidates, [candidate]);
        assert!(parsed.end_of_candidates);
        assert!(!parse(&write(&description, false)).end_of_candidates);
        assert_eq!(parse("a=\n=\n\nice-ufrag"), Parsed::default());
    }
}
