-- What the binlog mariadb-10.11.binlog beside this file holds; `src/fuzz/corpus.rs` says how it was made.
SET NAMES utf8mb4;
SET SESSION sql_mode = '';
CREATE DATABASE shop;
USE shop;
CREATE TABLE kinds (id BIGINT UNSIGNED PRIMARY KEY, a TINYINT, b MEDIUMINT UNSIGNED, c DECIMAL(20,5), d FLOAT, e DOUBLE, f BIT(9), g YEAR, h DATE, i TIME(3),
  j DATETIME(6), k TIMESTAMP(2) NULL, l VARCHAR(300), m CHAR(5), n TEXT, o BLOB, p BINARY(4), q ENUM('a','ö'), r SET('x','y','z'), s JSON, t GEOMETRY, u POINT,
  v UUID, w INET4, x INET6, y VARCHAR(9) CHARACTER SET ucs2, z CHAR(3) CHARACTER SET latin1);
INSERT INTO kinds VALUES (18446744073709551615, -5, 16777215, -1234.5, 0.1, 1.5e300, b'101010101', 2155, '2026-11-21', '-12:34:56.789', '2026-11-21 01:02:03.000004',
  '2026-11-21 05:06:07.89', REPEAT('é', 200), 'ab', 'text 🦀', X'00FF', X'0001', 'ö', 'x,z', '{"a": [1, 2]}', ST_GeomFromText('LINESTRING(0 0,1 1)'), POINT(1, 2),
  '123e4567-e89b-12d3-a456-426655440000', '192.168.0.1', '2001:db8::ff00:42:8329', '日本', 'é'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE kinds SET a = 1, v = '00000000-0000-0000-0000-000000000001' WHERE id > 2;
DELETE FROM kinds WHERE id = 2;
CREATE TABLE copied SELECT id, a FROM kinds;
CREATE TABLE plain (a INT, b VARCHAR(10)) ENGINE = MyISAM;
INSERT INTO plain VALUES (1, 'one'), (2, NULL);
CREATE TABLE aria (a INT) ENGINE = Aria TRANSACTIONAL = 1;
INSERT INTO aria VALUES (1);
SET SESSION binlog_row_image = 'MINIMAL';
UPDATE kinds SET l = 'minimal';
SET SESSION binlog_row_image = 'NOBLOB';
UPDATE kinds SET l = 'no blob';
SET SESSION binlog_row_image = 'FULL';
SET SESSION gtid_domain_id = 5;
BEGIN;
INSERT INTO plain VALUES (3, 'mixed engines');
INSERT INTO kinds (id) VALUES (3);
SAVEPOINT s;
INSERT INTO kinds (id) VALUES (4);
ROLLBACK TO s;
COMMIT;
SET SESSION gtid_domain_id = 0;
XA START 'branch', 'qualifier', 7;
INSERT INTO kinds (id) VALUES (5);
XA END 'branch', 'qualifier', 7;
XA PREPARE 'branch', 'qualifier', 7;
XA COMMIT 'branch', 'qualifier', 7;
SET GLOBAL log_bin_compress = ON, log_bin_compress_min_len = 10;
INSERT INTO kinds (id, l) VALUES (6, REPEAT('compressed ', 20)), (7, REPEAT('compressed ', 20));
UPDATE kinds SET n = REPEAT('again ', 50) WHERE id IN (6, 7);
DELETE FROM kinds WHERE id = 7;
CREATE TABLE compressed_statement (id INT PRIMARY KEY, a VARCHAR(100) COMMENT 'a comment that is long enough to be compressed in the log');
SET GLOBAL log_bin_compress = OFF;
SET SESSION binlog_format = 'STATEMENT';
SET @variable = 7;
INSERT INTO plain VALUES (@variable, RAND());
SET SESSION binlog_format = 'ROW';
ALTER TABLE plain ADD c INT INVISIBLE DEFAULT 3, ADD d INT AS (a + 1) STORED;
CREATE SEQUENCE numbers;
SELECT NEXTVAL(numbers);
DROP TABLE plain, copied;
