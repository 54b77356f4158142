"""Who may do what on a server, in lines: memberships, roles, grants, and grants to come; no code of planrunner's."""

# Of everything the usual list stands for none at all, so that a list that was emptied again is no difference.
EVERYTHING = """
SELECT array_agg(line ORDER BY line) FROM (
  SELECT format('role %s has %s by %s: %s', m.member::regrole, m.roleid::regrole, m.grantor::regrole,
                to_jsonb(m) - 'oid' - 'roleid' - 'member' - 'grantor')
    FROM pg_auth_members m WHERE m.roleid >= 16384
  UNION ALL SELECT format('role %s', to_jsonb(r) - 'oid' - 'rolpassword') FROM pg_roles r
  UNION ALL SELECT format('%s: %s', c.oid::regclass, a) FROM pg_class c,
    aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
    WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'S') AND c.relname NOT IN ('late', 'late_id_seq')
      AND c.relnamespace IS DISTINCT FROM to_regnamespace('planrunner')
  UNION ALL SELECT format('%s: %s', n.nspname, a) FROM pg_namespace n,
    aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    WHERE n.nspname !~ '^pg_temp' AND n.nspname <> 'planrunner'
  UNION ALL SELECT format('%s: %s', d.datname, a) FROM pg_database d,
    aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
  UNION ALL SELECT format('to come %s %s: %s', d.defaclrole::regrole, d.defaclobjtype, a)
    FROM pg_default_acl d, aclexplode(d.defaclacl) a) all_of_it(line)
"""
