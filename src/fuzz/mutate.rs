//! Small damage to bytes, of the kinds that a network, a disk and a misunderstanding do.

use super::Random;

/// Damages `bytes` in up to four places; pieces of `other` may come in.
pub(crate) fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.u8(0..4) {
        once(random, bytes, other);
    }
}

fn once(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.extend(piece(random, other));
        return;
    }
    let at = random.usize(..bytes.len());
    match random.u8(0..12) {
        0..=2 => bytes[at] ^= 1 << random.u8(0..8),
        3 => bytes[at] = random.u8(..),
        4 => {
            bytes[at] =
                bytes[at].wrapping_add(random.u8(..).cast_signed().clamp(-8, 8).cast_unsigned())
        }
        5 => bytes.truncate(at),
        6 => {
            let end = (at + random.usize(1..9)).min(bytes.len());
            bytes.drain(at..end);
        }
        7 => {
            let end = (at + random.usize(1..40)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            let place = random.usize(..=bytes.len());
            bytes.splice(place..place, copy);
        }
        8 | 9 => number(random, &mut bytes[at..]),
        10 => {
            let added: Vec<u8> = (0..random.usize(1..9)).map(|_| random.u8(..)).collect();
            bytes.splice(at..at, added);
        }
        _ => {
            let end = (at + random.usize(..40)).min(bytes.len());
            bytes.splice(at..end, piece(random, other));
        }
    }
}

/// Writes a number at the edge of something: of a width, of a length-encoded integer, of a sign.
fn number(random: &mut Random, place: &mut [u8]) {
    const EDGES: [u64; 16] = [
        0,
        1,
        2,
        0x7f,
        0x80,
        0xfa,
        0xfb,
        0xff,
        0x7fff,
        0xffff,
        0x00ff_ffff,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 40,
        i64::MAX as u64,
        u64::MAX,
    ];
    let edge = EDGES[random.usize(..EDGES.len())];
    let bytes = if random.bool() {
        edge.to_le_bytes()
    } else {
        edge.to_be_bytes()
    };
    let width = random.usize(1..=8);
    let bytes = if random.bool() {
        &bytes[..width]
    } else {
        &bytes[8 - width..]
    };
    for (place, byte) in place.iter_mut().zip(bytes) {
        *place = *byte;
    }
}

fn piece(random: &mut Random, other: &[u8]) -> Vec<u8> {
    let start = random.usize(..=other.len());
    let end = (start + random.usize(..64)).min(other.len());
    other[start..end].to_vec()
}
