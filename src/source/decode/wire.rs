//! A reader over bytes from the wire: every read is checked against the end, none panics.
//!
//! Integers of the binlog are little-endian unless a type says otherwise; lengths come as MySQL's "length-encoded integer"
//! (manual: MySQL Internals, Protocol Basics; `net_field_length_ll` in mysys/pack.cc).

use super::error::DecodeError;

/// The bytes not yet read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not yet read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[cold]
    fn truncated(&self, what: &'static str, needed: usize) -> DecodeError {
        DecodeError::Truncated {
            what,
            needed,
            left: self.rest.len(),
        }
    }

    /// The next `count` bytes.
    #[inline]
    pub(crate) fn bytes(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.truncated(what, count)),
        }
    }

    /// The next `N` bytes, as an array.
    #[inline]
    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.truncated(what, N)),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array::<2>(what).map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array::<4>(what).map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array::<8>(what).map(u64::from_le_bytes)
    }

    /// A little-endian unsigned integer of 1 to 8 bytes.
    #[inline]
    pub(crate) fn unsigned(&mut self, width: u8, what: &'static str) -> Result<u64, DecodeError> {
        Ok(little_endian(self.bytes(usize::from(width), what)?))
    }

    /// MySQL's length-encoded integer.
    #[inline]
    pub(crate) fn length_encoded(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.u8(what)? {
            byte @ 0..=0xfa => Ok(u64::from(byte)),
            0xfc => self.unsigned(2, what),
            0xfd => self.unsigned(3, what),
            0xfe => self.u64(what),
            byte => Err(DecodeError::Unexpected {
                what,
                found: u64::from(byte),
                expected: "the first byte of a length-encoded integer",
            }),
        }
    }

    /// A length-encoded integer that counts something in memory.
    #[inline]
    pub(crate) fn length(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        // A length that does not fit the address space is longer than any event, and so fails as truncated.
        self.length_encoded(what)
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// A length-encoded integer, then that many bytes.
    #[inline]
    pub(crate) fn length_encoded_bytes(
        &mut self,
        what: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let length = self.length(what)?;
        self.bytes(length, what)
    }
}

/// A little-endian unsigned integer of up to 8 bytes.
#[inline]
pub(crate) fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A big-endian unsigned integer of up to 8 bytes.
#[inline]
pub(crate) fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Whether bit `index` of a bitmap is set, the least significant bit of the first byte being number 0 (as in the present
/// and NULL bitmaps of a rows event). Bits past the end are not set.
#[inline]
pub(crate) fn bit_is_set(bitmap: &[u8], index: usize) -> bool {
    bitmap
        .get(index / 8)
        .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Like [`bit_is_set`] with the most significant bit first (as in the table map's signedness and visibility).
#[inline]
pub(crate) fn bit_is_set_high_first(bitmap: &[u8], index: usize) -> bool {
    bitmap
        .get(index / 8)
        .is_some_and(|byte| byte >> (7 - index % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers_of_every_width() {
        for (bytes, value) in [
            (&[0xfa_u8][..], 0xfa),
            (&[0xfc, 0xfb, 0x00], 0xfb),
            (&[0xfd, 1, 2, 3], 0x03_02_01),
            (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 0x80], 0x8000_0000_0000_0001),
        ] {
            assert_eq!(Reader::new(bytes).length_encoded("n"), Ok(value));
        }
        assert!(Reader::new(&[0xfb]).length_encoded("n").is_err());
        assert!(Reader::new(&[0xff]).length_encoded("n").is_err());
        assert_eq!(
            Reader::new(&[0xfc, 1]).length_encoded("name length"),
            Err(DecodeError::Truncated {
                what: "name length",
                needed: 2,
                left: 1
            })
        );
    }

    #[test]
    fn bitmaps_in_both_orders() {
        assert!(
            bit_is_set(&[0b0000_0010], 1) && !bit_is_set(&[0b0000_0010], 0) && !bit_is_set(&[], 9)
        );
        assert!(
            bit_is_set_high_first(&[0b0100_0000], 1) && !bit_is_set_high_first(&[0b0100_0000], 0)
        );
    }
}
