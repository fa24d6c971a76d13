-- Databases, roles and rights, for psql as an administrator. Can be run again at any time, for
-- example to change a password. The passwords come from the environment. What each role may do with
-- the tables is given by `credit-risk migrate`, which has to be run afterwards: docs/roles.md.
--
--   role                may                                                used by
--   credit_risk_owner   change the schema                                  migrations
--   credit_risk_app     write what runs write, create schemas of its own   Dagster's runs and sensors
--   credit_risk_api     read, but for bytes of events and models           API
--   credit_risk_reader  read, but for these and keys; work on cases        dashboard
--   dagster             everything in Dagster's own database, only there   Dagster
\set ON_ERROR_STOP on
\getenv owner_password CREDIT_RISK_OWNER_PASSWORD
\getenv app_password CREDIT_RISK_APP_PASSWORD
\getenv api_password CREDIT_RISK_API_PASSWORD
\getenv reader_password CREDIT_RISK_READER_PASSWORD
\getenv dagster_password DAGSTER_PASSWORD

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(
    '{credit_risk_owner,credit_risk_app,credit_risk_api,credit_risk_reader,dagster}'::text[]
) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE credit_risk_owner PASSWORD :'owner_password';
ALTER ROLE credit_risk_app PASSWORD :'app_password';
ALTER ROLE credit_risk_api PASSWORD :'api_password';
ALTER ROLE credit_risk_reader PASSWORD :'reader_password';
ALTER ROLE dagster PASSWORD :'dagster_password';
-- A query that somebody forgot must not hold back retention and vacuum for ever.
ALTER ROLE credit_risk_api SET statement_timeout = '60s';
ALTER ROLE credit_risk_api SET default_transaction_read_only = on;
ALTER ROLE credit_risk_reader SET statement_timeout = '60s';
ALTER ROLE credit_risk_reader SET idle_in_transaction_session_timeout = '60s';

SELECT format('CREATE DATABASE %I', name)
FROM unnest('{credit_risk,dagster}'::text[]) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
ALTER DATABASE credit_risk OWNER TO credit_risk_owner;
ALTER DATABASE dagster OWNER TO dagster;
REVOKE ALL ON DATABASE credit_risk, dagster FROM PUBLIC;
GRANT CONNECT ON DATABASE credit_risk TO credit_risk_app, credit_risk_api, credit_risk_reader;
-- For a rebuild, which writes into a schema of its own.
GRANT CREATE ON DATABASE credit_risk TO credit_risk_app;

\connect credit_risk
CREATE SCHEMA IF NOT EXISTS credit_risk AUTHORIZATION credit_risk_owner;
-- Until 0.2 every table, also of later migrations, was theirs.
ALTER DEFAULT PRIVILEGES FOR ROLE credit_risk_owner IN SCHEMA credit_risk
    REVOKE ALL ON TABLES FROM credit_risk_app, credit_risk_api;
ALTER DEFAULT PRIVILEGES FOR ROLE credit_risk_owner IN SCHEMA credit_risk
    REVOKE ALL ON SEQUENCES FROM credit_risk_app;
ALTER DEFAULT PRIVILEGES FOR ROLE credit_risk_owner IN SCHEMA credit_risk
    REVOKE ALL ON FUNCTIONS FROM credit_risk_app;
