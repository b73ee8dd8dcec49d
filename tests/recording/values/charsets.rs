//! Every code of every character set, against the server's own conversion.

use std::sync::Arc;

use crate::common::{Mysqld, on_every_server};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use sdl::position::Flavor;
use sdl::source::decode::Charset;

/// What `CONVERT(CONVERT(code USING charset) USING utf32)` says: characters, or none where the server has none (it refuses
/// the code, or shows a question mark or U+FFFD in its place).
fn expected(code: &[u8], charset: &str, converted: Option<Vec<u8>>) -> Option<String> {
    let characters = converted?;
    let text: Option<String> = characters
        .as_chunks::<4>()
        .0
        .iter()
        .map(|unit| char::from_u32(u32::from_be_bytes(*unit)))
        .collect();
    let is_question_mark = match charset {
        "utf16" | "ucs2" => code.as_chunks::<2>().0.contains(&[0, b'?']),
        "utf16le" => code.as_chunks::<2>().0.contains(&[b'?', 0]),
        "utf32" => code.as_chunks::<4>().0.contains(&[0, 0, 0, b'?']),
        _ => code.contains(&b'?'),
    };
    let has_replacement_character =
        charset.starts_with("u") && charset != "ujis" || charset == "gb18030";
    text.filter(|text| has_replacement_character || !text.contains('\u{fffd}'))
        .filter(|text| is_question_mark || !text.contains('?'))
}

/// Compares all codes of a table `codes (code VARBINARY(8))`.
async fn compare(
    connection: &mut Conn,
    charset: &str,
    decoder: Charset,
    wrong: &mut Vec<String>,
) -> usize {
    let sql = format!(
        "SELECT code, CAST(CONVERT(CONVERT(code USING {charset}) USING utf32) AS BINARY) FROM cs.codes"
    );
    let rows: Vec<(Vec<u8>, Option<Vec<u8>>)> = connection.query(sql).await.unwrap();
    let mut decoded = 0;
    for (code, converted) in rows {
        let expected = expected(&code, charset, converted);
        let found = decoder.decode(&code);
        decoded += usize::from(found.is_some());
        // Where the server shows an own question mark next to a literal one, it cannot be told apart: nothing is claimed.
        let is_unclear = found.is_none() && code.contains(&b'?');
        // The server drops an incomplete character at the end of eucjpms; sdl keeps the bytes.
        let is_dropped = charset == "eucjpms"
            && found.is_none()
            && (1..=code.len().min(2))
                .any(|lost| decoder.decode(&code[..code.len() - lost]) == expected);
        if expected != found && !is_unclear && !is_dropped {
            wrong.push(format!(
                "{charset} {code:02x?}: the server has {expected:?}, sdl {found:?}"
            ));
        }
    }
    decoded
}

async fn codes(connection: &mut Conn, select: &str) {
    connection.query_drop("TRUNCATE cs.codes").await.unwrap();
    connection
        .query_drop(format!("INSERT INTO cs.codes {select}"))
        .await
        .unwrap();
}

on_every_server! { every_code_of_every_character_set_is_what_the_server_converts_it_to }

async fn every_code_of_every_character_set_is_what_the_server_converts_it_to(
    server: crate::common::Flavor,
) {
    let mysqld = Arc::new(Mysqld::start_as(server, &[]).await);
    let flavor = if server.is_mariadb() {
        Flavor::Mariadb
    } else {
        Flavor::Mysql
    };
    let mut connection = mysqld.root().await;
    for sql in [
        "CREATE DATABASE cs",
        "CREATE TABLE cs.codes (code VARBINARY(8)) ENGINE=MEMORY",
        "SET max_heap_table_size = 1 << 28",
        "ALTER TABLE cs.codes ENGINE=MEMORY",
        "CREATE TABLE cs.bytes (number INT, byte BINARY(1)) ENGINE=MEMORY",
        "INSERT INTO cs.bytes WITH RECURSIVE r (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < 255) \
         SELECT n, UNHEX(LPAD(HEX(n), 2, '0')) FROM r",
        "SET sql_log_bin = 0",
    ] {
        connection
            .query_drop(sql)
            .await
            .unwrap_or_else(|error| panic!("{error} in {sql}"));
    }
    // In MariaDB a collation of UCA 14.0.0 has an id for each of the character sets that it applies to.
    let shown = if server.is_mariadb() {
        "SELECT FULL_COLLATION_NAME, CHARACTER_SET_NAME, ID FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY"
    } else {
        "SELECT COLLATION_NAME, CHARACTER_SET_NAME, ID FROM information_schema.COLLATIONS"
    };
    let collations: Vec<(String, String, u64)> = connection.query(shown).await.unwrap();
    assert!(collations.len() > if server.is_mariadb() { 1200 } else { 250 });
    for (collation, charset, id) in &collations {
        let known = Charset::of_collation(flavor, *id);
        assert_eq!(known.name(), charset, "{collation}");
        assert!(known.is_text() || known.is_binary(), "{collation}");
    }
    let charsets: Vec<(String, String, String, u32)> =
        connection.query("SHOW CHARACTER SET").await.unwrap();
    assert!(charsets.len() >= 40);
    let decoder = |charset: &str| {
        let (_, _, default, longest) = charsets.iter().find(|(name, ..)| name == charset).unwrap();
        let (_, _, id) = collations
            .iter()
            .find(|(name, ..)| name == default)
            .unwrap();
        let decoder = Charset::of_collation(flavor, *id);
        assert_eq!(decoder.max_bytes_per_character(), *longest, "{charset}");
        decoder
    };
    let mut wrong = Vec::new();
    let all = |decoded: usize, charset: &str| {
        assert!(decoded > 60, "{charset}: only {decoded} codes decoded")
    };

    codes(&mut connection, "SELECT byte FROM cs.bytes").await;
    for (charset, ..) in charsets
        .iter()
        .filter(|(name, .., longest)| *longest < 4 && name != "ucs2")
    {
        if charset != "binary" {
            all(
                compare(&mut connection, charset, decoder(charset), &mut wrong).await,
                charset,
            );
        }
    }
    // Pairs of any two bytes: the double-byte sets, and two characters of the others.
    codes(
        &mut connection,
        "SELECT CONCAT(a.byte, b.byte) FROM cs.bytes a, cs.bytes b",
    )
    .await;
    for (charset, ..) in charsets
        .iter()
        .filter(|(name, .., longest)| *longest > 1 && name != "utf32")
    {
        all(
            compare(&mut connection, charset, decoder(charset), &mut wrong).await,
            charset,
        );
    }
    codes(
        &mut connection,
        "SELECT CONCAT(0x8f, a.byte, b.byte) FROM cs.bytes a, cs.bytes b WHERE a.number >= 160 AND b.number >= 160",
    )
    .await;
    for (charset, ..) in charsets
        .iter()
        .filter(|(name, ..)| name == "ujis" || name == "eucjpms")
    {
        all(
            compare(&mut connection, charset, decoder(charset), &mut wrong).await,
            charset,
        );
    }
    // A sample of the four-byte codes of gb18030: 100,000 of 1,587,600; and of the pairs of Unicode's surrogates.
    codes(
        &mut connection,
        "SELECT CONCAT(a.byte, b.byte, c.byte, d.byte) FROM cs.bytes a, cs.bytes b, cs.bytes c, cs.bytes d \
         WHERE a.number BETWEEN 129 AND 254 AND b.number BETWEEN 48 AND 57 AND c.number BETWEEN 129 AND 254 \
         AND d.number BETWEEN 48 AND 57 AND (a.number * 7 + b.number * 3 + c.number + d.number) % 16 = 0",
    )
    .await;
    for (charset, ..) in charsets.iter().filter(|(name, ..)| name == "gb18030") {
        all(
            compare(&mut connection, charset, decoder(charset), &mut wrong).await,
            charset,
        );
    }
    codes(
        &mut connection,
        "SELECT CONCAT(a.byte, b.byte, c.byte, d.byte) FROM cs.bytes a, cs.bytes b, cs.bytes c, cs.bytes d \
         WHERE a.number IN (0, 0xd7, 0xd8, 0xdb, 0xdc, 0xdf, 0xf0) AND b.number IN (0, 1, 0x0f, 0x10, 0x11, 0xd8, 0xdc, 0xff) \
         AND c.number IN (0, 0x10, 0xd7, 0xd8, 0xdb, 0xdc, 0xe0) AND d.number % 5 = 0",
    )
    .await;
    for (charset, ..) in charsets.iter().filter(|(.., longest)| *longest == 4) {
        all(
            compare(&mut connection, charset, decoder(charset), &mut wrong).await,
            charset,
        );
    }
    let shown: Vec<_> = wrong.iter().take(30).collect();
    assert!(
        wrong.is_empty(),
        "{} codes differ, the first: {shown:#?}",
        wrong.len()
    );
}
