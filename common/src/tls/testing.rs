//! Certificates for tests.

use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm, date_time_ymd};

/// A certificate for `turn.example`, good from one year to another, and its key of this kind, in PEM.
pub(crate) fn pem(algorithm: &'static SignatureAlgorithm, years: (i32, i32)) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["turn.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}
