"""The part of the plan's schema that no step decides: heading, variables, connections, step entries."""

from __future__ import annotations

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

API_VERSION = "planrunner/v1"
KIND = "MigrationPlan"
VARIABLE_NAME = "^[a-z][a-z0-9_]{0,62}$"
STEP_ID = "^[a-z][a-z0-9_-]{0,62}$"
PLAN_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
DURATION = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"
SIZE = r"^[0-9]+(\.[0-9]+)?(B|kB|MB|GB|TB)$"
_PART = r'("([^"]|"")+"|[^".]+)'
TABLES = rf"^{_PART}\.{_PART}$"
TABLES_OR_ALL = rf"^(\*|{_PART}\.{_PART})$"
VARIABLE_OF_ENVIRONMENT = "^[^=]+$"
ARN = "^arn:"
SESSION_NAME = "^[A-Za-z0-9_+=,.@-]{2,64}$"
CA_FINGERPRINT_PATTERN = "^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$"
SEREN_ID = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SPAN = r"^[0-9]{1,4}(m|h|d|w)$"

# How messages name what a pattern asks for.
NOUNS = {
    VARIABLE_NAME: "a name of lower-case letters, digits and _, at most 63",
    STEP_ID: "an id of lower-case letters, digits, - and _, at most 63",
    PLAN_NAME: "a name of letters, digits, dots, - and _, at most 63",
    DURATION: "a duration such as 500ms, 5s, 2m or 1h",
    TABLES: "a table pattern such as public.orders or public.inv_*",
    TABLES_OR_ALL: "a table pattern such as public.orders, public.inv_* or *",
    SPAN: "a time window such as 12h, 90d or 8w",
    VARIABLE_OF_ENVIRONMENT: "the name of an environment variable",
    ARN: "an ARN such as arn:aws:iam::123456789012:role/migrator",
    SESSION_NAME: "a name of 2 to 64 letters, digits and _+=,.@-",
    CA_FINGERPRINT_PATTERN: "a SHA-256 of 64 hexadecimal digits, as sha256sum tells it",
    SEREN_ID: "an id as the console shows it",
    SIZE: "a size such as 64kB, 16MB or 10GB",
}


def text(title: str, description: str, example: str, **more: object) -> Schema:
    """The schema of a text value."""
    base = {"type": "string", "title": title, "description": description}
    return {**base, "minLength": 1, **more, "examples": [example]}


def mapping(title: str, description: str, properties: Schema, **more: object) -> Schema:
    """The schema of a mapping that takes these keys and no others."""
    head = {"type": "object", "title": title, "description": description}
    return {**head, "additionalProperties": False, **more, "properties": properties}


METADATA = mapping(
    "Metadata",
    "What the plan is called.",
    {
        "name": text(
            "Name",
            "The migration's name. Names on the servers derive from it: do not change it in mid-run.",
            "orders",
            pattern=PLAN_NAME,
        ),
        "description": text("Description", "A sentence for people.", "The orders database leaves RDS"),
    },
    required=["name"],
)

ASSUME_ROLE = mapping(
    "Role to assume",
    "The IAM role whose rights are used, by STS; its credentials are renewed by themselves.",
    {
        "arn": text("ARN", "The role.", "arn:aws:iam::123456789012:role/migrator", pattern=ARN),
        "external_id": text("External id", "What the role's trust policy asks for.", "orders-migration"),
        "session_name": text(
            "Session name",
            "How the session is called in CloudTrail; planrunner by default.",
            "orders-migration",
            pattern=SESSION_NAME,
        ),
        "endpoint_url": text(
            "Endpoint URL",
            "The URL of the STS API; by default the endpoint_url beside it, else AWS's.",
            "http://127.0.0.1:5000",
        ),
    },
    required=["arn"],
)
ACCESS: Schema = {
    "region": text("Region", "Its region; by default AWS's own configuration says.", "us-east-1"),
    "endpoint_url": text(
        "Endpoint URL", "The URL of the API, where it is not AWS's.", "http://127.0.0.1:5000"
    ),
    "profile": text("Profile", "The profile of AWS's shared configuration.", "prod"),
    "assume_role": ASSUME_ROLE,
}
SECRET = mapping(
    "Secret reference",
    "Where the password, or a sensitive variable's value, is kept: exactly one of env, file, command,"
    " aws_secretsmanager, aws_ssm. It is looked up when it is needed and never written anywhere.",
    {
        "env": text(
            "Environment variable",
            "The variable that holds it.",
            "SOURCE_PASSWORD",
            pattern=VARIABLE_OF_ENVIRONMENT,
        ),
        "file": text(
            "File",
            "The file that holds it, relative to the folder of the file that names it, and inside it.",
            "./target.password",
        ),
        "command": {
            "title": "Command",
            "description": "A command that prints it, as a list or as one text; no shell is involved.",
            "type": ["string", "array"],
            "items": {"type": "string"},
            "minItems": 1,
            "minLength": 1,
            "examples": [["op", "read", "op://infra/orders/password"]],
        },
        "aws_secretsmanager": text(
            "AWS Secrets Manager", "The secret's name or ARN.", "prod/orders/migrator"
        ),
        "aws_ssm": text("AWS Parameter Store", "The parameter's name or ARN.", "/prod/orders/migrator"),
        "key": text(
            "Key",
            "The member of a JSON secret that is the password; for aws_secretsmanager it is `password` by"
            " itself.",
            "password",
        ),
        **ACCESS,
    },
)
_VALUE = {"type": ["string", "integer", "boolean", "number"]}
VARIABLE = mapping(
    "Variable",
    "A value that templates may use as {{ vars.NAME }}. Given by --var, --var-file, PLANRUNNER_VAR_NAME or"
    " the default, in this order.",
    {
        "type": {
            "type": "string",
            "title": "Type",
            "description": "What the value is.",
            "enum": ["string", "integer", "boolean", "number"],
            "default": "string",
            "examples": ["integer"],
        },
        "default": {
            **_VALUE,
            "title": "Default",
            "description": "The value when nobody gives one, literally; without it the variable is required.",
            "examples": ["us-east-1"],
        },
        "description": text("Description", "What it is for.", "The region the instance runs in"),
        "enum": {
            "type": "array",
            "title": "Choices",
            "description": "The values that are allowed.",
            "items": _VALUE,
            "minItems": 1,
            "examples": [["us-east-1", "eu-central-1"]],
        },
        "pattern": text(
            "Pattern", "A regular expression that the whole text must match.", "[a-z]{2}-[a-z]+-[0-9]"
        ),
        "sensitive": {
            "type": "boolean",
            "title": "Sensitive",
            "description": "The value is never shown or recorded. It is given by PLANRUNNER_VAR_NAME, a --var-file or"
            " secret; neither by --var nor by a default.",
            "default": False,
            "examples": [True],
        },
        "secret": SECRET,
    },
)
VARIABLES: Schema = {
    "type": "object",
    "title": "Variables",
    "description": "Values that differ from one run of the plan to another. One that nobody may read is sensitive.",
    "propertyNames": {"pattern": VARIABLE_NAME},
    "additionalProperties": VARIABLE,
}

PASSWORD = mapping(
    "Password",
    "How to get the login's password. Without it libpq looks in ~/.pgpass.",
    {
        "secret": SECRET,
        "rds_iam": {
            "title": "RDS IAM authentication",
            "description": "Log in with a token that is made for every connection.",
            "type": "boolean",
            "const": True,
            "examples": [True],
        },
    },
    minProperties=1,
    maxProperties=1,
)
INGRESS: Schema = {
    "type": ["boolean", "array"],
    "title": "Authorize ingress",
    "description": "Let a run add rules to the instance's security group, for as long as the migration lasts: true for"
    " this machine's address and the target's as they are found, or the ranges to let in. Cleanup removes them.",
    "items": {"type": "string", "minLength": 1, "examples": ["203.0.113.7/32"]},
    "minItems": 1,
    "default": False,
    "examples": [True],
}
RDS = mapping(
    "RDS instance",
    "The RDS instance behind the source and how its API is reached; needed by enable_logical and rds_iam.",
    {
        "instance": text("Instance", "Its identifier.", "orders-prod"),
        "authorize_ingress": INGRESS,
        **ACCESS,
    },
    required=["instance"],
)


def _seen(publisher: str, subscriber: str, when: str, host: str) -> Schema:
    """How a subscription on ``subscriber`` dials ``publisher``."""
    return mapping(
        f"{publisher.capitalize()} as seen from the {subscriber}",
        f"{when} the subscription runs on the {subscriber} and dials the {publisher} from there; say how, where that"
        " differs.",
        {
            "host": text("Host", f"The {publisher}'s host or address as the {subscriber} reaches it.", host),
            "port": {
                "type": "integer",
                "title": "Port",
                "description": f"The {publisher}'s port as the {subscriber} reaches it.",
                "minimum": 1,
                "maximum": 65535,
                "examples": [5432],
            },
            "sslmode": {
                "type": "string",
                "title": "TLS mode",
                "description": f"How the subscription proves who the {publisher} is; by default as the {publisher}'s"
                " DSN says.",
                "enum": ["verify-full", "verify-ca", "require", "disable"],
                "examples": ["verify-full"],
            },
            "sslrootcert": text(
                "CA file",
                f"The CA certificates on the {subscriber}'s own host, or system.",
                "/etc/ssl/rds-ca.pem",
            ),
        },
        minProperties=1,
    )


SEEN_FROM_TARGET = _seen("source", "target", "While the target follows,", "10.0.3.7")
SEEN_FROM_SOURCE = _seen("target", "source", "After a cutover with reverse: true", "10.0.9.4")
DSN = text(
    "DSN",
    "The database and the login, as libpq takes them, without the password. Without sslmode the server's"
    " certificate is verified (verify-full).",
    "postgresql://migrator@db.example.com:5432/app?sslmode=verify-full",
)
CA = text(
    "Certificate authority",
    "Who vouches for the server: rds (AWS's bundle, from PLANRUNNER_RDS_CA_BUNDLE or downloaded), system (the"
    " authorities of this machine), or a file of certificates, relative to the plan's folder or absolute.",
    "rds",
)
CA_FINGERPRINT = text(
    "CA file's fingerprint",
    "The SHA-256 of the file of certificates, as sha256sum tells it; another file is refused.",
    "5e8c0a0f6f9d6c2f4b7a0c0f3a9b5d1e2c3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b",
    pattern=CA_FINGERPRINT_PATTERN,
)
REPLICATION_LOGIN = mapping(
    "Login of the subscription",
    "A login that is there already and may replicate, for the other side's subscription to dial with. Without it"
    " planrunner makes a role of its own for that, where it may, and removes it at cleanup.",
    {
        "login": text("Login", "Its name.", "orders_replication"),
        "password": mapping(
            "Password", "How to get its password; it has to last.", {"secret": SECRET}, required=["secret"]
        ),
    },
    required=["login", "password"],
)
SEREN = mapping(
    "SerenAI",
    "SerenAI's cloud, for a target at *.serendb.com. With an API key snapshot and sync are jobs there, unless run_on is"
    " local or the command says --local; without the block a key in SEREN_API_KEY does the same.",
    {
        "api_key": mapping(
            "API key",
            "How to get the key, which SerenDB's console makes; by default from SEREN_API_KEY.",
            {"secret": SECRET},
            required=["secret"],
        ),
        "run_on": {
            "type": "string",
            "title": "Run on",
            "description": "Where copy and stream are made: in SerenAI's cloud, or by planrunner here.",
            "enum": ["cloud", "local"],
            "examples": ["local"],
        },
        "project": text(
            "Project", "The target's project in SerenDB's console, by its id.", "3f6c2a4e", pattern=SEREN_ID
        ),
        "branch": text(
            "Branch",
            "The target's branch. With it the jobs are given project, branch and database instead of the target's"
            " address and password.",
            "br-main",
            pattern=SEREN_ID,
        ),
        "poll": text(
            "Poll", "How often a job is asked how far it is; 5s by default.", "5s", pattern=DURATION
        ),
        "base": text(
            "API", "The API of jobs, where it is not SerenAI's own.", "https://replicate.serendb.com"
        ),
        "console": text(
            "Console", "The console's API, where it is not SerenDB's own.", "https://console.serendb.com"
        ),
    },
)
SELF_SIGNED: Schema = {
    "type": "boolean",
    "title": "Allow self-signed certificates",
    "description": "Keep the encryption but give up the proof that the server is the right one.",
    "default": False,
    "examples": [True],
}

REPLICA = (
    "A streaming standby of the source, for a snapshot step with from: replica: the rows are read from it while its"
    " replay stands still."
)


def connection(side: str) -> Schema:
    """The schema of ``connections.source``, ``connections.target`` or ``connections.replica``."""
    shared: Schema = {
        "dsn": DSN,
        "password": PASSWORD,
        "ca": CA,
        "ca_fingerprint": CA_FINGERPRINT,
        "allow_self_signed_certs": SELF_SIGNED,
    }
    if side == "replica":
        return mapping("Replica", REPLICA, shared, required=["dsn"])
    shared |= {"replication": REPLICATION_LOGIN}
    own: Schema = (
        {"rds": RDS, "target_as_seen_from_source": SEEN_FROM_SOURCE}
        if side == "source"
        else {"source_as_seen_from_target": SEEN_FROM_TARGET, "seren": SEREN}
    )
    description = f"The database to migrate {'from' if side == 'source' else 'to'}."
    return mapping(side.capitalize(), description, {**shared, **own}, required=["dsn"])


APPROVAL: Schema = {
    "type": "string",
    "title": "Approval",
    "description": "Whether the step may begin by itself or waits for `planrunner approve`.",
    "enum": ["auto", "manual"],
    "default": "auto",
    "examples": ["manual"],
}
