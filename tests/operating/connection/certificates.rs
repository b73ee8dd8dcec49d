//! Authorities and certificates, made by the tests.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::common::servers::{Scratch, unique};

/// A certificate authority, and the directory with its file and those of all that it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What a client trusts.
    pub(crate) file: PathBuf,
    scratch: Scratch,
}

/// A certificate, its key, and both in one file as MongoDB takes them.
pub(crate) struct Certificate {
    pub(crate) file: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) both: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("sdl test authority")
    }

    /// Two authorities of one name have different keys: each MySQL server makes one of the same name for itself.
    pub(crate) fn named(name: &str) -> Self {
        let scratch = Scratch::new("authority");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = scratch.path().join("ca.pem");
        fs::write(&file, certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
            scratch,
        }
    }

    /// A certificate for these host names and addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Certificate {
        self.sign(names, "a server", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// One that ended years ago.
    pub(crate) fn expired(&self, names: &[&str]) -> Certificate {
        self.sign(names, "an old server", |params| {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 3);
        })
    }

    /// A client's, by its common name.
    pub(crate) fn client(&self, name: &str) -> Certificate {
        self.sign(&[], name, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    fn sign(
        &self,
        names: &[&str],
        common_name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.scratch.path().join(format!("{}-{kind}.pem", unique()));
        let files = Certificate {
            file: path("certificate"),
            key: path("key"),
            both: path("both"),
        };
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        fs::write(&files.file, &certificate).unwrap();
        fs::write(&files.key, &key).unwrap();
        fs::write(&files.both, certificate + &key).unwrap();
        files
    }
}
