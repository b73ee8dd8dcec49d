//! JSON written as BSON, straight from MySQL's binary form.
//!
//! Guarantees: numbers keep their kind and value (integers Int32 where they fit, else Int64, above 2^63-1 Decimal128;
//! decimals Decimal128, beyond 34 digits String); keys keep MySQL's order. What BSON or MongoDB cannot hold (a NUL in a key,
//! nesting past [`NESTING_LEVELS`]) is not bent but refused with [`Stop::NotBson`], and stored as text by the caller.

use super::decimal;
use super::error::DecodeError;
use super::json::{Binary, Budget, Container, Node, Value};
use super::temporal;
use crate::bson_writer::{self, element};

/// How deep arrays and objects may nest; default 90: MongoDB takes 100, and the value stands in `after`, that in its
/// document, and that in the staging document's array.
const NESTING_LEVELS: usize = 90;

/// Why a value was not written as BSON.
#[derive(Debug)]
pub(crate) enum Stop {
    /// MySQL's bytes are malformed.
    Malformed(DecodeError),
    /// BSON or MongoDB cannot hold it: it must become text.
    NotBson,
    /// It is larger than the limit.
    TooLarge,
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// Writes JSON values.
pub(crate) struct Writer<'o> {
    pub(crate) out: &'o mut Vec<u8>,
    /// Where `out` may not grow past.
    pub(crate) end: usize,
    pub(crate) budget: Budget,
    /// Strings that were not UTF-8, which are written as Binary.
    pub(crate) undecodable: u32,
}

/// What a value's element is called: a key that is written already up to its type, whose place is known.
type TypePlace = usize;

impl Writer<'_> {
    /// Writes one element: `key_with_nul`, then the value.
    pub(crate) fn element(&mut self, key_with_nul: &[u8], node: &Node<'_>) -> Result<(), Stop> {
        let place = self.out.len();
        bson_writer::element(self.out, element::NULL, key_with_nul);
        self.node(place, node, 0)
    }

    fn set_type(&mut self, place: TypePlace, element_type: u8) {
        if let Some(byte) = self.out.get_mut(place) {
            *byte = element_type;
        }
    }

    fn node(&mut self, place: TypePlace, node: &Node<'_>, depth: usize) -> Result<(), Stop> {
        match node {
            Node::Binary(binary) => self.binary(place, *binary, depth),
            Node::Array(elements) => {
                self.set_type(place, element::ARRAY);
                let start = self.begin(depth)?;
                for (index, node) in elements.iter().enumerate() {
                    let place = self.array_key(index)?;
                    self.node(place, node, depth + 1)?;
                }
                bson_writer::end_document(self.out, start);
                Ok(())
            }
            Node::Object(members) => {
                self.set_type(place, element::DOCUMENT);
                let start = self.begin(depth)?;
                for (key, node) in members {
                    let place = self.object_key(key)?;
                    self.node(place, node, depth + 1)?;
                }
                bson_writer::end_document(self.out, start);
                Ok(())
            }
        }
    }

    fn begin(&mut self, depth: usize) -> Result<usize, Stop> {
        if depth >= NESTING_LEVELS {
            return Err(Stop::NotBson);
        }
        Ok(bson_writer::begin_document(self.out))
    }

    fn array_key(&mut self, index: usize) -> Result<TypePlace, Stop> {
        self.check_size()?;
        let place = self.out.len();
        bson_writer::array_element(self.out, element::NULL, index);
        Ok(place)
    }

    fn object_key(&mut self, key: &[u8]) -> Result<TypePlace, Stop> {
        self.check_size()?;
        if key.contains(&0) {
            return Err(Stop::NotBson);
        }
        if std::str::from_utf8(key).is_err() {
            return Err(Stop::Malformed(DecodeError::NotUtf8(
                "a key in binary JSON",
            )));
        }
        let place = self.out.len();
        bson_writer::element(self.out, element::NULL, key);
        self.out.push(0);
        Ok(place)
    }

    #[inline]
    fn check_size(&self) -> Result<(), Stop> {
        if self.out.len() > self.end {
            Err(Stop::TooLarge)
        } else {
            Ok(())
        }
    }

    fn binary(&mut self, place: TypePlace, binary: Binary<'_>, depth: usize) -> Result<(), Stop> {
        let element_type = match binary.value()? {
            // A JSON null that is the whole value: BSON's null is the column's NULL already, and the two are not the same.
            Value::Null if depth == 0 => return Err(Stop::NotBson),
            Value::Null => element::NULL,
            Value::Boolean(value) => {
                self.out.push(u8::from(value));
                element::BOOLEAN
            }
            Value::Signed(value) => self.integer(value),
            Value::Unsigned(value) => match i64::try_from(value) {
                Ok(value) => self.integer(value),
                Err(_) => {
                    self.out
                        .extend_from_slice(&decimal::decimal128(false, u128::from(value), 0));
                    element::DECIMAL128
                }
            },
            Value::Double(value) => {
                bson_writer::double(self.out, value);
                element::DOUBLE
            }
            Value::String(bytes) => {
                self.budget.spend(bytes.len())?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => {
                        bson_writer::string(self.out, text);
                        element::STRING
                    }
                    Err(_) => {
                        self.undecodable += 1;
                        bson_writer::binary(self.out, bytes);
                        element::BINARY
                    }
                }
            }
            Value::Decimal(precision, scale, bytes) => {
                if precision <= decimal::DECIMAL128_DIGITS {
                    self.out
                        .extend_from_slice(&decimal::to_decimal128(precision, scale, bytes)?);
                    element::DECIMAL128
                } else {
                    let start = bson_writer::begin_string(self.out);
                    decimal::append_text(precision, scale, bytes, self.out)?;
                    bson_writer::end_string(self.out, start);
                    element::STRING
                }
            }
            Value::Temporal(kind, data) => {
                let start = bson_writer::begin_string(self.out);
                temporal::append_json(kind, data, self.out)?;
                bson_writer::end_string(self.out, start);
                element::STRING
            }
            Value::Opaque(_, bytes) => {
                self.budget.spend(bytes.len())?;
                bson_writer::binary(self.out, bytes);
                element::BINARY
            }
            Value::Array(container) => return self.container(place, container, false, depth),
            Value::Object(container) => return self.container(place, container, true, depth),
        };
        self.set_type(place, element_type);
        self.check_size()
    }

    #[inline]
    fn integer(&mut self, value: i64) -> u8 {
        match i32::try_from(value) {
            Ok(value) => {
                bson_writer::int32(self.out, value);
                element::INT32
            }
            Err(_) => {
                bson_writer::int64(self.out, value);
                element::INT64
            }
        }
    }

    fn container(
        &mut self,
        place: TypePlace,
        container: Container<'_>,
        is_object: bool,
        depth: usize,
    ) -> Result<(), Stop> {
        self.set_type(
            place,
            if is_object {
                element::DOCUMENT
            } else {
                element::ARRAY
            },
        );
        self.budget.spend(container.header_length())?;
        let start = self.begin(depth)?;
        for index in 0..container.count() {
            let place = if is_object {
                let key = container.key(index)?;
                self.budget.spend(key.len())?;
                self.object_key(key)?
            } else {
                self.array_key(index)?
            };
            self.binary(place, container.element(index)?, depth + 1)?;
        }
        bson_writer::end_document(self.out, start);
        self.check_size()
    }
}
