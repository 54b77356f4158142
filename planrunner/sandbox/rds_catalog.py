"""The parameters that the stand-in's groups know: which are static, which can't be changed, and RDS's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LOGICAL = "rds.logical_replication"
FAMILIES = (
    *(f"postgres{major}" for major in range(11, 19)),
    *(f"aurora-postgresql{major}" for major in range(11, 18)),
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A parameter of a family; ``default`` is None where the engine's own rules, and may be a formula."""

    static: bool = False
    default: str | None = None
    modifiable: bool = True


_STATIC = (  # noqa: SIM905  # as a list it would be ten times as long
    "autovacuum_freeze_max_age autovacuum_max_workers autovacuum_multixact_freeze_max_age huge_pages"
    " max_files_per_process max_locks_per_transaction max_logical_replication_workers max_pred_locks_per_transaction"
    " max_prepared_transactions shared_preload_libraries track_activity_query_size track_commit_timestamp wal_buffers"
).split()
_DYNAMIC = (  # noqa: SIM905  # the same
    "array_nulls authentication_timeout autovacuum autovacuum_analyze_scale_factor autovacuum_analyze_threshold"
    " autovacuum_naptime autovacuum_vacuum_cost_delay autovacuum_vacuum_cost_limit autovacuum_vacuum_scale_factor"
    " autovacuum_vacuum_threshold autovacuum_work_mem backslash_quote bgwriter_delay bgwriter_lru_maxpages"
    " bgwriter_lru_multiplier bytea_output checkpoint_completion_target checkpoint_timeout checkpoint_warning"
    " client_encoding client_min_messages commit_delay commit_siblings constraint_exclusion cpu_index_tuple_cost"
    " cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction deadlock_timeout default_statistics_target"
    " default_text_search_config default_transaction_isolation default_transaction_read_only effective_io_concurrency"
    " enable_bitmapscan enable_hashagg enable_hashjoin enable_indexonlyscan enable_indexscan enable_material"
    " enable_mergejoin enable_nestloop enable_seqscan enable_sort enable_tidscan escape_string_warning"
    " exit_on_error extra_float_digits from_collapse_limit geqo geqo_effort geqo_generations geqo_pool_size geqo_seed"
    " geqo_selection_bias geqo_threshold gin_fuzzy_search_limit gin_pending_list_limit hot_standby_feedback"
    " idle_in_transaction_session_timeout idle_session_timeout jit join_collapse_limit lc_messages lc_monetary lc_numeric"
    " lc_time lo_compat_privileges lock_timeout log_autovacuum_min_duration log_checkpoints log_connections"
    " log_disconnections log_duration log_error_verbosity log_hostname log_lock_waits log_min_duration_statement"
    " log_min_error_statement log_min_messages log_parser_stats log_planner_stats log_replication_commands"
    " log_rotation_age log_rotation_size log_statement log_statement_stats log_temp_files logical_decoding_work_mem"
    " maintenance_work_mem max_parallel_maintenance_workers max_parallel_workers max_parallel_workers_per_gather"
    " max_slot_wal_keep_size max_stack_depth max_standby_archive_delay max_standby_streaming_delay"
    " max_sync_workers_per_subscription max_wal_size min_wal_size parallel_setup_cost parallel_tuple_cost"
    " password_encryption plan_cache_mode quote_all_identifiers random_page_cost search_path seq_page_cost"
    " session_replication_role standard_conforming_strings statement_timeout synchronize_seqscans synchronous_commit"
    " tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval temp_buffers temp_file_limit timezone"
    " track_activities track_counts track_functions track_io_timing transform_null_equals update_process_title"
    " vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss"
    " vacuum_freeze_min_age vacuum_freeze_table_age vacuum_multixact_freeze_min_age wal_compression wal_keep_size"
    " wal_receiver_status_interval wal_receiver_timeout wal_sender_timeout wal_writer_delay work_mem xmlbinary xmloption"
).split()
_OWN = {
    LOGICAL: Known(static=True, default="0"),
    "max_replication_slots": Known(static=True, default="20"),
    "max_wal_senders": Known(static=True, default="20"),
    "max_worker_processes": Known(static=True, default="GREATEST({DBInstanceVCPU*2},8)"),
    "max_connections": Known(static=True, default="LEAST({DBInstanceClassMemory/9531392},5000)"),
    "shared_buffers": Known(static=True, default="{DBInstanceClassMemory/32768}"),
    "effective_cache_size": Known(default="{DBInstanceClassMemory/16384}"),
    "rds.force_ssl": Known(default="1"),
    "rds.force_autovacuum_logging_level": Known(default="warning"),
    "rds.log_retention_period": Known(default="4320"),
    "rds.extensions": Known(static=True, default="pgcrypto, plpgsql, uuid-ossp", modifiable=False),
    "rds.superuser_variables": Known(default="session_replication_role", modifiable=False),
    "server_encoding": Known(static=True, default="UTF8", modifiable=False),
}
# In the order in which AWS lists them: by name.
CATALOG: Mapping[str, Known] = dict(
    sorted(
        {
            **{name: Known(static=True) for name in _STATIC},
            **{name: Known() for name in _DYNAMIC},
            **_OWN,
        }.items()
    )
)


def server_settings(values: Mapping[str, str | None]) -> dict[str, str]:
    """What a group's values come to on the server: RDS's own names and formulas are for RDS alone."""
    level = "logical" if values.get(LOGICAL) == "1" else "replica"
    plain = {
        name: value
        for name, value in values.items()
        if value is not None and "{" not in value and "." not in name and CATALOG[name].modifiable
    }
    return {"wal_level": level, **plain}
