//! What the server's information_schema says of a table: asked when a TABLE_MAP event does not tell enough.
//!
//! It tells the present, while the binlog tells the past. So an [`Answer`] is taken between two readings of the set of
//! executed transactions, and `lookup` decides by them for which events it holds. For that, a schema change whose effect the
//! answer shows must be in the second reading. MySQL makes a change visible a moment before it counts it as executed, but holds
//! the table's metadata lock until after; so behind the question the table is opened once, which waits for that lock.
//!
//! Every question is bounded in time: a table that is locked, or a server with a hundred thousand of them, must not hold up
//! the stream.
//!
//! Manuals: "The INFORMATION_SCHEMA COLUMNS Table" of both servers.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::column::{ColumnKind, Label, StringShape};
use super::lookup::Wanted;
use crate::config::{Config, MysqlAddress};
use crate::error::{Error, Kind, Result};
use crate::position::{Flavor, Gtid, GtidSet};
use crate::source::connect::{self, classify_after_login};
use crate::source::decode::Charset;

/// Longest wait for names: without them columns are recorded by number, and the stream goes on.
const PATIENCE_FOR_NAMES: Duration = Duration::from_secs(2);

/// Longest wait for types: without them the stream cannot go on, and the connection is made anew.
const PATIENCE_FOR_TYPES: Duration = Duration::from_secs(15);

const COLUMNS: &str = "SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, CHARACTER_OCTET_LENGTH, CHARACTER_SET_NAME, EXTRA \
     FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";

const KEY: &str = "SELECT COLUMN_NAME FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX";

/// A table as it is now.
#[derive(Debug)]
pub(in crate::source) struct Answer {
    /// What was executed before the question: every schema change among it shows in the answer.
    pub(super) before: GtidSet,
    /// What was executed after it: no schema change shows in the answer that is not among it.
    pub(super) after: GtidSet,
    /// None when the table is not there, or the account may not see it.
    pub(super) table: Option<TableNow>,
}

/// Columns and key of a table.
#[derive(Debug, Default)]
pub(super) struct TableNow {
    pub(super) columns: Vec<ColumnNow>,
    /// Indexes into `columns`, in key order.
    pub(super) key: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct ColumnNow {
    pub(super) name: String,
    /// None for a type that is not known here.
    pub(super) kind: Option<ColumnKind>,
    pub(super) nullable: bool,
    pub(super) visible: bool,
}

/// Asks one server, on a connection of its own that is made when it is first needed.
pub(in crate::source) struct InformationSchema<'a> {
    config: &'a Config,
    address: &'a MysqlAddress,
    flavor: Flavor,
    connection: Option<Conn>,
}

impl<'a> InformationSchema<'a> {
    pub(in crate::source) fn new(
        config: &'a Config,
        address: &'a MysqlAddress,
        flavor: Flavor,
    ) -> Self {
        Self {
            config,
            address,
            flavor,
            connection: None,
        }
    }

    /// Asks for one table.
    ///
    /// # Errors
    /// [`Kind::SourceUnavailable`] when there is no answer in time.
    pub(in crate::source) async fn ask(&mut self, wanted: &Wanted) -> Result<Answer> {
        let patience = if wanted.is_required {
            PATIENCE_FOR_TYPES
        } else {
            PATIENCE_FOR_NAMES
        };
        // Whatever goes wrong, a connection with half an answer in it is not used again. One that was idle may have been closed.
        let used_before = self.connection.take();
        let asked = async {
            match used_before {
                Some(connection) => match self.ask_on(connection, wanted).await {
                    Err(error) if error.is_transient() => {
                        self.ask_on(self.connect().await?, wanted).await
                    }
                    other => other,
                },
                None => self.ask_on(self.connect().await?, wanted).await,
            }
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok((connection, answer))) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(
                Kind::SourceUnavailable,
                format!(
                    "information_schema of {} gave no answer on table {}.{} within {} s; is the table locked?",
                    self.address,
                    wanted.database,
                    wanted.table,
                    patience.as_secs()
                ),
            )),
        }
    }

    async fn connect(&self) -> Result<Conn> {
        let mut connection = connect::connect(self.config, self.address).await?;
        // Without autocommit the first question would fix what all later ones see, and keep the tables' locks. And a question that
        // nobody waits for any more is not to wait on in the server for ever; longer than here, though, since there a table that
        // is locked for too long looks like one that is not there.
        let settings = format!(
            "SET SESSION autocommit = 1, SESSION lock_wait_timeout = {}",
            2 * PATIENCE_FOR_TYPES.as_secs()
        );
        let outcome = connection.query_drop(settings).await;
        outcome
            .map_err(|error| classify_after_login("set up a connection for questions", &error))?;
        Ok(connection)
    }

    async fn ask_on(&self, mut connection: Conn, wanted: &Wanted) -> Result<(Conn, Answer)> {
        let doing = format!(
            "look up table {}.{} in information_schema",
            wanted.database, wanted.table
        );
        let failed = |error| classify_after_login(&doing, &error);
        let before = executed(&mut connection, self.flavor).await?;
        let of_table = (&wanted.database, &wanted.table);
        let rows: Vec<Row> = connection.exec(COLUMNS, of_table).await.map_err(failed)?;
        let key: Vec<String> = connection.exec(KEY, of_table).await.map_err(failed)?;
        let is_open = !wanted.names || opens(&mut connection, wanted).await?;
        let after = executed(&mut connection, self.flavor).await?;
        let table = (is_open && !rows.is_empty()).then(|| table(self.flavor, rows, &key));
        let answer = Answer {
            before,
            after,
            table,
        };
        Ok((connection, answer))
    }
}

async fn executed(connection: &mut Conn, flavor: Flavor) -> Result<GtidSet> {
    // A MariaDB replica made from a backup has executed what its binlog does not hold.
    let query = match flavor {
        Flavor::Mysql => "SELECT @@global.gtid_executed, ''",
        Flavor::Mariadb => "SELECT @@global.gtid_binlog_pos, @@global.gtid_slave_pos",
    };
    let doing = "ask which transactions were executed";
    let texts: Option<(String, String)> = connection
        .query_first(query)
        .await
        .map_err(|error| classify_after_login(doing, &error))?;
    let parse = |text: String| -> Result<GtidSet> {
        text.parse()
            .map_err(|error| Error::new(Kind::SourceUnavailable, format!("{doing}: {error}")))
    };
    let (logged, applied) = texts.unwrap_or_default();
    let mut executed = parse(logged)?;
    for gtid in parse(applied)?.mariadb().iter() {
        executed.add(&Gtid::Mariadb(*gtid));
    }
    Ok(executed)
}

/// Opens the table's definition, which waits until a schema change that holds it is over, and for nothing else: not for LOCK
/// TABLES, nor for a transaction. It takes no right but to see the definition. False when there is none to be seen.
async fn opens(connection: &mut Conn, wanted: &Wanted) -> Result<bool> {
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let query = format!(
        "SHOW CREATE TABLE {}.{}",
        quoted(&wanted.database),
        quoted(&wanted.table)
    );
    match connection.query_drop(query).await {
        Ok(()) => Ok(true),
        Err(mysql_async::Error::Server(_)) => Ok(false),
        Err(error) => Err(classify_after_login(
            "look up a table in information_schema",
            &error,
        )),
    }
}

fn table(flavor: Flavor, rows: Vec<Row>, key: &[String]) -> TableNow {
    let columns: Vec<ColumnNow> = rows
        .into_iter()
        .map(|row| {
            let text = |index: usize| -> Option<String> {
                let value: Option<Option<String>> =
                    row.get_opt(index).and_then(std::result::Result::ok);
                value.flatten()
            };
            let octets: Option<Option<u64>> = row.get_opt(3).and_then(std::result::Result::ok);
            let charset = text(4);
            let kind = column_kind(
                flavor,
                &text(1).unwrap_or_default(),
                octets.flatten(),
                charset.as_deref(),
            );
            ColumnNow {
                name: text(0).unwrap_or_default(),
                kind,
                nullable: text(2).as_deref() == Some("YES"),
                visible: !text(5).unwrap_or_default().contains("INVISIBLE"),
            }
        })
        .collect();
    let key = key
        .iter()
        .filter_map(|name| columns.iter().position(|column| column.name == *name))
        .collect();
    TableNow { columns, key }
}

/// The type that COLUMN_TYPE and its like describe.
pub(super) fn column_kind(
    flavor: Flavor,
    column_type: &str,
    octets: Option<u64>,
    charset: Option<&str>,
) -> Option<ColumnKind> {
    let name_end = column_type
        .find(|character: char| !character.is_ascii_alphanumeric())
        .unwrap_or(column_type.len());
    let (name, rest) = column_type.split_at(name_end);
    let charset = charset.map(Charset::of_name);
    if matches!(name, "enum" | "set") {
        return enum_or_set(name, rest, charset);
    }
    // What no other type has: `(length)`, then attributes, then MariaDB's marks in comments.
    if rest.contains("COMPRESSED*/") {
        return None;
    }
    let is_old = rest.contains("/* mariadb-5.3 */");
    let arguments: Vec<u32> = rest
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map(|(arguments, _)| arguments.split(',').map_while(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    let argument = |index: usize| arguments.get(index).copied();
    let small = |index: usize| argument(index).and_then(|number| u8::try_from(number).ok());
    let fraction_digits = small(0).unwrap_or(0);
    let integer = |width| ColumnKind::Integer {
        width,
        unsigned: rest.contains("unsigned"),
    };
    let sized = |shape: fn(u32) -> StringShape| -> Option<ColumnKind> {
        let octets = u32::try_from(octets?).ok()?;
        let length_bytes = if octets > 255 { 2 } else { 1 };
        Some(string(length_bytes, shape(octets), charset))
    };
    let large = |length_bytes| Some(string(length_bytes, StringShape::Large, charset));
    let geometry = |subtype| ColumnKind::Geometry {
        length_bytes: 4,
        subtype,
    };
    let kind = match name {
        "tinyint" => integer(1),
        "smallint" => integer(2),
        "mediumint" => integer(3),
        "int" => integer(4),
        "bigint" => integer(8),
        "float" => ColumnKind::Float,
        "double" => ColumnKind::Double,
        "decimal" => ColumnKind::Decimal {
            precision: small(0)?,
            scale: small(1)?,
        },
        "year" => ColumnKind::Year,
        "bit" => ColumnKind::Bit { bits: small(0)? },
        "date" => ColumnKind::Date,
        // How many digits the rows have is what the event would not tell; with none they have a known length.
        "time" | "datetime" | "timestamp" if is_old && fraction_digits > 0 => return None,
        "time" if is_old => ColumnKind::OldTime,
        "datetime" if is_old => ColumnKind::OldDateTime,
        "timestamp" if is_old => ColumnKind::OldTimestamp,
        "time" => ColumnKind::Time { fraction_digits },
        "datetime" => ColumnKind::DateTime { fraction_digits },
        "timestamp" => ColumnKind::Timestamp { fraction_digits },
        "char" | "binary" => return sized(StringShape::Fixed),
        "varchar" | "varbinary" => return sized(StringShape::Variable),
        "tinytext" | "tinyblob" => return large(1),
        "text" | "blob" => return large(2),
        "mediumtext" | "mediumblob" => return large(3),
        "longtext" | "longblob" | "xmltype" => return large(4),
        "json" => ColumnKind::Json { length_bytes: 4 },
        "geometry" => geometry(0),
        "point" => geometry(1),
        "linestring" => geometry(2),
        "polygon" => geometry(3),
        "multipoint" => geometry(4),
        "multilinestring" => geometry(5),
        "multipolygon" => geometry(6),
        "geomcollection" | "geometrycollection" => geometry(7),
        "vector" => ColumnKind::Vector {
            // MariaDB's is a VARBINARY of four bytes for each number.
            length_bytes: match flavor {
                Flavor::Mysql => 4,
                Flavor::Mariadb if argument(0)? > 63 => 2,
                Flavor::Mariadb => 1,
            },
            dimensions: Some(u64::from(argument(0)?)),
        },
        "uuid" => ColumnKind::Uuid,
        "inet6" => ColumnKind::Inet6,
        "inet4" => ColumnKind::Inet4,
        _ => return None,
    };
    Some(kind)
}

fn string(length_bytes: u8, shape: StringShape, charset: Option<Charset>) -> ColumnKind {
    match charset {
        Some(charset) if !charset.is_binary() => ColumnKind::Text {
            length_bytes,
            shape,
            charset,
        },
        _ => ColumnKind::Bytes {
            length_bytes,
            shape,
        },
    }
}

fn enum_or_set(name: &str, rest: &str, charset: Option<Charset>) -> Option<ColumnKind> {
    let texts = labels(rest)?;
    let count = texts.len();
    // information_schema is in three-byte UTF-8: any other character has become a question mark, and a wrong label is a wrong
    // value. Bytes are shown as what they may be.
    let is_doubtful = texts.iter().any(|text| text.contains('?'));
    let known = charset.is_some_and(|charset| charset.is_text()) && !is_doubtful;
    let labels = known.then(|| {
        let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        Label::list(&bytes, Charset::of_name("utf8mb4"))
    });
    Some(if name == "enum" {
        ColumnKind::Enum {
            width: if count > 255 { 2 } else { 1 },
            labels,
            charset,
        }
    } else {
        let width = match count.div_ceil(8) {
            bytes @ 0..=4 => bytes.max(1),
            _ => 8,
        };
        ColumnKind::Set {
            width: u8::try_from(width).ok()?,
            labels,
            charset,
        }
    })
}

/// The labels in `('a','it''s')`.
fn labels(list: &str) -> Option<Vec<String>> {
    let mut rest = list.strip_prefix('(')?;
    let mut labels = Vec::new();
    loop {
        rest = rest.strip_prefix('\'')?;
        let mut label = String::new();
        loop {
            let (text, behind) = rest.split_once('\'')?;
            label.push_str(text);
            rest = behind;
            match rest.strip_prefix('\'') {
                Some(behind) => {
                    label.push('\'');
                    rest = behind;
                }
                None => break,
            }
        }
        labels.push(label);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => return rest.starts_with(')').then_some(labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(column_type: &str, octets: Option<u64>, charset: Option<&str>) -> String {
        match column_kind(Flavor::Mariadb, column_type, octets, charset) {
            Some(ColumnKind::Integer {
                unsigned: true,
                width,
            }) => format!("unsigned {width}"),
            Some(kind) => kind.type_text(),
            None => "not known".to_owned(),
        }
    }

    #[test]
    fn column_types_are_read() {
        for (column_type, expected) in [
            ("int(10) unsigned", "unsigned 4"),
            ("bigint unsigned zerofill", "unsigned 8"),
            ("tinyint(1)", "tinyint"),
            ("decimal(10,2) unsigned", "decimal(10,2)"),
            ("float(7,4)", "float"),
            ("bit(9)", "bit(9)"),
            ("time(3)", "time(3)"),
            ("timestamp", "timestamp"),
            ("timestamp(3) /* mariadb-5.3 */", "not known"),
            ("text /*M!100301 COMPRESSED*/", "not known"),
            ("longblob", "longblob"),
            ("vector(3)", "vector(3)"),
            ("uuid", "uuid"),
            ("year(4)", "year"),
            ("money", "not known"),
            ("geometrycollection", "geometrycollection"),
        ] {
            assert_eq!(text_of(column_type, None, None), expected, "{column_type}");
        }
        let old = column_kind(Flavor::Mariadb, "datetime /* mariadb-5.3 */", None, None);
        assert!(matches!(old, Some(ColumnKind::OldDateTime)));
        assert_eq!(
            text_of("varchar(300)", Some(1200), Some("utf8mb4")),
            "varchar(300)"
        );
        assert_eq!(text_of("char(5)", Some(5), Some("latin1")), "char(5)");
        assert_eq!(text_of("binary(16)", Some(16), None), "binary(16)");
        assert_eq!(text_of("mediumtext", Some(9), Some("big5")), "mediumtext");
    }

    #[test]
    fn labels_are_taken_apart_and_doubtful_ones_left_unknown() {
        assert_eq!(
            labels("('a','it''s',''',','')").unwrap(),
            ["a", "it's", "',", ""]
        );
        for broken in ["", "(", "('a'", "('a',)", "'a'", "('a)"] {
            assert_eq!(labels(broken), None, "{broken}");
        }
        let labels_of = |column_type: &str, charset| {
            let kind = column_kind(Flavor::Mysql, column_type, None, charset);
            let Some(ColumnKind::Enum {
                labels, width: 1, ..
            }) = kind
            else {
                panic!("{kind:?}")
            };
            labels
        };
        let known = labels_of("enum('x','ö')", Some("latin1")).unwrap();
        assert_eq!(known[1].text.as_deref(), Some("ö"));
        assert!(labels_of("enum('x','?')", Some("utf8mb4")).is_none());
        assert!(labels_of("enum('x')", None).is_none());
        let many: Vec<String> = (0..33).map(|number| format!("'{number}'")).collect();
        let set = column_kind(
            Flavor::Mysql,
            &format!("set({})", many.join(",")),
            None,
            Some("ascii"),
        );
        assert!(matches!(set, Some(ColumnKind::Set { width: 8, .. })));
    }
}
