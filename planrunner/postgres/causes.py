"""The known causes of PostgreSQL failures: how each is recognised, told and mended."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One known cause: recognised by ``sqlstate`` where there is one, and by the server's words.

    ``message`` and ``remedy`` are format strings over the facts of the endpoint.
    """

    words: str = ""
    sqlstate: str | None = None
    message: str = ""
    remedy: str

    def fits(self, text: str) -> bool:
        """True when the server's words are this cause's."""
        return re.search(self.words, text, re.IGNORECASE) is not None


# What a handshake of our own was told (see ``handshake``) stands in {reason}.
_NO_PROOF = (
    " Or give up the proof of identity, not the encryption: connections.{side}.allow_self_signed_certs: true"
)
TLS_CAUSES: tuple[Cause, ...] = (
    Cause(
        words=r"server does not support SSL",
        message="{place} does not support TLS and the plan asks for it",
        remedy=(
            "Nothing was sent in clear. Enable ssl on the server; where it is on (SHOW ssl), a proxy or someone between"
            " strips it: find out who. Only where the network itself is trusted put sslmode=disable into"
            " connections.{side}.dsn."
        ),
    ),
    Cause(
        words=r"invalid when SSL support is not compiled in",
        message="the program was built without TLS and the plan asks for it",
        remedy="Install PostgreSQL's own client programs: apt-get install postgresql-client",
    ),
    Cause(
        words=r"server certificate for .* does not match host name|hostname mismatch",
        message="the certificate of {place} was made for another host name",
        remedy=(
            "Use the name in the certificate as the host in connections.{side}.dsn; keep the address to dial"
            " in hostaddr=." + _NO_PROOF
        ),
    ),
    Cause(
        words=r"root certificate file .* does not exist|could not read root certificate",
        message="the certificate of {place} can't be checked: there is no file {rootcert}, or none that can be read",
        remedy="{tls_remedy}",
    ),
    Cause(
        words=r"certificate has expired",
        message="certificate verify failed: the certificate of {place}, or one that vouches for it, has expired",
        remedy=(
            "Renew the server's certificate (on RDS: aws rds modify-db-instance with a newer"
            " --ca-certificate-identifier); see its dates: {openssl}. Check this machine's clock, too."
            + _NO_PROOF
        ),
    ),
    Cause(
        words=r"certificate is not yet valid",
        message="certificate verify failed: the certificate of {place} is not valid yet",
        remedy="Check this machine's clock (date -u) and the certificate's dates: {openssl}." + _NO_PROOF,
    ),
    Cause(
        words=r"certificate revoked",
        message="certificate verify failed: the certificate of {place} was revoked by its authority ({crl})",
        remedy="Do not trust the server before whoever runs it has given it a new certificate.",
    ),
    Cause(
        words=r"unable to get certificate CRL|CRL has expired|CRL is not yet valid",
        message="certificate verify failed: the revocation list {crl} can't be used for the certificate of {place}",
        remedy="Get the authority's current list, and name its file in connections.{side}.dsn as sslcrl=FILE.",
    ),
    Cause(
        words=r"unsuitable certificate purpose|unsupported certificate purpose|invalid purpose",
        message="certificate verify failed: the certificate of {place} was not made for a server",
        remedy="Give the server a certificate for server authentication (extendedKeyUsage=serverAuth)."
        + _NO_PROOF,
    ),
    Cause(
        words=r"certificate verify failed|self.signed certificate|unable to get local issuer",
        message="certificate verify failed: {place} shows a certificate that {rootcert} does not vouch for",
        remedy="{tls_remedy}",
    ),
    Cause(
        words=r"definition of service .* not found|service file .* not found",
        message="the shell's PGSERVICE, or service= in the plan, names a service that is not defined here",
        remedy="Unset PGSERVICE, or define the service in ~/.pg_service.conf.",
    ),
)
_REPLICATION_REMEDY = (
    "On AWS RDS run as the master user: GRANT rds_replication TO the plan's login; elsewhere run as a"
    " superuser: ALTER ROLE the plan's login REPLICATION. The grant step does what the login may do itself."
)

WRONG_PASSWORD = Cause(
    words=r"password authentication failed|PAM authentication failed|authentication failed for user",
    sqlstate="28P01",
    message='{place} does not accept the password of role "{user}", or has no such role',
    remedy=(
        "Check what connections.{side}.password refers to, and the user in connections.{side}.dsn. With"
        " rds_iam the role must be a member of rds_iam and the AWS identity be allowed rds-db:connect."
    ),
)

# The first that fits counts, so the precise ones stand before the general ones.
CONNECTION_CAUSES: tuple[Cause, ...] = (
    Cause(
        words=r"must be superuser or .*replication role|permission denied to start WAL sender",
        sqlstate="42501",
        message='Missing REPLICATION privilege: role "{user}" may not open a replication connection',
        remedy=(
            'On AWS RDS run as the master user: GRANT rds_replication TO "{user}"; elsewhere run as a'
            ' superuser: ALTER ROLE "{user}" REPLICATION;'
        ),
    ),
    WRONG_PASSWORD,
    Cause(
        words=r"no password supplied|password required",
        sqlstate="28P01",
        message='{place} asks for a password of role "{user}" and the plan gives none',
        remedy=(
            "Give connections.{side}.password a reference, for example {{secret: {{env: PGPASSWORD_{side}}}}}."
        ),
    ),
    Cause(
        words=r"role \".*\" does not exist|role \".*\" is not permitted to log in",
        sqlstate="28000",
        message='{place} has no role "{user}" that may log in',
        remedy="Check the user in connections.{side}.dsn.",
    ),
    Cause(
        words=r"database \".*\" does not exist",
        sqlstate="3D000",
        message='{place} has no database "{database}"',
        remedy=(
            "Check the database in connections.{side}.dsn; to make an empty one run there: createdb {database}"
        ),
    ),
    Cause(
        words=r"permission denied for database",
        sqlstate="42501",
        message='role "{user}" may not connect to database "{database}"',
        remedy='Run on the {side} as its owner: GRANT CONNECT ON DATABASE "{database}" TO "{user}";',
    ),
    Cause(
        words=r"pg_hba\.conf.*(no encryption|SSL off)",
        sqlstate="28000",
        message="{place} takes no unencrypted connection from here (on RDS: rds.force_ssl)",
        remedy="Put sslmode=verify-full (or at least sslmode=require) into connections.{side}.dsn.",
    ),
    Cause(
        words=r"pg_hba\.conf",
        sqlstate="28000",
        message='{place} has no pg_hba.conf entry for role "{user}", database "{database}" from this machine',
        remedy="Add an entry for this machine's address to the server's pg_hba.conf and reload it.",
    ),
    *TLS_CAUSES,
    Cause(
        words=r"standby connections exceeds max_wal_senders",
        sqlstate="53300",
        message="{place} has no connection for replication left",
        remedy=(
            "Raise max_wal_senders there (it needs a restart), or end what uses the places: SELECT pid, application_name,"
            " state FROM pg_stat_replication; then run again."
        ),
    ),
    Cause(
        words=r"too many clients|too many connections|remaining connection slots",
        sqlstate="53300",
        message="{place} has no connection left",
        remedy=(
            "Close sessions there or raise max_connections; fewer jobs in the snapshot step need fewer"
            " connections. Then run again."
        ),
    ),
    Cause(
        words=r"database system is (starting up|shutting down|in recovery mode|not yet accepting)"
        r"|not accepting connections|not yet accepting connections",
        sqlstate="57P03",
        message="{place} is starting up or shutting down",
        remedy="Wait until it is available, then run again.",
    ),
    Cause(
        words=r"failed to resolve host|could not translate host name|name or service not known",
        message="the host name {host} is not known",
        remedy="Check the host in connections.{side}.dsn, and that this machine's DNS knows it.",
    ),
    Cause(
        words=r"connection refused|timeout expired|timed out|no route to host|network is unreachable"
        r"|no such file or directory",
        sqlstate="08001",
        message="{place} does not answer (connection refused or timeout)",
        remedy="{network}",
    ),
    Cause(
        words=r"server closed the connection|connection reset|unexpected eof",
        sqlstate="08006",
        message="{place} closed the connection before the session began",
        remedy="{network}",
    ),
)

# The server's words for it differ by where it notices, and so does the SQLSTATE.
TOO_LONG = Cause(
    words=r"invalid memory alloc request size|cannot enlarge string buffer|string buffer exceeds maximum",
    message="a row is longer than PostgreSQL can send: 1 GB, and bytea as text takes two bytes for each",
    remedy=(
        "Find it by the sum of octet_length() of its columns, which reads no value that lies out of line; shorten it or"
        " part it into several, or leave its table out (tables: exclude) and bring it over by other means."
    ),
)
_RUN_AGAIN = "Run again: what was finished stays finished. If it comes back, the {side}'s log tells why."
QUERY_CAUSES: tuple[Cause, ...] = (
    Cause(
        sqlstate="42501",
        words=r"row-level security",
        message="rows would be hidden by row-level security",
        remedy=(
            "Run on the {side} as a superuser: ALTER ROLE the plan's login BYPASSRLS; or make it a member of"
            " the tables' owner."
        ),
    ),
    Cause(
        sqlstate="42501",
        words=r"replication role|REPLICATION attribute|use replication slots|WAL sender",
        message="Missing REPLICATION privilege",
        remedy=_REPLICATION_REMEDY,
    ),
    Cause(
        sqlstate="42501",
        message="insufficient privilege",
        remedy=(
            "The validate step lists every missing privilege on the {side} with the statement that grants it."
        ),
    ),
    Cause(
        sqlstate="25006",
        message="the session is read only",
        remedy=(
            "Check that the {side} is a primary (SELECT pg_is_in_recovery() says false), is not fenced by a"
            " cutover, and has default_transaction_read_only off."
        ),
    ),
    Cause(
        sqlstate="55000",
        words=r"recovery is in progress",
        message="a standby answers at its address (it is in recovery)",
        remedy=(
            "Wait until the failover is over, or lead the address of connections.{side} to the primary; then run again."
        ),
    ),
    Cause(
        sqlstate="40001",
        words=r"conflict with recovery",
        message="the standby's replay needed what the query reads",
        remedy=(
            "Let the standby wait longer for queries (max_standby_streaming_delay; where it is fed from an archive"
            " max_standby_archive_delay), then run again."
        ),
    ),
    Cause(
        sqlstate="55P03",
        message="a lock was not free in time",
        remedy=(
            "Another session holds it; see on the {side}: SELECT pid, usename, state, query FROM"
            " pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE granted); then run again."
        ),
    ),
    Cause(
        sqlstate="57014",
        message="the statement was cancelled",
        remedy="Someone cancelled it, or statement_timeout is set for the login on the {side}. Run again.",
    ),
    Cause(
        sqlstate="53100",
        message="the disk is full",
        remedy=(
            "Free or add storage on the {side}; see what slots keep: SELECT slot_name,"
            " pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_replication_slots;"
        ),
    ),
    Cause(
        sqlstate="53300",
        message="no connection is left",
        remedy="Close sessions on the {side} or raise max_connections, then run again.",
    ),
    Cause(
        sqlstate="53400",
        message="a limit of the server's configuration is reached",
        remedy=(
            "Raise the setting on the {side} (max_replication_slots, max_wal_senders) or drop what is not"
            " used: SELECT slot_name, active FROM pg_replication_slots;"
        ),
    ),
    Cause(
        sqlstate="55000",
        words=r"wal_level\"?\s*>=\s*\"?logical",
        message="wal_level must be logical",
        remedy=(
            "Let the enable_logical step do it, or: on AWS RDS set rds.logical_replication=1 in the instance's"
            " parameter group and reboot it; elsewhere run ALTER SYSTEM SET wal_level = 'logical' and restart."
        ),
    ),
    Cause(sqlstate="40P01", message="a deadlock was broken at our expense", remedy="Run again."),
    *(
        Cause(
            sqlstate=code,
            words=r"(could not connect|could not establish)[\s\S]*"
            r"(max_wal_senders|too many clients|too many connections|remaining connection slots)",
            message="the other server has no place left for the {side}'s connection",
            remedy=(
                "Raise max_wal_senders or max_connections there, as it says, or end what uses the places"
                " (pg_stat_replication, pg_stat_activity); then run again."
            ),
        )
        for code in ("08001", "08006")
    ),
    *(
        Cause(
            sqlstate=code,
            words=r"server does not support SSL",
            message="the server that the {side} dialled does not support TLS, and the plan asks for it",
            remedy=(
                "Nothing was sent in clear. Enable ssl on the source; where it is on (SHOW ssl), a proxy or someone"
                " between the two servers strips it: find out who."
            ),
        )
        for code in ("08001", "08006")
    ),
    *(
        Cause(
            sqlstate=code,
            words=r"could not connect|could not establish",
            message="the {side} could not dial the other server",
            remedy=(
                "The connection is made by the target's server, not from here. Give the address it can reach in"
                " connections.target.source_as_seen_from_target, and let it through the source's firewall or"
                " security group."
            ),
        )
        # Before and after PostgreSQL 15.
        for code in ("08001", "08006")
    ),
    *(replace(TOO_LONG, sqlstate=code) for code in ("XX000", "53200", "54000")),
    *(
        Cause(sqlstate=code, message="the server ended the session", remedy=_RUN_AGAIN)
        for code in ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
    ),
)
BROKEN_SESSION = Cause(
    words=r"server closed the connection|connection (is )?(lost|closed|reset)|ssl (error|connection)|timed out"
    r"|could not (receive|send) data|terminating connection",
    message="the session broke",
    remedy=_RUN_AGAIN,
)
