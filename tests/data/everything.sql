-- One of everything a database can hold, for PostgreSQL 15 and later; run by a superuser in the empty database.
-- Roles belong to the server: all of ours begin with ev_.

CREATE ROLE ev_owner NOLOGIN CREATEDB;
CREATE ROLE ev_group NOLOGIN NOINHERIT;
CREATE ROLE ev_app LOGIN PASSWORD 'never seen' CONNECTION LIMIT 7 VALID UNTIL '2040-01-01 00:00:00+00';
CREATE ROLE ev_member LOGIN;
CREATE ROLE "ev Odd ""name""" LOGIN BYPASSRLS CREATEROLE;
CREATE ROLE ev_replicator LOGIN REPLICATION;
CREATE ROLE ev_stranger LOGIN;
ALTER ROLE ev_stranger SET work_mem = '2MB';
GRANT ev_group TO ev_app WITH ADMIN OPTION;
GRANT ev_group TO ev_member;
GRANT ev_owner TO ev_group;
GRANT pg_read_all_stats TO ev_member;
COMMENT ON ROLE ev_app IS 'the application''s login';
ALTER ROLE ev_app SET statement_timeout = '30s';
ALTER ROLE ev_app SET search_path = "Sch ema", public, "a,b";
ALTER ROLE ev_group SET "app.tenant" = 'it''s, "one"';

DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I OWNER TO ev_owner', current_database());
  EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, "Sch ema"', current_database());
  EXECUTE format('ALTER DATABASE %I SET work_mem = %L', current_database(), '8MB');
  EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = %L', current_database(), 'serializable');
  EXECUTE format('ALTER DATABASE %I SET "app.motto" = %L', current_database(), '');
  EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
  EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 50', current_database());
  EXECUTE format('ALTER ROLE ev_member IN DATABASE %I SET datestyle = %L', current_database(), 'German, DMY');
  EXECUTE format('COMMENT ON DATABASE %I IS %L', current_database(), E'all of it\nin two lines');
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO ev_group WITH GRANT OPTION', current_database());
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO ev_app', current_database());
END $$;

CREATE SCHEMA "Sch ema" AUTHORIZATION ev_owner;
CREATE SCHEMA plain;
COMMENT ON SCHEMA plain IS 'a schema';
GRANT USAGE ON SCHEMA "Sch ema" TO ev_group;
GRANT USAGE, CREATE ON SCHEMA plain TO ev_app WITH GRANT OPTION;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO PUBLIC;
GRANT CREATE ON SCHEMA public TO ev_owner;

SET SESSION AUTHORIZATION ev_owner;
SET search_path = public;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO ev_group;
ALTER DEFAULT PRIVILEGES IN SCHEMA "Sch ema" GRANT EXECUTE ON FUNCTIONS TO ev_app;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Types.
CREATE TYPE mood AS ENUM ('first', 'sad', 'it''s ok', 'Größe');
COMMENT ON TYPE mood IS 'how one feels';
CREATE TYPE pair AS (a int, b text COLLATE "C");
CREATE DOMAIN positive AS int DEFAULT 1 NOT NULL CONSTRAINT more CHECK (VALUE > 0);
CREATE DOMAIN pairs AS pair[] CHECK (cardinality(VALUE) < 9);
COMMENT ON CONSTRAINT more ON DOMAIN positive IS 'more than nothing';
CREATE TYPE span AS RANGE (SUBTYPE = float8, MULTIRANGE_TYPE_NAME = spans);
GRANT USAGE ON TYPE mood TO ev_app;
CREATE COLLATION "Coll" (LOCALE = 'C');
CREATE COLLATION loose (PROVIDER = libc, LC_COLLATE = 'C', LC_CTYPE = 'C');
CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = simple, STOPWORDS = english);
CREATE TEXT SEARCH CONFIGURATION conf (COPY = english);
ALTER TEXT SEARCH CONFIGURATION conf ALTER MAPPING FOR asciiword WITH dict, english_stem;
COMMENT ON TEXT SEARCH CONFIGURATION conf IS 'how we search';

-- Functions, procedures, aggregates, operators, casts.
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT i * 2';
CREATE FUNCTION body(i int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT i + 1; END;
CREATE FUNCTION many(OUT a int, OUT b text) RETURNS SETOF record LANGUAGE plpgsql COST 7 ROWS 3
  SET work_mem = '1MB' AS $f$ BEGIN RETURN QUERY SELECT 1, 'x'::text; END $f$;
CREATE PROCEDURE act(INOUT n int) LANGUAGE plpgsql SECURITY DEFINER AS $p$ BEGIN n := n + 1; END $p$;
COMMENT ON FUNCTION twice(int) IS 'two times';
REVOKE ALL ON FUNCTION twice(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION twice(int) TO ev_app;
GRANT EXECUTE ON PROCEDURE act(int) TO ev_group;
CREATE FUNCTION add_up(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT coalesce($1, 0) + coalesce($2, 0)';
CREATE AGGREGATE total (numeric) (SFUNC = add_up, STYPE = numeric, INITCOND = '0', COMBINEFUNC = add_up, PARALLEL = SAFE);
CREATE FUNCTION same_pair(pair, pair) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a = ($2).a';
CREATE OPERATOR === (FUNCTION = same_pair, LEFTARG = pair, RIGHTARG = pair, COMMUTATOR = ===);
COMMENT ON OPERATOR === (pair, pair) IS 'same first part';
CREATE FUNCTION as_text(pair) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).b';
CREATE CAST (pair AS text) WITH FUNCTION as_text(pair) AS ASSIGNMENT;

-- Tables.
CREATE TABLE main (
  id bigint GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5) PRIMARY KEY,
  alt int GENERATED BY DEFAULT AS IDENTITY,
  serial serial,
  code text COLLATE "Coll" NOT NULL UNIQUE,
  mood mood DEFAULT 'sad', moods mood[], p positive, pr pair, prs pairs, sp span, sps spans,
  amount numeric(12, 2) CHECK (amount >= 0),
  doubled numeric GENERATED ALWAYS AS (amount * 2) STORED,
  doc jsonb DEFAULT '{}', words tsvector, at timestamptz DEFAULT now(), bin bytea, lo oid,
  during tsrange,
  CONSTRAINT apart EXCLUDE USING gist (during WITH &&),
  CONSTRAINT both_or_none CHECK ((amount IS NULL) = (code = '')) NOT VALID
);
ALTER TABLE main ALTER COLUMN code SET STATISTICS 500;
ALTER TABLE main ALTER COLUMN doc SET STORAGE EXTERNAL;
ALTER TABLE main ALTER COLUMN bin SET COMPRESSION pglz;
ALTER TABLE main ALTER COLUMN amount SET (n_distinct = 100);
ALTER TABLE main SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE main IS 'the main one';
COMMENT ON COLUMN main.code IS 'its ''code''';
COMMENT ON CONSTRAINT apart ON main IS 'one at a time';
CREATE INDEX main_doc ON main USING gin (doc jsonb_path_ops);
CREATE INDEX main_part ON main (lower(code) DESC NULLS LAST) INCLUDE (amount) WHERE amount > 0;
CREATE UNIQUE INDEX main_alt ON main (alt) WITH (fillfactor = 70);
ALTER INDEX main_part ALTER COLUMN 1 SET STATISTICS 300;
COMMENT ON INDEX main_doc IS 'for the front end';
ALTER TABLE main CLUSTER ON main_alt;
CREATE STATISTICS main_stats (ndistinct, mcv) ON code, mood FROM main;
ALTER STATISTICS main_stats SET STATISTICS 250;
COMMENT ON STATISTICS main_stats IS 'they belong together';
CREATE TABLE other (id int PRIMARY KEY, main_id bigint CONSTRAINT to_main REFERENCES main ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
  parent int);
ALTER TABLE other ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES other NOT VALID;
CREATE TABLE identified (a int NOT NULL, b text NOT NULL, c text);
CREATE UNIQUE INDEX "identified By" ON identified (a, b);
ALTER TABLE identified REPLICA IDENTITY USING INDEX "identified By";
CREATE TABLE whole_row (a int, b text);
ALTER TABLE whole_row REPLICA IDENTITY FULL;
CREATE TABLE nothing_keyed (id int PRIMARY KEY, b text);
CREATE TABLE bare (a int, b text);
CREATE TABLE keyed_otherwise (a int NOT NULL UNIQUE, b text);
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, b text);
CREATE TABLE measures (at date, v float8, PRIMARY KEY (at)) PARTITION BY RANGE (at);
CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE measures_2 PARTITION OF measures FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY HASH (at);
CREATE TABLE measures_2a PARTITION OF measures_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE measures_2b PARTITION OF measures_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE measures_default PARTITION OF measures DEFAULT;
CREATE INDEX measures_v ON measures (v);
CREATE INDEX measures_only ON ONLY measures (v, at);
CREATE TABLE base (id int PRIMARY KEY, t text NOT NULL DEFAULT 'x', CHECK (t <> '') NO INHERIT);
CREATE TABLE derived (extra int, PRIMARY KEY (id)) INHERITS (base);
ALTER TABLE derived ALTER COLUMN t SET DEFAULT 'y';
CREATE TABLE typed OF pair (PRIMARY KEY (a));
CREATE TABLE "Sch ema"."Tab le" ("Col umn" text PRIMARY KEY, "sel""ect" int);
CREATE TABLE dropped (a int, gone int, b text PRIMARY KEY);
ALTER TABLE dropped DROP COLUMN gone;
CREATE SEQUENCE free AS smallint INCREMENT -3 MINVALUE -300 MAXVALUE 30 START 3 CYCLE CACHE 4;
COMMENT ON SEQUENCE free IS 'nobody''s';
GRANT SELECT, INSERT ON main TO ev_group;
GRANT SELECT ON main TO "ev Odd ""name""", ev_replicator;
GRANT UPDATE (code, amount) ON main TO ev_app WITH GRANT OPTION;
GRANT USAGE ON SEQUENCE free TO ev_group;
REVOKE ALL ON other FROM ev_owner;
GRANT SELECT ON other TO PUBLIC;
SET SESSION AUTHORIZATION ev_app;
GRANT UPDATE (code) ON main TO ev_member;
SET SESSION AUTHORIZATION ev_owner;

-- Views, rules, triggers, policies.
CREATE VIEW seen WITH (security_barrier = true, check_option = cascaded) AS SELECT id, code FROM main WHERE amount > 0;
CREATE RECURSIVE VIEW steps (n) AS SELECT 1 UNION ALL SELECT n + 1 FROM steps WHERE n < 3;
CREATE VIEW over_mat AS SELECT 1 AS one;
COMMENT ON VIEW seen IS 'what is seen';
COMMENT ON COLUMN seen.code IS 'seen code';
CREATE MATERIALIZED VIEW first_mat AS SELECT code, count(*) AS n FROM main GROUP BY code;
CREATE UNIQUE INDEX first_mat_code ON first_mat (code);
CREATE MATERIALIZED VIEW second_mat AS SELECT sum(n) AS n FROM first_mat WITH NO DATA;
CREATE OR REPLACE VIEW over_mat AS SELECT n::int AS one FROM second_mat;
GRANT SELECT ON seen, first_mat TO ev_app;
CREATE RULE kept AS ON DELETE TO other WHERE old.id = 0 DO INSTEAD NOTHING;
CREATE RULE noted AS ON UPDATE TO nothing_keyed DO ALSO SELECT 1;
ALTER TABLE other DISABLE RULE kept;
COMMENT ON RULE noted ON nothing_keyed IS 'says one';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN NEW.at := now(); RETURN NEW; END $t$;
CREATE FUNCTION nod() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN RETURN NULL; END $t$;
CREATE TRIGGER ordinary BEFORE UPDATE OF amount ON main FOR EACH ROW WHEN (old.amount <> new.amount) EXECUTE FUNCTION stamp();
CREATE TRIGGER "off" AFTER INSERT ON main REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION nod();
CREATE TRIGGER always AFTER DELETE ON main FOR EACH ROW EXECUTE FUNCTION nod();
CREATE TRIGGER for_replicas AFTER DELETE ON main FOR EACH ROW EXECUTE FUNCTION nod();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON main DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nod();
CREATE TRIGGER on_parts AFTER INSERT ON measures FOR EACH ROW EXECUTE FUNCTION nod();
CREATE FUNCTION into_view() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN RETURN NEW; END $t$;
CREATE TRIGGER instead INSTEAD OF INSERT ON over_mat FOR EACH ROW EXECUTE FUNCTION into_view();
ALTER TABLE main DISABLE TRIGGER "off";
ALTER TABLE main ENABLE ALWAYS TRIGGER always;
ALTER TABLE main ENABLE REPLICA TRIGGER for_replicas;
COMMENT ON TRIGGER ordinary ON main IS 'stamps';
CREATE POLICY mine ON "Sch ema"."Tab le" AS RESTRICTIVE FOR UPDATE TO ev_app, ev_group USING ("Col umn" = current_user) WITH CHECK (true);
ALTER TABLE "Sch ema"."Tab le" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "Sch ema"."Tab le" FORCE ROW LEVEL SECURITY;
COMMENT ON POLICY mine ON "Sch ema"."Tab le" IS 'each their own';

RESET SESSION AUTHORIZATION;
SET search_path = public;

-- What takes a superuser.
CREATE FUNCTION watch_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $e$ BEGIN NULL; END $e$;
CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION watch_ddl();
ALTER EVENT TRIGGER watching ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER watching IS 'sees tables come';
CREATE FOREIGN DATA WRAPPER elsewhere OPTIONS (debug 'true');
CREATE SERVER afar TYPE 'thing' VERSION '1' FOREIGN DATA WRAPPER elsewhere OPTIONS (host 'h''ost');
CREATE USER MAPPING FOR ev_app SERVER afar OPTIONS (user 'u', password 'p''w');
CREATE USER MAPPING FOR PUBLIC SERVER afar;
CREATE FOREIGN TABLE far_table (a int OPTIONS (n '1'), b text NOT NULL) SERVER afar OPTIONS (tab 'le');
GRANT USAGE ON FOREIGN SERVER afar TO ev_group;
GRANT SELECT ON far_table TO ev_app;
COMMENT ON SERVER afar IS 'far away';
CREATE TYPE shell;
CREATE OPERATOR FAMILY fam USING btree;
CREATE FUNCTION pair_cmp(pair, pair) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT (($1).a > ($2).a)::int - (($1).a < ($2).a)::int';
CREATE FUNCTION pair_lt(pair, pair) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a < ($2).a';
CREATE OPERATOR <<<< (FUNCTION = pair_lt, LEFTARG = pair, RIGHTARG = pair);
CREATE OPERATOR CLASS pair_ops FOR TYPE pair USING btree FAMILY fam AS OPERATOR 1 <<<<, FUNCTION 1 pair_cmp(pair, pair);
CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal));
CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE CONVERSION odd FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE PUBLICATION others_pub FOR TABLE other;
CREATE SUBSCRIPTION others_sub CONNECTION 'host=127.0.0.1 port=9 dbname=nowhere' PUBLICATION x
  WITH (connect = false, slot_name = NONE);

-- Rows.
INSERT INTO main (code, mood, moods, p, pr, prs, sp, sps, amount, doc, words, at, bin, during)
SELECT 'c' || i, 'it''s ok', ARRAY['sad', 'Größe']::mood[], i, ROW(i, 'b')::pair, ARRAY[ROW(1, 'x')::pair], span(1, i + 1),
  spans(span(1, 2)), i, '{"k": [1, null]}', to_tsvector('simple', 'some words'), '2024-01-01', decode('00ff', 'hex'),
  tsrange(timestamp '2024-01-01' + i * interval '1 day', timestamp '2024-01-01' + i * interval '1 day' + interval '1 hour')
FROM generate_series(1, 200) i;
INSERT INTO other SELECT i, 10 + 5 * i, NULL FROM generate_series(0, 20) i;
INSERT INTO identified SELECT i, 'b' || i, 'c' FROM generate_series(1, 50) i;
INSERT INTO whole_row SELECT i, 'b' FROM generate_series(1, 20) i;
INSERT INTO nothing_keyed SELECT i, 'b' FROM generate_series(1, 20) i;
INSERT INTO bare SELECT i % 3, 'b' FROM generate_series(1, 20) i;
INSERT INTO keyed_otherwise SELECT i, 'b' FROM generate_series(1, 20) i;
INSERT INTO fleeting SELECT i, 'b' FROM generate_series(1, 20) i;
INSERT INTO measures SELECT date '2019-06-01' + i * 10, i FROM generate_series(1, 150) i;
INSERT INTO base VALUES (1, 'base'); INSERT INTO derived VALUES (2, 'derived', 3);
INSERT INTO typed VALUES (1, 'one');
INSERT INTO "Sch ema"."Tab le" VALUES ('ev_app', 1), ('someone', 2);
INSERT INTO dropped VALUES (1, 'b');
SELECT nextval('free');
REFRESH MATERIALIZED VIEW first_mat;
REFRESH MATERIALIZED VIEW second_mat;

-- Large objects: text, empty, more than one page with a hole, more than a megabyte.
SELECT lo_from_bytea(100001, 'hello'), lo_create(100002), lo_from_bytea(100003, 'a'), lo_from_bytea(100004, 'big');
SELECT lo_put(100003, 10000, 'z');
SELECT lo_put(100004, n * 1000000, decode(repeat(md5(n::text), 20000), 'hex')) FROM generate_series(0, 3) n;
UPDATE main SET lo = 100001 WHERE code = 'c1';
ALTER LARGE OBJECT 100001 OWNER TO ev_owner;
GRANT SELECT ON LARGE OBJECT 100001 TO ev_app WITH GRANT OPTION;
GRANT SELECT, UPDATE ON LARGE OBJECT 100002 TO PUBLIC;
COMMENT ON LARGE OBJECT 100003 IS 'has a ''hole''';
