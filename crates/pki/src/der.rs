//! As much of DER as a certificate needs. Must not read any.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use time::OffsetDateTime;

/// A value of a kind.
pub(crate) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or(0));
    } else {
        let bytes = length.to_be_bytes();
        let from = bytes.iter().position(|b| *b != 0).unwrap_or(0);
        let used = &bytes[from..];
        out.push(0x80 | u8::try_from(used.len()).unwrap_or(0));
        out.extend_from_slice(used);
    }
    out.extend_from_slice(content);
    out
}

/// Values in order.
pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

/// A name in the tree of names, encoded already.
pub(crate) fn oid(encoded: &[u8]) -> Vec<u8> {
    tagged(0x06, encoded)
}

/// Bits, of which the last `unused` do not count.
pub(crate) fn bits(unused: u8, content: &[u8]) -> Vec<u8> {
    tagged(0x03, &[&[unused], content].concat())
}

/// A moment, to the second.
pub(crate) fn time(at: OffsetDateTime) -> Vec<u8> {
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let rest = format!(
        "{month:02}{day:02}{:02}{:02}{:02}Z",
        at.hour(),
        at.minute(),
        at.second()
    );
    if (1950..2050).contains(&year) {
        tagged(0x17, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        tagged(0x18, format!("{year:04}{rest}").as_bytes())
    }
}

/// How a key signs; `None` for kinds that authorities do not have.
pub(crate) fn algorithm(of: &SignatureAlgorithm) -> Option<Vec<u8>> {
    let null = tagged(0x05, &[]);
    let (name, parameters) = if *of == PKCS_ECDSA_P256_SHA256 {
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2][..], None)
    } else if *of == PKCS_ECDSA_P384_SHA384 {
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3][..], None)
    } else if *of == PKCS_ED25519 {
        (&[0x2b, 0x65, 0x70][..], None)
    } else if *of == PKCS_RSA_SHA256 {
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11][..], Some(null))
    } else {
        return None;
    };
    Some(sequence(&[oid(name), parameters.unwrap_or_default()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_times() {
        assert_eq!(tagged(4, &[7]), [4, 1, 7]);
        assert_eq!(tagged(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(tagged(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        assert_eq!(time(at(0))[2..], *b"700101000000Z");
        assert_eq!(time(at(2_524_608_000))[2..], *b"20500101000000Z");
    }
}
