//! What a binlog file says, in its second event, of all that stands in the files before it.
//!
//! Formats: PREVIOUS_GTIDS is `Gtid_set::encode` in MySQL's `sql/rpl_gtid_set.cc` (with tags since 8.3: the first byte and the last of
//! the count say so, and each source has its tag behind its UUID); GTID_LIST is `Gtid_list_log_event` in MariaDB's `sql/log_event.cc`.

use std::fmt::Write as _;

use crate::position::{GtidSet, format_uuid, mariadb};
use crate::source::decode::DecodeError;
use crate::source::decode::wire::Reader;

/// The count's bits in a GTID_LIST; the others are flags.
const COUNT: u32 = 0x0fff_ffff;

/// The body of a PREVIOUS_GTIDS event.
pub(super) fn previous_gtids(body: &[u8]) -> Result<GtidSet, String> {
    const WHAT: &str = "PREVIOUS_GTIDS event";
    let unreadable = |error: DecodeError| error.to_string();
    let mut reader = Reader::new(body);
    let header = reader.u64(WHAT).map_err(unreadable)?;
    let (is_tagged, sources) = match header >> 56 {
        0 => (false, header),
        1 => (true, header >> 8 & 0xffff_ffff_ffff),
        other => return Err(format!("{WHAT}: GTIDs in format {other}, expected 0 or 1")),
    };
    let mut text = String::new();
    for _ in 0..sources {
        let uuid = reader.array::<16>(WHAT).map_err(unreadable)?;
        let mut name = format_uuid(&uuid);
        if is_tagged {
            // A variable-length integer; a tag is never so long that it takes two bytes.
            let length = usize::from(reader.u8(WHAT).map_err(unreadable)?) >> 1;
            let tag = reader.bytes(length, WHAT).map_err(unreadable)?;
            if !tag.is_empty() {
                let _ = write!(name, ":{}", String::from_utf8_lossy(tag));
            }
        }
        let intervals = reader.u64(WHAT).map_err(unreadable)?;
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&name);
        for _ in 0..intervals {
            let first = reader.u64(WHAT).map_err(unreadable)?;
            let end = reader.u64(WHAT).map_err(unreadable)?;
            let _ = write!(text, ":{first}-{}", end.saturating_sub(1));
        }
    }
    if !reader.is_empty() {
        return Err(format!("{WHAT}: {} bytes too many", reader.rest().len()));
    }
    text.parse().map_err(|error| format!("{WHAT}: {error}"))
}

/// The body of a GTID_LIST event: of each domain, what each server wrote last into it.
pub(super) fn gtid_list(body: &[u8]) -> Result<Vec<mariadb::Gtid>, DecodeError> {
    const WHAT: &str = "GTID_LIST event";
    let mut reader = Reader::new(body);
    let count = reader.u32(WHAT)? & COUNT;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(mariadb::Gtid {
            domain: reader.u32(WHAT)?,
            server: reader.u32(WHAT)?,
            sequence: reader.u64(WHAT)?,
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [
        0x3e, 0x11, 0xfa, 0x47, 0x71, 0xca, 0x11, 0xe1, 0x9e, 0x33, 0xc8, 0x0a, 0xa9, 0x42, 0x95,
        0x62,
    ];
    const TEXT: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn source(body: &mut Vec<u8>, tag: Option<&str>, intervals: &[(u64, u64)]) {
        body.extend_from_slice(&UUID);
        if let Some(tag) = tag {
            body.push(u8::try_from(tag.len()).unwrap() << 1);
            body.extend_from_slice(tag.as_bytes());
        }
        body.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
        for (first, end) in intervals {
            body.extend_from_slice(&first.to_le_bytes());
            body.extend_from_slice(&end.to_le_bytes());
        }
    }

    #[test]
    fn both_formats_of_previous_gtids_are_read_and_no_damage_makes_them_panic() {
        assert_eq!(previous_gtids(&[0; 8]).unwrap(), GtidSet::new());
        let mut plain = 1_u64.to_le_bytes().to_vec();
        source(&mut plain, None, &[(1, 6), (8, 9)]);
        let expected: GtidSet = format!("{TEXT}:1-5:8").parse().unwrap();
        assert_eq!(previous_gtids(&plain).unwrap(), expected);
        let mut tagged = (1_u64 << 56 | 2 << 8 | 1).to_le_bytes().to_vec();
        source(&mut tagged, Some(""), &[(1, 6)]);
        source(&mut tagged, Some("backup"), &[(3, 4)]);
        let expected: GtidSet = format!("{TEXT}:1-5,{TEXT}:backup:3").parse().unwrap();
        assert_eq!(previous_gtids(&tagged).unwrap(), expected);
        for body in [plain, tagged] {
            for end in 0..body.len() {
                assert!(previous_gtids(&body[..end]).is_err(), "{end}");
            }
            let mut longer = body.clone();
            longer.push(0);
            assert!(previous_gtids(&longer).is_err());
            let mut many = body;
            many[4] = 0xff;
            assert!(previous_gtids(&many).is_err());
        }
    }

    #[test]
    fn a_gtid_list_is_read_without_its_flags() {
        let mut body = (2_u32 | 1 << 28).to_le_bytes().to_vec();
        for (domain, server, sequence) in [(0_u32, 1_u32, 7_u64), (0, 2, 9)] {
            body.extend_from_slice(&domain.to_le_bytes());
            body.extend_from_slice(&server.to_le_bytes());
            body.extend_from_slice(&sequence.to_le_bytes());
        }
        let list = gtid_list(&body).unwrap();
        let texts: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["0-1-7", "0-2-9"]);
        assert!(gtid_list(&body[..body.len() - 1]).is_err());
    }
}
