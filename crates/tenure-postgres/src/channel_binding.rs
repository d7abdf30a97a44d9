//! What binds a login to the TLS connection: `tls-server-end-point` of RFC 5929.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The hash of the server's certificate, by the function that its signature uses; by SHA-256 where
/// that is weaker. `None` for signatures of which the RFC does not say it.
pub(crate) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let hash = match signature_algorithm(certificate)? {
        [id @ .., last] if id == RSA => match last {
            // MD5 and SHA-1.
            4 | 5 | 11 => Sha256::digest(certificate).to_vec(),
            12 => Sha384::digest(certificate).to_vec(),
            13 => Sha512::digest(certificate).to_vec(),
            _ => return None,
        },
        id => match id.strip_prefix(ECDSA)? {
            [1] | [3, 2] => Sha256::digest(certificate).to_vec(),
            [3, 3] => Sha384::digest(certificate).to_vec(),
            [3, 4] => Sha512::digest(certificate).to_vec(),
            _ => return None,
        },
    };
    Some(hash)
}

/// The object identifier behind the part of a certificate that is signed.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate)?;
    let (_signed, rest) = element(certificate)?;
    let (algorithm, _) = element(rest)?;
    let (identifier, _) = element(algorithm)?;
    Some(identifier)
}

/// What is in the first element of DER, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let fold = |length: usize, byte: &u8| length.checked_mul(256)?.checked_add((*byte).into());
        (bytes.iter().try_fold(0, fold)?, rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(identifier: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, inner: &[u8]| {
            let length = u8::try_from(inner.len()).unwrap();
            [&[tag, 0x81, length], inner].concat()
        };
        let algorithm = wrap(0x30, &wrap(0x06, identifier));
        wrap(
            0x30,
            &[wrap(0x30, b"signed"), algorithm, wrap(0x03, b"x")].concat(),
        )
    }

    #[test]
    fn the_certificate_is_hashed_as_it_is_signed() {
        let rsa = |last| certificate(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last]);
        let ecdsa = |last| certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, last]);
        let bytes = |der: Vec<u8>| server_end_point(&der).map(|hash| hash.len());
        assert_eq!(bytes(rsa(5)), Some(32));
        assert_eq!(bytes(rsa(12)), Some(48));
        assert_eq!(bytes(ecdsa(2)), Some(32));
        assert_eq!(bytes(ecdsa(4)), Some(64));
        // RSASSA-PSS, Ed25519, and no certificate.
        assert_eq!(bytes(rsa(10)), None);
        assert_eq!(bytes(certificate(&[0x2b, 0x65, 0x70])), None);
        for broken in [
            &[][..],
            &[0x30],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 5, 1],
        ] {
            assert_eq!(server_end_point(broken), None);
        }
    }
}
