"""What brings a source to logical replication: on RDS and Aurora by parameter groups, elsewhere by ALTER SYSTEM."""
