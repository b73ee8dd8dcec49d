//! MariaDB's UUID, INET6 and INET4 as the text that SELECT gives.
//!
//! The binlog has their bytes in the order of the text, as a BINARY(n) without its trailing 0x00, whatever order the storage
//! engine keeps them in. Where the forms come from: `UUID::to_string` in plugin/type_uuid, `Inet6::to_string` and
//! `Inet4::to_string` in plugin/type_inet.

use std::io::Write;

use super::error::DecodeError;

/// The bytes of a value, with the trailing 0x00 that the server cut off.
fn padded<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    let mut value = [0; N];
    match value.get_mut(..bytes.len()) {
        Some(front) => front.copy_from_slice(bytes),
        None => {
            return Err(DecodeError::Unexpected {
                what,
                found: bytes.len() as u64,
                expected: "at most the bytes of the type",
            });
        }
    }
    Ok(value)
}

/// `123e4567-e89b-12d3-a456-426655440000`.
pub(super) fn append_uuid(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let value: [u8; 16] = padded("length of a UUID", bytes)?;
    for (index, byte) in value.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        // Writing into a vector does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    Ok(())
}

/// `10.1.2.3`.
pub(super) fn append_inet4(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let value: [u8; 4] = padded("length of an INET4", bytes)?;
    let _ = write!(out, "{}", std::net::Ipv4Addr::from(value));
    Ok(())
}

/// `2001:db8::1`: the first of the longest runs of zero words is `::`, also when it is one word; the last two words are
/// written as an INET4 behind six words of zero, or five and `ffff`. (`Ipv6Addr` of the standard library differs in both.)
pub(super) fn append_inet6(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let value: [u8; 16] = padded("length of an INET6", bytes)?;
    let words = std::net::Ipv6Addr::from(value).segments();
    let (gap, gap_length) = longest_gap(&words);
    let is_mapped = gap_length == 5 && words.get(5) == Some(&0xffff);
    let ends_as_inet4 = gap == 0 && (gap_length == 6 || is_mapped);
    let mut index = 0;
    while let Some(word) = words.get(index) {
        if index == gap && gap_length > 0 {
            out.extend_from_slice(if index == 0 { b"::" } else { b":" });
            index += gap_length;
        } else if index == 6 && ends_as_inet4 {
            return append_inet4(value.get(12..).unwrap_or_default(), out);
        } else {
            let _ = write!(out, "{word:x}");
            if index + 1 < words.len() {
                out.push(b':');
            }
            index += 1;
        }
    }
    Ok(())
}

/// Where the first of the longest runs of zero words begins, and its length; 0 when no word is zero.
fn longest_gap(words: &[u16]) -> (usize, usize) {
    let mut longest = (0, 0);
    let mut length = 0;
    for (index, word) in words.iter().enumerate() {
        length = if *word == 0 { length + 1 } else { 0 };
        if length > longest.1 {
            longest = (index + 1 - length, length);
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    type Append = fn(&[u8], &mut Vec<u8>) -> Result<(), DecodeError>;

    fn text(append: Append, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        append(bytes, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_those_of_the_server() {
        let uuid = b"\xff\xee\xdd\xcc\xbb\xaa\x12\x34\x87\x65\x00\x11\x22\x33\x44\x55";
        assert_eq!(
            text(append_uuid, uuid),
            "ffeeddcc-bbaa-1234-8765-001122334455"
        );
        assert_eq!(
            text(append_uuid, b""),
            "00000000-0000-0000-0000-000000000000"
        );
        assert_eq!(text(append_inet4, b"\x0a\x01"), "10.1.0.0");
        // Each asked from MariaDB 11.8.
        for (address, shown) in [
            ("::", "::"),
            ("::1", "::1"),
            ("::1:2", "::0.1.0.2"),
            ("::ffff:a0b:c0d", "::ffff:10.11.12.13"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:0:1:1:1:1:1:1", "2001::1:1:1:1:1:1"),
            ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
            ("1:0:0:2:0:0:3:4", "1::2:0:0:3:4"),
            ("fe80::", "fe80::"),
            ("1:2:3:4:5:6:7:0", "1:2:3:4:5:6:7::"),
            ("0:1:2:3:4:5:6:7", "::1:2:3:4:5:6:7"),
        ] {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            assert_eq!(text(append_inet6, &address.octets()), shown);
        }
    }

    #[test]
    fn too_many_bytes_are_an_error() {
        for append in [append_uuid as Append, append_inet6, append_inet4] {
            assert!(append(&[1; 17], &mut Vec::new()).is_err());
        }
    }
}
