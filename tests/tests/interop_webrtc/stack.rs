//! What WebRTC stacks on a path: DTLS with certificates that are known by their fingerprints (RFC 8122), and SCTP (RFC 8261).

use std::sync::Arc;

use dtls::config::{ClientAuthType, Config, ExtendedMasterSecretType};
use dtls::conn::DTLSConn;
use dtls::crypto::Certificate;
use dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use sha2::{Digest, Sha256};
use thirl_ice_agent::driver::Path;
use webrtc_sctp::association::{Association, Config as SctpConfig};

/// The SCTP port of data channels (RFC 8841).
pub(crate) const SCTP_PORT: u16 = 5000;

/// Which side begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    Active,
    Passive,
}

/// Who this side is.
pub(crate) struct Identity(Certificate);

impl Identity {
    pub(crate) fn new() -> Identity {
        Identity(Certificate::generate_self_signed(vec!["thirl".to_owned()]).unwrap())
    }

    /// As in SDP: `AB:CD:…`.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.0.certificate[0])
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    let digest = Sha256::digest(certificate);
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// SCTP over DTLS over a path, with a peer of this fingerprint and no other.
pub(crate) async fn associate(path: Path, setup: Setup, identity: Identity, peer: String) -> Association {
    // webrtc-rs asks for the process's own, of which this workspace's tests have two to choose from.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let verify = move |certificates: &[Vec<u8>], _: &[_]| match certificates.first() {
        Some(certificate) if fingerprint(certificate) == peer => Ok(()),
        _ => Err(dtls::Error::Other("another certificate than its fingerprint says".to_owned())),
    };
    let config = Config {
        certificates: vec![identity.0],
        // It is the fingerprint that proves the peer.
        insecure_skip_verify: true,
        // Browsers offer SRTP whatever is to come.
        srtp_protection_profiles: vec![SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80],
        client_auth: ClientAuthType::RequireAnyClientCert,
        extended_master_secret: ExtendedMasterSecretType::Require,
        verify_peer_certificate: Some(Arc::new(verify)),
        ..Config::default()
    };
    let is_client = setup == Setup::Active;
    let secured = DTLSConn::new(Arc::new(path), config, is_client, None).await.unwrap();
    let config = SctpConfig {
        net_conn: Arc::new(secured),
        max_receive_buffer_size: 0,
        max_message_size: 0,
        mtu: 0,
        name: format!("{setup:?}"),
        remote_port: SCTP_PORT,
        local_port: SCTP_PORT,
    };
    match setup {
        Setup::Active => Association::client(config).await.unwrap(),
        Setup::Passive => Association::server(config).await.unwrap(),
    }
}
