//! MySQL's binary JSON, read in place.
//!
//! Where the format comes from: the server's sql-common/json_binary.h (its comment is the specification) and .cc. In short:
//! a type byte, then a scalar, or a container: element count, byte count, for objects one entry for each key (offset and
//! length), one entry for each value (type, and either the value itself when small or its offset). Offsets count from the
//! container's start and are 2 bytes in small containers, 4 in large ones.
//!
//! Guarantees: every offset and length is checked against its container, as the server does; whatever the bytes, the work is
//! bounded by their number ([`Budget`]), since containers that share their content, which the server never writes, would
//! otherwise unfold without end. Writing to BSON is in `json_bson`, to text in `json_text`.

use std::borrow::Cow;

use super::error::DecodeError;
use super::temporal::JsonTemporal;
use super::wire::{Reader, little_endian};

/// A value still in MySQL's form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binary<'a> {
    type_code: u8,
    data: &'a [u8],
}

/// A value that may have been changed by a diff: what lies on the way to a change is unfolded, the rest is as it came.
#[derive(Debug, Clone)]
pub(crate) enum Node<'a> {
    Binary(Binary<'a>),
    Array(Vec<Node<'a>>),
    /// Members in MySQL's order: short keys first, keys of one length by their bytes.
    Object(Vec<(Cow<'a, [u8]>, Node<'a>)>),
}

/// A value with its scalars taken apart.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Null,
    Boolean(bool),
    Signed(i64),
    Unsigned(u64),
    Double(f64),
    /// UTF-8, unless the server was careless.
    String(&'a [u8]),
    /// Precision, scale, and the binary decimal.
    Decimal(u8, u8, &'a [u8]),
    Temporal(JsonTemporal, &'a [u8]),
    /// MySQL's type number and the bytes.
    Opaque(u8, &'a [u8]),
    Array(Container<'a>),
    Object(Container<'a>),
}

/// An array or an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a> {
    data: &'a [u8],
    count: usize,
    large: bool,
    is_object: bool,
}

/// How many bytes may yet be visited; as many as there are.
#[derive(Debug)]
pub(crate) struct Budget(usize);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Takes note that `bytes` were visited.
    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(DecodeError::Json("its values overlap")),
        }
    }
}

impl<'a> Binary<'a> {
    /// A column's value. No bytes at all stand for the JSON null, as in the server: they come from INSERT IGNORE.
    pub(crate) fn parse(bytes: &'a [u8]) -> Self {
        match bytes.split_first() {
            Some((type_code, data)) => Self {
                type_code: *type_code,
                data,
            },
            None => Self {
                type_code: 0x04,
                data: &[0],
            },
        }
    }

    /// The bytes from which this value is read; more than it takes.
    pub(crate) fn byte_count(&self) -> usize {
        self.data.len() + 1
    }

    #[inline]
    pub(crate) fn value(&self) -> Result<Value<'a>, DecodeError> {
        let mut reader = Reader::new(self.data);
        const WHAT: &str = "binary JSON scalar";
        Ok(match self.type_code {
            0x00 => Value::Object(Container::parse(self.data, false, true)?),
            0x01 => Value::Object(Container::parse(self.data, true, true)?),
            0x02 => Value::Array(Container::parse(self.data, false, false)?),
            0x03 => Value::Array(Container::parse(self.data, true, false)?),
            0x04 => match reader.u8(WHAT)? {
                0 => Value::Null,
                1 => Value::Boolean(true),
                2 => Value::Boolean(false),
                _ => {
                    return Err(DecodeError::Json(
                        "a literal that is not null, true or false",
                    ));
                }
            },
            0x05 => Value::Signed(i64::from(i16::from_le_bytes(reader.array(WHAT)?))),
            0x06 => Value::Unsigned(u64::from(reader.u16(WHAT)?)),
            0x07 => Value::Signed(i64::from(i32::from_le_bytes(reader.array(WHAT)?))),
            0x08 => Value::Unsigned(u64::from(reader.u32(WHAT)?)),
            0x09 => Value::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
            0x0a => Value::Unsigned(reader.u64(WHAT)?),
            0x0b => match f64::from_le_bytes(reader.array(WHAT)?) {
                value if value.is_finite() => Value::Double(value),
                _ => return Err(DecodeError::Json("a double that is not finite")),
            },
            0x0c => {
                let length = variable_length(&mut reader)?;
                Value::String(reader.bytes(length, "binary JSON string")?)
            }
            0x0f => {
                let field_type = reader.u8(WHAT)?;
                let length = variable_length(&mut reader)?;
                opaque(
                    field_type,
                    reader.bytes(length, "binary JSON opaque value")?,
                )?
            }
            _ => return Err(DecodeError::Json("a type that is not known")),
        })
    }
}

/// A length in groups of 7 bits, the least significant first; the high bit says that more follow. At most 5 bytes.
#[inline]
fn variable_length(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let mut length = 0_u64;
    for group in 0..5 {
        let byte = reader.u8("binary JSON length")?;
        length |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return Ok(usize::try_from(length).unwrap_or(usize::MAX));
        }
    }
    Err(DecodeError::Json("a length of more than 5 bytes"))
}

/// A value of a type that JSON does not have, told by MySQL's field type.
fn opaque(field_type: u8, data: &[u8]) -> Result<Value<'_>, DecodeError> {
    Ok(match field_type {
        246 => {
            let (precision, scale, bytes) = super::decimal::split_json(data)?;
            Value::Decimal(precision, scale, bytes)
        }
        10 => Value::Temporal(JsonTemporal::Date, data),
        11 => Value::Temporal(JsonTemporal::Time, data),
        // DATETIME and TIMESTAMP.
        12 | 7 => Value::Temporal(JsonTemporal::DateTime, data),
        // The server prints a VAR_STRING as a string.
        253 => Value::String(data),
        _ => Value::Opaque(field_type, data),
    })
}

impl<'a> Container<'a> {
    fn parse(data: &'a [u8], large: bool, is_object: bool) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(data);
        let width = if large { 4 } else { 2 };
        let count = reader.unsigned(width, "binary JSON element count")? as usize;
        let length = reader.unsigned(width, "binary JSON size")? as usize;
        let data = data
            .get(..length)
            .ok_or(DecodeError::Json("a container longer than its bytes"))?;
        let container = Self {
            data,
            count,
            large,
            is_object,
        };
        if container.header_length() > length {
            return Err(DecodeError::Json(
                "a container with more elements than bytes",
            ));
        }
        Ok(container)
    }

    fn offset_width(&self) -> usize {
        if self.large { 4 } else { 2 }
    }

    fn key_entry_width(&self) -> usize {
        if self.is_object {
            self.offset_width() + 2
        } else {
            0
        }
    }

    pub(crate) fn value_entry_width(&self) -> usize {
        self.offset_width() + 1
    }

    /// The length of the two counts and all entries.
    pub(crate) fn header_length(&self) -> usize {
        2 * self.offset_width() + self.count * (self.key_entry_width() + self.value_entry_width())
    }

    /// How many elements or members there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The key of member `index`.
    #[inline]
    pub(crate) fn key(&self, index: usize) -> Result<&'a [u8], DecodeError> {
        let entry = 2 * self.offset_width() + index * self.key_entry_width();
        let entry = self
            .data
            .get(entry..entry + self.key_entry_width())
            .unwrap_or_default();
        let (offset, length) = entry
            .split_at_checked(self.offset_width())
            .unwrap_or_default();
        let (offset, length) = (
            little_endian(offset) as usize,
            little_endian(length) as usize,
        );
        if offset < self.header_length() {
            return Err(DecodeError::Json("a key inside its object's header"));
        }
        self.data
            .get(offset..offset + length)
            .ok_or(DecodeError::Json("a key outside its object"))
    }

    /// The value of element or member `index`.
    #[inline]
    pub(crate) fn element(&self, index: usize) -> Result<Binary<'a>, DecodeError> {
        let entry_start = 2 * self.offset_width() + self.count * self.key_entry_width();
        let entry_start = entry_start + index * self.value_entry_width();
        let entry_end = entry_start + self.value_entry_width();
        let entry = self.data.get(entry_start..entry_end).unwrap_or_default();
        let Some((&type_code, place)) = entry.split_first() else {
            return Err(DecodeError::Json("an element outside its container"));
        };
        // Literals and 16-bit integers stand in the entry itself, in large containers 32-bit integers too.
        if matches!(type_code, 0x04..=0x06) || self.large && matches!(type_code, 0x07 | 0x08) {
            return Ok(Binary {
                type_code,
                data: place,
            });
        }
        let offset = little_endian(place) as usize;
        if offset < entry_end {
            return Err(DecodeError::Json("an offset that points backwards"));
        }
        let data = self
            .data
            .get(offset..)
            .ok_or(DecodeError::Json("an offset outside its container"))?;
        Ok(Binary { type_code, data })
    }
}

impl<'a> Node<'a> {
    /// Unfolds a container by one level, so that it can be changed; a scalar stays as it is.
    pub(crate) fn unfold(&mut self, budget: &mut Budget) -> Result<(), DecodeError> {
        if let Node::Binary(binary) = self {
            match binary.value()? {
                Value::Array(container) => {
                    budget.spend(container.header_length())?;
                    let elements = (0..container.count())
                        .map(|index| container.element(index).map(Node::Binary));
                    *self = Node::Array(elements.collect::<Result<_, _>>()?);
                }
                Value::Object(container) => {
                    budget.spend(container.header_length())?;
                    let members = (0..container.count()).map(|index| {
                        Ok((
                            Cow::Borrowed(container.key(index)?),
                            Node::Binary(container.element(index)?),
                        ))
                    });
                    *self = Node::Object(members.collect::<Result<_, DecodeError>>()?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_that_json_cannot_say_is_an_error() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let bytes = [&[0x0b][..], &value.to_le_bytes()].concat();
            assert!(Binary::parse(&bytes).value().is_err());
        }
    }
}
