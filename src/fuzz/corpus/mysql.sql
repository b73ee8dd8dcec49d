-- What the binlog mysql-9.7.4.binlog beside this file holds; `src/fuzz/corpus.rs` says how it was made.
SET NAMES utf8mb4;
SET SESSION sql_mode = '';
CREATE DATABASE shop;
USE shop;
CREATE TABLE numbers (id BIGINT UNSIGNED PRIMARY KEY, a TINYINT, b TINYINT UNSIGNED, c SMALLINT, d SMALLINT UNSIGNED, e MEDIUMINT,
  f MEDIUMINT UNSIGNED, g INT, h INT UNSIGNED, i BIGINT, j FLOAT, k DOUBLE, l DECIMAL(1,0), m DECIMAL(34,10), n DECIMAL(65,30),
  o DECIMAL(9,9), p BIT(1), q BIT(9), r BIT(64), s YEAR);
INSERT INTO numbers VALUES (1, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295, -9223372036854775808, 0.1, -1.5e300,
  -9, 123456789012345678901234.5678901234, -99999999999999999999999999999999999.999999999999999999999999999999, 0.123456789, b'1', b'101010101', b'1111', 2155);
INSERT INTO numbers VALUES (18446744073709551615, 127, 0, 32767, 0, 8388607, 0, 2147483647, 0, 9223372036854775807, -3.4e38, 5e-324,
  0, -0.0000000001, 0, 0, b'0', 0, 18446744073709551615, 0), (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE numbers SET g = -1, j = 16777217, m = NULL WHERE id = 1;
CREATE TABLE times (id INT PRIMARY KEY, a DATE, b TIME, c TIME(1), d TIME(3), e TIME(6), f DATETIME, g DATETIME(2), h DATETIME(4), i DATETIME(6),
  j TIMESTAMP NULL, k TIMESTAMP(1) NULL, l TIMESTAMP(6) NULL);
INSERT INTO times VALUES (1, '2026-11-21', '-838:59:59', '-00:00:00.1', '12:34:56.789', '-12:34:56.000001', '9999-12-31 23:59:59',
  '2026-02-29 01:02:03.45', '1000-01-01 00:00:00.0001', '2026-11-21 05:06:07.123456', '2038-01-19 03:14:07', '1970-01-01 00:00:01.5', '2026-11-21 05:06:07.654321');
INSERT INTO times VALUES (2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), (3, '0000-12-00', '838:59:59', NULL, NULL, '00:00:00.999999', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE texts (id INT AUTO_INCREMENT, kind VARCHAR(20), a CHAR(10), b VARCHAR(300), c TINYTEXT, d TEXT, e MEDIUMTEXT, f LONGTEXT,
  g BINARY(16), h VARBINARY(20), i TINYBLOB, j BLOB, k MEDIUMBLOB, l LONGBLOB, m ENUM('small','größer','x') , n SET('a','b','c','d','e','f','g','h','i'),
  o VARCHAR(20) CHARACTER SET latin1, p VARCHAR(20) CHARACTER SET ucs2, q TEXT CHARACTER SET utf16, r CHAR(4) CHARACTER SET gbk, s VARCHAR(9) CHARACTER SET sjis,
  t VARCHAR(9) CHARACTER SET utf32, u VARCHAR(9) CHARACTER SET koi8r, v CHAR(255) CHARACTER SET utf8mb4, w VARCHAR(9) CHARACTER SET utf16le,
  x CHAR(3) CHARACTER SET ascii, y ENUM('ж','щ') CHARACTER SET cp1251, PRIMARY KEY (kind, id), KEY (id));
INSERT INTO texts VALUES (1, 'full', 'abc  ', REPEAT('é', 300), 'tiny', 'text 🦀', 'medium', 'long', X'00010200', X'FF00', 'ti', 'bl', REPEAT('m', 300), X'00',
  'größer', 'a,c,i', 'café', '日本', 'utf16 🦀', '中文', '日本', '🦀', 'жук', 'v', 'le🦀', 'asc', 'щ');
INSERT INTO texts (id, kind) VALUES (2, 'empty');
INSERT INTO texts (id, kind, m, n, d) VALUES (3, 'zero', '', '', '');
UPDATE texts SET kind = 'key changed', n = 'b' WHERE id = 1;
DELETE FROM texts WHERE id = 2;
CREATE TABLE shapes (id INT PRIMARY KEY, g GEOMETRY, p POINT, v VECTOR(3), j JSON, k JSON);
INSERT INTO shapes VALUES (1, ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))', 4326), POINT(1, 2), TO_VECTOR('[1,2.5,-3]'),
  '{"a": [1, 2, {"b": null}], "long key with spaces": "text", "n": -1.5, "big": 18446744073709551615, "t": true, "f": false}', '[]');
INSERT INTO shapes VALUES (2, NULL, NULL, NULL, CAST(CAST('2026-11-21 01:02:03.456' AS DATETIME(3)) AS JSON), CAST(CAST(1234567.890123 AS DECIMAL(20,6)) AS JSON)),
  (3, NULL, NULL, NULL, JSON_ARRAY(CAST('12:34:56' AS TIME), CAST('2026-01-01' AS DATE), CAST(X'00FF10' AS JSON), 1e100, 70000, -70000, 5000000000), 'null'),
  (4, NULL, NULL, NULL, JSON_OBJECT('x', REPEAT('y', 200), 'nested', JSON_ARRAY(JSON_ARRAY(JSON_ARRAY(JSON_OBJECT('deep', 1))))), '"scalar"');
SET SESSION binlog_row_value_options = 'PARTIAL_JSON';
UPDATE shapes SET j = JSON_SET(j, '$.a[1]', 22, '$."long key with spaces"', 'other') WHERE id = 1;
UPDATE shapes SET j = JSON_REMOVE(j, '$.x', '$.nested[0][0]'), k = JSON_SET(k, '$', 'new') WHERE id = 4;
UPDATE shapes SET j = JSON_ARRAY_INSERT(j, '$.a[0]', JSON_OBJECT('k', 'v')), v = TO_VECTOR('[0,0,0]') WHERE id = 1;
SET SESSION binlog_row_image = 'MINIMAL';
UPDATE shapes SET j = JSON_SET(j, '$.a[1]', 'partial and minimal') WHERE id = 1;
UPDATE texts SET b = 'minimal' WHERE id = 3;
DELETE FROM texts WHERE id = 3;
SET SESSION binlog_row_image = 'NOBLOB';
UPDATE texts SET b = 'no blob' WHERE id = 1;
SET SESSION binlog_row_image = 'FULL', binlog_row_value_options = '';
SET SESSION binlog_transaction_compression = ON;
BEGIN;
INSERT INTO shapes (id, j) VALUES (10, '{"compressed": [1, 2, 3]}'), (11, '[]'), (12, '{}');
UPDATE shapes SET k = '{"compressed": true}' WHERE id > 9;
COMMIT;
SET SESSION binlog_transaction_compression = OFF;
BEGIN;
INSERT INTO shapes (id) VALUES (20);
SAVEPOINT `a b`;
INSERT INTO shapes (id) VALUES (21);
ROLLBACK TO `a b`;
INSERT INTO shapes (id) VALUES (22);
COMMIT;
XA START 'branch', 'qualifier', 7;
INSERT INTO shapes (id) VALUES (30);
XA END 'branch', 'qualifier', 7;
XA PREPARE 'branch', 'qualifier', 7;
XA COMMIT 'branch', 'qualifier', 7;
XA START 'one';
INSERT INTO shapes (id) VALUES (31);
XA END 'one';
XA COMMIT 'one' ONE PHASE;
CREATE TABLE copied SELECT id, j FROM shapes WHERE id < 4;
CREATE TABLE plain (a INT, b VARCHAR(10)) ENGINE = MyISAM;
INSERT INTO plain VALUES (1, 'one'), (2, NULL), (2, NULL);
DELETE FROM plain LIMIT 1;
SET SESSION binlog_format = 'STATEMENT';
SET @variable = 7;
INSERT INTO plain VALUES (@variable, RAND());
SET SESSION binlog_format = 'ROW';
SET SESSION gtid_next = 'AUTOMATIC:tagged';
INSERT INTO plain VALUES (9, 'tagged');
SET SESSION gtid_next = 'AUTOMATIC';
ALTER TABLE plain ADD `odd``name.$x` INT UNSIGNED INVISIBLE DEFAULT 3, ADD computed INT AS (a + 1) STORED;
INSERT INTO plain (a) VALUES (5);
CREATE USER someone IDENTIFIED BY 'secret';
/* tool */ RENAME TABLE plain TO `renamed table`, copied TO shop.`copied 2`;
TRUNCATE `renamed table`;
DROP TABLE `renamed table`, `copied 2`;
SET GLOBAL binlog_row_metadata = 'MINIMAL';
INSERT INTO shapes (id) VALUES (40);
UPDATE texts SET o = 'ohne Namen';
