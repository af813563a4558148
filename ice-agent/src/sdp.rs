//! What SDP says about ICE (RFC 8839, section 5; trickle of RFC 8840): the attribute lines of an offer, an answer, or an
//! `application/trickle-ice-sdpfrag` body, as a value and back.
//!
//! ```
//! use thirl_ice_agent::sdp::IceDescription;
//!
//! let offer = "v=0\r\na=ice-options:ice2 trickle\r\nm=audio 9 RTP/AVP 0\r\na=ice-ufrag:8hhY\r\n\
//!              a=ice-pwd:asd88fgpdd777uzjYhagZg\r\na=candidate:1 1 UDP 2130706431 192.0.2.1 40000 typ host\r\n";
//! let description = IceDescription::parse(offer);
//! assert!(description.capabilities().ice2);
//! assert_eq!(description.streams[0].candidates[0].to_string(), "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host");
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::agent::{Agent, Capabilities, Credentials, CredentialsError, Role};
use crate::candidate::{Candidate, CandidateAddress, CandidateTransport, ComponentId};

/// More streams than this are passed over; an agent has no more.
const MAX_STREAMS: usize = 256;
/// More candidates of a stream than this are no honest peer's.
const MAX_CANDIDATES: usize = 256;
/// More options, or lines that could not be read, are not kept.
const MAX_KEPT: usize = 64;

/// What a description says about ICE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IceDescription {
    /// `a=ice-lite`.
    pub lite: bool,
    /// The words of `a=ice-options`, known and unknown.
    pub options: Vec<String>,
    /// `a=ice-pacing`: milliseconds.
    pub pacing: Option<u32>,
    /// The data streams, in the order of their `m=` lines. Attributes that come before any of these are the first stream's, so
    /// that attribute lines alone can be read too.
    pub streams: Vec<StreamDescription>,
    /// Candidates that could not be read, and why.
    pub skipped: Vec<String>,
}

/// What it says about one data stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamDescription {
    /// `a=mid`.
    pub mid: Option<String>,
    /// `a=ice-ufrag` and `a=ice-pwd`, its own or the session's.
    pub credentials: Option<Credentials>,
    /// `a=candidate`, in order.
    pub candidates: Vec<Candidate>,
    /// `a=remote-candidates`, which the controlling side tells: for each component, the other's end of the selected pair.
    pub remote_candidates: Vec<(ComponentId, SocketAddr)>,
    /// `a=end-of-candidates`.
    pub end_of_candidates: bool,
    /// `a=ice-mismatch`: somebody on the way has changed the default addresses.
    pub mismatch: bool,
}

impl IceDescription {
    /// Reads the lines that are about ICE and passes over all others.
    pub fn parse(sdp: &str) -> IceDescription {
        let mut reader = Reader::default();
        sdp.split(['\n', '\r']).for_each(|line| reader.line(line.trim_ascii_end()));
        reader.finish()
    }

    /// What an agent has to tell its peer, as far as it has gathered.
    pub fn of(agent: &Agent) -> IceDescription {
        let Capabilities { lite, ice2, trickle, renomination } = agent.local_capabilities();
        let options = [("ice2", ice2), ("trickle", trickle), ("renomination", renomination)];
        let mut streams = Vec::<StreamDescription>::new();
        for component in agent.components() {
            streams.resize_with(usize::from(component.stream()) + 1, StreamDescription::default);
        }
        for stream in &mut streams {
            stream.credentials = Some(agent.local_credentials().clone());
            stream.end_of_candidates = agent.is_gathering_complete();
        }
        for candidate in agent.local_candidates() {
            if let Some(stream) = streams.get_mut(usize::from(candidate.component.stream())) {
                stream.candidates.push(candidate.clone());
            }
        }
        let controls = agent.role() == Role::Controlling;
        for component in agent.components().into_iter().filter(|_| controls) {
            let remote = agent.selected_on(component).and_then(|pair| pair.remote.address.ip());
            if let (Some(stream), Some(remote)) = (streams.get_mut(usize::from(component.stream())), remote) {
                stream.remote_candidates.push((component, remote));
            }
        }
        let options = options.into_iter().filter(|(_, can)| *can).map(|(word, _)| word.to_owned()).collect();
        let pacing = agent.proposed_pacing().and_then(|pacing| u32::try_from(pacing.as_millis()).ok());
        IceDescription { lite, options, pacing, streams, ..IceDescription::default() }
    }

    /// Tells an agent what its peer has described.
    pub fn tell(&self, agent: &mut Agent, now: Instant) -> Result<(), CredentialsError> {
        self.tell_session(agent, now);
        for (stream, index) in self.streams.iter().zip(0..=u8::MAX) {
            if let Some(credentials) = &stream.credentials {
                agent.set_remote_credentials_of(now, index, credentials.clone())?;
            }
        }
        for (stream, index) in self.streams.iter().zip(0..=u8::MAX) {
            for candidate in &stream.candidates {
                agent.add_remote_candidate(now, candidate.clone());
            }
            if stream.end_of_candidates {
                agent.set_remote_end_of_candidates_of(now, index);
            }
        }
        Ok(())
    }

    /// Tells an agent what is said of its peer's session: what it can do, and at which pace.
    pub(crate) fn tell_session(&self, agent: &mut Agent, now: Instant) {
        agent.set_remote_capabilities(now, self.capabilities());
        if let Some(pacing) = self.pacing {
            agent.set_remote_pacing(Duration::from_millis(pacing.into()));
        }
    }

    /// What the side that wrote it can do.
    pub fn capabilities(&self) -> Capabilities {
        let has = |word: &str| self.options.iter().any(|option| option == word);
        Capabilities {
            lite: self.lite,
            ice2: has("ice2"),
            trickle: has("trickle"),
            renomination: has("renomination"),
        }
    }

    /// The lines for the session's part of SDP.
    pub fn session_lines(&self) -> String {
        let lite = self.lite.then(|| "a=ice-lite\r\n".to_owned());
        let options =
            (!self.options.is_empty()).then(|| format!("a=ice-options:{}\r\n", self.options.join(" ")));
        let pacing = self.pacing.map(|pacing| format!("a=ice-pacing:{pacing}\r\n"));
        [lite, options, pacing].into_iter().flatten().collect()
    }
}

/// As an `application/trickle-ice-sdpfrag` body: a pseudo `m=` line before each stream (RFC 8840, section 9).
impl fmt::Display for IceDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.session_lines())?;
        self.streams.iter().try_for_each(|stream| write!(f, "m=audio 9 RTP/AVP 0\r\n{stream}"))
    }
}

/// The lines for the stream's part of SDP.
impl fmt::Display for StreamDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mid) = &self.mid {
            write!(f, "a=mid:{mid}\r\n")?;
        }
        if self.mismatch {
            f.write_str("a=ice-mismatch\r\n")?;
        }
        if let Some(Credentials { ufrag, pwd }) = &self.credentials {
            write!(f, "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n")?;
        }
        self.candidates.iter().try_for_each(|candidate| write!(f, "a={candidate}\r\n"))?;
        if !self.remote_candidates.is_empty() {
            f.write_str("a=remote-candidates:")?;
            for (index, (component, address)) in self.remote_candidates.iter().enumerate() {
                let space = if index == 0 { "" } else { " " };
                write!(f, "{space}{} {} {}", component.get(), address.ip(), address.port())?;
            }
            f.write_str("\r\n")?;
        }
        if self.end_of_candidates { f.write_str("a=end-of-candidates\r\n") } else { Ok(()) }
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    description: IceDescription,
    /// Whether an `m=` line has come.
    in_stream: bool,
    /// Whether there are more streams than are kept.
    beyond: bool,
    session: Secrets,
    streams: Vec<Secrets>,
    session_ends: bool,
}

#[derive(Clone, Default)]
struct Secrets {
    ufrag: Option<String>,
    pwd: Option<String>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if line.starts_with("m=") {
            return self.begin_stream();
        }
        let Some(attribute) = line.strip_prefix("a=").filter(|_| !self.beyond) else { return };
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let value = value.trim_ascii();
        match name {
            "ice-lite" => self.description.lite = true,
            "ice-options" => value.split_ascii_whitespace().for_each(|word| self.option(word)),
            "ice-pacing" => self.description.pacing = value.parse().ok().or(self.description.pacing),
            "ice-ufrag" => self.secrets().ufrag = Some(value.to_owned()),
            "ice-pwd" => self.secrets().pwd = Some(value.to_owned()),
            "end-of-candidates" if !self.in_stream => self.session_ends = true,
            "candidate" => self.candidate(attribute),
            "mid" | "remote-candidates" | "end-of-candidates" | "ice-mismatch" => {
                let (stream, index) = self.stream();
                match name {
                    "mid" if !value.is_empty() => stream.mid = Some(value.to_owned()),
                    "remote-candidates" => stream.remote_candidates = remote_candidates(value, index),
                    "end-of-candidates" => stream.end_of_candidates = true,
                    "ice-mismatch" => stream.mismatch = true,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn begin_stream(&mut self) {
        // Attributes before the first "m=" line have made the first stream already.
        let first = !std::mem::replace(&mut self.in_stream, true);
        if first && !self.description.streams.is_empty() {
            return;
        }
        self.beyond = self.description.streams.len() >= MAX_STREAMS;
        if !self.beyond {
            self.description.streams.push(StreamDescription::default());
            self.streams.push(Secrets::default());
        }
    }

    /// The stream that is being read, and its index.
    fn stream(&mut self) -> (&mut StreamDescription, u8) {
        if self.description.streams.is_empty() {
            self.streams.push(Secrets::default());
            self.description.streams.push(StreamDescription::default());
        }
        let last = self.description.streams.len() - 1;
        (&mut self.description.streams[last], u8::try_from(last).unwrap_or(u8::MAX))
    }

    fn secrets(&mut self) -> &mut Secrets {
        match self.streams.last_mut() {
            Some(stream) if self.in_stream => stream,
            _ => &mut self.session,
        }
    }

    fn option(&mut self, word: &str) {
        let options = &mut self.description.options;
        if options.len() < MAX_KEPT && !options.iter().any(|known| known == word) {
            options.push(word.to_owned());
        }
    }

    fn candidate(&mut self, attribute: &str) {
        match Candidate::parse(attribute) {
            Ok(mut candidate) => {
                let (stream, index) = self.stream();
                candidate.component = candidate.component.in_stream(index);
                if stream.candidates.len() < MAX_CANDIDATES {
                    stream.candidates.push(candidate);
                }
            }
            Err(error) if self.description.skipped.len() < MAX_KEPT => {
                self.description.skipped.push(error.to_string());
            }
            Err(_) => {}
        }
    }

    fn finish(mut self) -> IceDescription {
        if self.description.streams.is_empty() && (self.session.ufrag.is_some() || self.session_ends) {
            self.stream();
        }
        let Secrets { ufrag, pwd } = self.session;
        for (stream, own) in self.description.streams.iter_mut().zip(self.streams) {
            let secrets = (own.ufrag.or_else(|| ufrag.clone()), own.pwd.or_else(|| pwd.clone()));
            if let (Some(ufrag), Some(pwd)) = secrets {
                stream.credentials = Some(Credentials { ufrag, pwd });
            }
            stream.end_of_candidates |= self.session_ends;
        }
        self.description
    }
}

/// "component-ID address port", over and over; what cannot be read ends it.
fn remote_candidates(value: &str, stream: u8) -> Vec<(ComponentId, SocketAddr)> {
    let words: Vec<_> = value.split_ascii_whitespace().collect();
    let one = |words: &[&str]| {
        let [component, ip, port] = words else { return None };
        let component = ComponentId::new(component.parse().ok()?)?.in_stream(stream);
        Some((component, SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?)))
    };
    words.chunks(3).take(256).map_while(one).collect()
}

impl StreamDescription {
    /// The candidate of a component that media without ICE would go to: relayed before reflexive before host, as RFC 8839,
    /// section 4.2.1.2, has the `c=` and `m=` lines.
    pub fn default_address(&self, component: ComponentId) -> Option<SocketAddr> {
        let of_it = self.candidates.iter().filter(|candidate| {
            candidate.component == component && candidate.transport == CandidateTransport::Udp
        });
        let least = of_it.min_by_key(|candidate| candidate.kind.type_preference())?;
        match &least.address {
            CandidateAddress::Ip(address) => Some(*address),
            CandidateAddress::Unresolved { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentConfig;

    /// RFC 8839, section A.1, with what else there is.
    const OFFER: &str = "v=0\r\no=jdoe 2890844526 2890842807 IN IP6 2001:db8::1\r\ns=\r\nc=IN IP4 192.0.2.3\r\nt=0 0\r\n\
        a=ice-options:ice2 something-new\r\na=ice-pacing:50\r\na=ice-pwd:asd88fgpdd777uzjYhagZg\r\na=ice-ufrag:8hhY\r\n\
        m=audio 45664 RTP/AVP 0\r\nb=RS:0\r\na=rtpmap:0 PCMU/8000\r\na=mid:0\r\n\
        a=candidate:1 1 UDP 2130706431 fe80::6676:baff:fe9c:ee4a 8998 typ host\r\n\
        a=candidate:2 2 UDP 1694498815 192.0.2.3 45664 typ srflx raddr 203.0.113.141 rport 8998 generation 0 x-new y\r\n\
        a=candidate:3 1 TCP 2105458943 192.0.2.9 9 typ host tcptype active\r\na=candidate:nonsense\r\n\
        a=end-of-candidates\r\n\
        m=video 9 RTP/AVP 31\r\na=ice-ufrag:9uB6\r\na=ice-pwd:YH75Fviy6338Vbrhrlp8Yh\r\n\
        a=remote-candidates:1 192.0.2.1 4000 2 192.0.2.1 4001\r\n";

    #[test]
    fn an_offer_is_read_and_written() {
        let offer = IceDescription::parse(OFFER);
        assert_eq!(offer.options, ["ice2", "something-new"]);
        assert_eq!((offer.pacing, offer.lite, offer.skipped.len()), (Some(50), false, 1));
        let [audio, video] = &offer.streams[..] else { panic!("{offer:?}") };
        assert_eq!(audio.credentials.as_ref().unwrap().ufrag, "8hhY", "the session's");
        assert_eq!(video.credentials.as_ref().unwrap().ufrag, "9uB6", "its own");
        assert_eq!(
            (audio.mid.as_deref(), audio.end_of_candidates, video.end_of_candidates),
            (Some("0"), true, false)
        );
        assert_eq!(audio.candidates.len(), 3);
        let unknown = [("generation".to_owned(), "0".to_owned()), ("x-new".to_owned(), "y".to_owned())];
        assert_eq!(audio.candidates[1].extensions, unknown, "unknown extensions survive");
        assert!(audio.to_string().contains("rport 8998 generation 0 x-new y\r\n"));
        assert!(audio.to_string().contains("typ host tcptype active\r\n"));
        let second = ComponentId::new(2).unwrap();
        assert_eq!(audio.default_address(second), Some("192.0.2.3:45664".parse().unwrap()));
        assert_eq!(video.remote_candidates[1], (second.in_stream(1), "192.0.2.1:4001".parse().unwrap()));
        let again = IceDescription::parse(&offer.to_string());
        assert_eq!(again, IceDescription { skipped: Vec::new(), ..offer });
    }

    #[test]
    fn attribute_lines_alone_are_the_first_stream() {
        let lines = "a=candidate:1 1 udp 1 192.0.2.1 5 typ host\na=ice-ufrag:abcd\na=ice-pwd:0123456789012345678901\na=ice-lite";
        let description = IceDescription::parse(lines);
        assert!(description.capabilities().lite);
        assert_eq!(description.streams.len(), 1);
        assert_eq!(description.streams[0].credentials.as_ref().unwrap().ufrag, "abcd");
        assert_eq!(description.streams[0].candidates.len(), 1);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn agents_describe_themselves_to_each_other() {
        let now = Instant::now();
        let mut config = AgentConfig::new(Role::Controlling);
        config.streams = vec![2, 1];
        let [mut a, mut b] = [1, 2].map(|seed| Agent::new(config.clone(), [seed; 32]));
        let last = ComponentId::ONE.in_stream(1);
        for (agent, port) in [(&mut a, 1000), (&mut b, 2000)] {
            for component in agent.components() {
                let port = port + 10 * u16::from(component.stream()) + component.get();
                agent.add_local_socket_for(now, component, SocketAddr::new([192, 0, 2, 1].into(), port), 255);
            }
            agent.gather(now);
        }
        let (of_a, of_b) = (IceDescription::of(&a).to_string(), IceDescription::of(&b).to_string());
        IceDescription::parse(&of_b).tell(&mut a, now).unwrap();
        IceDescription::parse(&of_a).tell(&mut b, now).unwrap();
        let told = b.report().remote_candidates;
        assert_eq!(told.len(), 3);
        assert!(
            IceDescription::of(&a).streams[1].candidates.iter().all(|candidate| candidate.component == last)
        );
        assert!(b.report().pairs.iter().any(|pair| pair.stream == 1));
    }
}
